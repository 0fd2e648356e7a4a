package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/vault"
)

// primary answers writes and keeps what it was asked, with a copy of the value, because the buffer is wiped.
type primary struct {
	puts    []vault.PutRequest
	rotates []vault.RotateRequest
	deletes []time.Duration
	value   string
	buffer  []byte
	version int
	err     error
}

func (p *primary) receipt(name string, c vault.Change) (vault.Receipt, error) {
	if p.err != nil {
		return vault.Receipt{}, p.err
	}
	return vault.Receipt{RequestID: c.RequestID, Name: name, Version: p.version, VersionID: versionID.String(),
		CreatedAt: &created}, nil
}

func (p *primary) put(_ context.Context, r vault.PutRequest) (vault.Receipt, error) {
	p.puts = append(p.puts, r)
	p.value, p.buffer = string(r.Value), r.Value
	return p.receipt(r.Name, r.Change)
}

func (p *primary) rotate(_ context.Context, r vault.RotateRequest) (vault.Receipt, error) {
	p.rotates = append(p.rotates, r)
	p.value, p.buffer = string(r.Value), r.Value
	return p.receipt(r.Name, r.Change)
}

func (p *primary) remove(_ context.Context, c vault.Change, name string, window time.Duration) (vault.Receipt, error) {
	p.deletes = append(p.deletes, window)
	return p.receipt(name, c)
}

func (p *primary) calls() int { return len(p.puts) + len(p.rotates) + len(p.deletes) }

func specIs(spec string) specFunc {
	return func(context.Context, string) (string, error) { return spec, nil }
}

var token = vault.NewToken()

func bearer() option { return header("Authorization", "Bearer "+token.Reveal()) }

func TestCreate(t *testing.T) {
	p := &primary{version: 1}
	key := uuid.New()
	rec := ask(t, newWorld(t).serve(createEndpoint(p.put)), "POST", "/v1/secrets",
		`{"name":"db/password","value":"hunter2","grace":"36h"}`, bearer(), header("Idempotency-Key", key.String()))
	got := wantStatus(t, rec, 201, "")
	want := map[string]any{"request_id": key.String(), "name": "db/password", "version": 1.0,
		"version_id": versionID.String(), "created_at": "2024-05-06T05:08:09.123456Z"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the receipt differs (-want +got):\n%s", diff)
	}
	r := p.puts[0]
	if r.Name != "db/password" || p.value != "hunter2" || !r.CreateOnly || r.CAS != nil ||
		*r.Settings.Grace != 36*time.Hour || r.Settings.Generator != nil || r.Settings.RotateEvery != nil {
		t.Errorf("the vault was asked for %+v", r)
	}
	if r.Token != token || r.RequestID != key {
		t.Error("the vault was not given the token or the idempotency key")
	}
	if rec.Header().Get("Idempotency-Key") != key.String() {
		t.Errorf("got Idempotency-Key %q back, want %v", rec.Header().Get("Idempotency-Key"), key)
	}
	if strings.Trim(string(p.buffer), "\x00") != "" {
		t.Error("the value was not wiped")
	}
}

func TestCreateGenerated(t *testing.T) {
	p := &primary{version: 1}
	rec := ask(t, newWorld(t).serve(createEndpoint(p.put)), "POST", "/v1/secrets",
		`{"name":"a","generate":"hex","rotate_every":"30d"}`, bearer())
	wantStatus(t, rec, 201, "")
	r := p.puts[0]
	if len(p.value) != 64 || *r.Settings.Generator != "hex:32" || *r.Settings.RotateEvery != 30*24*time.Hour {
		t.Errorf("got a value of %d characters and %+v, want hex:32 every 30 days", len(p.value), r.Settings)
	}
	if strings.Trim(string(p.buffer), "\x00") != "" {
		t.Error("the generated value was not wiped")
	}
	if strings.Contains(rec.Body.String(), p.value) {
		t.Error("the generated value is in the receipt")
	}
}

func TestPut(t *testing.T) {
	p := &primary{version: 8}
	h := newWorld(t).serve(putEndpoint(p.put))
	wantStatus(t, ask(t, h, "PUT", "/v1/secrets/db/password", `{"value_base64":"AP8=","cas":7}`, bearer()), 200, "")
	if r := p.puts[0]; r.Name != "db/password" || p.value != "\x00\xff" || r.CreateOnly || *r.CAS != 7 ||
		r.RequestID == uuid.Nil {
		t.Errorf("the vault was asked for %+v", r)
	}
	p.version = 1
	wantStatus(t, ask(t, h, "PUT", "/v1/secrets/db/password", `{"value":"a","cas":0}`, bearer()), 201, "")
	if *p.puts[1].CAS != 0 || p.puts[1].RequestID == p.puts[0].RequestID {
		t.Errorf("got cas %d, want 0, under a fresh request id", *p.puts[1].CAS)
	}
}

