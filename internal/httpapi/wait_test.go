package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/vault"
)

// changing is a world whose waits end when the test says so.
type changing struct {
	*world
	stored
	sign    chan struct{} // each ends one wait
	waiting chan struct{} // gets one for each wait

	mu     sync.Mutex // guards stored and the rest
	events []audit.Event
}

func (c *changing) get(ctx context.Context, name string, o vault.GetOptions) (*vault.Secret, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stored.get(ctx, name, o)
}

func (c *changing) Record(_ context.Context, e audit.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, e)
	return nil
}

func newChanging(t *testing.T) *changing {
	c := &changing{world: newWorld(t), sign: make(chan struct{}), waiting: make(chan struct{}, 100)}
	c.stored = stored{value: []byte("v")}
	c.api.recorder = c
	c.api.waits.await = func(ctx context.Context, name string, held, _ uuid.UUID) error {
		if name != "db/password" || held != versionID {
			return fmt.Errorf("asked for %q and %s", name, held)
		}
		c.waiting <- struct{}{}
		select {
		case <-c.sign:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return c
}

// later sends a request for the secret that waits, and returns where its answer comes.
func (c *changing) later(t *testing.T, h http.Handler, options ...option) <-chan *httptest.ResponseRecorder {
	t.Helper()
	answered := make(chan *httptest.ResponseRecorder, 1)
	options = append(options, header("If-None-Match", etag(versionID)))
	go func() { answered <- ask(t, h, "GET", "/v1/secrets/db/password?wait=5m", "", options...) }()
	select {
	case <-c.waiting:
	case <-time.After(30 * time.Second):
		t.Fatal("the request does not wait")
	}
	return answered
}

func TestAWaitIsAnsweredByARead(t *testing.T) {
	c := newChanging(t)
	current := versionID
	h := c.serve(getEndpoint(func(ctx context.Context, name string, o vault.GetOptions) (*vault.Secret, error) {
		if o.Unless == current {
			return nil, vault.ErrNotModified
		}
		return &vault.Secret{Name: name, Version: 4, VersionID: current, Value: []byte("next"), CreatedAt: created}, nil
	}))
	answered := c.later(t, h)
	c.sign <- struct{}{} // a sign without a change
	<-c.waiting
	select {
	case rec := <-answered:
		t.Fatalf("answered %d without a change", rec.Code)
	default:
	}
	current = otherID
	c.sign <- struct{}{}
	rec := <-answered
	if body := wantStatus(t, rec, 200, ""); body["value"] != "next" {
		t.Errorf("got %v, want the next version", body)
	}
	if len(c.events) != 1 || c.events[0].Outcome != audit.OK || c.events[0].Version != 4 {
		t.Errorf("got the events %+v, want one, of version 4", c.events)
	}
	if log := c.log.String(); !strings.Contains(log, `"route":"GET /v1/secrets/{name}?wait"`) {
		t.Errorf("the log has the wait under another route: %s", log)
	}

	// Another version than the one the client has needs no wait.
	rec = ask(t, h, "GET", "/v1/secrets/db/password?wait=5m", "", header("If-None-Match", etag(versionID)))
	wantStatus(t, rec, 200, "")
}

func TestAWaitEndsWith304(t *testing.T) {
	c := newChanging(t)
	h := c.serve(getEndpoint(c.get))
	for wait, name := range map[string]string{"1s": "the time is over", "5m": "the daemon stops"} {
		if wait == "5m" {
			c.api.EndWaits()
		}
		began := time.Now()
		rec := ask(t, h, "GET", "/v1/secrets/db/password?wait="+wait, "", header("If-None-Match", etag(versionID)))
		if rec.Code != http.StatusNotModified || rec.Header().Get("ETag") != etag(versionID) {
			t.Errorf("%s: got %d with ETag %s, want 304 with the version", name, rec.Code, rec.Header().Get("ETag"))
		}
		if took := time.Since(began); wait == "1s" && took < time.Second && c.api.waits.ending.Err() == nil {
			t.Errorf("%s: answered after %s", name, took)
		}
	}
	for _, e := range c.events {
		if e.Detail["not_modified"] != true {
			t.Errorf("got the event %+v, want that of a 304", e)
		}
	}
	if len(c.events) != 2 {
		t.Errorf("got %d events, want one for each answer", len(c.events))
	}
}

func TestAWaitWhosePolicyChangedIsRefused(t *testing.T) {
	c := newChanging(t)
	answered := c.later(t, c.serve(getEndpoint(c.get)))
	c.api.SetPolicy(Policy{Allow: mustNetworks(t, "198.51.100.0/24")})
	reads := c.calls
	c.sign <- struct{}{}
	wantStatus(t, <-answered, 403, "not_allowed")
	if c.calls != reads {
		t.Error("a refused client caused a read")
	}
}

func TestAClientThatLeavesEndsItsWait(t *testing.T) {
	c := newChanging(t)
	server := httptest.NewUnstartedServer(c.serve(getEndpoint(c.get)))
	c.api.SetPolicy(Policy{Allow: mustNetworks(t, "127.0.0.0/8")})
	server.Config.ReadTimeout, server.Config.WriteTimeout = 2*time.Second, 2*time.Second // in which a request arrives
	server.Start()
	defer server.Close()
	ctx, leave := context.WithCancel(t.Context())
	get := func(ctx context.Context, wait string) (int, error) {
		r, _ := http.NewRequestWithContext(ctx, "GET", server.URL+"/v1/secrets/db/password?wait="+wait, nil)
		r.Header.Set("If-None-Match", etag(versionID))
		response, err := server.Client().Do(r)
		if err != nil {
			return 0, err
		}
		return response.StatusCode, response.Body.Close()
	}
	// The timeouts of the server do not cut a wait off.
	if status, err := get(ctx, "3s"); status != http.StatusNotModified {
		t.Errorf("got %d, %v, want 304 after three seconds", status, err)
	}
	<-c.waiting
	left := make(chan struct{})
	go func() { defer close(left); _, _ = get(ctx, "5m") }()
	<-c.waiting
	leave()
	<-left
	c.wantWaits(t, 0)
}

func (c *changing) wantWaits(t *testing.T, want int) {
	t.Helper()
	w := c.api.waits
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		now, addresses := w.now, len(w.byClient)
		w.mu.Unlock()
		if now == want && (want > 0 || addresses == 0) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d waits of %d addresses, want %d", now, addresses, want)
		}
	}
}

