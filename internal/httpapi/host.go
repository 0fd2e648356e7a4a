package httpapi

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// A browser on an allowed host passes the allowlist, and so does every page in it. Three things distinguish the request
// of such a page from a client's: the Host of a name that was made to resolve to this daemon (DNS rebinding), an
// Origin, and fetch metadata. No client of this API sends the last two.

var (
	errForeignHost = &refusal{outcome{status: http.StatusForbidden, code: "not_allowed", reason: "host",
		message: "the Host of this request is not a name or address of this daemon; its setting hosts adds others"}}
	errCrossSite = &refusal{outcome{status: http.StatusForbidden, code: "not_allowed", reason: "cross_site",
		message: "a page of another site made this request"}}
)

// ParseHost reads an entry of Policy.Hosts: a name, "*." and a name for one label before it, or an address. A port is
// refused, because clients behind a forwarded port send another one than the daemon's.
func ParseHost(s string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")); err == nil &&
		addr.Zone() == "" {
		return plain(addr).String(), nil
	}
	if label := strings.TrimPrefix(name, "*."); len(label) > 253 || !isHostName(label) {
		return "", fmt.Errorf("%q is not a host name or an address, without a port", s)
	}
	return name, nil
}

// isHostName takes letters, digits, "-" and "_" (which container names have), in labels that are not empty.
func isHostName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(c rune) bool { return !isIDChar(c) }) {
			return false
		}
	}
	return true
}

// hosts are the names and addresses of Policy.Hosts.
type hosts map[string]bool

func newHosts(list []string) hosts {
	h := hosts{"localhost": true}
	for _, entry := range list {
		if name, err := ParseHost(entry); err == nil {
			h[name] = true
		}
	}
	return h
}

// has reports whether a host is one of the daemon's own: a name from the list, the address that the connection came
// to, or a loopback address, which no page of another site can have as its own.
func (h hosts) has(host string, local net.Addr) bool {
	if addr, err := netip.ParseAddr(host); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return addr.IsLoopback() || addr == addressOf(local) || h[addr.String()]
	}
	if !isHostName(host) { // "*.example.org" is an entry of the list, not a name
		return false
	}
	if h[host] {
		return true
	}
	_, parent, ok := strings.Cut(host, ".")
	return ok && h["*."+parent]
}

func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return plain(tcp.AddrPort().Addr())
	}
	return netip.Addr{}
}

// hostOf is the host of a Host header, in lower case, without port, brackets and the dot of the root; false if it is
// none.
func hostOf(header string) (string, bool) {
	host, port := header, ""
	if inside, ok := strings.CutPrefix(header, "["); ok {
		if host, port, ok = strings.Cut(inside, "]"); !ok || !strings.Contains(host, ":") {
			return "", false
		}
		if port, ok = strings.CutPrefix(port, ":"); !ok && port != "" {
			return "", false
		}
	} else if colon := strings.IndexByte(header, ':'); colon >= 0 {
		host, port = header[:colon], header[colon+1:]
	}
	if strings.ContainsFunc(port, func(c rune) bool { return c < '0' || c > '9' }) {
		return "", false
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host, host != ""
}

// checkOrigin refuses a request for a Host that is not the daemon's, or one that a page of another site made. Over a
// unix socket every Host is accepted: no name resolves to it.
func (h hosts) checkOrigin(r *http.Request, c client) error {
	if !c.unix && !h.ownHost(r) {
		return errForeignHost
	}
	if crossSite(r) {
		return errCrossSite
	}
	return nil
}

// ownHost accepts HTTP/1.0 without a Host: health checks of load balancers send that, and browsers do not.
func (h hosts) ownHost(r *http.Request) bool {
	if r.Host == "" && r.Header["Host"] == nil && !r.ProtoAtLeast(1, 1) {
		return true
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	host, ok := hostOf(r.Host)
	return ok && h.has(host, local)
}

// crossSite reports whether a page of another site made the request. Clients send no metadata; a browser sends "none"
// for its user's own request and "same-origin" for a page of this daemon. Another port of this host is another site.
func crossSite(r *http.Request) bool {
	for _, site := range r.Header["Sec-Fetch-Site"] {
		if site != "none" && site != "same-origin" {
			return true
		}
	}
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return false
	}
	scheme, host, _ := strings.Cut(origins[0], "://")
	return len(origins) > 1 || scheme != "http" && scheme != "https" || !strings.EqualFold(host, r.Host)
}