func TestDelete(t *testing.T) {
	p := &primary{}
	h := newWorld(t).serve(deleteEndpoint(p.remove))
	for query, want := range map[string]time.Duration{"": 7 * 24 * time.Hour, "?window=1d12h": 36 * time.Hour,
		"?window=0": 0} {
		wantStatus(t, ask(t, h, "DELETE", "/v1/secrets/a"+query, "", bearer()), 200, "")
		if got := p.deletes[len(p.deletes)-1]; got != want {
			t.Errorf("%q: got a window of %v, want %v", query, got, want)
		}
	}
}

func TestRotate(t *testing.T) {
	p := &primary{version: 2}
	h := newWorld(t).serve(rotateEndpoint(p.rotate, specIs("chars:40:digits")))
	for _, body := range []string{"", "{}", `{"grace":"0"}`} {
		wantStatus(t, ask(t, h, "POST", "/v1/secrets/a/rotate", body, bearer()), 200, "")
		if len(p.value) != 40 || strings.Trim(p.value, "0123456789") != "" {
			t.Errorf("%q: got a value of %d characters, want 40 digits", body, len(p.value))
		}
	}
	if p.rotates[0].Grace != nil || *p.rotates[2].Grace != 0 {
		t.Errorf("got grace %v and %v, want the secret's own and 0", p.rotates[0].Grace, p.rotates[2].Grace)
	}
	wantStatus(t, ask(t, h, "POST", "/v1/secrets/a/rotate", `{"value":"hunter2"}`, bearer()), 200, "")
	if p.value != "hunter2" {
		t.Errorf("got %q, want the value given", p.value)
	}
}

func TestRotateRefuses(t *testing.T) {
	p := &primary{}
	manual := newWorld(t).serve(rotateEndpoint(p.rotate, specIs("")))
	body := wantStatus(t, ask(t, manual, "POST", "/v1/secrets/a/rotate", "", bearer()), 400, "bad_request")
	if !strings.Contains(body["message"].(string), "no generator") {
		t.Errorf("got message %q, want what is missing", body["message"])
	}
	wantStatus(t, ask(t, manual, "POST", "/v1/secrets/a/rotate", `{"value":"a","value_base64":"YQ=="}`, bearer()), 400,
		"bad_request")

	missing := newWorld(t).serve(rotateEndpoint(p.rotate,
		func(context.Context, string) (string, error) { return "", vault.ErrNotFound }))
	wantStatus(t, ask(t, missing, "POST", "/v1/secrets/a/rotate", "", bearer()), 404, "not_found")

	newer := newWorld(t).serve(rotateEndpoint(p.rotate, specIs("emoji:5")))
	wantStatus(t, ask(t, newer, "POST", "/v1/secrets/a/rotate", "", bearer()), 500, "internal")
	if p.calls() != 0 {
		t.Error("a refused rotation reached the vault")
	}
}

func TestWritesRefuse(t *testing.T) {
	p := &primary{}
	w := newWorld(t)
	create, put, remove := w.serve(createEndpoint(p.put)), w.serve(putEndpoint(p.put)), w.serve(deleteEndpoint(p.remove))
	for _, body := range []string{
		`{"value":"hunter2"}`, `{"name":"../x","value":"hunter2"}`, `{"name":"a"}`,
		`{"name":"a","value":"hunter2","generate":"hex"}`,
		`{"name":"a","value":""}`, `{"name":"a","generate":"hunter2"}`,
		`{"name":"a","value":"hunter2","rotate_every":"1 month"}`,
		`{"name":"a","value":"hunter2","grace":"-1h"}`, `{"name":"a","value":"hunter2","cas":1}`,
		`{"name":"a","Value":"hunter2"}`,
		`{"name":"a","name":"b","value":"hunter2"}`, `{"name":"a","value":"hunter2"}{}`,
	} {
		wantStatus(t, ask(t, create, "POST", "/v1/secrets", body, bearer()), 400, "bad_request")
	}
	for _, body := range []string{`{"value":"a","name":"a"}`, `{"value":"a","cas":-1}`, `{"value":"a","cas":"1"}`, `{}`} {
		wantStatus(t, ask(t, put, "PUT", "/v1/secrets/a", body, bearer()), 400, "bad_request")
	}
	wantStatus(t, ask(t, put, "PUT", "/v1/secrets/a", `a`, bearer(),
		func(r *http.Request) { r.Header.Set("Content-Type", typeBytes) }), 415, "media_type")
	wantStatus(t, ask(t, put, "PUT", "/v1/secrets/a", `{"value":"`+strings.Repeat("a", 64<<10+1)+`"}`, bearer()), 413,
		"too_large")
	for _, query := range []string{"?window=", "?window=1", "?window=-1d", "?window=99999d", "?Window=1d"} {
		wantStatus(t, ask(t, remove, "DELETE", "/v1/secrets/a"+query, "", bearer()), 400, "bad_request")
	}
	wantStatus(t, ask(t, remove, "DELETE", "/v1/secrets/a", "{}", bearer()), 400, "bad_request")
	if p.calls() != 0 {
		t.Errorf("%d refused writes reached the vault", p.calls())
	}
	if strings.Contains(w.log.String(), "hunter2") {
		t.Error("a value is in the log")
	}
}

