package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperiondb/vault/internal/vault"
)

// newQuietWorld is newWorld with the log of a daemon that is not debugged.
func newQuietWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.log = &bytes.Buffer{}
	w.api.log = slog.New(slog.NewJSONHandler(w.log, nil))
	return w
}

func TestAClientInALoopHasFewLinesAndEachRefusalIsCounted(t *testing.T) {
	for _, c := range []struct {
		about  string
		target string
		option option
		err    error
		status int
		series string
	}{
		{"an address", "/v1/secrets/a", from("203.0.113.9:1"), nil, 403,
			`vaultd_http_refused_total{reason="allowlist"} `},
		{"a page", "/v1/secrets/a", header("Origin", "https://x.test"), nil, 403,
			`vaultd_http_refused_total{reason="cross_site"} `},
		{"a name", "/v1/secrets/a//b", nil, nil, 400,
			`vaultd_http_requests_total{route="GET /v1/secrets/{name}",status="400"} `},
		{"no such secret", "/v1/secrets/a", nil, vault.ErrNotFound, 404,
			`vaultd_http_requests_total{route="GET /v1/secrets/{name}",status="404"} `},
		{"the database", "/v1/secrets/a", nil, vault.ErrRefused, 403, `vaultd_access_denied_total{reason="database"} `},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newQuietWorld(t)
			h := w.serve(failing(c.err))
			options := []option{}
			if c.option != nil {
				options = append(options, c.option)
			}
			const loop = 200
			for range loop {
				if rec := ask(t, h, "GET", c.target, "", options...); rec.Code != c.status {
					t.Fatalf("%s: got status %d, want %d", c.about, rec.Code, c.status)
				}
			}
			if lines := strings.Count(w.log.String(), "\n"); lines != refusalLines {
				t.Errorf("%s: got %d lines of %d refusals, want %d", c.about, lines, loop, refusalLines)
			}
			time.Sleep(refusalLineEach)
			ask(t, h, "GET", c.target, "", options...)
			if want := fmt.Sprintf(`"unlogged":%d`, loop-refusalLines); !strings.Contains(w.log.String(), want) {
				t.Errorf("%s: the next line lacks %s: %s", c.about, want, w.log)
			}
			page := ask(t, w.api.HealthHandler(), "GET", "/metrics", "").Body.String()
			if want := fmt.Sprint(c.series, loop+1); !strings.Contains(page, want+"\n") {
				t.Errorf("%s: the metrics lack %s", c.about, want)
			}
		})
	}
}

// A line of one kind is not lost because of another kind, and failures that are the daemon's have a line each.
func TestOnlyRefusalsOfOneKindShareLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a line is allowed again every few seconds
		w := newQuietWorld(t)
		for range 3 * refusalLines {
			ask(t, w.serve(echo("GET /x")), "GET", "/v1/secrets/a//b", "")
			ask(t, w.serve(failing(vault.ErrIntegrity)), "GET", "/v1/secrets/a", "")
		}
		ask(t, w.serve(failing(vault.ErrNotFound)), "GET", "/v1/secrets/a", "")
		for want, n := range map[string]int{`"error":"bad_request"`: refusalLines, `"error":"integrity"`: 3 * refusalLines,
			`"error":"not_found"`: 1} {
			if got := strings.Count(w.log.String(), want); got != n {
				t.Errorf("got %d lines with %s, want %d", got, want, n)
			}
		}
	})
}

func TestRefusedAdminTokensAreCountedAndAFailedChangeHasItsLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a line is allowed again every few seconds
		w := newQuietWorld(t)
		conflict := &endpoint{name: "PUT /x", named: true, admin: true,
			do: func(context.Context, *request) (answer, error) { return answer{}, vault.ErrConflict }}
		h := w.serve(conflict)
		for range 2 * refusalLines {
			wantStatus(t, ask(t, h, "PUT", "/v1/secrets/a", ""), http.StatusForbidden, "not_allowed")
			wantStatus(t, ask(t, h, "PUT", "/v1/secrets/a", "", header("Authorization", "Bearer hva_x")), 403, "not_allowed")
		}
		token := vault.NewToken()
		for range 2 * refusalLines {
			wantStatus(t, ask(t, h, "PUT", "/v1/secrets/a", "", header("Authorization", "Bearer "+token.Reveal())), 409,
				"conflict")
		}
		page := ask(t, w.api.HealthHandler(), "GET", "/metrics", "").Body.String()
		if want := fmt.Sprintf(`vaultd_access_denied_total{reason="admin_token"} %d`, 4*refusalLines); !strings.Contains(page,
			want) {
			t.Errorf("the metrics lack %s", want)
		}
		for want, n := range map[string]int{`"refused_for":"admin_token"`: refusalLines,
			`"error":"conflict"`: 2 * refusalLines} {
			if got := strings.Count(w.log.String(), want); got != n {
				t.Errorf("got %d lines with %s, want %d", got, want, n)
			}
		}
	})
}

// Every reason that a refusal can have is a series from the start, so that its first increase shows in a rate.
func TestTheSeriesOfRefusalsBeginAtZero(t *testing.T) {
	page := ask(t, newWorld(t).api.HealthHandler(), "GET", "/metrics", "").Body.String()
	for _, want := range []string{`vaultd_http_refused_total{reason="host"} 0`,
		`vaultd_access_denied_total{reason="policy"} 0`, `vaultd_access_denied_total{reason="admin_token"} 0`,
		`vaultd_http_limited_total{limit="waits"} 0`, `vaultd_http_limited_total{limit="failed_credentials"} 0`} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(page, `=""`) {
		t.Error("a series has an empty label")
	}
}
