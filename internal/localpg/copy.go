package localpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// copyKind is the state of the server whose data folder is copied.
type copyKind int

const (
	fromStopped copyKind = iota
	fromRunning
)

// copier copies one data folder. Both ends are reached through os.Root: the folders belong to the
// server user, and root must not follow a symlink out of them.
type copier struct {
	user serverUser
	sync bool
	kind copyKind
}

func (c *Cluster) copier(kind copyKind) copier {
	return copier{user: c.user, sync: c.rec.Durable, kind: kind}
}

const controlFile = "global/pg_control"

// copy fills an empty folder. pg_control goes last, so that what it says about a running server
// is not older than any other file in the copy.
func (cp copier) copy(ctx context.Context, from, to string) error {
	src, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer dst.Close()
	err = fs.WalkDir(src.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = cp.one(src, dst, name, entry)
		}
		if cp.kind == fromRunning && errors.Is(err, fs.ErrNotExist) {
			return nil // dropped while we copy; the log says so too
		}
		return err
	})
	if err != nil {
		return err
	}
	return cp.control(src, dst)
}

func (cp copier) one(src, dst *os.Root, name string, entry fs.DirEntry) error {
	switch {
	case name == "." || name == controlFile || cp.leavesOut(name):
		return nil
	case entry.IsDir():
		return cp.folder(dst, name)
	case entry.Type()&fs.ModeSymlink != 0 && path.Dir(name) == "pg_tblspc":
		return errTablespace
	case !entry.Type().IsRegular():
		return fmt.Errorf("%q is not a plain file", name)
	}
	return cp.file(src, dst, name)
}

// leavesOut names the files that belong to the running server and not to the data. The list for
// a running one is the manual's, in "Backing Up the Data Directory".
func (cp copier) leavesOut(name string) bool {
	base, folder := path.Base(name), firstElement(name)
	if strings.HasPrefix(base, "pgsql_tmp") || base == "postmaster.pid" || base == "postmaster.opts" {
		return true
	}
	inside := name != folder
	if inside && slices.Contains([]string{"pg_dynshmem", "pg_stat_tmp"}, folder) {
		return true
	}
	if cp.kind == fromStopped {
		return false
	}
	if inside &&
		slices.Contains([]string{"pg_wal", "pg_replslot", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans"}, folder) {
		return true
	}
	return slices.Contains([]string{"pg_internal.init", "backup_label", "tablespace_map", "backup_manifest",
		"standby.signal", "recovery.signal", "current_logfiles", "postgresql.auto.conf.tmp"}, base)
}

func firstElement(name string) string {
	first, _, _ := strings.Cut(name, "/")
	return first
}

func (cp copier) folder(dst *os.Root, name string) error {
	if err := dst.Mkdir(name, 0o700); err != nil {
		return err
	}
	if !cp.user.drop {
		return nil
	}
	return dst.Lchown(name, cp.user.uid, cp.user.gid)
}

func (cp copier) file(src, dst *os.Root, name string) error {
	in, err := src.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	var content io.Reader = in
	if info, err := in.Stat(); err == nil && info.Size() == 0 {
		content = strings.NewReader("") // one file in five: for an open file io.Copy makes a buffer and reads
	}
	return cp.write(dst, name, content)
}

func (cp copier) write(dst *os.Root, name string, content io.Reader) error {
	out, err := dst.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, copyErr := io.Copy(out, content)
	var syncErr error
	if cp.sync {
		syncErr = out.Sync()
	}
	return errors.Join(copyErr, syncErr, cp.user.give(out), out.Close())
}

// control copies pg_control. A running server overwrites it in place, so a read may see half of
// that; two reads in a row that agree did not.
func (cp copier) control(src, dst *os.Root) error {
	last, err := src.ReadFile(controlFile)
	if err != nil {
		return err
	}
	for tries := 0; ; tries++ {
		again, err := src.ReadFile(controlFile)
		if err != nil {
			return err
		}
		if bytes.Equal(last, again) {
			return cp.write(dst, controlFile, bytes.NewReader(again))
		}
		if last = again; tries == 100 {
			return errors.New("pg_control changes too fast to be copied")
		}
	}
}
