package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestProfile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cpu.prof")
	stop, err := profile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := profile(filepath.Join(t.TempDir(), "second")); !errors.Is(err, errConfig) {
		t.Errorf("a second profile at the same time got %v, want it to be refused", err)
	}
	stop()
	info, err := os.Stat(path)
	if err != nil || info.Size() == 0 || info.Mode().Perm() != 0o600 {
		t.Errorf("got a profile %+v (%v), want one of mode 0600", info, err)
	}
	if _, err := profile(filepath.Join(t.TempDir(), "no", "folder")); !errors.Is(err, errConfig) {
		t.Errorf("a folder that is not there got %v, want an error of the configuration", err)
	}
	if stop, err = profile(""); err != nil {
		t.Errorf("without a profile it got %v", err)
	}
	stop()
}
