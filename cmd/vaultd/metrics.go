package main

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

// stateCollector queries the local node for the state of the vault at each scrape. Every node reports the same
// rotations, as far as it has replayed them. If the node does not answer, only vaultd_database_up 0 is reported.
type stateCollector struct{ vault *vault.Vault }

var (
	databaseUp = prometheus.NewDesc("vaultd_database_up", "Whether the local node answers.", nil, nil)
	isPrimary  = prometheus.NewDesc("vaultd_node_is_primary", "Whether the local node takes writes.", nil, nil)
	lag        = prometheus.NewDesc("vaultd_replication_lag_seconds",
		"How far the local node is behind the primary, by its clock and the heartbeat it has replayed; "+
			"0 on a primary; absent when unknown.", nil, nil)
	unsealed = prometheus.NewDesc("vaultd_audit_unsealed_seconds",
		"How long the oldest row of the audit log has waited for its seal; 0 = none waits; "+
			"absent on a standby, and where nothing was ever sealed.", nil, nil)
	nodeFenced = prometheus.NewDesc("vaultd_node_fenced", "Whether the local node is an old primary, or follows one.", nil,
		nil)
	rounds = prometheus.NewDesc("vaultd_round_failures",
		"Parts, secrets and months that the rounds of supervisor, workers and sealer cannot handle; "+
			"vaultctl doctor names them.", nil, nil)
	rotationLimit = prometheus.NewDesc("vaultd_rotation_limit",
		"The most rotations at once (vaultctl rotation limit); 0: all are stopped. Absent without a limit.", nil, nil)
	rotations = prometheus.NewDesc("vaultd_rotations",
		"Rotations by state: queued, claimed, failed for good; overdue and not failed; secrets paused.", []string{"state"},
		nil)
)

func (c *stateCollector) Describe(to chan<- *prometheus.Desc) {
	to <- databaseUp
	to <- isPrimary
	to <- lag
	to <- unsealed
	to <- nodeFenced
	to <- rounds
	to <- rotationLimit
	to <- rotations
}

func (c *stateCollector) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	h, err := c.vault.Health(ctx)
	if err != nil {
		gauge(databaseUp, 0)
		return
	}
	gauge(databaseUp, 1)
	gauge(isPrimary, gaugeOf(h.Role == "primary"))
	if h.LagSeconds != nil {
		gauge(lag, *h.LagSeconds)
	}
	if h.UnsealedSeconds != nil {
		gauge(unsealed, *h.UnsealedSeconds)
	}
	gauge(rounds, float64(h.RoundFailures))
	if h.MaxRotations != nil {
		gauge(rotationLimit, float64(*h.MaxRotations))
	}
	gauge(nodeFenced, gaugeOf(errors.Is(c.vault.CheckFence(ctx), vault.ErrFenced)))
	for state, n := range rotationsByState(h) {
		gauge(rotations, float64(n), state)
	}
}

// registerProcess adds what the Go runtime and the kernel say of this process. process_start_time_seconds comes from
// /proc/stat, which the unit hides; vaultd_start_time_seconds does not.
func registerProcess(r *prometheus.Registry) {
	started := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "vaultd_start_time_seconds", Help: "When this daemon started.",
	})
	started.SetToCurrentTime()
	r.MustRegister(started, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

func waitQueries(v *vault.Vault) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "vaultd_wait_queries_total",
		Help: "Queries for changes: one a round for all requests with wait=, none while there are none.",
	}, func() float64 {
		_, queries := v.Waiting()
		return float64(queries)
	})
}

func rotationsByState(h db.Health) map[string]int64 {
	return map[string]int64{"queued": h.RotationsQueued, "claimed": h.RotationsClaimed, "failed": h.RotationsFailed,
		"overdue": h.RotationsOverdue, "paused": h.RotationsPaused}
}

func gaugeOf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
