package httpapi

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/vault"
)

// metrics count by route and status, never by the name of a secret.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	refused  *prometheus.CounterVec
	denied   *prometheus.CounterVec
	limited  *prometheus.CounterVec
	failures *prometheus.CounterVec
	answered *answered
	appReads *appReads
}

func newMetrics(r prometheus.Registerer, release Release) metrics {
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
	m.denied = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "vaultd_access_denied_total",
		Help: "Requests answered with 403 because of their credential or their app's rules, by reason. admin_token: it is " +
			"missing or not valid; database: it refused, for example a name outside the admin token's scope; path: of sys/.",
	}, []string{"reason"})
	m.limited = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "vaultd_http_limited_total",
		Help: "Requests answered with 429, by the limit they exceeded.",
	}, []string{"limit"})
	m.failures = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "vaultd_http_failures_total",
		Help: "Requests answered with an error of 5xx, by its code.",
	}, []string{"code"})
	for counter, known := range map[*prometheus.CounterVec][]string{m.refused: guardReasons, m.denied: deniedReasons(),
		m.limited: limitReasons, m.failures: failureCodes()} {
		for _, label := range known {
			counter.WithLabelValues(label) // a series that begins at 0 shows its first request in rate()
		}
	}
	m.answered = &answered{known: map[routeStatus]observed{}}
	m.appReads = newAppReads()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "vaultd_build_info",
		Help: "Always 1.",
		ConstLabels: prometheus.Labels{"version": release.Version, "commit": release.Commit,
			"schema_version": strconv.Itoa(release.Schema), "go_version": runtime.Version()},
	})
	info.Set(1)
	r.MustRegister(m.requests, m.duration, m.inFlight, m.refused, m.denied, m.limited, m.failures, m.appReads.vec,
		info)
	return m
}

// The labels of refusals. All are constants: none holds a name, an address or a token.
const (
	byAdminToken = "admin_token"
	byDatabase   = "database"
	byPath       = "path"
)

var (
	guardReasons = []string{"allowlist", "forwarded_for", "host", "cross_site"}
	limitReasons = []string{"total_rate", "address_rate", "app_rate", "app_at_once", "address_at_once", "total_at_once",
		"verify_rate", "admin_tokens", "failed_credentials", "waits"}
)

func deniedReasons() []string {
	all := []string{byAdminToken, byDatabase, byPath}
	for _, r := range access.Refusals {
		all = append(all, string(r))
	}
	return all
}

// failureCodes are the codes of 5xx.
func failureCodes() []string {
	all := []string{"internal"}
	for _, o := range outcomes {
		if o.status >= http.StatusInternalServerError {
			all = append(all, o.code)
		}
	}
	return all
}

// count counts what the access to secrets decided.
func (m metrics) count(q *request, err error) {
	if err == nil {
		if q.caller.App != "" && (q.route.access == access.Read || q.route.access == access.Verify) {
			m.appReads.of(q.caller.App).Inc()
		}
		return
	}
	var d *denial
	o := outcomeOf(err)
	switch {
	case errors.As(err, &d):
		m.denied.WithLabelValues(string(d.reason)).Inc()
	case o.status == http.StatusTooManyRequests:
		m.limited.WithLabelValues(o.reason).Inc()
	case o.reason == byAdminToken || vault.IsTokenRefused(err):
		m.denied.WithLabelValues(byAdminToken).Inc()
	case o.reason == byPath:
		m.denied.WithLabelValues(byPath).Inc()
	case errors.Is(err, vault.ErrRefused):
		m.denied.WithLabelValues(byDatabase).Inc()
	}
}

// appsInMetrics bounds the apps that have a series of their own. The rest shares the series "other".
const appsInMetrics = 100

type appReads struct {
	vec   *prometheus.CounterVec
	other prometheus.Counter

	mu  sync.RWMutex
	own map[string]prometheus.Counter
}

func newAppReads() *appReads {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "vaultd_app_reads_total",
		Help: "Reads and verifies answered for an app; the apps beyond the first hundred count as other.",
	}, []string{"app"})
	return &appReads{vec: vec, other: vec.WithLabelValues("other"), own: map[string]prometheus.Counter{}}
}

func (a *appReads) of(app string) prometheus.Counter {
	a.mu.RLock()
	counter := a.own[app]
	a.mu.RUnlock()
	if counter != nil {
		return counter
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.own) >= appsInMetrics {
		return a.other
	}
	a.own[app] = a.vec.WithLabelValues(app)
	return a.own[app]
}

var (
	epochDesc = prometheus.NewDesc("vaultd_access_epoch",
		"The first 48 bits of the epoch of this daemon's copy of the apps, which is as old as the last request with a "+
			"credential: an idle daemon shows an old one.", nil, nil)
	appsDesc = prometheus.NewDesc("vaultd_access_apps",
		"Apps in this daemon's copy, as of the last request with a credential.", nil, nil)
	credentialsDesc = prometheus.NewDesc("vaultd_access_credentials",
		"Credentials of apps in this daemon's copy, as of the last request with a credential.", nil, nil)
	expiryDesc = prometheus.NewDesc("vaultd_app_credential_expiry_timestamp_seconds",
		"When the first live credential of the app ends, as of the last request with a credential; for the hundred apps "+
			"for which that is first.", []string{"app"}, nil)
)

func (a *apps) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{epochDesc, appsDesc, credentialsDesc, expiryDesc} {
		to <- d
	}
}

// Collect reports nothing before the first copy.
func (a *apps) Collect(to chan<- prometheus.Metric) {
	x := a.current.Load()
	if x == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	epoch := x.Epoch()
	gauge(epochDesc, float64(binary.BigEndian.Uint64(epoch[:8])>>16))
	apps, credentials := x.Size()
	gauge(appsDesc, float64(apps))
	gauge(credentialsDesc, float64(credentials))
	first := map[string]time.Time{}
	x.Expiries(time.Now(), func(app string, at time.Time) {
		if before, ok := first[app]; !ok || at.Before(before) {
			first[app] = at
		}
	})
	soonest := slices.SortedFunc(maps.Keys(first), func(a, b string) int { return first[a].Compare(first[b]) })
	for _, app := range soonest[:min(len(soonest), appsInMetrics)] {
		gauge(expiryDesc, float64(first[app].Unix()), app)
	}
}

// observe counts an answer; err is nil if it has no error in it.
func (m metrics) observe(route string, status int, took time.Duration, err error) {
	if err != nil && status >= http.StatusInternalServerError {
		m.failures.WithLabelValues(outcomeOf(err).code).Inc()
	}
	o := m.answered.of(m, routeStatus{route, status})
	o.count.Inc()
	o.duration.Observe(took.Seconds())
}

// answered has the series that were used before: to look one up by its labels costs a read a microsecond.
type answered struct {
	mu    sync.RWMutex
	known map[routeStatus]observed
}

type routeStatus struct {
	route  string
	status int
}

type observed struct {
	count    prometheus.Counter
	duration prometheus.Observer
}

func (a *answered) of(m metrics, key routeStatus) observed {
	a.mu.RLock()
	o, ok := a.known[key]
	a.mu.RUnlock()
	if ok {
		return o
	}
	o = observed{m.requests.WithLabelValues(key.route, strconv.Itoa(key.status)), m.duration.WithLabelValues(key.route)}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known[key] = o
	return o
}
