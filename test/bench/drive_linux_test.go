package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// newServer starts a server that answers with a handler, and counts its requests.
func newServer(t *testing.T, answer http.HandlerFunc) (address string, asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), asked
}

func echo(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "you asked for %s", r.URL.Path) }

func asking(paths ...string) []exchange {
	var all []exchange
	for _, path := range paths {
		all = append(all, exchange{request: getRequest(path, ""), body: []byte("you asked for /v1/secrets/" + path)})
	}
	return all
}

// Every answer is counted once, and each belongs to its request.
func TestDriveCountsWhatWasAnswered(t *testing.T) {
	address, asked := newServer(t, echo)
	got, err := driveFor(t.Context(), time.Second, address, 5, random(asking("a", "longer", "another")))
	if err != nil {
		t.Fatal(err)
	}
	answered := int64(got.requests)
	if answered == 0 || answered > asked.Load() || answered < asked.Load()-5 {
		t.Errorf("got %d requests, the server had %d on 5 connections", answered, asked.Load())
	}
	if n := got.latency.TotalCount(); n != asked.Load() {
		t.Errorf("got %d latencies, the server had %d requests", n, asked.Load())
	}
	if got.took < 100*time.Millisecond || got.latency.ValueAtQuantile(50) <= 0 {
		t.Errorf("got a slice of %s with a p50 of %dns", got.took, got.latency.ValueAtQuantile(50))
	}
}

// A slice that is over before the first answer has that answer: a slow machine has a rate, too.
func TestDriveHasAnAnswer(t *testing.T) {
	address, _ := newServer(t, echo)
	over, end := context.WithCancel(t.Context())
	end()
	got, err := drive(t.Context(), over, address, 2, 0, random(asking("a")))
	if err != nil {
		t.Fatal(err)
	}
	if got.requests == 0 || got.took <= 0 {
		t.Errorf("got %d requests in %s", got.requests, got.took)
	}
}

// An answer in pieces, or one longer than the first buffer, is accepted.
func TestDriveTakesAnswersInPieces(t *testing.T) {
	long := strings.Repeat("x", 50_000)
	address, _ := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(long)))
		fmt.Fprint(w, long[:7])
		w.(http.Flusher).Flush()
		fmt.Fprint(w, long[7:])
	})
	got, err := driveFor(t.Context(), time.Second, address, 2,
		random([]exchange{{request: getRequest("a", ""), body: []byte(long)}}))
	if err != nil || got.requests == 0 {
		t.Errorf("got %d requests, %v", got.requests, err)
	}
}

func TestDriveRefusesAWrongAnswer(t *testing.T) {
	var late atomic.Int64
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"another status": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no",
				http.StatusServiceUnavailable)
		}, `"HTTP/1.1 503 Service Unavailable"`},
		"another value": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "you asked for /v1/secrets/b") },
			"another than the one to this request"},
		"another length": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "short") },
			"an answer of 5 bytes, want 27"},
		"the hundredth wrong": {func(w http.ResponseWriter, r *http.Request) {
			if late.Add(1) == 100 {
				fmt.Fprint(w, "you asked for /v1/secrets/c")
				return
			}
			echo(w, r)
		}, "another than the one to this request"},
		"no length": {func(w http.ResponseWriter, r *http.Request) { echo(w, r); w.(http.Flusher).Flush() },
			"without Content-Length"},
		"a closed connection": {func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) },
			"closed the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			address, _ := newServer(t, c.answer)
			_, err := driveFor(t.Context(), time.Minute, address, 2, random(asking("a")))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestDriveSaysWhereNobodyListens(t *testing.T) {
	const address = "127.0.0.1:1" // a port that no program is given
	if _, err := driveFor(t.Context(), time.Second, address, 1, random(asking("a"))); err == nil ||
		!strings.Contains(err.Error(), "connecting to "+address) {
		t.Errorf("got %v", err)
	}
}

// This process has used processor time and memory, so neither is zero.
func TestProcessorTimeIsCounted(t *testing.T) {
	before, err := cpuOfAll(self())
	if err != nil {
		t.Fatal(err)
	}
	after := before
	for began := time.Now(); err == nil && after <= before && time.Since(began) < time.Minute; {
		after, err = cpuOfAll(self()) // which takes processor time itself
	}
	if err != nil || after <= before {
		t.Errorf("got %s and then %s, %v", before, after, err)
	}
	if m, err := memoryOf(self()); err != nil || m.Resident <= 0 || m.Peak < m.Resident {
		t.Errorf("got %+v, %v", m, err)
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{ended.Process.Pid, 1 << 30, 0, -1} {
		if _, err := cpuOfAll(pid); err == nil {
			t.Errorf("process %d, which is not there, has processor time", pid)
		}
	}
}
