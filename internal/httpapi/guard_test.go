package httpapi

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestTheZeroPolicyLetsNobodyIn(t *testing.T) {
	w := newWorld(t)
	w.api.SetPolicy(Policy{})
	h := w.serve(echo("GET /x"))
	for _, addr := range []string{"127.0.0.1:1", "[::1]:1", "192.0.2.1:1"} {
		wantStatus(t, ask(t, h, "GET", "/v1/secrets/a", "", from(addr)), 403, "not_allowed")
	}
}

func TestAllowlist(t *testing.T) {
	w := newWorld(t)
	h := w.serve(echo("GET /x"))
	for _, addr := range []string{"192.0.2.1:1", "[::ffff:192.0.2.7]:1", "[2001:db8::1]:1", "[2001:db8::1%eth0]:1"} {
		wantStatus(t, ask(t, h, "GET", "/v1/secrets/a", "", from(addr)), 200, "")
	}
	for _, addr := range []string{"192.0.3.1:1", "[::ffff:192.0.3.1]:1", "[2001:db9::1]:1", "127.0.0.1:1", "", "@",
		"nonsense"} {
		wantStatus(t, ask(t, h, "GET", "/v1/secrets/a", "", from(addr)), 403, "not_allowed")
	}
}

func TestTheGuardComesBeforeEverythingElse(t *testing.T) {
	w := newWorld(t)
	for _, target := range []string{"/", "/v1/secrets", "/v1/secrets/a%2F..", "/v1/secrets/a?x=1"} {
		rec := ask(t, w.api.Handler(), "PUT", target, "{", from("198.51.100.9:1"))
		wantStatus(t, rec, 403, "not_allowed")
	}
}

func TestTheModeOfAUnixSocketIsItsGuard(t *testing.T) {
	w := newWorld(t)
	w.api.SetPolicy(Policy{})
	body := wantStatus(t, ask(t, w.serve(echo("GET /x")), "GET", "/v1/secrets/a", "", overUnix,
		header("X-Forwarded-For", "192.0.2.1")), 200, "")
	if body["client"] != "unix" {
		t.Errorf("got client %q, want unix, whatever the header says", body["client"])
	}
}

func TestForwardedForCountsOnlyFromProxies(t *testing.T) {
	w := newWorld(t)
	w.api.SetPolicy(Policy{Allow: mustNetworks(t, "192.0.2.0/24"),
		TrustedProxies: mustNetworks(t, "10.0.0.0/8", "fd00::/8")})
	h := w.serve(echo("GET /x"))
	for _, c := range []struct {
		peer    string
		headers []string
		client  string // "" = refused
	}{
		{"192.0.2.1:1", []string{"192.0.2.99"}, "192.0.2.1"},
		{"198.51.100.1:1", []string{"192.0.2.1"}, ""},
		{"10.0.0.1:1", []string{"192.0.2.5"}, "192.0.2.5"},
		{"[::ffff:10.0.0.1]:1", []string{"192.0.2.5"}, "192.0.2.5"},
		{"10.0.0.1:1", []string{"::ffff:192.0.2.5"}, "192.0.2.5"},
		{"10.0.0.1:1", []string{"192.0.2.5:4711"}, "192.0.2.5"},
		{"10.0.0.1:1", []string{"192.0.2.5, 10.9.9.9,fd00::1"}, "192.0.2.5"},
		{"10.0.0.1:1", []string{"192.0.2.5", "10.9.9.9"}, "192.0.2.5"},
		{"10.0.0.1:1", []string{"192.0.2.5, 198.51.100.1"}, ""},          // forged to the left of the true client
		{"10.0.0.1:1", []string{"198.51.100.1, 192.0.2.5"}, "192.0.2.5"}, // and the other way round
		{"10.0.0.1:1", []string{"junk, 192.0.2.5"}, "192.0.2.5"},
		{"10.0.0.1:1", []string{"192.0.2.5, junk"}, ""},
		{"10.0.0.1:1", []string{"192.0.2.5,"}, ""},
		{"10.0.0.1:1", []string{"192.0.2.5, junk, 10.0.0.2"}, ""},
		{"10.0.0.1:1", []string{""}, ""},
		{"10.0.0.1:1", []string{"fe80::1%eth0"}, ""},
		{"10.0.0.1:1", nil, ""},                     // the proxy itself, which is not allowed
		{"10.0.0.1:1", []string{"10.0.0.2"}, ""},    // one proxy asks through another
		{"10.0.0.1:1", []string{"unknown"}, ""},     // RFC 7239 lets proxies say that
		{"10.0.0.1:1", []string{"192.0.2.005"}, ""}, // which some would read as octal
	} {
		options := []option{from(c.peer)}
		for _, h := range c.headers {
			options = append(options, header("X-Forwarded-For", h))
		}
		rec := ask(t, h, "GET", "/v1/secrets/a", "", options...)
		if c.client == "" {
			wantStatus(t, rec, 403, "not_allowed")
			continue
		}
		if body := wantStatus(t, rec, 200, ""); body["client"] != c.client {
			t.Errorf("%s with %q: got client %q, want %q", c.peer, c.headers, body["client"], c.client)
		}
	}
}

