package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

// kvWorld serves KV version 2 below "secret" from one stored secret, db/password.
func kvWorld(t *testing.T, s *stored, list folderFunc) http.Handler {
	w := newWorld(t)
	k := &kv{mount: "secret", ready: &readyCache{}}
	routes := withKV(route(byMethod{}, byMethod{}, nil), k.routes(kvSource{get: s.get, folder: list,
		summary: func(_ context.Context, name string, _ int, _ vault.Permit) (db.Summary, error) {
			return db.Summary{}, vault.ErrNotFound
		}}))
	return w.api.serve(routes, func(r *http.Request) (client, error) { return w.api.guard.Load().admit(r) },
		w.api.recordEvent)
}

// wantKV checks the status and the form of an answer and returns its data.
func wantKV(t *testing.T, rec *httptest.ResponseRecorder, status int) map[string]json.RawMessage {
	t.Helper()
	raw, _ := io.ReadAll(rec.Body)
	if rec.Code != status || rec.Header().Get("Content-Type") != typeJSON ||
		rec.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("got status %d, %v, %s, want %d", rec.Code, rec.Header(), raw, status)
	}
	var body struct {
		Errors    *[]string                  `json:"errors"`
		RequestID string                     `json:"request_id"`
		Data      map[string]json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	switch {
	case status >= 400 && (body.Errors == nil || (len(*body.Errors) == 0) != (status == 404)):
		t.Errorf("status %d: got %s", status, raw)
	case status < 400 && (body.Errors != nil || body.RequestID != rec.Header().Get("X-Request-Id")):
		t.Errorf("status %d: got %s", status, raw)
	}
	return body.Data
}

