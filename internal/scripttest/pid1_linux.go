package scripttest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// firstProcess makes a command process 1 of a namespace of its own.
func firstProcess() *syscall.SysProcAttr {
	if os.Getuid() == 0 {
		return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	}
	return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}}
}

// onlyChild waits until a process has one child, which is alive.
func onlyChild(parent int) error {
	deadline := time.Now().Add(waitLimit)
	for {
		states, err := childStates(parent)
		if err != nil || len(states) == 1 && states[0] != "Z" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the children of process 1 are in the states %q, want one that lives", states)
		}
		time.Sleep(20 * time.Millisecond) // between two polls
	}
}

func childStates(parent int) ([]string, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	var states []string
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ") // after the name, which may hold anything but is short
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			states = append(states, fields[0])
		}
	}
	return states, err
}
