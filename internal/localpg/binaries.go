package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The major versions this project supports.
const (
	oldestMajor = 15
	newestMajor = 18
)

// binariesVariable names a folder of PostgreSQL programs, or a list of them.
const binariesVariable = "VAULTCTL_PG_BIN"

// versionTimeout bounds one "postgres --version"; a cold disk takes well under a second.
const versionTimeout = 10 * time.Second

// ErrNoBinaries: no usable PostgreSQL of the wanted version is installed where Find looks.
var ErrNoBinaries = errors.New("no PostgreSQL found")

// Binaries is one installation of PostgreSQL's server programs.
type Binaries struct {
	Dir     string // absolute, symlinks resolved; holds initdb, pg_ctl and postgres at least
	Major   int    // 15 to 18
	Version string // as the server gives it: "15.18", "18.4"
}

// Find returns the binaries of one major version (15 to 18), or with major 0 the newest there
// are. It looks, in this order, at the folders in VAULTCTL_PG_BIN (separated by colons), at PATH,
// and at the well-known folders: Debian, RPM, Homebrew, and the cache folders that
// tools/install-postgres fills. A folder counts when it holds initdb, pg_ctl and postgres and the
// server user can run them; symlinks are followed to where the programs really are.
//
// VAULTCTL_PG_BIN decides alone when major is 0. Set without any usable folder in it, it is an
// error. Every failure is an ErrNoBinaries that lists the folders it looked at.
func Find(major int) (Binaries, error) {
	return newFinder().find(major)
}

// FindVersion is Find for a major version as text, as an environment variable has it; "" is 0.
func FindVersion(text string) (Binaries, error) {
	if text == "" {
		return Find(0)
	}
	major, err := strconv.Atoi(text)
	if err != nil {
		return Binaries{}, fmt.Errorf("%w: %q is no version", ErrNoBinaries, text)
	}
	return Find(major)
}

// finder is Find with the environment as fields.
type finder struct {
	named     string // VAULTCTL_PG_BIN
	path      string // PATH
	wellKnown []string
}

func newFinder() finder {
	return finder{
		named:     os.Getenv(binariesVariable),
		path:      os.Getenv("PATH"),
		wellKnown: wellKnownFolders(),
	}
}

// wellKnownFolders lists the newest major version first.
func wellKnownFolders() []string {
	caches := []string{"/var/cache"}
	if user, err := os.UserCacheDir(); err == nil {
		caches = append([]string{user}, caches...)
	}
	var folders []string
	for major := newestMajor; major >= oldestMajor; major-- {
		folders = append(folders,
			fmt.Sprintf("/usr/lib/postgresql/%d/bin", major),
			fmt.Sprintf("/usr/pgsql-%d/bin", major),
			fmt.Sprintf("/opt/homebrew/opt/postgresql@%d/bin", major),
			fmt.Sprintf("/usr/local/opt/postgresql@%d/bin", major))
		for _, cache := range caches {
			folders = append(folders, filepath.Join(cache, "hyperiondb-vault", "postgres", strconv.Itoa(major), "bin"))
		}
	}
	return folders
}

func (f finder) find(major int) (Binaries, error) {
	if major != 0 && (major < oldestMajor || major > newestMajor) {
		return Binaries{}, fmt.Errorf("%w: PostgreSQL %d is not supported, only %d to %d are", ErrNoBinaries, major,
			oldestMajor, newestMajor)
	}
	named := usableIn(filepath.SplitList(f.named))
	if f.named != "" && len(named) == 0 {
		return Binaries{}, fmt.Errorf("%w: %s=%q holds no usable initdb, pg_ctl and postgres of version %d to %d",
			ErrNoBinaries, binariesVariable, f.named, oldestMajor, newestMajor)
	}
	if found, ok := pick(named, major); ok {
		return found, nil
	}
	elsewhere := slices.Concat(usableIn(filepath.SplitList(f.path)), usableIn(f.wellKnown))
	if found, ok := pick(elsewhere, major); ok {
		return found, nil
	}
	return Binaries{}, f.notFound(major)
}

func (f finder) notFound(major int) error {
	want := fmt.Sprintf("%d to %d", oldestMajor, newestMajor)
	hint := "make postgres"
	if major != 0 {
		want = strconv.Itoa(major)
		hint = fmt.Sprintf("make postgres, or tools/install-postgres %d", major)
	}
	var looked []string
	if f.named != "" {
		looked = append(looked, fmt.Sprintf("$%s=%q", binariesVariable, f.named))
	}
	looked = append(looked, "$PATH")
	looked = append(looked, f.wellKnown...)
	return fmt.Errorf("%w: wanted version %s, looked at %s\nhint: %s", ErrNoBinaries, want, strings.Join(looked, ", "),
		hint)
}

// pick returns the first of the wanted major version, or with 0 the first of the newest.
func pick(found []Binaries, major int) (Binaries, bool) {
	var best Binaries
	for _, b := range found {
		if (major == 0 || b.Major == major) && b.Major > best.Major {
			best = b
		}
	}
	return best, best.Major != 0
}

func usableIn(folders []string) []Binaries {
	var found []Binaries
	seen := map[string]bool{}
	for _, folder := range folders {
		dir, ok := programFolder(folder)
		if !ok || seen[dir] {
			continue
		}
		seen[dir] = true
		if b, err := binariesIn(dir); err == nil {
			found = append(found, b)
		}
	}
	return found
}

// programFolder returns the folder postgres really lies in, since a folder on PATH often holds
// a symlink to postgres but not to every program beside it.
func programFolder(folder string) (string, bool) {
	if folder == "" {
		return "", false // an empty element of PATH is the current folder, which is not meant here
	}
	real, err := filepath.EvalSymlinks(filepath.Join(folder, "postgres"))
	if err != nil {
		return "", false
	}
	real, err = filepath.Abs(real)
	return filepath.Dir(real), err == nil
}

var versionLine = regexp.MustCompile(`^postgres \(PostgreSQL\) ((\d+)[^\s]*)`)

// binariesIn asks the programs in a folder for their version, as the user who is going to run
// the server: a folder that this user cannot enter is of no use.
func binariesIn(dir string) (Binaries, error) {
	for _, program := range []string{"initdb", "pg_ctl", "postgres"} {
		if info, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return Binaries{}, fmt.Errorf("looking for %s: %w", program, err)
		} else if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return Binaries{}, fmt.Errorf("%q is not a program", filepath.Join(dir, program))
		}
	}
	user, err := currentServerUser()
	if err != nil {
		return Binaries{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	cmd := user.command(ctx, filepath.Join(dir, "postgres"), "--version")
	out, err := cmd.Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("asking %q for its version: %w", cmd.Path, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return Binaries{}, fmt.Errorf("%q does not give a PostgreSQL version", cmd.Path)
	}
	major, err := strconv.Atoi(string(m[2]))
	if err != nil || major < oldestMajor || major > newestMajor {
		return Binaries{}, fmt.Errorf("%q is of version %s, only %d to %d are supported", cmd.Path, m[1], oldestMajor,
			newestMajor)
	}
	return Binaries{Dir: dir, Major: major, Version: string(m[1])}, nil
}

func (b Binaries) program(name string) string { return filepath.Join(b.Dir, name) }

// has reports whether an optional program is installed.
func (b Binaries) has(name string) bool {
	_, err := exec.LookPath(b.program(name))
	return err == nil
}
