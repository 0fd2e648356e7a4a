//go:build unix

package client

import (
	"io/fs"
	"os"
	"syscall"
)

func exposed(info fs.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	return info.Mode().Perm()&0o077 != 0 || ok && int(owner.Uid) != os.Geteuid()
}
