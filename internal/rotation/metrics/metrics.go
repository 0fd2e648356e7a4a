// Package metrics counts for Prometheus what a daemon's worker does. It is apart from package rotation, which vaultctl
// links too: the packages of Prometheus take a process a millisecond when it starts.
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/rotation"
)

// Metrics never count by the name of a secret.
type Metrics struct {
	attempts *prometheus.CounterVec
	inFlight prometheus.Gauge
}

var _ rotation.Metrics = (*Metrics)(nil)

// New registers them.
func New(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vaultd_rotation_attempts_total",
			Help: "Rotations tried here, by how they ended: done, failed (to be tried again), given_up, claim_lost, unknown.",
		}, []string{"outcome"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "vaultd_rotations_in_flight",
			Help: "Rotations being made here now."}),
	}
	for _, outcome := range []string{"done", "failed", "given_up", "claim_lost", "unknown"} {
		m.attempts.WithLabelValues(outcome)
	}
	r.MustRegister(m.attempts, m.inFlight)
	return m
}

// Settled implements rotation.Metrics.
func (m *Metrics) Settled(outcome string) { m.attempts.WithLabelValues(outcome).Inc() }

// Running implements rotation.Metrics.
func (m *Metrics) Running(change int) { m.inFlight.Add(float64(change)) }
