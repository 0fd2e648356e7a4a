//go:build !linux

package spool

import (
	"os"

	"golang.org/x/sys/unix"
)

func datasync(f *os.File) error { return f.Sync() }

func links(f *os.File) (uint64, error) {
	var s unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &s)
	return uint64(s.Nlink), os.NewSyscallError("fstat", err)
}
