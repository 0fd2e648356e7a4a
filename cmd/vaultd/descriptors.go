package main

import (
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/hyperiondb/vault/internal/listen"
)

const (
	// maxConnections is the default where descriptors are plenty: then the memory of idle connections is the bound.
	maxConnections = 4096
	lowConnections = 8 // connections, below which the daemon says that it has too few descriptors
	maxStrangers   = 16
	// listeners, the log, the spool and its segments, files being read, the KMS, a bucket, a resolver
	otherDescriptors = 64
	perRotation      = 8 // pipes of a program, connections to a target
)

// healthBounds keep the health listener answering while others hold connections to it.
var healthBounds = listen.Bounds{Total: 32, PerAddress: 16}

// reserved are the descriptors that HTTP connections leave to the database, the spool, rotations and the health
// listener.
func (c *Config) reserved() int {
	reader, writer, listening, feed := c.MaxConns, c.RotationWorkers+4, 1, 1
	systemd := 0
	if c.CredentialSocket != "" {
		systemd = listen.MaxOnce
	}
	return reader + writer + listening + feed + c.RotationWorkers*perRotation + healthBounds.Total + systemd +
		otherDescriptors
}

// connectionBounds are the configured bounds, lowered to fit the limit of open files.
func (c *Config) connectionBounds(log *slog.Logger) listen.Bounds {
	room := maxConnections
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil && files.Cur < 1<<30 {
		room = int(files.Cur) - c.reserved()
	}
	b, complaint := c.boundsWithin(room)
	if complaint != "" {
		log.Warn(complaint, "open_files", files.Cur, "kept_back", c.reserved(), "http_max_connections", b.Total)
	}
	return b
}

// boundsWithin fits the bounds into the available descriptors.
func (c *Config) boundsWithin(room int) (b listen.Bounds, complaint string) {
	b = listen.Bounds{Total: c.HTTPMaxConns, PerAddress: c.HTTPMaxConnsPerAddress, Strangers: maxStrangers}
	switch {
	case room < lowConnections:
		b.Total, complaint = lowConnections,
			"too few open files: connections may use up what the database and the spool need; raise LimitNOFILE"
	case b.Total > room:
		b.Total, complaint = room,
			fmt.Sprintf("http_max_connections = %d is more than the limit of open files leaves room for; raise LimitNOFILE",
				c.HTTPMaxConns)
	case b.Total == 0:
		b.Total = min(room, maxConnections)
	}
	if b.PerAddress == 0 {
		b.PerAddress = max(b.Total/4, 4)
	}
	b.Strangers = min(b.Strangers, max(b.Total/4, 1))
	return b, complaint
}

var (
	connectionsOpen = prometheus.NewDesc("vaultd_http_connections", "Connections that are open.", []string{"listener"},
		nil)
	connectionsClosed = prometheus.NewDesc("vaultd_http_connections_closed_total",
		"Connections closed for the bounds: idle ones to make room, and new ones where none was idle "+
			"(total, address, stranger).",
		[]string{"listener", "reason"}, nil)
)

func (s *servers) Describe(to chan<- *prometheus.Desc) {
	to <- connectionsOpen
	to <- connectionsClosed
}

func (s *servers) Collect(to chan<- prometheus.Metric) {
	for name, l := range map[string]*listen.Limiter{"secrets": s.secrets, "health": s.health} {
		open, closed := l.Stats()
		to <- prometheus.MustNewConstMetric(connectionsOpen, prometheus.GaugeValue, float64(open), name)
		for reason, n := range closed {
			to <- prometheus.MustNewConstMetric(connectionsClosed, prometheus.CounterValue, float64(n), name, reason)
		}
	}
}
