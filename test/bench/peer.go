package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// peer is a running Vault-compatible server to compare with.
type peer struct {
	address string
	request exchange // with the token: never shown
}

// peerFrom reads BENCH_PEER_URL, BENCH_PEER_TOKEN and BENCH_PEER_PATH: all of them, or none.
func peerFrom(environ []string) (*peer, error) {
	given := map[string]string{}
	for _, entry := range environ {
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "BENCH_PEER_") && value != "" {
			given[name] = value
		}
	}
	if len(given) == 0 {
		return nil, nil
	}
	base, token, path := given["BENCH_PEER_URL"], given["BENCH_PEER_TOKEN"], given["BENCH_PEER_PATH"]
	if base == "" || token == "" || path == "" || len(given) > 3 {
		return nil, errors.New("BENCH_PEER_URL, BENCH_PEER_TOKEN and BENCH_PEER_PATH go together")
	}
	if strings.ContainsAny(token, "\r\n ") {
		return nil, errors.New("BENCH_PEER_TOKEN: not a token")
	}
	u, err := url.Parse(strings.TrimSuffix(base, "/") + "/")
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || u.User != nil {
		return nil, errors.New("BENCH_PEER_URL: want http://HOST:PORT, without TLS as the others are driven")
	}
	u = u.JoinPath(path)
	port := u.Port()
	if port == "" {
		port = "80"
	}
	return &peer{
		address: net.JoinHostPort(u.Hostname(), port),
		request: exchange{request: fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nX-Vault-Token: %s\r\n\r\n",
			u.RequestURI(), u.Host, token)},
	}, nil
}

// next returns the one request; the peer must answer 200, with any body.
func (p *peer) next() *exchange { return &p.request }
