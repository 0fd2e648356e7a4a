package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

var (
	versionID = uuid.MustParse("0192d5a4-5b5e-7000-8000-0000000000aa")
	otherID   = uuid.MustParse("0192d5a4-5b5e-7000-8000-0000000000bb")
	created   = time.Date(2024, 5, 6, 7, 8, 9, 123456000, time.FixedZone("", 2*3600))
)

// stored answers as the vault would if it held one secret with this value, and keeps what it was asked and gave.
type stored struct {
	value  []byte
	expiry *time.Time

	options vault.GetOptions
	calls   int
	given   *vault.Secret
}

func (s *stored) get(_ context.Context, name string, o vault.GetOptions) (*vault.Secret, error) {
	s.options = o
	s.calls++
	if name != "db/password" {
		return nil, fmt.Errorf("reading secret %q: %w", name, vault.ErrNotFound)
	}
	if o.Unless == versionID {
		return nil, vault.ErrNotModified
	}
	s.given = &vault.Secret{
		Name: name, Version: 3, VersionID: versionID, Value: bytes.Clone(s.value), CreatedAt: created,
		RotatedAt: &created, ExpiresAt: s.expiry,
	}
	return s.given, nil
}

func TestGet(t *testing.T) {
	s := &stored{value: []byte("p\"ä\n<&>"), expiry: &created}
	rec := ask(t, newWorld(t).serve(getEndpoint(s.get)), "GET", "/v1/secrets/db/password", "")
	got := wantStatus(t, rec, 200, "")
	want := map[string]any{
		"name": "db/password", "version": 3.0, "version_id": versionID.String(), "value": "p\"ä\n<&>", "encoding": "utf8",
		"created_at": "2024-05-06T05:08:09.123456Z", "rotated_at": "2024-05-06T05:08:09.123456Z",
		"next_rotation_at": nil, "expires_at": "2024-05-06T05:08:09.123456Z",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the answer differs (-want +got):\n%s", diff)
	}
	if got, want := rec.Header().Get("ETag"), `"`+versionID.String()+`"`; got != want {
		t.Errorf("got ETag %s, want %s", got, want)
	}
	if !bytes.Equal(s.given.Value, make([]byte, len(s.value))) {
		t.Error("the opened value was not wiped")
	}
	wantStatus(t, ask(t, newWorld(t).serve(getEndpoint(s.get)), "GET", "/v1/secrets/nothing", ""), 404, "not_found")
}

