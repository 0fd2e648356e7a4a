//go:build !linux

package db

import (
	"syscall"
	"time"
)

func userTimeoutOf(time.Duration) func(string, string, syscall.RawConn) error { return nil }
