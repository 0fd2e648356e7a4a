package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/vault"
)

func failing(err error) *endpoint {
	return &endpoint{name: "GET /v1/secrets/{name}", named: true, do: func(context.Context, *request) (answer, error) {
		return answer{}, err
	}}
}

func TestEveryAnswerSaysNotToStoreIt(t *testing.T) {
	w := newWorld(t)
	for name, rec := range map[string]*httptest.ResponseRecorder{
		"an answer":  ask(t, w.serve(echo("GET /x")), "GET", "/v1/secrets/a", ""),
		"a refusal":  ask(t, w.serve(echo("GET /x")), "GET", "/v1/secrets/a", "", from("198.51.100.1:1")),
		"no route":   ask(t, w.serve(echo("GET /x")), "GET", "/", ""),
		"a failure":  ask(t, w.serve(failing(errors.New("x"))), "GET", "/v1/secrets/a", ""),
		"its health": ask(t, w.api.HealthHandler(), "GET", "/healthz", ""),
	} {
		for header, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
			if got := rec.Header().Get(header); got != want {
				t.Errorf("%s: got %s %q, want %q", name, header, got, want)
			}
		}
	}
}

func TestRequestID(t *testing.T) {
	w := newWorld(t)
	h := w.serve(echo("GET /x"))
	for _, kept := range []string{"a", "Req_1.2-3", strings.Repeat("x", 64)} {
		if got := ask(t, h, "GET", "/v1/secrets/a", "", header("X-Request-Id",
			kept)).Header().Get("X-Request-Id"); got != kept {
			t.Errorf("got id %q, want the client's %q", got, kept)
		}
	}
	for _, replaced := range []string{"", strings.Repeat("x", 65), "a b", "a\"b", "a\nb", "ä", "{}"} {
		got := ask(t, h, "GET", "/v1/secrets/a", "", header("X-Request-Id", replaced)).Header().Get("X-Request-Id")
		if _, err := uuid.Parse(got); err != nil {
			t.Errorf("client's id %q: got %q, want a fresh UUID", replaced, got)
		}
	}
}

