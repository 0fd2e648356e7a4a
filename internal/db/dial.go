package db

import (
	"net"
	"time"
)

// A peer that is gone without a word is noticed within 25 seconds, on a connection that waits (keepalive) as on one
// that has sent something (the user timeout, where there is one). Deadlines notice sooner; this is for what has none,
// such as a connection that listens, and for the server's side of the socket to be let go of.
const (
	keepAliveIdle     = 10 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
	userTimeout       = keepAliveIdle + keepAliveCount*keepAliveInterval
)

func dialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval,
			Count: keepAliveCount},
		Control: userTimeoutOf(userTimeout),
	}
}
