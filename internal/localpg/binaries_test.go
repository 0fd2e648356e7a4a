package localpg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// openFolder makes a folder the server user can enter, which t.TempDir is not for root.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "localpg-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := os.Chmod(dir, 0o700) // a test may have closed it
		if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// fakePrograms makes a folder whose programs answer --version as PostgreSQL's do.
func fakePrograms(t *testing.T, version string, programs ...string) string {
	t.Helper()
	dir := openFolder(t)
	for _, name := range programs {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", name, version)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func fakeServer(t *testing.T, version string) string {
	t.Helper()
	return fakePrograms(t, version, "initdb", "pg_ctl", "postgres")
}

func TestFindChooses(t *testing.T) {
	pg15 := fakeServer(t, "15.18 (Debian 15.18-0+deb12u1)")
	pg16 := fakeServer(t, "16.1")
	pg18 := fakeServer(t, "18.4")
	other18 := fakeServer(t, "18beta2")
	tooOld, tooNew := fakeServer(t, "14.9"), fakeServer(t, "19devel")
	clientOnly := fakePrograms(t, "18.4", "pg_ctl", "psql")
	noInitdb := fakePrograms(t, "18.4", "pg_ctl", "postgres")
	links := openFolder(t) // as /usr/local/bin with links to some of the programs
	mustLink(t, filepath.Join(pg15, "postgres"), filepath.Join(links, "postgres"))

	list := func(dirs ...string) string { return strings.Join(dirs, ":") }
	for _, test := range []struct {
		name    string
		f       finder
		major   int
		dir     string
		version string
	}{
		{"newest on PATH", finder{path: list(pg15, pg18, pg16)}, 0, pg18, "18.4"},
		{"first of equals", finder{path: list(other18, pg18)}, 0, other18, "18beta2"},
		{"exact", finder{path: list(pg18, pg16, pg15)}, 16, pg16, "16.1"},
		{"PATH before well-known", finder{path: pg18, wellKnown: []string{other18}}, 18, pg18, "18.4"},
		{"well-known", finder{path: pg15, wellKnown: []string{pg18}}, 0, pg18, "18.4"},
		{"through a symlink", finder{path: links}, 0, pg15, "15.18"},
		{"variable before PATH", finder{named: pg15, path: pg18}, 0, pg15, "15.18"},
		{"newest in variable", finder{named: list(pg15, pg16), path: pg18}, 0, pg16, "16.1"},
		{"variable lacks the version", finder{named: pg15, path: pg18}, 18, pg18, "18.4"},
		{"variable partly wrong", finder{named: list("/nowhere", pg15)}, 0, pg15, "15.18"},
		{"unsupported passed over", finder{path: list(tooOld, tooNew, pg15)}, 0, pg15, "15.18"},
		{"incomplete passed over", finder{path: list(clientOnly, noInitdb, pg15)}, 0, pg15, "15.18"},
		{"empty element", finder{path: list("", pg15)}, 0, pg15, "15.18"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.f.find(test.major)
			if err != nil {
				t.Fatal(err)
			}
			if got.Dir != test.dir || got.Version != test.version {
				t.Errorf("got %+v, want version %q in %q", got, test.version, test.dir)
			}
		})
	}
}

func mustLink(t *testing.T, target, link string) {
	t.Helper()
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
}

func TestFindRefuses(t *testing.T) {
	pg15 := fakeServer(t, "15.18")
	garbage := fakeServer(t, "unknown")
	folders := openFolder(t)
	for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
		if err := os.Mkdir(filepath.Join(folders, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	closed := fakeServer(t, "18.4")
	// Root's programs may lie where the user the server runs as cannot get at them.
	if err := os.Chmod(closed, map[bool]os.FileMode{true: 0o700, false: 0}[os.Geteuid() == 0]); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		f     finder
		major int
		says  string
	}{
		{"nothing anywhere", finder{path: "/nowhere", wellKnown: []string{"/well/known"}}, 0,
			"/well/known\nhint: make postgres"},
		{"other version", finder{path: pg15}, 18,
			"wanted version 18, looked at $PATH\nhint: make postgres, or tools/install-postgres 18"},
		{"variable wrong", finder{named: "/nowhere", path: pg15}, 0, `VAULTCTL_PG_BIN="/nowhere"`},
		{"variable wrong, exact", finder{named: "/nowhere", path: pg15}, 15, `VAULTCTL_PG_BIN="/nowhere"`},
		{"variable listed", finder{named: pg15}, 18, fmt.Sprintf("looked at $VAULTCTL_PG_BIN=%q", pg15)},
		{"no version", finder{path: garbage}, 0, "looked at $PATH"},
		{"folders for programs", finder{path: folders}, 0, "looked at $PATH"},
		{"not for the server user", finder{path: closed}, 0, "looked at $PATH"},
		{"too old", finder{}, 14, "PostgreSQL 14 is not supported"},
		{"too new", finder{}, 19, "PostgreSQL 19 is not supported"},
		{"negative", finder{}, -1, "PostgreSQL -1 is not supported"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.f.find(test.major)
			wantError(t, err, ErrNoBinaries)
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("got error %q, want it to say %q", err, test.says)
			}
			if got != (Binaries{}) {
				t.Errorf("got %+v with the error", got)
			}
		})
	}
}

func TestFindReadsTheEnvironment(t *testing.T) {
	pg16 := fakeServer(t, "16.1")
	t.Setenv("VAULTCTL_PG_BIN", pg16)
	got, err := Find(0)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Binaries{Dir: pg16, Major: 16, Version: "16.1"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	t.Setenv("VAULTCTL_PG_BIN", filepath.Join(pg16, "bin"))
	_, err = Find(0)
	wantError(t, err, ErrNoBinaries)
	if !strings.Contains(err.Error(), filepath.Join(pg16, "bin")) {
		t.Errorf("got error %q, want it to name the folder", err)
	}
}

func TestWellKnownFoldersHoldTheCache(t *testing.T) {
	t.Setenv("HOME", "/home/somebody")
	t.Setenv("XDG_CACHE_HOME", "/cache")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(wellKnownFolders(), "\n") + "\n"
	for _, want := range []string{
		cache + "/hyperiondb-vault/postgres/18/bin",
		"/var/cache/hyperiondb-vault/postgres/18/bin",
		"/usr/lib/postgresql/15/bin",
		"/usr/pgsql-17/bin",
		"/opt/homebrew/opt/postgresql@16/bin",
	} {
		if !strings.Contains(all, want+"\n") {
			t.Errorf("got\n%s\nwant %q among them", all, want)
		}
	}
}
