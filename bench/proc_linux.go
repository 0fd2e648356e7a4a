package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the times in /proc: USER_HZ is 100 wherever Go runs on Linux.
const tick = 10 * time.Millisecond

// cpuOf is the processor time that a process has had, and that of its children that have ended.
func cpuOf(pid int) (own, ended time.Duration, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	_, rest, found := bytes.Cut(stat, []byte(") ")) // the program's name is the one field with spaces
	fields := strings.Fields(string(rest))
	if !found || len(fields) < 15 {
		return 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var ticks [4]time.Duration // user, system, and both of children: fields 14 to 17 of proc(5)
	for i := range ticks {
		n, err := strconv.ParseInt(fields[11+i], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks[i] = time.Duration(n) * tick
	}
	return ticks[0] + ticks[1], ticks[2] + ticks[3], nil
}

func cpuOfAll(pids ...int) (total time.Duration, err error) {
	for _, pid := range pids {
		own, _, err := cpuOf(pid)
		if err != nil {
			return 0, err
		}
		total += own
	}
	return total, nil
}

// cpuOfServers adds up what PostgreSQL servers have used: postmasters, their processes, and those that have ended.
func cpuOfServers(postmasters ...int) (total time.Duration, err error) {
	for _, postmaster := range postmasters {
		own, ended, err := cpuOf(postmaster)
		if err != nil {
			return 0, err
		}
		total += own + ended
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", postmaster, postmaster))
		if err != nil {
			return 0, err
		}
		for child := range strings.FieldsSeq(string(children)) {
			pid, err := strconv.Atoi(child)
			if err != nil {
				return 0, err
			}
			if own, _, err := cpuOf(pid); err == nil { // else it has just ended
				total += own
			}
		}
	}
	return total, nil
}

var memoryLine = regexp.MustCompile(`(?m)^Vm(RSS|HWM):\s+(\d+) kB$`)

func memoryOf(pid int) (m memory, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, err
	}
	found := memoryLine.FindAllSubmatch(status, -1)
	if len(found) != 2 {
		return m, fmt.Errorf("/proc/%d/status has no memory", pid)
	}
	for _, f := range found {
		kb, err := strconv.ParseFloat(string(f[2]), 64)
		if err != nil {
			return m, err
		}
		if string(f[1]) == "RSS" {
			m.Resident = kb / 1024
		} else {
			m.Peak = kb / 1024
		}
	}
	return m, nil
}
