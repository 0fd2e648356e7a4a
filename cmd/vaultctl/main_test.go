package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/leaks"
)

func TestMain(m *testing.M) {
	// The environment may point to the developer's own vault.
	for _, setting := range os.Environ() {
		if name, _, _ := strings.Cut(setting, "="); strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "VAULTCTL_") {
			os.Unsetenv(name)
		}
	}
	leaks.Main(m)
}

// result is what an operator at a terminal would have seen.
type result struct {
	code     int
	out, err string
}

// mustRun runs vaultctl with an empty standard input and home folder.
func mustRun(t *testing.T, args ...string) result {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	out, errs := mustCreate(t, filepath.Join(dir, "out")), mustCreate(t, filepath.Join(dir, "err"))
	code := run(t.Context(), args, stdio{in: null, out: out, err: errs})
	return result{code, mustReadBack(t, out), mustReadBack(t, errs)}
}

// mustReport reports an error as the end of a command would.
func mustReport(t *testing.T, ctx context.Context, a *app, err error) result {
	t.Helper()
	a.err = mustCreate(t, filepath.Join(t.TempDir(), "err"))
	code := a.report(ctx, err)
	return result{code: code, err: mustReadBack(t, a.err)}
}

func mustCreate(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func mustReadBack(t *testing.T, file *os.File) string {
	t.Helper()
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func mustWrite(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // regardless of the umask
		t.Fatal(err)
	}
	return path
}