func TestKVData(t *testing.T) {
	const exact = ` {"big":12345678901234567890.000000000000000000010,"s":"\u00e4\/"} `
	for value, want := range map[string]string{
		"p\"ä\n<&>":     `{"value":"p\"ä\n<&>"}`,
		`{"a":1}`:       `{"a":1}`,
		`{"a":1,"a":2}`: `{"value":"{\"a\":1,\"a\":2}"}`,
		`["a"]`:         `{"value":"[\"a\"]"}`,
		"null":          `{"value":"null"}`,
		"{}":            `{}`,
		"\x00":          `{"value_base64":"AA=="}`,
		"\xff{}":        `{"value_base64":"/3t9"}`,
		exact:           exact,
	} {
		s := &stored{value: []byte(value), expiry: &created}
		rec := ask(t, kvWorld(t, s, nil), "GET", "/v1/secret/data/db/password?version=2", "")
		got := wantKV(t, rec, 200)
		if string(got["data"]) != strings.TrimSpace(want) {
			t.Errorf("%q: got %s, want %s", value, got["data"], want)
		}
		if got, want := string(got["metadata"]), `{"created_time":"2024-05-06T05:08:09.123456Z","custom_metadata":null,`+
			`"deletion_time":"2024-05-06T05:08:09.123456Z","destroyed":false,"version":3}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if !bytes.Equal(s.given.Value, make([]byte, len(value))) {
			t.Error("the opened value was not wiped")
		}
		if s.asked.Version != 2 || rec.Header().Get("ETag") != etag(versionID) {
			t.Errorf("asked for version %d, got ETag %s", s.asked.Version, rec.Header().Get("ETag"))
		}
	}
}

func TestKVNotModified(t *testing.T) {
	s := &stored{value: []byte("x")}
	rec := ask(t, kvWorld(t, s, nil), "GET", "/v1/secret/data/db/password", "", header("If-None-Match", etag(versionID)))
	if rec.Code != 304 || rec.Body.Len() != 0 {
		t.Errorf("got %d %s", rec.Code, rec.Body)
	}
}

// The answer is written into one buffer that does not grow, which would leave a copy of the value.
func TestKVAnswerDoesNotGrow(t *testing.T) {
	long := strings.Repeat("i", 64)
	for _, value := range []string{"x", strings.Repeat("\x01", 64<<10), strings.Repeat("\xff", 64<<10),
		`{"a":"` + strings.Repeat("x", 60000) + `"}`} {
		s := &vault.Secret{Version: 1<<31 - 1, Value: []byte(value), CreatedAt: created, RotatedAt: &created,
			ExpiresAt: nil}
		next := created.Add(3650 * 24 * time.Hour)
		s.NextRotationAt = &next
		if b := kvSecretAnswer(long, s, true, created).body; cap(b) > len(b)+512 || !json.Valid(b) {
			t.Errorf("%d bytes with a capacity of %d", len(b), cap(b))
		}
	}
}

func TestNextRotation(t *testing.T) {
	rotated, next := created, created.Add(time.Hour)
	at := func(d time.Duration) string {
		period, left, ok := nextRotation(&vault.Secret{RotatedAt: &rotated, NextRotationAt: &next}, next.Add(d))
		return fmt.Sprint(period, left, ok)
	}
	for d, want := range map[time.Duration]string{
		-time.Hour: "3600 3600 true", -90*time.Second - 1: "3600 91 true", -time.Second: "3600 5 true", 0: "3600 5 true",
		// The rotation comes some seconds after it is due: until then clients look every five seconds.
		5 * time.Minute: "3600 5 true", 5*time.Minute + 1: "0 0 false",
	} {
		if got := at(d); got != want {
			t.Errorf("%s after it is due: got %s, want %s", d, got, want)
		}
	}
	if _, _, ok := nextRotation(&vault.Secret{RotatedAt: &rotated}, next); ok {
		t.Error("a secret that is not rotated has a next rotation")
	}
	s := &vault.Secret{Value: []byte("x"), RotatedAt: &rotated, NextRotationAt: &next}
	for current, want := range map[bool]bool{true: true, false: false} {
		if got := bytes.Contains(kvSecretAnswer("id", s, current, created).body,
			[]byte(`,"rotation_period":3600,"ttl":3600},`)); got != want {
			t.Errorf("current %t: rotation fields %t", current, got)
		}
	}
}

func TestKVList(t *testing.T) {
	var asked db.FolderQuery
	keys := []string{"a", "a/", "b"}
	list := func(_ context.Context, q db.FolderQuery, permit vault.Permit) ([]string, error) {
		asked = q
		return keys[:min(len(keys), q.Limit)], nil
	}
	h := kvWorld(t, &stored{}, list)
	for target, want := range map[string]db.FolderQuery{
		"LIST /v1/secret/metadata":                        {Limit: 10001},
		"LIST /v1/secret/metadata/":                       {Limit: 10001},
		"GET /v1/secret/metadata?list=true":               {Limit: 10001},
		"GET /v1/secret/metadata/?list=1&limit=0":         {Limit: 10001},
		"LIST /v1/secret/metadata/prod?limit=-1":          {Folder: "prod/", Limit: 10001},
		"GET /v1/secret/metadata/prod/?list=true&limit=2": {Folder: "prod/", Limit: 3},
		"LIST /v1/secret/metadata/prod%2Fa.b/?after=x":    {Folder: "prod/a.b/", After: "x", Limit: 10001},
		"LIST /v1/secret/metadata/prod?after=x/":          {Folder: "prod/", After: "x/", Limit: 10001},
	} {
		method, path, _ := strings.Cut(target, " ")
		got := wantKV(t, ask(t, h, method, path, ""), 200)
		asked.Ranges = nil
		if diff := cmp.Diff(want, asked); diff != "" {
			t.Errorf("%s: %s", target, diff)
		}
		shown, _ := json.Marshal(keys[:min(len(keys), asked.Limit-1)])
		if string(got["keys"]) != string(shown) {
			t.Errorf("%s: got %s, want %s", target, got["keys"], shown)
		}
	}
	for _, target := range []string{"LIST /v1/secret/metadata//", "LIST /v1/secret/metadata/a//",
		"LIST /v1/secret/metadata/a/../b",
		"LIST /v1/secret/metadata/a%00", "LIST /v1/secret/metadata/a?limit=x", "LIST /v1/secret/metadata/a?after=-",
		"LIST /v1/secret/metadata/a?after=x//", "LIST /v1/secret/metadata/a?unknown=1", "GET /v1/secret/metadata/?list=false",
		"GET /v1/secret/metadata?list=maybe", "LIST /v1/secret/metadata/a?limit=1&limit=2",
		"GET /v1/secret/metadata/a?list=maybe", "GET /v1/secret/data/a?list="} {
		method, path, _ := strings.Cut(target, " ")
		wantKV(t, ask(t, h, method, path, ""), 400)
	}
	wantKV(t, ask(t, h, "LIST", "/v1/secret/data/a", ""), 405)
	keys = nil
	wantKV(t, ask(t, h, "LIST", "/v1/secret/metadata/a", ""), 404)
}

func TestKVSaysThatAListIsCut(t *testing.T) {
	list := func(_ context.Context, q db.FolderQuery, _ vault.Permit) ([]string, error) {
		return make([]string, q.Limit), nil
	}
	for target, want := range map[string]bool{"/v1/secret/metadata": true, "/v1/secret/metadata?limit=10000": false} {
		rec := ask(t, kvWorld(t, &stored{}, list), "LIST", target, "")
		if got := strings.Contains(rec.Body.String(), `"warnings":["only the first 10000 keys`); got != want {
			t.Errorf("%s: warns %t, want %t", target, got, want)
		}
	}
}

