package main

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// inMemory reports whether a folder is on a file system that writes files to a disk only as swap.
func inMemory(dir *os.File) (bool, error) {
	var stat unix.Statfs_t
	err := unix.Fstatfs(int(dir.Fd()), &stat)
	return slices.Contains([]int64{unix.TMPFS_MAGIC, unix.RAMFS_MAGIC}, int64(stat.Type)), err
}