func TestRouting(t *testing.T) {
	on, off := secretRoutes(nil, true), secretRoutes(nil, false)
	for _, c := range []struct {
		routes       router
		method, path string
		route, name  string // "" = none
		allow        string // of a 405
	}{
		{off, "GET", "/v1/secrets/a", "GET /v1/secrets/{name}", "a", ""},
		{off, "HEAD", "/v1/secrets/a", "GET /v1/secrets/{name}", "a", ""},
		{off, "GET", "/v1/secrets/a/b.c", "GET /v1/secrets/{name}", "a/b.c", ""},
		{off, "GET", "/v1/secrets/a/verify", "GET /v1/secrets/{name}", "a/verify", ""},
		{off, "POST", "/v1/secrets/a/verify", "POST /v1/secrets/{name}/verify", "a", ""},
		{off, "POST", "/v1/secrets/a/verify/verify", "POST /v1/secrets/{name}/verify", "a/verify", ""},
		{off, "GET", "/v1/secrets//a", "GET /v1/secrets/{name}", "/a", ""},
		{off, "GET", "/v1/secrets/", "GET /v1/secrets/{name}", "", ""},
		{off, "POST", "/v1/secrets", "", "", "-"},
		{off, "GET", "/v1/secrets", "", "", "-"},
		{off, "PUT", "/v1/secrets/a", "", "", "GET, HEAD"},
		{off, "DELETE", "/v1/secrets/a", "", "", "GET, HEAD"},
		{off, "POST", "/v1/secrets/a/rotate", "", "", "GET, HEAD"},
		{off, "POST", "/v1/secrets/verify", "", "", "GET, HEAD"},
		{off, "get", "/v1/secrets/a", "", "", "GET, HEAD"},
		{on, "POST", "/v1/secrets", "POST /v1/secrets", "", ""},
		{on, "GET", "/v1/secrets", "", "", "POST"},
		{on, "PUT", "/v1/secrets/a/rotate", "PUT /v1/secrets/{name}", "a/rotate", ""},
		{on, "DELETE", "/v1/secrets/a", "DELETE /v1/secrets/{name}", "a", ""},
		{on, "POST", "/v1/secrets/a/b/rotate", "POST /v1/secrets/{name}/rotate", "a/b", ""},
		{on, "POST", "/v1/secrets/a", "", "", "GET, HEAD, PUT, DELETE"},
		{on, "PATCH", "/v1/secrets/a", "", "", "GET, HEAD, PUT, DELETE"},
		{on, "GET", "/", "", "", ""},
		{on, "GET", "", "", "", ""},
		{on, "GET", "/v1/secretsx", "", "", ""},
		{on, "GET", "//v1/secrets/a", "", "", ""},
		{on, "GET", "/V1/secrets/a", "", "", ""},
		{on, "OPTIONS", "*", "", "", ""},
	} {
		e, name, err := c.routes(&http.Request{Method: c.method, URL: &url.URL{Path: c.path}})
		if c.route != "" {
			if err != nil || e.name != c.route || name != c.name {
				t.Errorf("%s %q: got %v, %q, %v, want %q, %q", c.method, c.path, e, name, err, c.route, c.name)
			}
			continue
		}
		o := outcomeOf(err)
		switch {
		case c.allow == "" && (o.status != 400 || o.message != "unknown route"):
			t.Errorf("%s %q: got %v, want an unknown route", c.method, c.path, err)
		case c.allow != "" && (o.status != 405 || *o.allow != strings.Trim(c.allow, "-")):
			t.Errorf("%s %q: got %d %v, want 405 with Allow %q", c.method, c.path, o.status, err, c.allow)
		}
	}
}

func TestA405WithoutAnyMethodStillSendsAllow(t *testing.T) {
	w := newWorld(t)
	rec := ask(t, w.api.Handler(), "POST", "/v1/secrets", `{}`)
	wantStatus(t, rec, 405, "method_not_allowed")
	if allow, sent := rec.Header()["Allow"]; !sent || allow[0] != "" {
		t.Errorf("got Allow %q, want an empty one", allow)
	}
}

func TestNamesAreCheckedAfterDecoding(t *testing.T) {
	w := newWorld(t)
	h := w.serve(echo("GET /x"))
	for target, want := range map[string]string{
		"/v1/secrets/db/password":      "db/password",
		"/v1/secrets/db%2Fpassword":    "db/password",
		"/v1/secrets/%64b/password":    "db/password",
		"/v1/secrets/db/verify/rotate": "db/verify/rotate",
	} {
		if body := wantStatus(t, ask(t, h, "GET", target, ""), 200, ""); body["name"] != want {
			t.Errorf("%s: got name %q, want %q", target, body["name"], want)
		}
	}
	for _, target := range []string{
		"/v1/secrets/", "/v1/secrets//", "/v1/secrets//a", "/v1/secrets/a//b", "/v1/secrets/a/", "/v1/secrets/a%2F..%2Fb",
		"/v1/secrets/a/../b", "/v1/secrets/..", "/v1/secrets/%2e%2e", "/v1/secrets/a%00", "/v1/secrets/a%20b",
		"/v1/secrets/a%252Fb",
		"/v1/secrets/-a", "/v1/secrets/a:1", "/v1/secrets/%C3%A4", "/v1/secrets/%FF",
		"/v1/secrets/" + strings.Repeat("a", 256),
	} {
		body := wantStatus(t, ask(t, h, "GET", target, ""), 400, "bad_request")
		if strings.Contains(fmt.Sprint(body["message"]), "..") {
			t.Errorf("%s: the message %q repeats the name", target, body["message"])
		}
	}
	if strings.Contains(w.log.String(), "../b") {
		t.Error("a name that is none is in the log")
	}
}

