package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/vault"
)

// The time limits of one request, its database statements and KMS calls included. A write has longer, because a COMMIT
// that got no reply is sent again. A write that was sent to COMMIT is settled beyond that, for 20 seconds at most: the
// WriteTimeout of a server must be longer than both together.
const (
	ReadTimeout  = 10 * time.Second
	WriteTimeout = 25 * time.Second
)

// Options of an API.
type Options struct {
	Vault    *vault.Vault
	Policy   Policy
	AdminAPI bool   // enables the routes that write
	KVMount  string // enables the routes of Vault's KV version 2, below this path; "" = none
	Release  Release
	Log      *slog.Logger         // nil: discarded
	Registry *prometheus.Registry // served at /metrics; nil: a new one
	Checks   []Check              // run by /readyz
	Notices  []Check              // run and shown by /readyz too, but a daemon with a failing notice is ready

	Recorder Recorder   // of reads, verifies and refusals; nil: the audit is off
	Audit    func() any // shown by /v1/status; nil: nothing

	MinLSNWait time.Duration // how long a read that names a position waits until the node has replayed it
	Fresh      func() error  // called before every read of the node; nil: no limit on how far it is behind

	MaxWaits           int // requests that wait for a change at once; 0 = DefaultMaxWaits
	MaxWaitsPerAddress int // of them from one address; 0 = a quarter of MaxWaits

	Apps Apps // nil: there are none
}

// Check is one part that has to work for the daemon to be ready.
type Check struct {
	Name  string
	Check func(ctx context.Context) error // its error is shown on the health listener, so it holds no password
}

// API makes the two handlers. It is safe for concurrent use.
type API struct {
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  metrics
	started  time.Time
	guard    atomic.Pointer[guard]
	guesses  *guesses
	apps     *apps
	failures *limiter[netip.Prefix] // of credentials that failed
	node     node
	recorder Recorder
	waits    *waits
	draining atomic.Bool // the daemon is about to stop
	refusals *refusalLog

	secrets router
	health  router

	credentials http.Handler // of requests of systemd
	systemd     uint32       // the user as which systemd asks: root; tests have another
}

// New connects to nothing.
func New(o Options) *API {
	a := &API{log: o.Log, registry: o.Registry, recorder: o.Recorder, started: time.Now(), guesses: newGuesses(),
		refusals: newRefusalLog(), apps: newApps(o.Apps),
		failures: newLimiter[netip.Prefix](failuresPerSecond, failuresAtOnce)}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.registry == nil {
		a.registry = prometheus.NewRegistry()
	}
	a.metrics = newMetrics(a.registry, o.Release)
	a.guard.Store(newGuard(o.Policy, nil))
	a.registry.MustRegister(a.apps)
	a.node = node{await: o.Vault.AwaitReplay, atMost: o.MinLSNWait, fresh: o.Fresh}
	a.waits = newWaits(o.Vault, a.admitAgain, o.MaxWaits, o.MaxWaitsPerAddress)
	a.waits.register(a.registry)
	a.secrets = secretRoutes(o.Vault, o.AdminAPI)
	o.Checks = append(slices.Clip(o.Checks), Check{Name: "stopping", Check: a.checkDraining})
	if o.Apps != nil {
		o.Checks = append(slices.Clip(o.Checks), Check{Name: "access", Check: a.checkApps})
	}
	if o.KVMount != "" {
		a.secrets = withKV(a.secrets, kvRoutes(o))
	}
	a.health = a.healthRoutes(o)
	a.credentials = a.credentialHandler(o.Vault.Get)
	return a
}

// checkApps is the readiness check "access": without a copy of the apps no credential can be judged.
func (a *API) checkApps(ctx context.Context) error {
	_, err := a.apps.any(ctx)
	return err
}

// SetPolicy replaces the policy for all requests that have not passed the guard yet. Clients keep what is left of their
// rate unless the rate itself changes.
func (a *API) SetPolicy(p Policy) {
	a.guard.Store(newGuard(p, a.guard.Load()))
}

// Drain makes /readyz fail and every answer end its connection, so that clients and load balancers go elsewhere before
// the daemon stops. Requests are answered as before.
func (a *API) Drain() { a.draining.Store(true) }

// checkDraining is the readiness check "stopping".
func (a *API) checkDraining(context.Context) error {
	if a.draining.Load() {
		return errors.New("the daemon is about to stop")
	}
	return nil
}

// EndWaits makes every request that waits for a change be answered now, and later ones at once: with 304 if there is no
// change. The daemon calls it before it stops, so that no request is cut off.
func (a *API) EndWaits() { a.waits.end() }

// Handler serves secrets.
func (a *API) Handler() http.Handler {
	return a.serve(a.secrets, func(r *http.Request) (client, error) { return a.guard.Load().admit(r) }, a.recordEvent)
}

// admitAgain applies the policy in force, and the rights of now, to a request that has waited.
func (a *API) admitAgain(ctx context.Context, q *request) error {
	q.guard = a.guard.Load()
	if _, err := q.guard.admit(q.http); err != nil {
		a.metrics.refused.WithLabelValues(outcomeOf(err).reason).Inc()
		return err
	}
	if err := a.authorise(ctx, q, q.guard); err != nil {
		return err
	}
	return q.takeTurn(ctx)
}

// HealthHandler serves /livez (also as /healthz), /readyz, /metrics and /v1/status, to every address that can connect:
// none of them holds a secret or the name of one. A page of another site is refused all the same, as it could send what
// it reads to that site.
func (a *API) HealthHandler() http.Handler {
	return a.serve(a.health, func(r *http.Request) (client, error) { return a.guard.Load().admitAnyone(r) },
		func(*request, router, error) error { return nil })
}
