package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hyperiondb/vault/internal/rotation"
)

const (
	programPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// pipeGrace is how long a child of a program that ended may keep its output open.
	pipeGrace = time.Second
)

// checkProgram refuses a program that a later rotation could not run, or that other users of the machine could replace.
func checkProgram(name string, argv []string) error {
	if !programName().MatchString(name) {
		return fmt.Errorf("%q is not a name: lower-case letters, digits, _ and -", name)
	}
	if len(argv) == 0 || !filepath.IsAbs(argv[0]) {
		return fmt.Errorf("%s: want a list that begins with an absolute path", name)
	}
	for _, argument := range argv {
		if strings.ContainsRune(argument, 0) {
			return fmt.Errorf("%s: an argument has a zero byte", name)
		}
	}
	return checkFile(name, argv[0])
}

// checkFile refuses a program that a user other than root and vaultd's own could replace: by its own mode and owner,
// and by those of every folder and link on its path.
func checkFile(name, path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s: %s is not an executable file", name, path)
	}
	if err := checkPath(path, maxLinks); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

const maxLinks = 40 // as many as Linux follows

// checkPath checks each part of an absolute path, and of the paths that its links lead to.
func checkPath(path string, links int) error {
	at := "/"
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i, part := range append([]string{""}, parts...) {
		if part == ".." {
			return fmt.Errorf("%s: its path has a .. in it", path) // after a link, .. is the parent of the link's target
		}
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		if err := checkOwned(at, info); err != nil {
			return err
		}
		if info.Mode()&os.ModeSymlink == 0 {
			continue
		}
		if links == 0 {
			return fmt.Errorf("%s: too many links", at)
		}
		to, err := os.Readlink(at)
		if err != nil {
			return err
		}
		if back := strings.TrimLeft(to, "./"); slices.Contains(strings.Split(back, "/"), "..") {
			return fmt.Errorf("%s: the path it leads to has a .. in it", at) // which may follow another link
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(at), to) // no part of that is a link
		}
		return checkPath(filepath.Join(append([]string{to}, parts[i:]...)...), links-1)
	}
	return nil
}

// checkOwned refuses a file or folder that other users can write. In a folder with the sticky bit (/tmp) only its owner
// and a file's own may replace that file.
func checkOwned(path string, info os.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: its owner is not known", path)
	}
	mode := info.Mode()
	switch {
	case stat.Uid != 0 && int64(stat.Uid) != int64(os.Geteuid()):
		return fmt.Errorf("%s belongs to another user (%d), who could put another program there", path, stat.Uid)
	case mode&os.ModeSymlink != 0, mode.IsDir() && mode&os.ModeSticky != 0:
		return nil
	case mode&0o002 != 0:
		return fmt.Errorf("%s can be written by every user", path)
	case mode&0o020 != 0 && stat.Gid != 0:
		return fmt.Errorf("%s can be written by its group (%d)", path, stat.Gid)
	}
	return nil
}

// exec runs the program, with the candidate on stdin and nowhere else. Its output is counted and discarded: a program
// that echoes its input, or a shell under set -x, would otherwise write the value to a log.
func (t *Targets) exec(ctx context.Context, step string, s Spec, c rotation.Change) error {
	argv, ok := t.programs[s.program]
	if !ok {
		return untouched{never{fmt.Errorf("no program %q under [exec_rotators] in vaultd's configuration", s.program)}}
	}
	err := checkFile(s.program, argv[0]) // it may have been changed since vaultd started
	if err == nil {
		err = inTime(ctx)
	}
	if err != nil {
		return untouched{err}
	}
	var printed counter
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.Candidate), &printed, &printed
	cmd.Env = []string{
		"PATH=" + programPath, "VAULT_SECRET=" + c.Secret, "VAULT_VERSION=" + strconv.Itoa(c.Version), "VAULT_STEP=" + step,
		"VAULT_JOB=" + strconv.FormatInt(c.Job, 10), "VAULT_ATTEMPT=" + strconv.Itoa(c.Attempt),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the group: its children too
	cmd.WaitDelay = pipeGrace
	err = cmd.Run()
	t.log.Debug("a rotation's program ended", "program", s.program, "secret", c.Secret, "step", step,
		"state", cmd.ProcessState.String(), "printed_bytes", printed.n.Load())
	return outcome(ctx, cmd, err, printed.n.Load())
}

// outcome is decided by the exit code. A child that keeps the output open does not change it.
func outcome(ctx context.Context, cmd *exec.Cmd, err error, printed int64) error {
	switch {
	case cmd.ProcessState == nil:
		return untouched{fmt.Errorf("starting %s: %w", cmd.Path, err)}
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s was killed (it printed %d bytes)", cmd.Path, printed)
	case cmd.ProcessState.Success():
		return errors.New("handing over the value failed")
	}
	err = fmt.Errorf("%s: %s (it printed %d bytes, which are not shown as they may hold the value)", cmd.Path,
		cmd.ProcessState, printed)
	if cmd.ProcessState.Exited() {
		return notAccepted{err}
	}
	return err
}

// counter counts what is written to it.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}
