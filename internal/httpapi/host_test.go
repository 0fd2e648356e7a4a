package httpapi

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/audit"
)

// arrivedAt is the address that a connection came to.
func arrivedAt(address string) option {
	return func(r *http.Request) {
		local, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			panic(err)
		}
		*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
	}
}

func hostHeader(host string) option { return func(r *http.Request) { r.Host = host } }

// Every spelling of a name or address: DNS rebinding brings a page's own, and a forged absolute URL another.
func TestOnlyTheDaemonsOwnHosts(t *testing.T) {
	w := newWorld(t)
	w.api.SetPolicy(Policy{Allow: mustNetworks(t, "192.0.2.0/24"),
		Hosts: []string{"vault.example.org", "DB1", "*.svc.example.org", "203.0.113.9", "[2001:DB8::9]"}})
	h := w.serve(echo("GET /x"))
	for _, host := range []string{
		"localhost", "localhost:8400", "LOCALHOST:1", "localhost.", "localhost.:8400", "localhost:", "127.0.0.1",
		"127.0.0.1:8400", "127.8.8.8",
		"[::1]", "[::1]:8400", "[0:0:0:0:0:0:0:1]:8400", "[::ffff:127.0.0.1]",
		"10.1.2.3:8400", "10.1.2.3", "[::ffff:10.1.2.3]:8400", // where the connection came to
		"vault.example.org", "Vault.Example.ORG.:443", "db1:8400", "a.svc.example.org", "203.0.113.9:80", "[2001:db8::9]:80",
		"[2001:db8:0::9]",
	} {
		wantStatus(t, ask(t, h, "GET", "/v1/secrets/a", "", arrivedAt("10.1.2.3:8400"), hostHeader(host)), 200, "")
	}
	for _, host := range []string{
		"", "evil.example", "evil.example:8400", "localhost.evil.example", "notlocalhost", "evil.localhost",
		"vault.example.org.evil.example",
		"vault.example.org..", ".localhost", "svc.example.org", "a.b.svc.example.org", "*.svc.example.org", "10.1.2.4:8400",
		"0.0.0.0:8400", "[::]:8400",
		"127.1", "0x7f000001", "2130706433", "127.0.0.01", "::1", "[::1", "[::1]x", "[::1%25lo]", "[localhost]",
		"[127.0.0.1]", "localhost:80:80", "localhost:x",
		"user@localhost", "localhost/x", " localhost", ":8400", "xn--locahost-x1d",
	} {
		rec := ask(t, h, "GET", "/v1/secrets/a", "", arrivedAt("10.1.2.3:8400"), hostHeader(host))
		if rec.Code != 403 {
			t.Errorf("%q: got status %d, want 403", host, rec.Code)
			continue
		}
		if body := wantStatus(t, rec, 403, "not_allowed"); strings.Contains(body["message"].(string), "evil") {
			t.Errorf("%q: the message %q repeats what was sent", host, body["message"])
		}
	}
}

func TestAddressesThatTheConnectionCameTo(t *testing.T) {
	w := newWorld(t)
	w.api.SetPolicy(Policy{Allow: mustNetworks(t, "192.0.2.0/24")})
	h := w.serve(echo("GET /x"))
	for local, host := range map[string]string{"[2001:db8::5]:8400": "[2001:DB8::5]:8400",
		"[::ffff:10.0.0.1]:8400": "10.0.0.1:8400"} {
		wantStatus(t, ask(t, h, "GET", "/v1/secrets/a", "", arrivedAt(local), hostHeader(host)), 200, "")
	}
	wantStatus(t, ask(t, h, "GET", "/v1/secrets/a", "", arrivedAt("[fe80::1%lo]:8400"), hostHeader("[fe80::1]:8400")), 200,
		"")
	// A health check of a load balancer: HTTP/1.0, and no Host, which no browser sends.
	old := func(r *http.Request) { r.Host, r.Proto, r.ProtoMajor, r.ProtoMinor = "", "HTTP/1.0", 1, 0 }
	wantStatus(t, ask(t, h, "GET", "/v1/secrets/a", "", old), 200, "")
	wantStatus(t, ask(t, h, "GET", "/v1/secrets/a", "", old, hostHeader("evil.example")), 403, "not_allowed")
}

