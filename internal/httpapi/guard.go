package httpapi

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// Policy is which clients are admitted, and at which rate. The zero Policy admits none.
type Policy struct {
	Allow          []netip.Prefix // clients
	TrustedProxies []netip.Prefix // whose X-Forwarded-For counts
	// accepted in Host, besides localhost and the address that the client connects to; see ParseHost
	Hosts       []string
	VerifyRate  float64 // verifies a second from one client; 0 = no limit
	VerifyBurst int     // verifies at once, at least 1

	// Apps refuses clients without a credential, but for what the app "anonymous" may. A credential that is presented is
	// judged in any case.
	Apps      bool
	ClientCAs []*x509.Certificate // that sign the certificates of clients
	Limits    Limits

	Credentials map[string]string // for systemd: UNIT:ID -> the name of a secret; see CheckCredentials
}

// ParseNetwork reads an IPv4 or IPv6 network in CIDR form, or one address. It refuses bits set beyond the prefix,
// zones, and IPv4 written as IPv6, which would never match.
func ParseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr.Is4In6() || addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q: write it as plain IPv4, or without a zone", s)
		}
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is not an address or a network in CIDR form", s)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q: write it as a plain IPv4 network", s)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has bits set beyond its prefix, meant is perhaps %q", s, p.Masked())
	}
	return p, nil
}

// client is the sender of a request.
type client struct {
	addr      netip.Addr // unmapped, without zone; invalid over a unix socket
	unix      bool
	forwarded bool // a proxy has named the address
}

func (c client) String() string {
	switch {
	case c.unix:
		return "unix"
	case !c.addr.IsValid():
		return ""
	}
	return c.addr.String()
}

const actorPrefix = "client:"

// actor is the client as the audit log names it. Every read needs it, so it takes one allocation.
func (c client) actor() string {
	if c.unix || !c.addr.IsValid() {
		return actorPrefix + c.String()
	}
	var text [64]byte
	return string(c.addr.AppendTo(append(text[:0], actorPrefix...)))
}