func TestEveryValueComesBackByteForByte(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for name, c := range map[string]struct {
		value    []byte
		encoding string
	}{
		"text":              {[]byte("correct horse"), "utf8"},
		"control bytes":     {all[1:128], "utf8"},
		"other planes":      {[]byte("😀\u2028\uFFFD\uFEFF"), "utf8"},
		"a NUL":             {[]byte("a\x00b"), "base64"},
		"every byte":        {all, "base64"},
		"half a rune":       {[]byte("\xe2\x82"), "base64"},
		"a surrogate":       {[]byte("\xed\xa0\x80"), "base64"},
		"longest of escape": {bytes.Repeat([]byte{1}, envelope.MaxValueSize), "utf8"},
		"longest of binary": {bytes.Repeat([]byte{255}, envelope.MaxValueSize), "base64"},
	} {
		h := newWorld(t).serve(getEndpoint((&stored{value: c.value}).get))
		body := wantStatus(t, ask(t, h, "GET", "/v1/secrets/db/password", ""), 200, "")
		got := []byte(body["value"].(string))
		if c.encoding == "base64" {
			var err error
			if got, err = base64.StdEncoding.DecodeString(string(got)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if body["encoding"] != c.encoding || !bytes.Equal(got, c.value) {
			t.Errorf("%s: got %d bytes as %v, want %d as %s", name, len(got), body["encoding"], len(c.value), c.encoding)
		}
		raw := ask(t, h, "GET", "/v1/secrets/db/password", "", header("Accept", typeBytes))
		if raw.Code != 200 || raw.Header().Get("Content-Type") != typeBytes || !bytes.Equal(raw.Body.Bytes(), c.value) {
			t.Errorf("%s: got %d with %d bytes, want the bare %d", name, raw.Code, raw.Body.Len(), len(c.value))
		}
	}
}

func TestTheAnswerIsBuiltInOneBuffer(t *testing.T) {
	s := &vault.Secret{Name: strings.Repeat("a", envelope.MaxNameSize), Version: 1<<31 - 1, CreatedAt: created,
		RotatedAt: &created, NextRotationAt: &created, ExpiresAt: &created}
	for _, value := range [][]byte{[]byte("x"), bytes.Repeat([]byte{1}, envelope.MaxValueSize),
		bytes.Repeat([]byte{0}, envelope.MaxValueSize)} {
		s.Value = value
		// A buffer that had to grow would be twice as large as it need be, and have left a copy of the value.
		if b := secretJSON(s, s.VersionID.String()); cap(b) > len(b)+1024 || !json.Valid(b) {
			t.Errorf("%d bytes: got a buffer of %d for an answer of %d", len(value), cap(b), len(b))
		}
	}
}

func TestBareBytesHaveTheirMetadataInHeaders(t *testing.T) {
	h := newWorld(t).serve(getEndpoint((&stored{value: []byte("v")}).get))
	rec := ask(t, h, "GET", "/v1/secrets/db/password", "", header("Accept", typeBytes))
	for name, want := range map[string]string{
		"Vault-Version": "3", "Vault-Created-At": "2024-05-06T05:08:09.123456Z", "Vault-Expires-At": "", "Vary": "Accept",
		"ETag": `"` + versionID.String() + `"`, "Content-Length": "1", "Cache-Control": "no-store",
	} {
		if got := rec.Header().Get(name); got != want {
			t.Errorf("got %s %q, want %q", name, got, want)
		}
	}
}

func TestVersionParameter(t *testing.T) {
	s := &stored{value: []byte("v")}
	h := newWorld(t).serve(getEndpoint(s.get))
	for query, want := range map[string]int{"": 0, "?version=1": 1, "?version=2147483647": 2147483647} {
		wantStatus(t, ask(t, h, "GET", "/v1/secrets/db/password"+query, ""), 200, "")
		if s.options.Version != want {
			t.Errorf("%q: asked for version %d, want %d", query, s.options.Version, want)
		}
	}
	calls := s.calls
	for _, version := range []string{"", "0", "01", "-1", "%2B1", "1.0", "2147483648", "99999999999999999999", "x", "1%20",
		"%D9%A1"} {
		wantStatus(t, ask(t, h, "GET", "/v1/secrets/db/password?version="+version, ""), 400, "bad_request")
	}
	if s.calls != calls {
		t.Error("a bad version was looked up")
	}
}

func TestAccept(t *testing.T) {
	for accept, want := range map[string]string{
		"":                           typeJSON,
		"*/*":                        typeJSON,
		"application/json":           typeJSON,
		"APPLICATION/JSON;Q=0.5":     typeJSON,
		"application/octet-stream":   typeBytes,
		"application/*":              typeJSON,
		"text/html, */*;q=0.1":       typeJSON,
		"application/json;q=0, */*":  typeBytes,
		"*/*, application/json;q=.2": typeBytes,
		"application/json;q=0.5, application/octet-stream": typeBytes,
		"application/octet-stream;q=0.5, application/json": typeJSON,
		`text/x;p="a,b", application/octet-stream`:         typeBytes,
		"text/html, image/gif, *; q=.2, */*; q=.2":         typeJSON, // the default of an old Java
	} {
		h := http.Header{}
		if accept != "" {
			h.Set("Accept", accept)
		}
		if got, err := negotiate(h); err != nil || got != want {
			t.Errorf("Accept %q: got %q, %v, want %q", accept, got, err, want)
		}
	}
	s := &stored{value: []byte("v")}
	h := newWorld(t).serve(getEndpoint(s.get))
	for _, accept := range []string{"text/plain", "application/json;q=0", "*/*;q=0",
		"application/json;q=0, application/octet-stream;q=0, */*", "application/json;q=2", "junk"} {
		wantStatus(t, ask(t, h, "GET", "/v1/secrets/db/password", "", header("Accept", accept)), 415, "media_type")
	}
	if s.calls != 0 {
		t.Error("a secret was opened that nobody could have read")
	}
}

func TestIfNoneMatch(t *testing.T) {
	mine, other := `"`+versionID.String()+`"`, `"`+otherID.String()+`"`
	for _, c := range []struct {
		tags   []string
		status int
		unless uuid.UUID // passed to the vault, so that nothing is opened
	}{
		{[]string{mine}, 304, versionID},
		{[]string{"W/" + mine}, 304, versionID},
		{[]string{strings.ToUpper(mine)}, 304, versionID},
		{[]string{other + ", " + mine}, 304, uuid.Nil},
		{[]string{other, mine}, 304, uuid.Nil},
		{[]string{`"a,b", ` + mine}, 304, versionID},
		{[]string{"*"}, 304, uuid.Nil},
		{[]string{other}, 200, otherID},
		{[]string{versionID.String()}, 200, uuid.Nil},
		{[]string{`""`, `"`, "", `"junk"`, "W/"}, 200, uuid.Nil},
	} {
		s := &stored{value: []byte("v")}
		var options []option
		for _, tag := range c.tags {
			options = append(options, header("If-None-Match", tag))
		}
		rec := ask(t, newWorld(t).serve(getEndpoint(s.get)), "GET", "/v1/secrets/db/password", "", options...)
		if rec.Code != c.status || s.options.Unless != c.unless {
			t.Errorf("%q: got %d, asked unless %v, want %d, %v", c.tags, rec.Code, s.options.Unless, c.status, c.unless)
		}
		if rec.Header().Get("ETag") != mine {
			t.Errorf("%q: got ETag %s, want %s", c.tags, rec.Header().Get("ETag"), mine)
		}
		if c.status == 304 && (rec.Body.Len() != 0 || rec.Header().Get("Cache-Control") != "no-store") {
			t.Errorf("%q: the 304 has a body or can be stored", c.tags)
		}
		if s.given != nil && s.given.Value[0] != 0 {
			t.Errorf("%q: the opened value was not wiped", c.tags)
		}
	}
	rec := ask(t, newWorld(t).serve(getEndpoint((&stored{}).get)), "GET", "/v1/secrets/nothing", "",
		header("If-None-Match", "*"))
	wantStatus(t, rec, 404, "not_found")
}

// presentation is what reached the vault of a verify.
type presentation struct {
	calls   int
	value   string
	buffer  []byte
	verdict vault.Verdict
}

func (p *presentation) verify(_ context.Context, _ string, value []byte, _ vault.VerifyOptions) (vault.Verdict, error) {
	p.calls++
	p.value, p.buffer = string(value), value
	return p.verdict, nil
}

func TestVerify(t *testing.T) {
	for want, verdict := range map[string]vault.Verdict{
		`{"valid":false}`: {},
		`{"valid":true,"version":4,"match":"current","expires_at":null}`: {Valid: true, Version: 4,
			Match: vault.MatchCurrent},
		`{"valid":true,"version":3,"match":"grace","expires_at":"2024-05-06T05:08:09.123456Z"}`: {Valid: true, Version: 3,
			Match: vault.MatchGrace, ExpiresAt: &created},
	} {
		p := &presentation{verdict: verdict}
		rec := ask(t, newWorld(t).serve(verifyEndpoint(p.verify)), "POST", "/v1/secrets/a/verify", `{"value":"hunter2"}`)
		if got := strings.TrimSpace(rec.Body.String()); rec.Code != 200 || got != want {
			t.Errorf("got %d %s, want %s", rec.Code, got, want)
		}
		if p.value != "hunter2" || !bytes.Equal(p.buffer, make([]byte, 7)) {
			t.Errorf("got %q, left as %q: want the value, and wiped afterwards", p.value, p.buffer)
		}
	}
}

func TestVerifyTakesThreeForms(t *testing.T) {
	longest := strings.Repeat("\x01", envelope.MaxValueSize)
	escaped := strings.Repeat(`\u0001`, envelope.MaxValueSize)
	for name, c := range map[string]struct{ kind, body, want string }{
		"json":            {typeJSON, `{"value":"ä"}`, "ä"},
		"json, charset":   {"application/json; charset=UTF-8", `{"value":"a"}`, "a"},
		"base64":          {typeJSON, `{"value_base64":"AAH/"}`, "\x00\x01\xff"},
		"padded base64":   {typeJSON, `{"value_base64":"/w=="}`, "\xff"},
		"bytes":           {typeBytes, "\x00{\xff", "\x00{\xff"},
		"longest bytes":   {typeBytes, longest, longest},
		"longest escaped": {typeJSON, `{"value":"` + escaped + `"}`, longest},
		"longest base64": {typeJSON, `{"value_base64":"` + base64.StdEncoding.EncodeToString([]byte(longest)) + `"}`,
			longest},
	} {
		for _, chunked := range []bool{false, true} {
			p := &presentation{}
			options := []option{func(r *http.Request) { r.Header.Set("Content-Type", c.kind) }}
			if chunked {
				options = append(options, func(r *http.Request) { r.ContentLength = -1 })
			}
			wantStatus(t, ask(t, newWorld(t).serve(verifyEndpoint(p.verify)), "POST", "/v1/secrets/a/verify", c.body,
				options...), 200, "")
			if p.value != c.want {
				t.Errorf("%s, chunked %t: %d bytes reached the vault, want %d", name, chunked, len(p.value), len(c.want))
			}
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	long := strings.Repeat("a", envelope.MaxValueSize+1)
	for name, c := range map[string]struct {
		kind, body string
		status     int
		code       string
	}{
		"no value":            {typeJSON, `{}`, 400, "bad_request"},
		"an empty body":       {typeJSON, ``, 400, "bad_request"},
		"both forms":          {typeJSON, `{"value":"a","value_base64":"YQ=="}`, 400, "bad_request"},
		"both, one empty":     {typeJSON, `{"value":"a","value_base64":""}`, 400, "bad_request"},
		"empty":               {typeJSON, `{"value":""}`, 400, "bad_request"},
		"empty base64":        {typeJSON, `{"value_base64":""}`, 400, "bad_request"},
		"empty bytes":         {typeBytes, ``, 400, "bad_request"},
		"base64 unpadded":     {typeJSON, `{"value_base64":"YQ"}`, 400, "bad_request"},
		"base64 of urls":      {typeJSON, `{"value_base64":"_-8="}`, 400, "bad_request"},
		"base64 with newline": {typeJSON, `{"value_base64":"YWJj\nYWJj"}`, 400, "bad_request"},
		"base64, loose bits":  {typeJSON, `{"value_base64":"YR=="}`, 400, "bad_request"},
		"half a surrogate":    {typeJSON, `{"value":"\ud800"}`, 400, "bad_request"},
		"null":                {typeJSON, `{"value":null}`, 400, "bad_request"},
		"too long":            {typeJSON, `{"value":"` + long + `"}`, 413, "too_large"},
		"too long, base64": {typeJSON, `{"value_base64":"` + base64.StdEncoding.EncodeToString([]byte(long)) + `"}`, 413,
			"too_large"},
		"too long, bytes":      {typeBytes, long, 413, "too_large"},
		"much too long":        {typeJSON, `{"value":"` + strings.Repeat("a", 2*maxJSON) + `"}`, 413, "too_large"},
		"a form":               {"application/x-www-form-urlencoded", "value=a", 415, "media_type"},
		"no type":              {"", `{"value":"a"}`, 415, "media_type"},
		"a broken type":        {"application/json; charset", `{"value":"a"}`, 415, "media_type"},
		"another charset":      {"application/json; charset=utf-16", `{"value":"a"}`, 415, "media_type"},
		"json by another name": {"text/json", `{"value":"a"}`, 415, "media_type"},
	} {
		for _, chunked := range []bool{false, true} {
			p := &presentation{}
			w := newWorld(t)
			rec := ask(t, w.serve(verifyEndpoint(p.verify)), "POST", "/v1/secrets/a/verify", "", func(r *http.Request) {
				*r = *httptest.NewRequestWithContext(r.Context(), "POST", r.URL.Path, strings.NewReader(c.body))
				r.RemoteAddr = "192.0.2.1:1"
				if c.kind != "" {
					r.Header.Set("Content-Type", c.kind)
				}
				if chunked {
					r.ContentLength = -1
				}
			})
			t.Log(name)
			wantStatus(t, rec, c.status, c.code)
			if p.calls != 0 {
				t.Errorf("%s: the vault was asked", name)
			}
		}
	}
	w := newWorld(t)
	for _, o := range []option{header("Content-Encoding", "gzip"), header("Content-Type", typeBytes)} {
		wantStatus(t, ask(t, w.serve(verifyEndpoint((&presentation{}).verify)), "POST", "/v1/secrets/a/verify",
			`{"value":"a"}`, o), 415, "media_type")
	}
}

// A body that is refused for its declared length is not read.
func TestALongBodyIsRefusedUnread(t *testing.T) {
	w := newWorld(t)
	body := &counter{}
	rec := ask(t, w.serve(verifyEndpoint((&presentation{}).verify)), "POST", "/v1/secrets/a/verify", "x",
		func(r *http.Request) {
			r.Body, r.ContentLength = body, maxJSON+1
		})
	wantStatus(t, rec, 413, "too_large")
	if body.reads != 0 {
		t.Errorf("got %d reads", body.reads)
	}
}

type counter struct{ reads int }

func (c *counter) Read(p []byte) (int, error) { c.reads++; return len(p), nil }
func (c *counter) Close() error               { return nil }

// Over a real connection: net/http neither cleans the path nor redirects, and a body that breaks off is a 400.
func TestOverARealConnection(t *testing.T) {
	w := newWorld(t)
	w.api.SetPolicy(Policy{Hosts: []string{"x"}, Allow: mustNetworks(t, "127.0.0.1")})
	m := byMethod{"GET": echo("GET /x")}
	h := w.api.serve(route(m, m, map[string]*endpoint{"verify": verifyEndpoint((&presentation{}).verify)}),
		func(r *http.Request) (client, error) {
			return w.api.guard.Load().admit(r)
		}, w.api.recordEvent)
	server := httptest.NewServer(h)
	defer server.Close()
	for request, want := range map[string]string{
		"GET /v1/secrets/a%2Fb HTTP/1.1\r\nHost: x\r\n\r\n":      "200",
		"GET /v1/secrets/a%2F..%2Fb HTTP/1.1\r\nHost: x\r\n\r\n": "400",
		"GET //v1/secrets/a HTTP/1.1\r\nHost: x\r\n\r\n":         "400",
		"GET /v1/../v1/secrets/a HTTP/1.1\r\nHost: x\r\n\r\n":    "400",
		"POST /v1/secrets/a/verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
			"Transfer-Encoding: chunked\r\n\r\nzz\r\n": "400",
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, request)
		line, err := bufio.NewReader(conn).ReadString('\n')
		conn.Close()
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 "+want) {
			t.Errorf("%.40q: got %q, %v, want %s", request, line, err, want)
		}
	}
}