func TestWritesNeedAToken(t *testing.T) {
	p := &primary{}
	h := newWorld(t).serve(deleteEndpoint(p.remove))
	good := token.Reveal()
	for _, c := range [][]option{
		nil,
		{header("Authorization", "")},
		{header("Authorization", "Bearer")},
		{header("Authorization", "Bearer ")},
		{header("Authorization", "Basic "+good)},
		{header("Authorization", good)},
		{header("Authorization", "Bearer "+good[:len(good)-1])},
		{header("Authorization", "Bearer "+good+"x")},
		{bearer(), bearer()},
		{header("X-Vault-Token", good)},
	} {
		rec := ask(t, h, "DELETE", "/v1/secrets/a", "", c...)
		body := wantStatus(t, rec, 403, "not_allowed")
		if strings.Contains(fmt.Sprint(body), good[5:20]) {
			t.Error("the refusal repeats the token")
		}
	}
	if p.calls() != 0 {
		t.Error("a write without a token reached the vault")
	}
	wantStatus(t, ask(t, h, "DELETE", "/v1/secrets/a", "", header("Authorization", "bearer "+good)), 200, "")
	// The database's reason for refusing a token is shown to its holder.
	p.err = fmt.Errorf("delete %q: %w: the token is revoked", "a", vault.ErrRefused)
	body := wantStatus(t, ask(t, h, "DELETE", "/v1/secrets/a", "", bearer()), 403, "not_allowed")
	if !strings.Contains(body["message"].(string), "revoked") {
		t.Errorf("got message %q, want the reason", body["message"])
	}
}

func TestIdempotencyKey(t *testing.T) {
	p := &primary{}
	h := newWorld(t).serve(deleteEndpoint(p.remove))
	for _, key := range []string{"", "x", uuid.Nil.String(), "{" + uuid.NewString() + "}", "urn:uuid:" + uuid.NewString(),
		strings.ReplaceAll(uuid.NewString(), "-", "")} {
		wantStatus(t, ask(t, h, "DELETE", "/v1/secrets/a", "", bearer(), header("Idempotency-Key", key)), 400, "bad_request")
	}
	if p.calls() != 0 {
		t.Error("a bad key reached the vault")
	}
	// The answer to a write with an unknown outcome has the key to repeat it with, also a generated one.
	p.err = vault.ErrOutcomeUnknown
	key := uuid.NewString()
	body := wantStatus(t, ask(t, h, "DELETE", "/v1/secrets/a", "", bearer(), header("Idempotency-Key", key)), 503,
		"outcome_unknown")
	if body["idempotency_key"] != key {
		t.Errorf("got idempotency_key %v, want %s", body["idempotency_key"], key)
	}
	body = wantStatus(t, ask(t, h, "DELETE", "/v1/secrets/a", "", bearer()), 503, "outcome_unknown")
	if _, err := uuid.Parse(fmt.Sprint(body["idempotency_key"])); err != nil {
		t.Errorf("got idempotency_key %v, want a fresh UUID", body["idempotency_key"])
	}
}

// The longest spec and interval fit beside the longest value.
func TestTheBodyLimitLeavesRoomForTheOtherFields(t *testing.T) {
	g, err := rotation.ParseGenerator("chars")
	if err != nil {
		t.Fatal(err)
	}
	body := `{"name":"` + strings.Repeat("a", 255) + `","value":"` + strings.Repeat(`\u0001`, 64<<10) +
		`","grace":"30d","rotate_every":"30d"}`
	if len(body)+len(g.String()) > maxJSON {
		t.Errorf("a legal body of %d bytes is over the limit of %d", len(body), maxJSON)
	}
	p := &primary{version: 1}
	wantStatus(t, ask(t, newWorld(t).serve(createEndpoint(p.put)), "POST", "/v1/secrets", body, bearer()), 201, "")
}

