package localpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// defaultLimit bounds a wait whose context has no deadline.
const defaultLimit = 60 * time.Second

func withLimit(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, defaultLimit)
}

// poll calls check until it is done, fails or the context ends. It starts at 2 ms, since most
// waits here are short, and slows down to 50 ms.
func poll(ctx context.Context, check func() (done bool, err error)) error {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		done, err := check()
		if done || err != nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// pidFile is the used part of postmaster.pid: line 1 is the process, line 7 the key and id of the
// System V segment that guards the data folder, line 8 the state.
type pidFile struct {
	pid   int
	shm   int // -1 when not written yet
	ready bool
}

func readPidFile(data string) (pidFile, error) {
	raw, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return pidFile{}, err
	}
	lines := strings.Split(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 1 {
		return pidFile{}, fmt.Errorf("postmaster.pid in %q names no process", data)
	}
	found := pidFile{pid: pid, shm: -1}
	if len(lines) > 6 {
		if fields := strings.Fields(lines[6]); len(fields) == 2 {
			if id, err := strconv.Atoi(fields[1]); err == nil {
				found.shm = id
			}
		}
	}
	found.ready = len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready"
	return found, nil
}

// alive reports whether a process exists and is not a zombie. A zombie is what a server killed
// under a process 1 that does not collect orphans, as in many containers, stays forever.
func alive(pid int) bool {
	if err := unix.Kill(pid, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return false
	}
	_, state, err := parentAndState(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return err != nil || state != 'Z'
}

// collect reaps a child of this process if it has ended and reports whether it is gone. Only for
// processes this program started: for any other it returns true.
func collect(pid int) (gone bool) {
	for {
		var status unix.WaitStatus
		reaped, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err != nil || reaped == pid
	}
}

// isServer reports whether a process is the server of this data folder, and not one that got the
// same id after a reboot.
func isServer(pid int, data string) bool {
	args, err := arguments(pid)
	if err != nil || len(args) < 3 {
		return false
	}
	return filepath.Base(args[0]) == "postgres" && args[1] == "-D" && args[2] == data
}

// isPostgres reports whether a process is any process of any PostgreSQL server.
func isPostgres(pid int) bool {
	args, err := arguments(pid)
	if err != nil {
		return true // unknown; assume that it is one
	}
	program := filepath.Base(args[0])
	return program == "postgres" || strings.HasPrefix(args[0], "postgres:")
}

// The functions below read /proc, or ask ps where there is none (macOS).

func parentAndState(pid int) (parent int, state byte, err error) {
	if !hasProc() {
		return psParentAndState(pid)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		if errors.Is(err, unix.ESRCH) { // ended between open and read
			err = fs.ErrNotExist
		}
		return 0, 0, err
	}
	// The second field is the program's name in brackets and may hold anything.
	_, rest, ok := bytes.Cut(raw[max(0, bytes.LastIndexByte(raw, ')')):], []byte(") "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 2 || len(fields[0]) != 1 {
		return 0, 0, fmt.Errorf("reading the state of process %d: unknown format", pid)
	}
	parent, err = strconv.Atoi(string(fields[1]))
	return parent, fields[0][0], err
}

func arguments(pid int) ([]string, error) {
	if !hasProc() {
		out, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
		program, data, ok := strings.Cut(strings.TrimSpace(string(out)), " -D ")
		if err != nil || !ok {
			return nil, errors.Join(errors.New("no such server"), err)
		}
		return []string{program, "-D", data}, nil
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00"), err
}

func children(parent int) ([]int, error) {
	var found []int
	pids, err := processes()
	for _, pid := range pids {
		if p, _, err := parentAndState(pid); err == nil && p == parent {
			found = append(found, pid)
		}
	}
	return found, err
}

func processes() ([]int, error) {
	var names []string
	if hasProc() {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return nil, fmt.Errorf("listing processes: %w", err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	} else {
		out, err := exec.Command("ps", "-A", "-o", "pid=").Output()
		if err != nil {
			return nil, fmt.Errorf("listing processes: %w", err)
		}
		names = strings.Fields(string(out))
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func hasProc() bool {
	_, err := os.Stat("/proc/self/stat")
	return err == nil
}

func psParentAndState(pid int) (int, byte, error) {
	out, err := exec.Command("ps", "-o", "ppid=,state=", "-p", strconv.Itoa(pid)).Output()
	fields := strings.Fields(string(out))
	if err != nil || len(fields) < 2 {
		return 0, 0, fs.ErrNotExist
	}
	parent, err := strconv.Atoi(fields[0])
	return parent, fields[1][0], err
}

// killTree ends a server and its children at once and returns when all are gone. The server is
// halted first, so that it cannot have another child between the list and the kill.
func killTree(ctx context.Context, pid int) error {
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("halting process %d: %w", pid, err)
	}
	pids, listErr := children(pid)
	pids = append(pids, pid)
	for _, p := range pids {
		if err := unix.Kill(p, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return errors.Join(listErr, fmt.Errorf("killing process %d: %w", p, err))
		}
	}
	err := poll(ctx, func() (bool, error) {
		for _, p := range pids {
			if p == pid {
				collect(p)
			}
			if alive(p) {
				return false, nil
			}
		}
		return true, nil
	})
	return errors.Join(listErr, err)
}

func segmentAttached(id int) bool {
	if id < 0 {
		return false
	}
	var desc unix.SysvShmDesc
	_, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc)
	return err == nil && desc.Nattch > 0
}

// dropSegment removes the System V shared memory segment that a killed server left behind; the
// server would do so itself at its next start, but there is none when its data is deleted.
func dropSegment(id int, user serverUser) {
	if id < 0 {
		return
	}
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil {
		return // gone already
	}
	if int(desc.Perm.Uid) == user.uid && desc.Nattch == 0 {
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) // 56 bytes; not worth an error
	}
}
