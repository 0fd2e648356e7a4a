package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of the times in /proc: USER_HZ is 100 wherever Go runs on Linux.
const tick = 10 * time.Millisecond

// cpuOf is the processor time of all threads of a process, to the nanosecond: a backend may have worked for less than a
// tick. The number of its clock is that of clock_getcpuclockid(3) on Linux.
func cpuOf(pid int) (time.Duration, error) {
	const sched, limit = 2, 1 << 22 // beyond which there is no pid, see proc(5), nor room for it in the number
	if pid <= 0 || pid > limit {
		return 0, fmt.Errorf("there is no process %d", pid)
	}
	var at unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &at); err != nil {
		return 0, fmt.Errorf("the processor time of process %d: %w", pid, err)
	}
	return time.Duration(at.Nano()), nil
}

// cpuOfEnded is the time of a process's children that have ended, in ticks: fields 16 and 17 of proc(5).
func cpuOfEnded(pid int) (total time.Duration, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, found := bytes.Cut(stat, []byte(") ")) // the program's name is the one field with spaces
	fields := strings.Fields(string(rest))
	if !found || len(fields) < 15 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	for _, field := range fields[13:15] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		total += time.Duration(n) * tick
	}
	return total, nil
}

func cpuOfAll(pids ...int) (total time.Duration, err error) {
	for _, pid := range pids {
		own, err := cpuOf(pid)
		if err != nil {
			return 0, err
		}
		total += own
	}
	return total, nil
}

// cpuOfServers adds up the time of PostgreSQL servers: postmasters, their processes, and those that have ended.
func cpuOfServers(postmasters ...int) (total time.Duration, err error) {
	for _, postmaster := range postmasters {
		own, err := cpuOf(postmaster)
		if err != nil {
			return 0, err
		}
		ended, err := cpuOfEnded(postmaster)
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
			if own, err := cpuOf(pid); err == nil { // else it has just ended
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