// The "value" and "encoding" of an answer to GET are accepted by every route that takes a value.
func TestAValueIsTakenAsItIsAnswered(t *testing.T) {
	for _, value := range []string{"a", "päss \"\\\n", "\x00\xff", "a\x00b", "YQ==",
		strings.Repeat("x", envelope.MaxValueSize)} {
		var answered struct {
			Value    json.RawMessage `json:"value"`
			Encoding json.RawMessage `json:"encoding"`
		}
		if err := json.Unmarshal(secretJSON(&vault.Secret{Name: "a", Value: []byte(value)}, "id"), &answered); err != nil {
			t.Fatal(err)
		}
		body := fmt.Sprintf(`{"value":%s,"encoding":%s}`, answered.Value, answered.Encoding)
		w, put, created, rotated, presented := newWorld(t), &primary{}, &primary{}, &primary{}, &presentation{}
		wantStatus(t, ask(t, w.serve(putEndpoint(put.put)), "PUT", "/v1/secrets/a", body, bearer()), 200, "")
		wantStatus(t, ask(t, w.serve(createEndpoint(created.put)), "POST", "/v1/secrets", `{"name":"a",`+body[1:], bearer()),
			200, "")
		wantStatus(t, ask(t, w.serve(rotateEndpoint(rotated.rotate, specIs(""))), "POST", "/v1/secrets/a/rotate", body,
			bearer()), 200, "")
		wantStatus(t, ask(t, w.serve(verifyEndpoint(presented.verify)), "POST", "/v1/secrets/a/verify", body), 200, "")
		for route, got := range map[string]string{"put": put.value, "create": created.value, "rotate": rotated.value,
			"verify": presented.value} {
			if got != value {
				t.Errorf("%s of %.20q: got %.20q", route, value, got)
			}
		}
	}
}

func TestAnEncodingIsOfAValue(t *testing.T) {
	for _, members := range []string{
		`"encoding":"utf8"`, `"encoding":"base64"`, `"value_base64":"YQ==","encoding":"base64"`,
		`"value":"YQ==","value_base64":"YQ==","encoding":"base64"`,
		`"value":"a","encoding":""`, `"value":"a","encoding":"UTF8"`, `"value":"a","encoding":"utf-8"`,
		`"value":"a","encoding":"hex"`, `"value":"a","encoding":null`,
		`"value":"a","encoding":7`, `"value":"YQ","encoding":"base64"`, `"value":"Y Q==","encoding":"base64"`,
		`"value":"YR==","encoding":"base64"`,
		`"value":"_-8=","encoding":"base64"`, `"value":"","encoding":"base64"`, `"value":"","encoding":"utf8"`,
		`"value":"a","Encoding":"utf8"`,
		`"value":"a","encoding":"utf8","encoding":"utf8"`, `"value":"a","encoding":"utf8","version":1`,
		`"value":"a","value_base64":"YQ==","encoding":"utf8"`,
	} {
		w, p, presented := newWorld(t), &primary{}, &presentation{}
		body := "{" + members + "}"
		wantStatus(t, ask(t, w.serve(putEndpoint(p.put)), "PUT", "/v1/secrets/a", body, bearer()), 400, "bad_request")
		wantStatus(t, ask(t, w.serve(createEndpoint(p.put)), "POST", "/v1/secrets", `{"name":"a",`+members+"}", bearer()),
			400, "bad_request")
		wantStatus(t, ask(t, w.serve(rotateEndpoint(p.rotate, specIs("hex:32"))), "POST", "/v1/secrets/a/rotate", body,
			bearer()), 400, "bad_request")
		wantStatus(t, ask(t, w.serve(verifyEndpoint(presented.verify)), "POST", "/v1/secrets/a/verify", body), 400,
			"bad_request")
		if p.calls() != 0 || presented.value != "" {
			t.Errorf("%s: something was asked for", members)
		}
	}
	// Nor does a generator have one.
	w, p := newWorld(t), &primary{}
	wantStatus(t, ask(t, w.serve(putEndpoint(p.put)), "PUT", "/v1/secrets/a", `{"generate":"hex:32","encoding":"utf8"}`,
		bearer()), 400, "bad_request")
}
