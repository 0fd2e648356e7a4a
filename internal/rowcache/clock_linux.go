package rowcache

import "golang.org/x/sys/unix"

// steadyClock counts while the machine is suspended. CLOCK_MONOTONIC, which package time uses, does not.
const steadyClock = unix.CLOCK_BOOTTIME
