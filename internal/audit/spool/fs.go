package spool

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FS is what a spool needs of a file system. Tests use one that fails, or stops, at any call.
type FS interface {
	Create(path string) (File, error) // for writing, mode 0600; truncates a file that exists
	Open(path string) (Opened, error)
	List(dir string) ([]string, error) // names, sorted
	Rename(from, to string) error
	Remove(path string) error
	Truncate(path string, size int64) error // durably
	SyncDir(dir string) error
}

// File is a segment being written.
type File interface {
	io.WriterAt
	io.Closer
	Sync() error           // of the content, and of the metadata needed to read it
	Linked() (bool, error) // false: the file was removed, and what is written to it is lost
}

// Opened is a segment being read.
type Opened interface {
	io.ReaderAt
	io.Closer
}

// disk is the FS of the operating system.
type disk struct{}

// DiskFS is the FS of the operating system.
func DiskFS() FS { return disk{} }

type diskFile struct{ *os.File }

func (disk) Create(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (f diskFile) Sync() error { return datasync(f.File) }

func (f diskFile) Linked() (bool, error) {
	n, err := links(f.File)
	return n > 0, err
}

func statLinks(f *os.File) (uint64, error) {
	var s unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &s)
	return uint64(s.Nlink), err
}

func (disk) Open(path string) (Opened, error)    { return os.Open(path) }
func (disk) Rename(from, to string) error        { return os.Rename(from, to) }
func (disk) Remove(path string) error            { return os.Remove(path) }
func (disk) List(dir string) ([]string, error)   { return list(dir) }
func (disk) Truncate(path string, n int64) error { return truncate(path, n) }
func (disk) SyncDir(dir string) error            { return syncOnce(dir, os.O_RDONLY, nil) }

func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func truncate(path string, size int64) error {
	return syncOnce(path, os.O_WRONLY, func(f *os.File) error { return f.Truncate(size) })
}

// syncOnce fsyncs through a descriptor of its own, which is not used again: a second fsync may hide a failure.
func syncOnce(path string, flag int, do func(*os.File) error) error {
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	if do != nil {
		err = do(f)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// lock makes this process the folder's only writer. The kernel releases the lock when the process ends, also by a kill.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, err
	}
	return f, nil
}

// folder makes the folder, and refuses one that others can read.
func folder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return &os.PathError{Op: "chmod 700", Path: dir, Err: errors.New("others may read the folder")}
	}
	return nil
}

// readAll makes room for the whole file at once. It asks for the size by a seek, since a request for the size and the
// times of a file makes its next write slower (see links).
func readAll(fs FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	if seeker, ok := f.(io.Seeker); ok {
		if size, err := seeker.Seek(0, io.SeekEnd); err == nil {
			b.Grow(int(size) + bytes.MinRead)
		}
	}
	_, err = b.ReadFrom(io.NewSectionReader(f, 0, 1<<62))
	return b.Bytes(), err
}

// readHeader reads no more of a segment than its header may have.
func readHeader(fs FS, path string) (header, error) {
	f, err := fs.Open(path)
	if err != nil {
		return header{}, err
	}
	defer f.Close()
	b := make([]byte, headerSize+maxNode)
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return header{}, err
	}
	h, _, err := decodeHeader(b[:n])
	return h, err
}