func TestUnknownAndRepeatedParametersAreRefused(t *testing.T) {
	w := newWorld(t)
	e := echo("GET /x")
	e.query = []string{"version"}
	h := w.serve(e)
	for _, query := range []string{"", "?", "?version=1"} {
		wantStatus(t, ask(t, h, "GET", "/v1/secrets/a"+query, ""), 200, "")
	}
	for _, query := range []string{"?Version=1", "?v=hunter2", "?version=1&version=1", "?version=1;x=2", "?%zz",
		"?hunter2"} {
		body := wantStatus(t, ask(t, h, "GET", "/v1/secrets/a"+query, ""), 400, "bad_request")
		if strings.Contains(fmt.Sprint(body)+w.log.String(), "hunter2") {
			t.Errorf("%s: the query is repeated in the answer or the log", query)
		}
	}
}

func TestABodyWhereNoneIsTakenIsRefused(t *testing.T) {
	wantStatus(t, ask(t, newWorld(t).serve(echo("GET /x")), "GET", "/v1/secrets/a", "{}"), 400, "bad_request")
}

func TestHeadHasTheHeadersOfGetAndNoBody(t *testing.T) {
	h := newWorld(t).serve(echo("GET /x"))
	get, head := ask(t, h, "GET", "/v1/secrets/a", ""), ask(t, h, "HEAD", "/v1/secrets/a", "")
	if head.Code != 200 || head.Body.Len() != 0 {
		t.Errorf("got %d with %d bytes, want 200 with none", head.Code, head.Body.Len())
	}
	if got, want := head.Header().Get("Content-Length"), fmt.Sprint(get.Body.Len()); got != want {
		t.Errorf("got Content-Length %s, want %s as for GET", got, want)
	}
}

// The table of outcomes, with the errors as the vault wraps them.
func TestErrorTable(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   string
		retry  bool
		shown  bool // the error's own text reaches the client
	}{
		{vault.ErrNotFound, 404, "not_found", false, false},
		{vault.ErrConflict, 409, "conflict", false, true},
		{vault.ErrDeleted, 409, "conflict", false, false},
		{vault.ErrInvalid, 400, "bad_request", false, true},
		{vault.ErrName, 400, "bad_request", false, true},
		{vault.ErrValueSize, 413, "too_large", false, true},
		{vault.ErrRefused, 403, "not_allowed", false, false},
		{vault.ErrIntegrity, 500, "integrity", false, false},
		{vault.ErrKeyRefused, 503, "key_refused", false, false},
		{vault.ErrKeyUnavailable, 503, "unavailable", true, false},
		{vault.ErrUnavailable, 503, "unavailable", true, false},
		{vault.ErrSchema, 503, "unavailable", true, false},
		{vault.ErrNotInitialised, 503, "unavailable", true, false},
		{vault.ErrOutcomeUnknown, 503, "outcome_unknown", true, false},
		{context.DeadlineExceeded, 503, "unavailable", true, false},
		{context.Canceled, 503, "unavailable", true, false},
		{errors.New("something else"), 500, "internal", false, false},
	} {
		w := newWorld(t)
		rec := ask(t, w.serve(failing(fmt.Errorf("doing detail-4711: %w", c.err))), "GET", "/v1/secrets/a", "")
		body := wantStatus(t, rec, c.status, c.code)
		if got := rec.Header().Get("Retry-After"); (got != "") != c.retry {
			t.Errorf("%v: got Retry-After %q, want one: %t", c.err, got, c.retry)
		}
		if shown := strings.Contains(body["message"].(string), "detail-4711"); shown != c.shown {
			t.Errorf("%v: got message %q, want the error's own text: %t", c.err, body["message"], c.shown)
		}
		if logged := strings.Contains(w.log.String(), "detail-4711"); c.status >= 500 && !logged {
			t.Errorf("%v: what was behind the %d is not in the log", c.err, c.status)
		}
	}
}

