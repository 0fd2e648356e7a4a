package db

import (
	"net"
	"time"
)

// A peer that vanishes is noticed within 25 seconds, on an idle connection (keepalive) and on one with unacknowledged
// bytes (the user timeout, on Linux). Deadlines are shorter; these limits are for connections without one, such as a
// listener's, and they free the sockets.
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
