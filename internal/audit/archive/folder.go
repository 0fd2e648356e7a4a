package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hyperiondb/vault/internal/audit/spool"
)

// folder is a Store on a file system. Its files have mode 0600, its folders 0700.
type folder struct {
	dir string
	fs  spool.FS
}

const partialSuffix = ".partial" // not yet a file of the archive; the next attempt writes it anew

// Put creates a file. The commit point is the rename, once the folders on its path are fsynced.
func (f folder) Put(_ context.Context, path string, content []byte) error {
	full := filepath.Join(f.dir, filepath.FromSlash(path))
	dir := filepath.Dir(full)
	if err := f.makeFolders(dir); err != nil {
		return err
	}
	if _, err := os.Lstat(full); err == nil {
		// It may be that of an attempt that ended before it was durable.
		return errors.Join(f.sync(full), f.syncFolders(dir), ErrThere)
	}
	if err := f.write(full+partialSuffix, content); err != nil {
		_ = f.fs.Remove(full + partialSuffix) // else the next attempt does it
		return err
	}
	if err := f.fs.Rename(full+partialSuffix, full); err != nil {
		return err
	}
	return f.syncFolders(dir)
}

func (f folder) write(path string, content []byte) error {
	file, err := f.fs.Create(path)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(content, 0)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func (f folder) sync(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// makeFolders makes what is missing of a path.
func (f folder) makeFolders(dir string) error {
	switch info, err := os.Stat(dir); {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%q is not a folder", dir)
	case err == nil:
		return nil
	case dir != f.dir:
		if err := f.makeFolders(filepath.Dir(dir)); err != nil {
			return err
		}
		return os.Mkdir(dir, 0o700)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	err := f.fs.SyncDir(filepath.Dir(dir))
	if err != nil {
		_ = os.Remove(dir) // so that the next attempt makes it durable
	}
	return err
}

// syncFolders makes a path durable, from the folder of a file up to that of the archive.
func (f folder) syncFolders(dir string) error {
	err := f.fs.SyncDir(dir)
	if err == nil && dir != f.dir {
		err = f.syncFolders(filepath.Dir(dir))
	}
	return err
}

// Get reads a file.
func (f folder) Get(_ context.Context, path string) ([]byte, error) {
	file, err := os.Open(filepath.Join(f.dir, filepath.FromSlash(path)))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxFile+1))
}

// List returns the paths below the folder, in order.
func (f folder) List(ctx context.Context) ([]string, error) {
	var paths []string
	top := filepath.Join(f.dir, strings.TrimSuffix(root, "/"))
	if _, err := os.Stat(f.dir); err != nil {
		return nil, err
	}
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path == top:
			return fs.SkipAll
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case entry.IsDir():
			return nil
		}
		below, err := filepath.Rel(f.dir, path)
		paths = append(paths, filepath.ToSlash(below))
		return err
	})
	return paths, err
}

// Close does nothing: a folder has no connection.
func (folder) Close() error { return nil }
