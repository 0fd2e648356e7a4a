package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// checkTimeout bounds one check.
const checkTimeout = 3 * time.Second

func (a *API) healthRoutes(o Options) router {
	status := func(ctx context.Context) (any, error) { return o.Vault.Status(ctx) }
	paths := map[string]byMethod{
		"/livez":   {http.MethodGet: healthEndpoint("/livez")},
		"/healthz": {http.MethodGet: healthEndpoint("/healthz")},
		"/readyz":  {http.MethodGet: readyEndpoint(o.Release, o.Checks, o.Notices)},
		"/metrics": {http.MethodGet: metricsEndpoint(promhttp.HandlerFor(a.registry,
			promhttp.HandlerOpts{DisableCompression: true}))},
		"/v1/status": {http.MethodGet: statusEndpoint(status,
			daemonFacts{Release: o.Release, StartedAt: a.started.UTC(), AdminAPI: o.AdminAPI, audit: o.Audit})},
	}
	for _, methods := range paths {
		for _, e := range methods {
			e.exempt = true
		}
	}
	return func(r *http.Request) (*endpoint, string, error) {
		methods, ok := paths[r.URL.Path]
		if !ok {
			return nil, "", errNoRoute
		}
		e, err := methods.find(r.Method)
		return e, "", err
	}
}

// healthEndpoint is liveness: it answers while the process does, even if other parts fail.
func healthEndpoint(path string) *endpoint {
	return &endpoint{name: "GET " + path, quiet: true, do: func(context.Context, *request) (answer, error) {
		return jsonAnswer(http.StatusOK, map[string]bool{"ok": true}), nil
	}}
}

// Release is which release this daemon is, and the schema version it was made for. It is in the answers of the health
// listener and in the metrics.
type Release struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"` // "" = not known
	Schema  int    `json:"schema_version"`
}

type readiness struct {
	Release
	Ready   bool              `json:"ready"`
	Failing map[string]string `json:"failing"`
	Notices map[string]string `json:"notices,omitempty"` // failures that do not prevent reads
}

// readyEndpoint runs all checks at once; a check that does not answer in time fails.
func readyEndpoint(release Release, checks, notices []Check) *endpoint {
	return &endpoint{name: "GET /readyz", quiet: true, do: func(ctx context.Context, _ *request) (answer, error) {
		noticed := make(chan map[string]string, 1)
		go func() { noticed <- failingParts(ctx, notices) }()
		failing := failingParts(ctx, checks)
		status := http.StatusOK
		if len(failing) > 0 {
			status = http.StatusServiceUnavailable
		}
		return jsonAnswer(status, readiness{release, len(failing) == 0, failing, <-noticed}), nil
	}}
}

func failingParts(ctx context.Context, checks []Check) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	errs := make([]error, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { errs[i] = c.run(ctx) })
	}
	wg.Wait()
	failing := map[string]string{}
	for i, c := range checks {
		if errs[i] != nil {
			failing[c.Name] = strings.Join(strings.Fields(errs[i].Error()), " ")
		}
	}
	return failing
}

// run turns a panic into a failure, since a panic in its goroutine would end the process.
func (c Check) run(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic with a %T", v)
		}
	}()
	return c.Check(ctx)
}

type daemonFacts struct {
	Release
	StartedAt     time.Time `json:"started_at"`
	UptimeSeconds int64     `json:"uptime_seconds"`
	AdminAPI      bool      `json:"admin_api"`
	audit         func() any
}

func statusEndpoint(status func(context.Context) (any, error), facts daemonFacts) *endpoint {
	return &endpoint{name: "GET /v1/status", do: func(ctx context.Context, _ *request) (answer, error) {
		s, err := status(ctx)
		if err != nil {
			return answer{}, err
		}
		now := facts
		now.UptimeSeconds = int64(time.Since(facts.StartedAt).Seconds())
		body := map[string]any{"daemon": now, "vault": s}
		if facts.audit != nil {
			body["audit"] = facts.audit()
		}
		return jsonAnswer(http.StatusOK, body), nil
	}}
}

// metricsEndpoint buffers the output of Prometheus' own handler, so that serve sends it like any other answer.
func metricsEndpoint(h http.Handler) *endpoint {
	return &endpoint{name: "GET /metrics", quiet: true, do: func(ctx context.Context, q *request) (answer, error) {
		page := &page{header: http.Header{}}
		h.ServeHTTP(page, q.http.WithContext(ctx))
		return answer{status: page.status, contentType: page.header.Get("Content-Type"), body: page.body.Bytes()}, nil
	}}
}

// page is an http.ResponseWriter in memory.
type page struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (p *page) Header() http.Header         { return p.header }
func (p *page) WriteHeader(status int)      { p.status = status }
func (p *page) Write(b []byte) (int, error) { return p.body.Write(b) }
