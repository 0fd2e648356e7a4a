package spool

import (
	"os"

	"golang.org/x/sys/unix"
)

// datasync leaves out the file's times: for a segment filled with zeros it needs no entry in the file system's journal.
func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// links requests nothing else: once a process has read a file's times, the next write has to change them, and with that
// the journal (multigrain timestamps, Linux 6.13). A kernel or a sandbox without statx has no such times.
func links(f *os.File) (uint64, error) {
	var s unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_NLINK, &s); err != nil {
		return statLinks(f)
	}
	return uint64(s.Nlink), nil
}
