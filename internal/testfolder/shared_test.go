package testfolder

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
)

func mustWrite(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Programs that need the same folder at the same time fill it once, and each uses it when it is filled.
func TestSharedFolderIsFilledOnce(t *testing.T) {
	t.Setenv(sharedVariable, t.TempDir())
	var filled, used atomic.Int64 // the folder's lock is a file's, which the race detector does not see
	var group errgroup.Group
	for range 8 {
		group.Go(func() error {
			return Share("x", "", func(dir string) error {
				filled.Add(1)
				return os.WriteFile(filepath.Join(dir, "content"), nil, 0o600)
			}, func(dir string) error {
				used.Add(1)
				_, err := os.Stat(filepath.Join(dir, "content"))
				return err
			})
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if filled.Load() != 1 || used.Load() != 8 {
		t.Errorf("filled %d times and used %d times, want 1 and 8", filled.Load(), used.Load())
	}
}

// What a failed or killed fill has left is not used.
func TestHalfFilledFolderIsFilledAgain(t *testing.T) {
	shared := t.TempDir()
	t.Setenv(sharedVariable, shared)
	broken := errors.New("broken")
	unused := func(string) error { t.Error("used"); return nil }
	err := Share("x", "", func(dir string) error {
		mustWrite(t, filepath.Join(dir, "half"))
		return broken
	}, unused)
	if !errors.Is(err, broken) {
		t.Fatalf("got %v, want %v", err, broken)
	}
	if _, err := os.Stat(filepath.Join(shared, "x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed fill left its folder: %v", err)
	}

	if err := os.Mkdir(filepath.Join(shared, "x"), 0o700); err != nil { // of a killed program
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(shared, "x", "half"))
	err = Share("x", "", func(dir string) error {
		if _, err := os.Stat(filepath.Join(dir, "half")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the half is still there: %v", err)
		}
		return nil
	}, func(string) error { return nil })
	if err != nil {
		t.Error(err)
	}
}

func TestWithoutSharedFolder(t *testing.T) {
	t.Setenv(sharedVariable, "")
	var steps []string
	step := func(name string) func(string) error {
		return func(dir string) error {
			steps = append(steps, name+" "+dir)
			return nil
		}
	}
	if err := Share("x", "alone", step("fill"), step("use")); err != nil {
		t.Fatal(err)
	}
	if len(steps) != 2 || steps[0] != "fill alone" || steps[1] != "use alone" {
		t.Errorf("got %q", steps)
	}
	t.Setenv(sharedVariable, filepath.Join(t.TempDir(), "missing"))
	if err := Share("x", "", step("fill"), step("use")); !errors.Is(err, os.ErrNotExist) || len(steps) != 2 {
		t.Errorf("a shared folder that is missing: got %v and %q", err, steps)
	}
}
