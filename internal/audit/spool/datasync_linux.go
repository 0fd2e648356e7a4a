package spool

import (
	"os"

	"golang.org/x/sys/unix"
)

// datasync leaves out the file's times: over a segment that is laid out it takes no entry in the file system's journal.
func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