// peer is the other end of the connection.
func peer(r *http.Request) (client, error) {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && local.Network() == "unix" {
		return client{unix: true}, nil
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return client{}, notAdmitted("allowlist", "the connection has no address")
	}
	return client{addr: plain(remote.Addr())}, nil
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// guard is a policy in force.
type guard struct {
	policy  Policy
	hosts   hosts
	limiter *limiter[netip.Prefix] // of verifies; nil = no limit
	limits  *limits

	authorities map[authority]bool
}

func newGuard(p Policy, before *guard) *guard {
	g := &guard{policy: p, hosts: newHosts(p.Hosts), authorities: authorities(p.ClientCAs)}
	var limitsBefore *limits
	if before != nil {
		limitsBefore = before.limits
	}
	g.limits = newLimits(p.Limits, limitsBefore)
	switch {
	case p.VerifyRate <= 0:
	case before != nil && before.limiter != nil && before.policy.VerifyRate == p.VerifyRate &&
		before.policy.VerifyBurst == p.VerifyBurst:
		g.limiter = before.limiter
	default:
		g.limiter = newLimiter[netip.Prefix](p.VerifyRate, max(p.VerifyBurst, 1))
	}
	return g
}

// admit determines the client, or refuses it.
func (g *guard) admit(r *http.Request) (client, error) {
	c, err := peer(r)
	if err != nil {
		return c, err
	}
	if contains(g.policy.TrustedProxies, c.addr) {
		headers := r.Header.Values("X-Forwarded-For")
		hop, err := forwardedFor(headers, c.addr, g.policy.TrustedProxies)
		if err != nil {
			return c, notAdmitted("forwarded_for", err.Error())
		}
		c.addr, c.forwarded = hop, len(headers) > 0
	}
	if !c.unix && !contains(g.policy.Allow, c.addr) {
		return c, notAdmitted("allowlist", c.addr.String()+" is not in the allowlist")
	}
	return c, g.hosts.checkOrigin(r, c)
}

// Admission is what an address is admitted as, before its first request.
type Admission int

const (
	AdmitNone Admission = iota
	AdmitClient
	AdmitProxy
)

// Admits returns what the policy in force admits a connection from this address as.
func (a *API) Admits(addr netip.Addr) Admission {
	policy := a.guard.Load().policy
	switch addr = plain(addr); {
	case contains(policy.TrustedProxies, addr):
		return AdmitProxy
	case contains(policy.Allow, addr):
		return AdmitClient
	}
	return AdmitNone
}

// admitAnyone is the guard of the health handler, which holds no secret: it admits any address, but no page of another
// site.
func (g *guard) admitAnyone(r *http.Request) (client, error) {
	c, err := peer(r)
	if err != nil {
		return c, err
	}
	return c, g.hosts.checkOrigin(r, c)
}

func notAdmitted(reason, message string) error {
	return &refusal{outcome{status: http.StatusForbidden, code: "not_allowed", reason: reason, message: message}}
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// forwardedFor reads X-Forwarded-For from its right end, where the nearest proxy wrote, to the first hop that is not a
// proxy. It does not read hops further left, which a client can forge. Without a header the client is the proxy itself;
// when every hop is a proxy, it is the leftmost.
func forwardedFor(headers []string, proxy netip.Addr, proxies []netip.Prefix) (netip.Addr, error) {
	if len(headers) == 0 {
		return proxy, nil
	}
	rest, more := strings.Join(headers, ","), true
	hop := proxy
	for more {
		var last string
		if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
			rest, last = rest[:comma], rest[comma+1:]
		} else {
			last, more = rest, false
		}
		var err error
		if hop, err = parseHop(strings.Trim(last, " \t")); err != nil {
			return netip.Addr{}, err
		}
		if !contains(proxies, hop) {
			break
		}
	}
	return hop, nil
}

// parseHop accepts an address with or without a port, and an IPv6 address in brackets with or without one, as proxies
// differ.
func parseHop(s string) (netip.Addr, error) {
	inside := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") && strings.Contains(s, ":") {
		inside = s[1 : len(s)-1]
	}
	addr, err := netip.ParseAddr(inside)
	if err != nil {
		var withPort netip.AddrPort
		withPort, err = netip.ParseAddrPort(s)
		addr = withPort.Addr()
	}
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("the proxy sent an X-Forwarded-For that does not hold addresses")
	}
	return addr.Unmap(), nil
}

// takeRateToken takes one token from the client's bucket, or refuses the request.
func (g *guard) takeRateToken(c client, now time.Time) error {
	if g.limiter == nil {
		return nil
	}
	if retry := g.limiter.take(bucketOf(c), now); retry > 0 {
		return tooMany(retry)
	}
	return nil
}

// limitedClients bounds the memory of a limiter. A client with more networks than this evicts its own oldest bucket,
// which takes an allowlist of that size.
const limitedClients = 16384

// limiter is a token bucket for each key.
type limiter[K comparable] struct {
	rate  rate.Limit
	burst int

	mu      sync.Mutex
	buckets *simplelru.LRU[K, *rate.Limiter]
}

func newLimiter[K comparable](perSecond float64, burst int) *limiter[K] {
	buckets, err := simplelru.NewLRU[K, *rate.Limiter](limitedClients, nil)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &limiter[K]{rate: rate.Limit(perSecond), burst: burst, buckets: buckets}
}

// take returns 0, or how long the key has to wait. A refused attempt costs nothing.
func (l *limiter[K]) take(key K, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket, ok := l.buckets.Get(key)
	if !ok {
		bucket = rate.NewLimiter(l.rate, l.burst)
		l.buckets.Add(key, bucket)
	}
	reservation := bucket.ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}

// bucketOf counts an IPv6 client by its /64, because all of it is one subscriber's (RFC 6177). All clients of a unix
// socket share one bucket: the zero prefix.
func bucketOf(c client) netip.Prefix {
	if c.addr.Is6() {
		return netip.PrefixFrom(c.addr, 64).Masked()
	}
	if c.unix {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(c.addr, 32)
}