func TestKVRefusals(t *testing.T) {
	h := kvWorld(t, &stored{value: []byte("x")}, nil)
	for target, want := range map[string]int{
		"GET /v1/secret/data/nothing":                404,
		"GET /v1/secret/metadata/nothing":            404,
		"GET /v1/secret/data/a//b":                   400,
		"GET /v1/secret/data/a%2F..%2Fb":             400,
		"GET /v1/secret/data/":                       400,
		"GET /v1/secret/data":                        400,
		"GET /v1/secret/data/a?version=-1":           400,
		"GET /v1/secret/data/a?version=":             400,
		"GET /v1/secret/data/a?version=1&version=2":  400,
		"GET /v1/secret/data/a?x=1":                  400,
		"GET /v1/secret":                             400,
		"GET /v1/secret/db/password":                 400,
		"GET /v1/secretx/data/db/password":           400,
		"GET /v1/kv/data/db/password":                400,
		"GET /v1/SECRET/data/db/password":            400,
		"POST /v1/auth/approle/login":                400,
		"GET /v1/sys/mounts/kv":                      400,
		"GET /v1/sys/internal/ui/mounts/secretx":     400,
		"GET /v1/sys/leader":                         403,
		"PUT /v1/sys/seal":                           403,
		"PUT /v1/secret/data/db/password":            405,
		"POST /v1/secret/data/db/password":           405,
		"PATCH /v1/secret/data/db/password":          405,
		"DELETE /v1/secret/data/db/password":         405,
		"DELETE /v1/secret/metadata/db/password":     405,
		"POST /v1/secret/undelete/db/password":       405,
		"PUT /v1/secret/destroy/db/password":         405,
		"POST /v1/secret/delete/db/password":         405,
		"GET /v1/secret/data/db/password?version=0":  200,
		"GET /v1/secret/data/db%2Fpassword?list=0":   200,
		"HEAD /v1/sys/health?standbyok=true&x=1":     200,
		"GET /v1/sys/seal-status":                    200,
		"GET /v1/sys/init":                           200,
		"GET /v1/sys/internal/ui/mounts/secret/db/x": 200,
		"GET /v1/sys/mounts/secret":                  200,
	} {
		method, path, _ := strings.Cut(target, " ")
		if rec := ask(t, h, method, path, ""); rec.Code != want {
			t.Errorf("%s: got %d %s, want %d", target, rec.Code, rec.Body, want)
		} else if want >= 400 {
			wantKV(t, rec, want)
		}
	}
	for _, c := range []struct {
		option option
		status int
		says   string
	}{
		{header("X-Vault-Namespace", "team"), 400, "namespaces"},
		{header("X-Vault-Wrap-TTL", "5m"), 400, "wrapped"},
		{from("198.51.100.1:1"), 403, "permission denied: 198.51.100.1 is not in the allowlist"},
		{header("Origin", "https://evil.example"), 403, "permission denied: a page of another site"},
		{header("X-Vault-Min-LSN", "x"), 400, "X-Vault-Min-LSN"},
	} {
		rec := ask(t, h, "GET", "/v1/secret/data/db/password", "", c.option)
		if !strings.Contains(rec.Body.String(), c.says) {
			t.Errorf("got %s, want %q", rec.Body, c.says)
		}
		wantKV(t, rec, c.status)
	}
	// The native API keeps its own errors.
	wantStatus(t, ask(t, h, "GET", "/v1/secretsx", ""), 400, "")
	wantStatus(t, ask(t, h, "GET", "/", ""), 400, "bad_request")
	wantStatus(t, ask(t, h, "GET", "/v1/secrets/a", ""), 405, "method_not_allowed")
}

