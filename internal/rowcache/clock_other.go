//go:build !linux

package rowcache

import "golang.org/x/sys/unix"

// steadyClock counts on macOS while the machine sleeps.
const steadyClock = unix.CLOCK_MONOTONIC
