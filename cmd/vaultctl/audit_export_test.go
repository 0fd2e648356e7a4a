package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// The part of an export that was killed is removed by the next one to the same file: no other file is, and not the part
// of one that runs.
func TestAnExportRemovesPartsOfKilledOnes(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".all.jsonl.vaultctl-1", ".all.jsonl.vaultctl-22", ".all.jsonl.vaultctl-",
		".all.jsonl-3", ".all.jsonl.vaultctl-notes", ".other.jsonl.vaultctl-4"} {
		mustWrite(t, filepath.Join(dir, name), "hunter2", 0o600)
	}
	running, err := os.Open(filepath.Join(dir, ".all.jsonl.vaultctl-22"))
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	if err := unix.Flock(int(running.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	names := func() (all []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return all
	}
	path := filepath.Join(dir, "all.jsonl")
	var during []string
	err = writeWhole(path, false, func(w io.Writer) error {
		removeParts(path) // of another export that begins meanwhile
		during = names()
		_, err := io.WriteString(w, "x")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	kept := []string{".all.jsonl-3", ".all.jsonl.vaultctl-", ".all.jsonl.vaultctl-22", ".all.jsonl.vaultctl-notes",
		".other.jsonl.vaultctl-4"}
	if len(during) != len(kept)+1 {
		t.Errorf("during the export got %q, want its part and %q", during, kept)
	}
	if got, want := names(), append(kept, "all.jsonl"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	failed := errors.New("failed")
	if err := writeWhole(path, true, func(io.Writer) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
	if got, want := names(), append(kept, "all.jsonl"); !slices.Equal(got, want) {
		t.Errorf("after a failure got %q, want %q", got, want)
	}
}
