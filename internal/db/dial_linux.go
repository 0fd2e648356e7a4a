package db

import (
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeoutOf bounds how long sent bytes may go unacknowledged; by itself Linux repeats them for a quarter of an
// hour.
func userTimeoutOf(limit time.Duration) func(string, string, syscall.RawConn) error {
	return func(network, _ string, conn syscall.RawConn) error {
		if !strings.HasPrefix(network, "tcp") {
			return nil
		}
		return conn.Control(func(fd uintptr) {
			// If the kernel refuses, the keepalive and the deadlines remain.
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
		})
	}
}
