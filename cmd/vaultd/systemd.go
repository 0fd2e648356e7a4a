package main

import (
	"log/slog"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// States that systemd is told of (sd_notify).
const (
	ready    = systemd.SdNotifyReady
	stopping = systemd.SdNotifyStopping
)

// reloadingNow has the time, which Type=notify-reload wants.
func reloadingNow() string {
	return systemd.SdNotifyReloading + "\n" + systemd.SdNotifyMonotonicUsec()
}

// tellSystemd does nothing without $NOTIFY_SOCKET.
func tellSystemd(log *slog.Logger, state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		log.Warn("systemd cannot be told the state of the daemon", "error", err)
	}
}

// drain waits for delay, or until a listener fails.
func drain(delay time.Duration, failed <-chan error) {
	over := time.NewTimer(delay)
	defer over.Stop()
	select {
	case <-over.C:
	case <-failed: // the daemon stops already
	}
}
