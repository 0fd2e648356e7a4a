package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/vault"
)

// ledger keeps the events it records, or fails with broken.
type ledger struct {
	mu     sync.Mutex // guards events, for requests at once
	events []audit.Event
	broken error
	before func() // called before an event is recorded
}

func (l *ledger) Record(_ context.Context, e audit.Event) error {
	if l.before != nil {
		l.before()
	}
	if l.broken != nil {
		return l.broken
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
	return nil
}

func newAuditedWorld(t *testing.T) (*world, *ledger) {
	w, l := newWorld(t), &ledger{}
	w.api.recorder = l
	return w, l
}

// Every outcome of a request is on record.
func TestEveryEndIsOnRecord(t *testing.T) {
	w, l := newAuditedWorld(t)
	s := &stored{value: []byte("v")}
	h := w.serve(getEndpoint(s.get))
	verify := w.serve(verifyEndpoint(func(_ context.Context, _ string, presented []byte,
		_ vault.VerifyOptions) (vault.Verdict, error) {
		switch string(presented) {
		case "old":
			return vault.Verdict{Valid: true, Version: 2, Match: vault.MatchGrace, ExpiresAt: &created}, nil
		case "broken":
			return vault.Verdict{}, fmt.Errorf("opening: %w", vault.ErrIntegrity)
		}
		return vault.Verdict{}, nil
	}))
	event := func(action, secret string, version int, outcome audit.Outcome, detail map[string]any) audit.Event {
		return audit.Event{Actor: "client:192.0.2.1", Client: "192.0.2.1", Action: action, Secret: secret, Version: version,
			Outcome: outcome, Detail: detail}
	}
	reason := func(code string) map[string]any { return map[string]any{"reason": code} }
	elsewhere := event(audit.Read, "db/password", 0, audit.Denied, reason("not_allowed"))
	elsewhere.Actor, elsewhere.Client = "client:203.0.113.9", "203.0.113.9"
	for _, c := range []struct {
		name string
		ask  func() *httptest.ResponseRecorder
		want audit.Event
	}{
		{"a read", func() *httptest.ResponseRecorder { return ask(t, h, "GET", "/v1/secrets/db/password", "") },
			event(audit.Read, "db/password", 3, audit.OK, nil)},
		{"what the client has", func() *httptest.ResponseRecorder {
			return ask(t, h, "GET", "/v1/secrets/db/password", "", header("If-None-Match", etag(versionID)))
		}, event(audit.Read, "db/password", 0, audit.OK, map[string]any{"not_modified": true, "version_id": versionID})},
		{"nothing", func() *httptest.ResponseRecorder { return ask(t, h, "GET", "/v1/secrets/nothing", "") },
			event(audit.Read, "nothing", 0, audit.Failed, reason("not_found"))},
		{"no name", func() *httptest.ResponseRecorder { return ask(t, h, "GET", "/v1/secrets/a//b", "") },
			event(audit.Read, "", 0, audit.Failed, reason("bad_request"))},
		{"from elsewhere", func() *httptest.ResponseRecorder {
			return ask(t, h, "GET", "/v1/secrets/db/password", "", from("203.0.113.9:1"))
		}, elsewhere},
		{"the old value", func() *httptest.ResponseRecorder {
			return ask(t, verify, "POST", "/v1/secrets/a/verify", `{"value":"old"}`)
		}, event(audit.Verify, "a", 2, audit.OK, map[string]any{"valid": true, "match": vault.MatchGrace})},
		{"a wrong value", func() *httptest.ResponseRecorder {
			return ask(t, verify, "POST", "/v1/secrets/a/verify", `{"value":"x"}`)
		}, event(audit.Verify, "a", 0, audit.OK, map[string]any{"valid": false})},
		{"a broken row", func() *httptest.ResponseRecorder {
			return ask(t, verify, "POST", "/v1/secrets/a/verify", `{"value":"broken"}`)
		}, event(audit.Verify, "a", 0, audit.Failed, reason("integrity"))},
	} {
		l.events = nil
		rec := c.ask()
		if len(l.events) != 1 {
			t.Fatalf("%s: got %d events", c.name, len(l.events))
		}
		if diff := cmp.Diff(c.want, l.events[0], cmpopts.IgnoreFields(audit.Event{}, "RequestID")); diff != "" {
			t.Errorf("%s: the event differs (-want +got):\n%s", c.name, diff)
		}
		if got := l.events[0].RequestID; got == "" || got != rec.Header().Get("X-Request-Id") {
			t.Errorf("%s: got request id %q", c.name, got)
		}
	}
}

// Not a byte is sent before its record is kept.
func TestTheRecordComesFirst(t *testing.T) {
	w, l := newAuditedWorld(t)
	rec := httptest.NewRecorder()
	l.before = func() {
		if rec.Body.Len() > 0 || rec.Result().StatusCode != http.StatusOK || rec.Flushed || len(rec.Header()) > 0 {
			t.Error("something was answered before the record was kept")
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/secrets/db/password", nil)
	r.RemoteAddr = "192.0.2.1:1"
	w.serve(getEndpoint((&stored{value: []byte("v")}).get)).ServeHTTP(rec, r)
	if rec.Body.Len() == 0 || len(l.events) != 1 {
		t.Errorf("got %d bytes and %d events", rec.Body.Len(), len(l.events))
	}
}

// A request that cannot be put on record is not answered, with a value or an error; a refusal stays a 403.
func TestNoRecordNoAnswer(t *testing.T) {
	w, l := newAuditedWorld(t)
	l.broken = fmt.Errorf("the disk is full: %w", audit.ErrUnrecorded)
	s := &stored{value: []byte("hunter2")}
	h := w.serve(getEndpoint(s.get))
	for _, path := range []string{"/v1/secrets/db/password", "/v1/secrets/nothing"} {
		rec := ask(t, h, "GET", path, "")
		if rec.Header().Get("Retry-After") == "" || rec.Header().Get("ETag") != "" {
			t.Errorf("%s: got headers %v", path, rec.Header())
		}
		wantStatus(t, rec, 503, "audit_unavailable")
	}
	held := ask(t, h, "GET", "/v1/secrets/db/password", "", header("If-None-Match", etag(versionID)))
	wantStatus(t, held, 503, "audit_unavailable")
	wantStatus(t, ask(t, h, "GET", "/v1/secrets/db/password", "", from("203.0.113.9:1")), 403, "not_allowed")
	l.broken = errors.Join(audit.ErrUnrecorded, context.DeadlineExceeded)
	wantStatus(t, ask(t, h, "GET", "/v1/secrets/db/password", ""), 503, "audit_unavailable")
}