func TestPagesOfOtherSitesAreRefused(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		options []option
		status  int
	}{
		"a client":            {nil, 200},
		"an address typed in": {[]option{header("Sec-Fetch-Site", "none")}, 200},
		"a page of this daemon": {[]option{header("Sec-Fetch-Site", "same-origin"),
			header("Origin", "http://localhost:8400")}, 200},
		"the same, behind TLS": {[]option{header("Origin", "https://LOCALHOST:8400")}, 200},
		"cross-site":           {[]option{header("Sec-Fetch-Site", "cross-site")}, 403},
		"same-site":            {[]option{header("Sec-Fetch-Site", "same-site")}, 403},
		"metadata of tomorrow": {[]option{header("Sec-Fetch-Site", "next-door")}, 403},
		"empty metadata":       {[]option{header("Sec-Fetch-Site", "")}, 403},
		"metadata twice": {[]option{header("Sec-Fetch-Site", "none"), header("Sec-Fetch-Site", "cross-site")},
			403},
		"a foreign origin":            {[]option{header("Origin", "https://evil.example")}, 403},
		"a foreign origin, same-site": {[]option{header("Origin", "http://localhost:3000")}, 403},
		"another port's own page":     {[]option{header("Origin", "http://localhost")}, 403},
		"no origin that can be named": {[]option{header("Origin", "null")}, 403},
		"an empty origin":             {[]option{header("Origin", "")}, 403},
		"an extension":                {[]option{header("Origin", "chrome-extension://localhost:8400")}, 403},
		"two origins": {[]option{header("Origin", "http://localhost:8400"),
			header("Origin", "https://evil.example")}, 403},
		"a preflight": {[]option{header("Origin", "https://evil.example"),
			header("Access-Control-Request-Private-Network", "true")}, 403},
		"over a unix socket":           {[]option{overUnix, header("Origin", "https://evil.example")}, 403},
		"over a unix socket, metadata": {[]option{overUnix, header("Sec-Fetch-Site", "cross-site")}, 403},
		"a unix socket's client":       {[]option{overUnix, hostHeader("vaultd")}, 200},
	} {
		options := append([]option{hostHeader("localhost:8400")}, c.options...)
		for path, h := range map[string]http.Handler{"/v1/secrets/a": w.serve(echo("GET /x")),
			"/healthz": w.api.HealthHandler()} {
			if rec := ask(t, h, "GET", path, "", options...); rec.Code != c.status {
				t.Errorf("%s: %s got status %d, want %d", name, path, rec.Code, c.status)
			}
		}
	}
}

// Every route of both listeners, with every method.
func TestNoRouteIsLeftOut(t *testing.T) {
	w := newWorld(t)
	secrets, health := w.api.Handler(), w.api.HealthHandler()
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "BREW"} {
		for _, path := range []string{"/", "/v1/secrets", "/v1/secrets/a", "/v1/secrets/a/verify", "/v1/secrets/a/rotate",
			"/healthz", "/readyz", "/metrics", "/v1/status"} {
			for _, bad := range []option{hostHeader("evil.example"), header("Origin", "https://evil.example"),
				header("Sec-Fetch-Site", "cross-site")} {
				for _, h := range []http.Handler{secrets, health} {
					if rec := ask(t, h, method, path, "", bad); rec.Code != 403 {
						t.Errorf("%s %s: got status %d, want 403", method, path, rec.Code)
					}
				}
			}
		}
	}
}

func TestRefusedHostsAreOnRecordAndCounted(t *testing.T) {
	w, l := newAuditedWorld(t)
	h := w.serve(getEndpoint((&stored{value: []byte("hunter2")}).get))
	wantStatus(t, ask(t, h, "GET", "/v1/secrets/db/password", "", hostHeader("evil.example")), 403, "not_allowed")
	wantStatus(t, ask(t, h, "GET", "/v1/secrets/db/password", "", header("Origin", "null")), 403, "not_allowed")
	wantStatus(t, ask(t, h, "GET", "/v1/secrets/db/password", "", from("198.51.100.1:1")), 403, "not_allowed")
	for i, want := range []any{"host", "cross_site", nil} {
		if e := l.events[i]; e.Outcome != audit.Denied || e.Secret != "db/password" || e.Detail["reason"] != "not_allowed" ||
			e.Detail["refused_for"] != want {
			t.Errorf("got event %+v, want a refusal for %v", e, want)
		}
	}
	page := ask(t, w.api.HealthHandler(), "GET", "/metrics", "").Body.String()
	for _, want := range []string{`vaultd_http_refused_total{reason="host"} 1`, `{reason="cross_site"} 1`,
		`{reason="allowlist"} 1`} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
}

