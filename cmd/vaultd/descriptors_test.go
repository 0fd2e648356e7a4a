package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestConnectionsLeaveDescriptorsToTheRest(t *testing.T) {
	c := defaults()
	if got, atLeast := c.reserved(), c.MaxConns+c.RotationWorkers+healthBounds.Total; got <= atLeast {
		t.Errorf("got %d kept back, want more than the pools and the health listener hold (%d)", got, atLeast)
	}
	for name, of := range map[string]struct {
		total, perAddress, room int
		wantTotal, wantAddress  int
		complains               bool
	}{
		"plenty":                  {0, 0, 500_000, 4096, 1024, false},
		"few":                     {0, 0, 47, 47, 11, false},
		"hardly any":              {0, 0, 9, 9, 4, false},
		"too few":                 {0, 0, -30, 8, 4, true},
		"too few for any setting": {100, 0, 3, 8, 4, true},
		"as set":                  {100, 7, 500, 100, 7, false},
		"more than there are":     {1000, 300, 500, 500, 300, true},
		"more than the default":   {10_000, 0, 500_000, 10_000, 2500, false},
	} {
		c.HTTPMaxConns, c.HTTPMaxConnsPerAddress = of.total, of.perAddress
		b, complaint := c.boundsWithin(of.room)
		if b.Total != of.wantTotal || b.PerAddress != of.wantAddress || (complaint != "") != of.complains ||
			b.Strangers < 1 || b.Strangers > maxStrangers {
			t.Errorf("%s: got %+v with %q, want %+v", name, b, complaint, of)
		}
	}
}

// exchange sends bytes and returns everything that comes back.
func exchange(t *testing.T, url, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(conn) // a reset is an end as well
	return string(text)
}

// net/http has its own handler of OPTIONS *, and answers requests that it cannot parse: neither may bypass the
// allowlist. A refusal ends the connection.
func TestNothingIsAnsweredPastTheAllowlist(t *testing.T) {
	d := startDaemon(t, "listen = [\"127.0.0.1:0\"]\nallow = []\n")
	const (
		forbidden = "HTTP/1.1 403"
		get       = "GET /v1/secrets/a HTTP/1.1\r\nHost: localhost\r\n\r\n"
		expect    = "Host: localhost\r\nExpect: 100-continue\r\n"
	)
	for request, want := range map[string]string{
		"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n":             forbidden,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                          forbidden,
		"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1\r\n\r\n": forbidden,
		"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n":               forbidden,
		get + get: forbidden,
		"PUT /v1/secrets/a HTTP/1.1\r\n" + expect + "Content-Length: 9\r\n\r\n": forbidden,
		"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: more\r\n\r\n":             "",
		"nonsense\r\n\r\n":       "",
		"GET / HTTP/1.1\r\n\r\n": "",
	} {
		got := exchange(t, d.urls["VAULTD_URL"], request)
		if want == "" && got != "" || !strings.HasPrefix(got, want) || strings.Count(got, "not_allowed") > 1 {
			t.Errorf("%q: got %.300q, want %q, once", request, got, want)
		}
	}
	if got := exchange(t, d.urls["VAULTD_HEALTH_URL"],
		"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400") {
		t.Errorf("the health listener answers OPTIONS * with %.100q, want 400: it has no such route", got)
	}
	if got := d.status(t); got != http.StatusForbidden {
		t.Errorf("got status %d, want 403", got)
	}
}

func TestLocalhostListensOnBothFamilies(t *testing.T) {
	d := startDaemon(t, "listen = [\"localhost:0\"]\nallow = [\"127.0.0.1\", \"::1\"]\n")
	_, port, err := net.SplitHostPort(strings.TrimPrefix(d.urls["VAULTD_URL"], "http://"))
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{"127.0.0.1"}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		l.Close()
		hosts = append(hosts, "::1")
	}
	for _, host := range hosts {
		d.urls["VAULTD_URL"] = "http://" + net.JoinHostPort(host, port)
		if got := d.status(t); got != http.StatusServiceUnavailable {
			t.Errorf("%s: got status %d, want the answer of the daemon", host, got)
		}
	}
}
