package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// superviseAsInit is vaultd as process 1, in a container without an init: it runs the daemon as a child, passes signals
// on to it and reaps every process that ends. A process that a rotation's program leaves running becomes a child of
// process 1, and would stay a zombie for ever. The daemon itself cannot reap: it would take the exit codes that os/exec
// waits for.
func superviseAsInit(args []string) int {
	signals := make(chan os.Signal, 128)
	signal.Notify(signals)
	child, err := os.StartProcess(ownPath(), args, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Setpgid: true}, // so that a terminal's Ctrl-C reaches the child once, from here
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "vaultd: starting as a child of process 1:", err)
		return exitFailed
	}
	for s := range signals {
		switch s {
		case syscall.SIGCHLD:
			if code, ended := reap(child.Pid); ended {
				return code
			}
		case syscall.SIGURG, syscall.SIGPIPE: // of the Go runtime, and of a closed log
		default:
			_ = child.Signal(s) // one that has ended is reaped next
		}
	}
	return exitFailed // signals is never closed
}

// ownPath is the running file, also if its path was replaced since.
func ownPath() string {
	const self = "/proc/self/exe"
	if _, err := os.Stat(self); err == nil {
		return self
	}
	return os.Args[0]
}

// reap waits for all processes that have ended, and reports whether the daemon is among them.
func reap(daemon int) (code int, ended bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil || pid <= 0:
			return code, ended
		case pid == daemon && status.Signaled():
			code, ended = 128+int(status.Signal()), true
		case pid == daemon && status.Exited():
			code, ended = status.ExitStatus(), true
		}
	}
}