func TestParseHost(t *testing.T) {
	for text, want := range map[string]string{"Vault.Example.org.": "vault.example.org", "db_1": "db_1",
		"*.example.org": "*.example.org", "10.0.0.1": "10.0.0.1", "[2001:DB8::0:1]": "2001:db8::1",
		"::ffff:10.0.0.1": "10.0.0.1"} {
		if got, err := ParseHost(text); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"", ".", "*", "*.", "*.*.org", "a..b", "a:80", "http://a", "a/b", "[::1]:80",
		"fe80::1%lo", "münchen.example", "a b", strings.Repeat("a", 64)} {
		if got, err := ParseHost(text); err == nil {
			t.Errorf("%q: got %q, want a refusal", text, got)
		}
	}
}

// What net/http makes of a request line and its headers, over a real connection.
func TestHostsOverARealConnection(t *testing.T) {
	w := newWorld(t)
	w.api.SetPolicy(Policy{Allow: mustNetworks(t, "127.0.0.0/8")})
	server := httptest.NewServer(w.serve(getEndpoint((&stored{value: []byte("hunter2")}).get)))
	defer server.Close()
	own := server.Listener.Addr().String()
	for request, want := range map[string]string{
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: " + own + "\r\n\r\n":                                      "200",
		"GET http://" + own + "/v1/secrets/db/password HTTP/1.1\r\nHost: " + own + "\r\n\r\n":                    "200",
		"GET /v1/secrets/db/password HTTP/1.0\r\n\r\n":                                                           "200",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: evil.example\r\n\r\n":                                     "403",
		"GET http://evil.example/v1/secrets/db/password HTTP/1.1\r\nHost: " + own + "\r\n\r\n":                   "403",
		"GET http://evil.example/v1/secrets/db/password HTTP/1.0\r\n\r\n":                                        "403",
		"GET http://localhost@evil.example/v1/secrets/db/password HTTP/1.1\r\nHost: " + own + "\r\n\r\n":         "403",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost:\r\n\r\n":                                                  "403",
		"GET /v1/secrets/db/password HTTP/1.0\r\nHost: evil.example\r\n\r\n":                                     "403",
		"GET /v1/secrets/db/password HTTP/1.1\r\n\r\n":                                                           "400",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: " + own + "\r\nHost: evil.example\r\n\r\n":                "400",
		"CONNECT evil.example:443 HTTP/1.1\r\nHost: " + own + "\r\n\r\n":                                         "403",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: " + own + "\r\nX-Forwarded-Host: evil.example\r\n\r\n":    "200",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: " + own + "\r\nOrigin: http://" + own + "\r\n\r\n":        "200",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: " + own + "\r\norigin: https://evil.example\r\n\r\n":      "403",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: " + own + "\r\nsec-fetch-SITE: cross-site\r\n\r\n":        "403",
		"GET //evil.example/v1/secrets/db/password HTTP/1.1\r\nHost: " + own + "\r\n\r\n":                        "400",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: " + own + "\r\n\r\n":    "403",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: evil.example\r\nForwarded: host=\"" + own + "\"\r\n\r\n":  "403",
		"HEAD /v1/secrets/db/password HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: none\r\n\r\n":               "200",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: none, cross-site\r\n\r\n":    "403",
		"OPTIONS /v1/secrets/db/password HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:3000\r\n\r\n":   "403",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: localhost\r\nOrigin: file://\r\nAccept: */*\r\n\r\n":      "403",
		"GET http://user:pw@localhost/v1/secrets/db/password HTTP/1.1\r\nHost: evil.example\r\n\r\n":             "200",
		"GET https://" + own + "/v1/secrets/db/password HTTP/1.1\r\nHost: " + own + "\r\n\r\n":                   "200",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: LOCALHOST.\r\nConnection: close\r\n\r\n":                  "200",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: localhost:99999\r\nConnection: close\r\n\r\n":             "200",
		"GET /v1/secrets/db/password HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: NONE\r\nAccept: */*\r\n\r\n": "403",
	} {
		status, rest := raw(t, own, request)
		if status != want {
			t.Errorf("%q: got %s, want %s", request, status, want)
		}
		if want != "200" && strings.Contains(rest, "hunter2") {
			t.Errorf("%q: got the value", request)
		}
	}
}

// raw sends bytes over a connection of their own and returns the status and the body. It keeps its side open, since
// net/http takes a client that closes it for one that has left.
func raw(t *testing.T, address, request string) (status, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(response.StatusCode), string(text)
}
