package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// newStandIn answers as a Vault-compatible server does: with the secret, to requests with the token.
func newStandIn(t *testing.T, token string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != token || r.URL.Path != "/v1/secret/data/bench" {
			http.Error(w, `{"errors":["permission denied"]}`, http.StatusForbidden)
			return
		}
		fmt.Fprint(w, `{"data":{"data":{"value":"x"},"metadata":{"version":1}}}`)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestPeerIsDrivenWithItsToken(t *testing.T) {
	s := newStandIn(t, "s.right")
	for token, want := range map[string]string{"s.right": "", "s.wrong": "403"} {
		p, err := peerFrom([]string{"BENCH_PEER_URL=" + s.URL + "/", "BENCH_PEER_PATH=v1/secret/data/bench",
			"BENCH_PEER_TOKEN=" + token})
		if err != nil {
			t.Fatal(err)
		}
		got, err := driveFor(t.Context(), time.Second, p.address, 2, p.next)
		switch {
		case want == "" && (err != nil || got.requests == 0):
			t.Errorf("got %d requests, %v", got.requests, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), token)):
			t.Errorf("got %v, want %q and no token", err, want)
		}
	}
}

func TestPeerSettingsAreRefused(t *testing.T) {
	if p, err := peerFrom([]string{"HOME=/root", "BENCH_PEER_URL="}); p != nil || err != nil {
		t.Errorf("without settings: got %v, %v", p, err)
	}
	for _, environ := range [][]string{
		{"BENCH_PEER_URL=http://h"},
		{"BENCH_PEER_URL=http://h", "BENCH_PEER_TOKEN=s.secret"},
		{"BENCH_PEER_URL=https://h", "BENCH_PEER_TOKEN=s.secret", "BENCH_PEER_PATH=/v1/x"},
		{"BENCH_PEER_URL=http://u:s.secret@h", "BENCH_PEER_TOKEN=s.secret", "BENCH_PEER_PATH=/v1/x"},
		{"BENCH_PEER_URL=http://", "BENCH_PEER_TOKEN=s.secret", "BENCH_PEER_PATH=/v1/x"},
		{"BENCH_PEER_URL=http://h", "BENCH_PEER_TOKEN=s.secret\r\nX: y", "BENCH_PEER_PATH=/v1/x"},
		{"BENCH_PEER_URL=http://h", "BENCH_PEER_TOKEN=s.secret", "BENCH_PEER_PATH=/v1/x", "BENCH_PEER_PORT=1"},
	} {
		p, err := peerFrom(environ)
		if err == nil || !strings.Contains(err.Error(), "BENCH_PEER_") || strings.Contains(err.Error(), "s.secret") {
			t.Errorf("%q: got %v, %v", environ, p, err)
		}
	}
}