func TestAPanicIsA500AndTheNextRequestIsServed(t *testing.T) {
	w := newWorld(t)
	h := w.serve(&endpoint{name: "GET /x", named: true, do: func(_ context.Context, q *request) (answer, error) {
		if q.secret == "bad" {
			panic("hunter2")
		}
		return jsonAnswer(200, map[string]bool{"fine": true}), nil
	}})
	body := wantStatus(t, ask(t, h, "GET", "/v1/secrets/bad", ""), 500, "internal")
	log := w.log.String()
	if strings.Contains(fmt.Sprint(body), "goroutine") || strings.Contains(log, "hunter2") {
		t.Errorf("the answer %v or the log %s says too much", body, log)
	}
	if !strings.Contains(log, "panic with a string") || !strings.Contains(log, "serve_test.go") {
		t.Errorf("got log %s, want the type of the panic and its stack", log)
	}
	wantStatus(t, ask(t, h, "GET", "/v1/secrets/good", ""), 200, "")
}

func TestAClientThatLeftGetsNoAnswerAndALogLine(t *testing.T) {
	w := newWorld(t)
	ctx, leave := context.WithCancel(t.Context())
	h := w.serve(&endpoint{name: "GET /x", named: true, do: func(ctx context.Context, _ *request) (answer, error) {
		leave()
		<-ctx.Done()
		return answer{}, ctx.Err()
	}})
	rec := httptest.NewRecorder()
	func() {
		defer func() {
			if v := recover(); v != http.ErrAbortHandler {
				t.Errorf("got panic %v, want the connection aborted", v)
			}
		}()
		r := httptest.NewRequestWithContext(ctx, "GET", "/v1/secrets/a", nil)
		r.RemoteAddr = "192.0.2.1:1"
		h.ServeHTTP(rec, r)
	}()
	if rec.Body.Len() != 0 || !strings.Contains(w.log.String(), `"status":499`) {
		t.Errorf("got body %q and log %s, want none and a 499", rec.Body, w.log)
	}
}

func TestARequestDoesNotTakeForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newWorld(t).serve(&endpoint{name: "GET /x", named: true,
			do: func(ctx context.Context, _ *request) (answer, error) {
				<-ctx.Done()
				return answer{}, ctx.Err()
			}})
		started := time.Now()
		wantStatus(t, ask(t, h, "GET", "/v1/secrets/a", ""), 503, "unavailable")
		if took := time.Since(started); took != ReadTimeout {
			t.Errorf("got an answer after %v, want %v", took, ReadTimeout)
		}
	})
}

func TestTheAccessLogHasWhoAndWhatAndNothingSecret(t *testing.T) {
	w := newWorld(t)
	token := vault.NewToken()
	e := verifyEndpoint(func(context.Context, string, []byte, vault.VerifyOptions) (vault.Verdict, error) {
		return vault.Verdict{}, nil
	})
	e.admin, e.access = true, ""
	ask(t, w.serve(e), "POST", "/v1/secrets/db/password/verify", `{"value":"hunter2"}`,
		header("Authorization", "Bearer "+token.Reveal()), header("X-Request-Id", "r-1"))
	log := w.log.String()
	for _, want := range []string{`"route":"POST /v1/secrets/{name}/verify"`, `"secret":"db/password"`, `"status":200`,
		`"client":"192.0.2.1"`, `"request_id":"r-1"`, `"took":`, token.ID().String()} {
		if !strings.Contains(log, want) {
			t.Errorf("the log line lacks %s: %s", want, log)
		}
	}
	if strings.Contains(log, "hunter2") || strings.Contains(log, token.Reveal()) {
		t.Errorf("the log line holds a value or a token: %s", log)
	}
	if lines := strings.Count(log, "\n"); lines != 1 {
		t.Errorf("got %d log lines for a request, want 1", lines)
	}
}
