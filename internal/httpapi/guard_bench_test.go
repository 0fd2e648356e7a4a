package httpapi

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"
)

// BenchmarkAdmit is the allowlist alone: the last network of a list that matches, and an address that none holds;
// directly and behind a proxy.
func BenchmarkAdmit(b *testing.B) {
	for _, networks := range []int{1, 16, 256} {
		policy := Policy{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
		for n := range networks {
			policy.Allow = append(policy.Allow, netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", n)))
		}
		g := newGuard(policy, nil)
		last := fmt.Sprintf("10.%d.0.1", networks-1)
		for _, c := range []struct {
			name, remote, forwarded string
			admitted                bool
		}{
			{"last", last + ":4711", "", true},
			{"none", "172.16.0.1:4711", "", false},
			{"proxy", "192.0.2.7:4711", "198.51.100.3, " + last, true},
		} {
			b.Run(fmt.Sprintf("networks=%d/%s", networks, c.name), func(b *testing.B) {
				r := &http.Request{Host: "127.0.0.1:8400", RemoteAddr: c.remote, Header: http.Header{}}
				if c.forwarded != "" {
					r.Header.Set("X-Forwarded-For", c.forwarded)
				}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := g.admit(r); (err == nil) != c.admitted {
						b.Fatalf("got %v, want it to be let in: %t", err, c.admitted)
					}
				}
			})
		}
	}
}