func TestParseNetwork(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "10.0.0.1": "10.0.0.1/32", "2001:db8::/32": "2001:db8::/32", "::1": "::1/128",
		"0.0.0.0/0": "0.0.0.0/0",
	} {
		if p, err := ParseNetwork(text); err != nil || p.String() != want {
			t.Errorf("%q: got %v, %v, want %s", text, p, err, want)
		}
	}
	for _, text := range []string{"", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "010.0.0.0/8",
		"::ffff:10.0.0.0/104", "::ffff:10.0.0.1", "fe80::1%eth0", "localhost", " 10.0.0.0/8"} {
		if p, err := ParseNetwork(text); err == nil {
			t.Errorf("%q: got %v, want a refusal", text, p)
		}
	}
}

func TestVerifiesAreLimitedForEachClient(t *testing.T) {
	w := newWorld(t)
	w.api.SetPolicy(Policy{Allow: mustNetworks(t, "192.0.2.0/24", "2001:db8::/32"), VerifyRate: 0.1, VerifyBurst: 2})
	e := echo("GET /x")
	e.limited = true
	h := w.serve(e)
	spend := func(addr string, status int) {
		t.Helper()
		rec := ask(t, h, "GET", "/v1/secrets/a", "", from(addr))
		if status == 200 {
			wantStatus(t, rec, 200, "")
			return
		}
		wantStatus(t, rec, 429, "rate_limited")
		if got := rec.Header().Get("Retry-After"); got != "10" {
			t.Errorf("got Retry-After %q, want 10 seconds for a tenth a second", got)
		}
	}
	spend("192.0.2.1:1", 200)
	spend("192.0.2.1:2", 200)
	spend("192.0.2.1:3", 429)
	spend("192.0.2.2:1", 200)
	// An IPv6 subscriber has a whole /64 to ask from.
	spend("[2001:db8::1]:1", 200)
	spend("[2001:db8::2]:1", 200)
	spend("[2001:db8::3]:1", 429)
	spend("[2001:db8:0:1::1]:1", 200)

	// A reload with the same rate keeps the buckets; one that changes the rate starts with full ones.
	p := w.api.guard.Load().policy
	w.api.SetPolicy(p)
	spend("192.0.2.1:1", 429)
	p.VerifyBurst = 3
	w.api.SetPolicy(p)
	spend("192.0.2.1:1", 200)
	p.VerifyRate = 0
	w.api.SetPolicy(p)
	for range 10 {
		spend("192.0.2.1:1", 200)
	}
}

func TestARefusedVerifyCostsNothing(t *testing.T) {
	l := newLimiter[netip.Prefix](1, 1)
	c, now := netip.MustParsePrefix("192.0.2.1/32"), time.Unix(1000, 0)
	if wait := l.take(c, now); wait != 0 {
		t.Fatalf("got a wait of %v for the first", wait)
	}
	for range 100 {
		if wait := l.take(c, now); wait != time.Second {
			t.Fatalf("got a wait of %v, want 1s however often it was tried", wait)
		}
	}
	if wait := l.take(c, now.Add(time.Second)); wait != 0 {
		t.Errorf("got a wait of %v after having waited", wait)
	}
}

func TestTheLimiterIsBounded(t *testing.T) {
	l := newLimiter[netip.Prefix](1, 1)
	addr := netip.MustParseAddr("10.0.0.0")
	for range limitedClients + 1000 {
		addr = addr.Next()
		l.take(netip.PrefixFrom(addr, 32), time.Unix(1000, 0))
	}
	if got := l.buckets.Len(); got != limitedClients {
		t.Errorf("got %d buckets, want %d", got, limitedClients)
	}
}

