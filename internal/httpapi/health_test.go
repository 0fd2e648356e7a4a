package httpapi

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperiondb/vault/internal/vault"
)

func TestReadinessNamesEachFailingPart(t *testing.T) {
	var broken error
	api := New(Options{Release: Release{Version: "1.2.3", Commit: "8a91bc4", Schema: 13}, Checks: []Check{
		{"database", func(context.Context) error { return nil }},
		{"keys", func(context.Context) error { return broken }},
		{"worker", func(context.Context) error { panic("hunter2") }},
	}})
	h := api.HealthHandler()
	body := wantStatus(t, ask(t, h, "GET", "/readyz", ""), 503, "")
	want := map[string]any{"ready": false, "failing": map[string]any{"worker": "panic with a string"},
		"version": "1.2.3", "commit": "8a91bc4", "schema_version": 13.0}
	if diff := cmp.Diff(want, body); diff != "" {
		t.Errorf("readiness differs (-want +got):\n%s", diff)
	}
	broken = errors.New("the key service\nis away")
	body = wantStatus(t, ask(t, h, "GET", "/readyz", ""), 503, "")
	want["failing"].(map[string]any)["keys"] = "the key service is away"
	if diff := cmp.Diff(want, body); diff != "" {
		t.Errorf("readiness differs (-want +got):\n%s", diff)
	}
	wantStatus(t, ask(t, h, "GET", "/healthz", ""), 200, "")
}

func TestReadyWhenNothingFails(t *testing.T) {
	body := wantStatus(t, ask(t, New(Options{}).HealthHandler(), "GET", "/readyz", ""), 200, "")
	want := map[string]any{"ready": true, "failing": map[string]any{}, "version": "", "schema_version": 0.0}
	if diff := cmp.Diff(want, body); diff != "" {
		t.Errorf("readiness differs (-want +got):\n%s", diff)
	}
}

func TestAPartThatHangsFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		started := time.Now()
		failing := failingParts(t.Context(), []Check{{"a", hang}, {"b", hang}})
		if len(failing) != 2 || time.Since(started) != checkTimeout {
			t.Errorf("got %v after %v, want both after %v", failing, time.Since(started), checkTimeout)
		}
	})
}

func TestStatus(t *testing.T) {
	answer := func(context.Context) (any, error) { return map[string]int{"secrets": 3}, nil }
	w := newWorld(t)
	h := w.serve(statusEndpoint(answer, daemonFacts{Release: Release{Version: "v1.2.3"},
		StartedAt: time.Now().Add(-time.Minute)}))
	body := wantStatus(t, ask(t, h, "GET", "/v1/secrets/a", ""), 200, "")
	daemon := body["daemon"].(map[string]any)
	if daemon["version"] != "v1.2.3" || daemon["uptime_seconds"].(float64) < 60 {
		t.Errorf("got daemon %v, want its version and a minute", daemon)
	}
	if diff := cmp.Diff(map[string]any{"secrets": 3.0}, body["vault"]); diff != "" {
		t.Errorf("the vault's status differs (-want +got):\n%s", diff)
	}
	away := func(context.Context) (any, error) { return nil, vault.ErrUnavailable }
	wantStatus(t, ask(t, w.serve(statusEndpoint(away, daemonFacts{})), "GET", "/v1/secrets/a", ""), 503, "unavailable")
}

func TestMetricsCountByRouteAndNeverByName(t *testing.T) {
	w := newWorld(t)
	h := w.serve(echo("GET /v1/secrets/{name}"))
	ask(t, h, "GET", "/v1/secrets/db/password", "")
	ask(t, h, "GET", "/v1/secrets/db/password", "")
	ask(t, h, "GET", "/nowhere", "")
	rec := ask(t, w.api.HealthHandler(), "GET", "/metrics", "")
	page := rec.Body.String()
	for _, want := range []string{
		`vaultd_http_requests_total{route="GET /v1/secrets/{name}",status="200"} 2`,
		`vaultd_http_requests_total{route="unknown",status="400"} 1`,
		`vaultd_http_request_duration_seconds_count{route="GET /v1/secrets/{name}"} 2`,
		`vaultd_http_requests_in_flight 1`,
		`version="v1.2.3"`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if rec.Code != 200 || strings.Contains(page, "password") {
		t.Errorf("got status %d, or the name of a secret in the metrics", rec.Code)
	}
	if !strings.HasPrefix(rec.Header().Get("Content-Type"), "text/plain") {
		t.Errorf("got Content-Type %q", rec.Header().Get("Content-Type"))
	}
}

func TestHealthHasNoSecretsAndNoGuard(t *testing.T) {
	h := New(Options{}).HealthHandler()
	wantStatus(t, ask(t, h, "GET", "/healthz", "", from("198.51.100.1:1")), 200, "")
	wantStatus(t, ask(t, h, "GET", "/v1/secrets/a", ""), 400, "bad_request")
	rec := ask(t, h, "POST", "/healthz", "")
	wantStatus(t, rec, 405, "method_not_allowed")
	if got := rec.Header().Get("Allow"); got != "GET, HEAD" {
		t.Errorf("got Allow %q", got)
	}
	if rec := ask(t, h, "HEAD", "/readyz", ""); rec.Code != 200 || rec.Body.Len() != 0 {
		t.Errorf("got %d with %d bytes for HEAD", rec.Code, rec.Body.Len())
	}
}
