package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
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

// serveStandIn is the program of a server that has to be initialised, unsealed, given an engine and an audit file, in
// this order. It takes its address from the configuration, and the last step only when asked a second time.
func serveStandIn(argument string) {
	config, err := os.ReadFile(strings.TrimPrefix(argument, "-config="))
	if err != nil {
		panic(err)
	}
	address := regexp.MustCompile(`(?m)^  address += "(.*)"$`).FindStringSubmatch(string(config))[1]
	steps := []string{"PUT /v1/sys/init", "PUT /v1/sys/unseal", "POST /v1/sys/mounts/secret", "PUT /v1/sys/audit/file",
		"POST /v1/secret/data/bench", "POST /v1/secret/data/bench"}
	var mu sync.Mutex
	done := 0
	panic(http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		token := r.Header.Get("X-Vault-Token")
		switch asked := r.Method + " " + r.URL.Path; {
		case asked == "GET /v1/sys/init":
			fmt.Fprint(w, `{"initialized":false}`)
		case done < len(steps) && asked == steps[done] && (done == 0 || token == "s.root"):
			if done++; done == len(steps)-1 {
				http.Error(w, `{"errors":["upgrading"]}`, http.StatusBadRequest)
			} else if done == 1 {
				fmt.Fprint(w, `{"keys":["k"],"root_token":"s.root"}`)
			}
		case strings.HasPrefix(asked, "POST /v1/secret/data/cli/") && token == "s.root":
		case asked == "GET /v1/secret/data/bench" && done == len(steps) && token == "s.root":
			fmt.Fprint(w, `{"data":{"data":{"value":"x"}}}`)
		default:
			http.Error(w, `{"errors":["permission denied"]}`, http.StatusForbidden)
		}
	})))
}

// putStandIn is its command for an operator, kv put, with the value on standard input.
func putStandIn(args []string) {
	value, err := io.ReadAll(os.Stdin)
	if err != nil || len(value) == 0 || !slices.Equal(args[:3], []string{"kv", "put", "-mount=secret"}) ||
		args[4] != "value=-" {
		panic(fmt.Sprint("not a put: ", args, err))
	}
	if err := callPeer(context.Background(), "POST", os.Getenv("VAULT_ADDR")+"/v1/secret/data/"+args[3],
		os.Getenv("VAULT_TOKEN"), "{}", nil); err != nil {
		panic(err)
	}
}

// A program is started, prepared step by step and driven; what it costs is measured as of any other server. It is ended
// by a signal, as bao ends by one.
func TestPeerIsStarted(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "peer")
	script := fmt.Sprintf("#!/bin/sh\ncase $1 in kv) exec %[1]q \"$@\" ;; esac\n"+
		"trap 'kill $child; exit 0' TERM\n%[1]q \"$@\" &\nchild=$!\nwait $child\n", self)
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "bench.json")
	var out, progress strings.Builder
	err = run(t.Context(), []string{"-rounds", "1", "-slice", "1s", "-secrets", "1", "-conns", "2", "-only",
		"^peer", "-peer", program, "-json", file}, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	var got report
	mustReadJSON(t, file, &got)
	if len(got.Rows) != 2 || got.Rows[0].Figures[perSecond].Median <= 0 || got.Rows[0].Figures[peakMB].Median <= 0 ||
		got.Rows[1].cell != (cell{peerPut, 1}) || got.Rows[1].Figures[p50].Median <= 0 {
		t.Errorf("got %+v", got.Rows)
	}
	if strings.Contains(out.String()+progress.String(), "s.root") {
		t.Error("the peer's token is shown")
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
