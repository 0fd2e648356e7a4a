package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// folderOptions say where exec writes values instead of into the environment.
type folderOptions struct {
	dir    string
	onDisk bool // a folder that is not in memory is accepted
}

// secretFolder is the folder that a command reads its secrets from; nil without --files.
type secretFolder struct {
	path    string
	root    *os.Root // the checked folder, also if another one takes its path later
	written []string
}

// open opens and checks the folder. runExec calls it before it reads a secret.
func (o folderOptions) open() (*secretFolder, error) {
	if o.dir == "" {
		return nil, nil
	}
	path, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, fmt.Errorf("finding the folder %q: %w", o.dir, reason(err))
	}
	root, err := os.OpenRoot(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, hint(usage("there is no folder %q", o.dir), "mkdir -m 700 %s", shellPath(path))
	case err != nil:
		return nil, refused(fmt.Errorf("the folder %q cannot be used: %w", o.dir, reason(err)))
	}
	if err := o.check(root, path); err != nil {
		_ = root.Close()
		return nil, err
	}
	return &secretFolder{path: path, root: root}, nil
}

func (o folderOptions) check(root *os.Root, path string) error {
	dir, err := root.Open(".")
	if err != nil {
		return refused(fmt.Errorf("the folder %q cannot be used: %w", o.dir, reason(err)))
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return fmt.Errorf("looking at the folder %q: %w", o.dir, reason(err))
	}
	inMemory, err := inMemory(dir)
	switch {
	case err != nil:
		return fmt.Errorf("looking at the folder %q: %w", o.dir, reason(err))
	case !ownedByCaller(info):
		return refused(fmt.Errorf("the folder %q belongs to another user", o.dir))
	case info.Mode().Perm()&0o077 != 0:
		return hint(refused(fmt.Errorf("the folder %q is open to others (mode %04o)", o.dir, info.Mode().Perm())),
			"chmod 700 %s", shellPath(path))
	case !inMemory && !o.onDisk:
		return hint(refused(fmt.Errorf("the folder %q is not in memory (tmpfs)", o.dir)),
			"a folder under /dev/shm or /run; --files-on-disk, if the values may stay on the disk after they are deleted")
	}
	return nil
}

// ownedByCaller reports whether a file belongs to the user that vaultctl runs as.
func ownedByCaller(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// ownedByCallerOrRoot is also the rule for the KMS's key files: root can read every file anyway.
func ownedByCallerOrRoot(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && (int(stat.Uid) == os.Geteuid() || stat.Uid == 0)
}

func (f *secretFolder) close() {
	if f != nil {
		_ = f.root.Close()
	}
}

// holdsOnly refuses a folder with other files in it: a program would take a value left by an earlier run for a current
// one, and a folder with unrelated files was given by mistake.
func (f *secretFolder) holdsOnly(variables []string) error {
	if f == nil {
		return nil
	}
	entries, err := fs.ReadDir(f.root.FS(), ".")
	if err != nil {
		return fmt.Errorf("reading the folder %q: %w", f.path, reason(err))
	}
	for _, entry := range entries {
		if !slices.Contains(variables, strings.TrimPrefix(entry.Name(), beingWritten)) || !entry.Type().IsRegular() {
			return hint(conflict("the folder %q has %q in it, which is no secret of this command", f.path, entry.Name()),
				"a folder for this command alone, or rm %s", shellPath(filepath.Join(f.path, entry.Name())))
		}
	}
	return nil
}

// beingWritten is the prefix of the name of an incomplete file.
const beingWritten = ".writing-"

// write replaces a file atomically: a command of an earlier run never reads half a value.
func (f *secretFolder) write(variable string, value []byte) (string, error) {
	unfinished := beingWritten + variable
	err := f.root.Remove(unfinished)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		f.written = append(f.written, unfinished)
		err = f.fill(unfinished, value)
	}
	if err == nil {
		err = f.root.Rename(unfinished, variable)
	}
	if err != nil {
		return "", fmt.Errorf("writing the file of $%s in %q: %w", variable, f.path, reason(err))
	}
	f.written = append(f.written, variable)
	return filepath.Join(f.path, variable), nil
}

func (f *secretFolder) fill(name string, value []byte) error {
	file, err := f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_CLOEXEC, 0o400)
	if err != nil {
		return err
	}
	_, err = file.Write(value)
	return errors.Join(err, file.Chmod(0o400), file.Close())
}

// remove deletes the written files if the command does not run.
func (f *secretFolder) remove() {
	if f == nil {
		return
	}
	for _, name := range f.written {
		_ = f.root.Remove(name)
	}
}