func FuzzForwardedFor(f *testing.F) {
	for _, s := range []string{"", "192.0.2.1", "junk, 192.0.2.1, 10.0.0.2", "[::1]:80,10.0.0.1", ",,,", "10.0.0.1",
		"[2001:db8::1]", "[2001:db8::1]:80", "[::ffff:10.0.0.1], 10.0.0.2", "[10.0.0.1]", "[fe80::1%lo]"} {
		f.Add(s)
	}
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	proxy := netip.MustParseAddr("10.0.0.1")
	f.Fuzz(func(t *testing.T, s string) {
		hop, err := forwardedFor([]string{s}, proxy, proxies)
		if err != nil {
			if outcome := err.Error(); s != "" && len(s) > 8 && strings.Contains(outcome, s) {
				t.Errorf("the error %q repeats the header", outcome)
			}
			return
		}
		if !hop.IsValid() || hop.Is4In6() || hop.Zone() != "" {
			t.Errorf("%q: got hop %v, which no network would match", s, hop)
		}
		// Written by another proxy, in brackets or with a port, it is the same address.
		for _, spelling := range []string{"%s", "[%s]:80", "[%s]"} {
			if hop.Is4() && spelling[0] == '[' {
				spelling = "[::ffff:%s]"
			}
			if again, err := forwardedFor([]string{fmt.Sprintf(spelling, hop)}, proxy, proxies); err != nil || again != hop {
				t.Errorf("%q: %s is read as %v, %v", s, fmt.Sprintf(spelling, hop), again, err)
			}
		}
		// Hops to the left of an untrusted one must not matter.
		if again, err := forwardedFor([]string{"203.0.113.66, " + s}, proxy, proxies); !contains(proxies, hop) &&
			(err != nil || again != hop) {
			t.Errorf("%q: a forged hop changed %v to %v, %v", s, hop, again, err)
		}
	})
}

// Every way in which proxies write an address.
func TestSpellingsOfAHop(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.5": "192.0.2.5", "192.0.2.5:4711": "192.0.2.5", "192.0.2.5:0": "192.0.2.5",
		"::ffff:192.0.2.5": "192.0.2.5", "[::ffff:192.0.2.5]": "192.0.2.5", "[::ffff:192.0.2.5]:4711": "192.0.2.5",
		"::ffff:c000:205": "192.0.2.5",
		"2001:db8::1":     "2001:db8::1", "[2001:db8::1]": "2001:db8::1", "[2001:db8::1]:4711": "2001:db8::1",
		"2001:DB8:0:0::1": "2001:db8::1", "[2001:0DB8::0001]": "2001:db8::1", "[2001:db8::1]:65535": "2001:db8::1",
		"::1": "::1", "[::1]": "::1",
	} {
		for _, header := range []string{text, " " + text + "\t", "junk," + text, "203.0.113.66, " + text} {
			got, err := forwardedFor([]string{header}, netip.MustParseAddr("10.0.0.1"), mustNetworks(t, "10.0.0.0/8"))
			if err != nil || got.String() != want {
				t.Errorf("%q: got %v, %v, want %s", header, got, err, want)
			}
		}
	}
	for _, text := range []string{
		"", " ", "[]", "[]:80", "[192.0.2.5]", "[192.0.2.5]:80", "[[2001:db8::1]]", "[2001:db8::1", "2001:db8::1]",
		"[2001:db8::1]:", "[2001:db8::1]80",
		"[2001:db8::1]:65536", "[2001:db8::1]:-1", "[2001:db8::1]:http", "[2001:db8::1%eth0]", "[2001:db8::1%25eth0]:80",
		"fe80::1%1", "192.0.2.5:",
		"192.0.2.5:65536", "192.0.2.256", "192.0.2", "0xc0.0.2.5", "192.0.2.5/32", "[2001:db8::/32]", "\"192.0.2.5\"",
		"\"[2001:db8::1]\"", "for=192.0.2.5",
		"unknown", "_hidden", "localhost", "[ 2001:db8::1 ]", "192.0.2.5 192.0.2.6", "192.0.2.5;192.0.2.6", "１９２.0.2.5",
	} {
		if got, err := forwardedFor([]string{text}, netip.MustParseAddr("10.0.0.1"),
			mustNetworks(t, "10.0.0.0/8")); err == nil {
			t.Errorf("%q: got %v, want a refusal", text, got)
		}
	}
}