func TestWaitsAreBounded(t *testing.T) {
	c := newChanging(t)
	h := c.serve(getEndpoint(c.get))
	c.api.waits.most, c.api.waits.address = 3, 2
	one, two := from("192.0.2.1:40001"), from("192.0.2.2:40002")
	refused := func(options ...option) {
		t.Helper()
		options = append(options, header("If-None-Match", etag(versionID)))
		rec := ask(t, h, "GET", "/v1/secrets/db/password?wait=5m", "", options...)
		wantStatus(t, rec, 429, "too_many_waits")
		if page := ask(t, c.api.HealthHandler(), "GET", "/metrics", "").Body.String(); !strings.Contains(page,
			`vaultd_http_limited_total{limit="waits"} `) || strings.Contains(page, `limit=""`) {
			t.Error("the refused wait is not counted as one")
		}
		if got := rec.Header().Get("Retry-After"); got != "10" {
			t.Errorf("got Retry-After %q, want 10", got)
		}
		// without wait it is answered
		if rec := ask(t, h, "GET", "/v1/secrets/db/password", "", options...); rec.Code != http.StatusNotModified {
			t.Errorf("got %d without wait, want 304", rec.Code)
		}
	}
	answers := []<-chan *httptest.ResponseRecorder{c.later(t, h, one), c.later(t, h, one)}
	refused(one)
	answers = append(answers, c.later(t, h, two))
	refused(two)
	refused(overUnix)
	c.api.EndWaits()
	for _, answer := range answers {
		if rec := <-answer; rec.Code != http.StatusNotModified {
			t.Errorf("got %d when the daemon stops, want 304", rec.Code)
		}
	}
	c.wantWaits(t, 0)
}

func TestAWaitNeedsATimeAndAVersion(t *testing.T) {
	c := newChanging(t)
	h := c.serve(getEndpoint(c.get))
	for query, tags := range map[string][]string{
		"wait=": {etag(versionID)}, "wait=60": {etag(versionID)}, "wait=0s": {etag(versionID)}, "wait=-1s": {etag(versionID)},
		"wait=999ms": {etag(versionID)}, "wait=5m1ms": {etag(versionID)}, "wait=9999999999h": {etag(versionID)},
		"wait=1s&wait=1s": {etag(versionID)}, "wait=1s&version=3": {etag(versionID)}, "wait=inf": {etag(versionID)},
		"wait=1s": nil, "wait=2s": {"*"}, "wait=3s": {`"v1"`}, "wait=4s": {etag(versionID), etag(otherID)},
	} {
		var options []option
		for _, tag := range tags {
			options = append(options, header("If-None-Match", tag))
		}
		wantStatus(t, ask(t, h, "GET", "/v1/secrets/db/password?"+query, "", options...), 400, "bad_request")
	}
	if c.calls != 0 {
		t.Errorf("got %d reads, want none", c.calls)
	}
}
