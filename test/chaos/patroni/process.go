package patroni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runAs is the user of all programs: PostgreSQL and pgbouncer refuse to run as root.
type runAs struct {
	uid, gid int
	drop     bool
}

func chooseUser() (runAs, error) {
	if os.Geteuid() != 0 {
		return runAs{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	found, err := user.Lookup("postgres")
	if err != nil {
		return runAs{}, err
	}
	uid, uidErr := strconv.Atoi(found.Uid)
	gid, gidErr := strconv.Atoi(found.Gid)
	return runAs{uid, gid, true}, errors.Join(uidErr, gidErr)
}

func (u runAs) makeFolder(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return os.Chown(path, u.uid, u.gid)
}

func (u runAs) writeFile(path string, content []byte) error {
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	return os.Chown(path, u.uid, u.gid)
}

// process is a program that runs until a signal ends it. Its output goes to a file.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

func (u runAs) start(dir, name string, args ...string) (*process, error) {
	return u.startLogged(dir, filepath.Join(dir, filepath.Base(name)+".log"), name, args...)
}

func (u runAs) startLogged(dir, path, name string, args ...string) (*process, error) {
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{cmd: exec.Command(name, args...), log: path, exited: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, log, log
	p.cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC", "HOME=" + dir}
	if u.drop {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.uid), Gid: uint32(u.gid)}}
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s (tools/install-patroni installs it): %w", name, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.exited) }()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// end sends the signal and waits; a program that still runs after the limit is killed.
func (p *process) end(signal syscall.Signal, limit time.Duration) {
	_ = p.cmd.Process.Signal(signal)
	select {
	case <-p.exited:
	case <-time.After(limit):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

func (p *process) tail() string { return lastLines(p.log, 15) }

func lastLines(path string, n int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// postmaster is the server of a data folder. It is no child of the test, since Patroni detaches it.
type postmaster struct {
	pid     int
	segment int // the System V segment that shows a second server that the folder is in use
}

// findPostmaster reads the lock file and makes sure that the process is this folder's. Zero if none runs.
func findPostmaster(data string) postmaster {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return postmaster{}
	}
	p := postmaster{segment: -1}
	lines := strings.Split(string(text), "\n")
	if len(lines) > 6 {
		if key := strings.Fields(lines[6]); len(key) == 2 {
			p.segment, _ = strconv.Atoi(key[1])
		}
	}
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil {
		return p
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err == nil && bytes.Contains(args, []byte("\x00"+data+"\x00")) {
		p.pid = pid
	}
	return p
}

// kill ends the server with SIGKILL and waits until its children have ended too.
func (p postmaster) kill(ctx context.Context) error {
	if p.pid == 0 {
		return errors.New("no server runs")
	}
	family := append(childrenOf(p.pid), p.pid)
	if err := unix.Kill(p.pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("killing the server: %w", err)
	}
	return until(ctx, "the killed server's processes are gone",
		func() (bool, string) { return !anyAlive(family), fmt.Sprint(family) })
}

// end stops the server at once, since its data is about to be removed.
func (p postmaster) end() error {
	if p.pid != 0 {
		family := append(childrenOf(p.pid), p.pid)
		_ = unix.Kill(p.pid, unix.SIGQUIT)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err := until(ctx, "the server has ended", func() (bool, string) { return !anyAlive(family), fmt.Sprint(family) })
		if err != nil {
			for _, pid := range family {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			return err
		}
	}
	if p.segment > 0 { // of a killed server; one that ended has removed it
		_, _ = unix.SysvShmCtl(p.segment, unix.IPC_RMID, nil)
	}
	return nil
}

func childrenOf(parent int) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, _ := parentAndState(pid); p == parent {
			pids = append(pids, pid)
		}
	}
	return pids
}

func anyAlive(pids []int) bool {
	for _, pid := range pids {
		if _, state := parentAndState(pid); state != 0 && state != 'Z' {
			return true
		}
	}
	return false
}

// parentAndState returns 0, 0 for a process that has ended.
func parentAndState(pid int) (int, byte) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:]) // the name before it may hold anything
	parent, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0, 0
	}
	return parent, fields[0][0]
}

// until checks a condition until it holds; the error has the last result.
func until(ctx context.Context, what string, holds func() (bool, string)) error {
	for {
		ok, seen := holds()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w; last seen: %s", what, ctx.Err(), seen)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