func TestKVHealthNamesWhatFails(t *testing.T) {
	down := errors.New("the database at 10.0.0.1 is down")
	calls := 0
	c := &readyCache{checks: []Check{{"kms", func(context.Context) error { return down }},
		{"database", func(context.Context) error { calls++; return down }},
		{"audit", func(context.Context) error { return nil }}}}
	for range 5 {
		if err := c.check(t.Context()); err == nil || err.Error() != "not ready: database, kms" {
			t.Errorf("got %v", err)
		}
	}
	if calls != 1 {
		t.Errorf("five clients within a second made %d checks", calls)
	}
}

func TestKVMount(t *testing.T) {
	for _, mount := range []string{"secret", "kv", "team/kv-2", "a.b"} {
		if err := CheckKVMount(mount); err != nil {
			t.Errorf("%q: %v", mount, err)
		}
	}
	for _, mount := range []string{"", "/", "secret/", "/secret", "a//b", "..", "secrets", "sys", "auth/x", "status",
		"ä"} {
		if CheckKVMount(mount) == nil {
			t.Errorf("%q is taken as a mount", mount)
		}
	}
}

func TestRangesOfPatterns(t *testing.T) {
	var patterns []access.Pattern
	for _, text := range []string{"*", "prod/app/*", "prod.*", "prod/db"} {
		p, err := access.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		patterns = append(patterns, p)
	}
	want := []db.NameRange{db.Below(""), db.Below("prod/app/"), db.Below("prod."), db.Only("prod/db")}
	if diff := cmp.Diff(want, rangesOf(patterns)); diff != "" {
		t.Error(diff)
	}
}

// A path leads to a secret or folder only if it spells its name out behind the mount, and to no other part of the API.
func FuzzKVPath(f *testing.F) {
	k := &kv{mount: "team/kv", ready: &readyCache{}}
	find := withKV(route(byMethod{}, byMethod{}, nil), k.routes(kvSource{}))
	for _, seed := range []string{"/v1/team/kv/data/prod/app", "/v1/team/kv/metadata/", "/v1/team/kv/metadata/a?list=true",
		"/v1/team/kv/data/a%2F..%2Fb", "/v1/team/kvx/data/a", "/v1/secrets/a", "/v1/sys/mounts/team/kv/x",
		"/v1//team/kv/data/a"} {
		f.Add("GET", seed)
		f.Add("LIST", seed)
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		e, secret, err := find(&http.Request{Method: method, URL: u})
		if (e == nil) == (err == nil) {
			t.Fatalf("%q: endpoint %v and error %v", target, e, err)
		}
		if e == nil {
			if o := outcomeOf(err); o.status != 400 && o.status != 403 && o.status != 405 {
				t.Fatalf("%q: %v", target, err)
			}
			return
		}
		folder, folderErr := folderOf(secret)
		switch {
		case e.named && envelope.CheckName(secret) == nil && u.Path != "/v1/team/kv/data/"+secret &&
			u.Path != "/v1/team/kv/metadata/"+secret:
			t.Fatalf("%q leads to the secret %q", target, secret)
		case e.access == access.List && folderErr == nil &&
			"/v1/team/kv/metadata/"+folder != strings.TrimRight(u.Path, "/")+"/":
			t.Fatalf("%q leads to the folder %q", target, folder)
		case !e.named && e.access != access.List && secret != "":
			t.Fatalf("%q leads to %q", target, secret)
		}
	})
}
