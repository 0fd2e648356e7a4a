package rotation

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what this daemon's worker did, never by the name of a secret. A nil *Metrics counts nothing.
type Metrics struct {
	attempts *prometheus.CounterVec
	inFlight prometheus.Gauge
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
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

func (m *Metrics) settled(outcome string) {
	if m != nil {
		m.attempts.WithLabelValues(outcome).Inc()
	}
}

// running counts a rotation until what it returns is called.
func (m *Metrics) running() func() {
	if m == nil {
		return func() {}
	}
	m.inFlight.Inc()
	return m.inFlight.Dec
}
