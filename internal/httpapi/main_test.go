package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// world is an API whose log can be read, and that admits 192.0.2.0/24.
type world struct {
	api *API
	log *bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{log: &bytes.Buffer{}}
	w.api = New(Options{
		Log: slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		// of httptest
		Policy:  Policy{Allow: mustNetworks(t, "192.0.2.0/24", "2001:db8::/32"), Hosts: []string{"example.com", "x"}},
		Release: Release{Version: "v1.2.3", Commit: "8a91bc4", Schema: 13},
	})
	return w
}

// serve handles every path under /v1/secrets with one endpoint, through all steps of a request.
func (w *world) serve(e *endpoint) http.Handler {
	method, _, _ := strings.Cut(e.name, " ")
	m := byMethod{method: e}
	return w.api.serve(route(m, m, map[string]*endpoint{"verify": e, "rotate": e}), func(r *http.Request) (client, error) {
		return w.api.guard.Load().admit(r)
	}, w.api.recordEvent)
}

func mustNetworks(t *testing.T, texts ...string) []netip.Prefix {
	t.Helper()
	var all []netip.Prefix
	for _, text := range texts {
		p, err := ParseNetwork(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

type option func(*http.Request)

func header(name, value string) option {
	return func(r *http.Request) { r.Header.Add(name, value) }
}

func from(addr string) option {
	return func(r *http.Request) { r.RemoteAddr = addr }
}

func overUnix(r *http.Request) {
	r.RemoteAddr = "@"
	*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey,
		&net.UnixAddr{Name: "/run/vaultd.sock", Net: "unix"}))
}

// ask sends one request, from 192.0.2.1 unless an option changes that.
func ask(t *testing.T, h http.Handler, method, target, body string, options ...option) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	if body != "" {
		r = httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
		r.Header.Set("Content-Type", typeJSON)
	}
	r.RemoteAddr, r.Host = "192.0.2.1:40000", "localhost"
	for _, o := range options {
		o(r)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

// wantStatus checks the status and, from 400, the form of the error; it returns the body as an object.
func wantStatus(t *testing.T, rec *httptest.ResponseRecorder, status int, code string) map[string]any {
	t.Helper()
	var body map[string]any
	raw, _ := io.ReadAll(rec.Body)
	if len(raw) > 0 && rec.Header().Get("Content-Type") == typeJSON {
		if err := json.Unmarshal(raw, &body); err != nil {
			t.Fatalf("the answer %q is not json: %v", raw, err)
		}
	}
	if rec.Code != status {
		t.Fatalf("got status %d (%s), want %d", rec.Code, raw, status)
	}
	if code == "" {
		return body
	}
	if body["error"] != code {
		t.Errorf("got error %q, want %q", body["error"], code)
	}
	if body["request_id"] != rec.Header().Get("X-Request-Id") || body["request_id"] == "" {
		t.Errorf("got request_id %q in the body and %q in the header", body["request_id"], rec.Header().Get("X-Request-Id"))
	}
	if message, _ := body["message"].(string); message == "" {
		t.Error("the error has no message")
	}
	return body
}

// echo answers 200 with the name it was asked for.
func echo(name string) *endpoint {
	return &endpoint{name: name, named: true, do: func(_ context.Context, q *request) (answer, error) {
		return jsonAnswer(http.StatusOK, map[string]string{"name": q.secret, "client": q.client.String()}), nil
	}}
}
