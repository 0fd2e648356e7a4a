package testfolder

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// sharedVariable names a folder for what all test programs of one run need. tools/shared makes and removes it.
const sharedVariable = "VAULT_TEST_SHARED"

// Share calls use with a folder that fill has filled: once for all test programs of a run, which wait for each other,
// also for use. The name is a file name, the same for the same content. A fill that fails leaves no folder. Without a
// shared folder, which is how go test runs alone, fill fills alone, and the caller removes it.
func Share(name, alone string, fill, use func(dir string) error) error {
	shared := os.Getenv(sharedVariable)
	if shared == "" {
		if err := fill(alone); err != nil {
			return err
		}
		return use(alone)
	}
	unlock, err := lock(filepath.Join(shared, name+".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	dir, filled := filepath.Join(shared, name), filepath.Join(shared, name+".filled")
	if _, err := os.Stat(filled); errors.Is(err, os.ErrNotExist) {
		if err := refill(dir, fill); err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
		if err := os.WriteFile(filled, nil, 0o600); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return use(dir)
}

// refill removes what a program that was killed has left.
func refill(dir string, fill func(string) error) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // regardless of the umask: PostgreSQL's user passes through
		return err
	}
	return fill(dir)
}

// lock waits for the lock of a file. The end of the process unlocks it, too.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %q: %w", path, err), file.Close())
	}
	return func() { _ = file.Close() }, nil // nothing was written
}

// Go is a go command that compiles, such as build. Except with -race it compiles as packaging/build does, without C and
// without the folder's path: the packages that one of the two has compiled are not compiled again for the other, nor in
// another folder. A program has no data for debuggers, which cost the linker a quarter of its time.
func Go(verb string, args ...string) *exec.Cmd {
	if slices.Contains(args, "-race") {
		return exec.Command("go", append([]string{verb, "-ldflags=-s -w"}, args...)...)
	}
	compile := exec.Command("go", append([]string{verb, "-trimpath", "-ldflags=-s -w"}, args...)...)
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	return compile
}

// Build builds vaultctl and vaultd with [Go] and arguments such as -race, once for all test programs of a run, and
// returns their folder. Without a shared folder that is alone. The commands are copied, as an installation does: Linux
// maps a file that was written in one go in larger pieces than what a linker wrote. A process starts a third faster by
// that and without C.
func Build(alone string, args ...string) (dir string, err error) {
	name := "commands" + strings.Join(args, "")
	err = Share(name, alone, func(dir string) error {
		linked, err := os.MkdirTemp(dir, "linked-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(linked)
		args := append(slices.Clone(args), "-o", linked+"/", "github.com/hyperiondb/vault/cmd/vaultctl",
			"github.com/hyperiondb/vault/cmd/vaultd")
		build := Go("build", args...)
		if build.Dir, err = Module(); err != nil {
			return err
		}
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", build, err, out)
		}
		return os.CopyFS(dir, os.DirFS(linked))
	}, func(built string) error {
		dir = built
		return nil
	})
	return dir, err
}

// Module is the folder of the vault's module, also for a test of another module beside it.
func Module() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/hyperiondb/vault").Output()
	if err != nil {
		return "", fmt.Errorf("looking for the module's folder: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
