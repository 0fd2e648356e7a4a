package httpapi

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count by route and status, never by the name of a secret.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	refused  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, version string) metrics {
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vaultd_http_requests_total",
			Help: "Requests answered, by route and status. 499: the client left first.",
		}, []string{"route", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "vaultd_http_request_duration_seconds",
			Help:    "Time from the first byte of a request to the last of its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "vaultd_http_requests_in_flight",
			Help: "Requests being answered now.",
		}),
	}
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "vaultd_http_refused_total",
		Help: "Requests that the guard refused, by what it refused: allowlist, forwarded_for, host, cross_site.",
	}, []string{"reason"})
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "vaultd_build_info",
		Help:        "Always 1.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	})
	info.Set(1)
	r.MustRegister(m.requests, m.duration, m.inFlight, m.refused, info)
	return m
}

func (m metrics) observe(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(route).Observe(took.Seconds())
}
