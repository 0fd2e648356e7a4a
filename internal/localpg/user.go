package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// serverUser is the user that the server runs as: the caller, or another one when the caller is root,
// as which PostgreSQL refuses to run.
type serverUser struct {
	uid, gid int
	drop     bool // the caller is root, so processes change user and files change owner
}

func currentServerUser() (serverUser, error) {
	if os.Geteuid() != 0 {
		return serverUser{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(found.Uid)
		gid, gidErr := strconv.Atoi(found.Gid)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return serverUser{}, fmt.Errorf("reading the ids of user %q: %w", name, err)
		}
		return serverUser{uid: uid, gid: gid, drop: true}, nil
	}
	return serverUser{},
		errors.New(`PostgreSQL does not run as root and there is no user "postgres" or "nobody" to run it as`)
}

// command prepares a PostgreSQL program to run as the server user. Its environment is a list of
// what it needs rather than the caller's: PGDATA or PGOPTIONS would change what it does,
// NOTIFY_SOCKET would make it notify systemd, and a token must not be in it.
func (u serverUser) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/" // the caller's folder may be one the server user cannot enter
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value := os.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if u.drop {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(u.uid), Gid: uint32(u.gid)}
	}
	return cmd
}

// give hands an open file or folder to the server user. By descriptor: its path may lie in a
// folder that user can change.
func (u serverUser) give(f *os.File) error {
	if !u.drop {
		return nil
	}
	return f.Chown(u.uid, u.gid)
}

// makeFolder makes one folder, mode 0700, that belongs to the server user.
func (u serverUser) makeFolder(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	if !u.drop {
		return nil
	}
	return os.Lchown(path, u.uid, u.gid)
}

// owns reports whether a file belongs to the server user.
func (u serverUser) owns(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == u.uid
}

// canReach reports whether the server user may pass through every folder on the way to path, path
// included. It reads the mode bits; access lists are not looked at.
func (u serverUser) canReach(path string) (bool, error) {
	if !u.drop {
		return true, nil
	}
	for {
		info, err := os.Stat(path)
		if err != nil {
			return false, err
		}
		if !u.mayEnter(info) {
			return false, nil
		}
		parent := filepath.Dir(path)
		if parent == path {
			return true, nil
		}
		path = parent
	}
}

func (u serverUser) mayEnter(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	switch {
	case int(st.Uid) == u.uid:
		return info.Mode()&0o100 != 0
	case int(st.Gid) == u.gid:
		return info.Mode()&0o010 != 0
	default:
		return info.Mode()&0o001 != 0
	}
}
