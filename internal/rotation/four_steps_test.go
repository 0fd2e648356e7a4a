package rotation_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/hyperiondb/vault/internal/rotation"
)

// fakeTarget is a target with scripted failures of Set: one function for each call, in order.
type fakeTarget struct {
	mu       sync.Mutex
	failures []func() error
	value    []byte   // accepted now
	seen     [][]byte // every candidate it was given
	current  [][]byte // the value in force of each Set
}

func (f *fakeTarget) Shape(_ string, current, generated []byte) ([]byte, error) {
	return append([]byte("shaped "), generated...), nil
}

func (f *fakeTarget) Set(_ context.Context, _ string, c rotation.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, bytes.Clone(c.Candidate))
	f.current = append(f.current, bytes.Clone(c.Current))
	if len(f.failures) > 0 {
		next := f.failures[0]
		f.failures = f.failures[1:]
		if err := next(); err != nil {
			return err
		}
	}
	f.value = bytes.Clone(c.Candidate)
	return nil
}

func (f *fakeTarget) Test(_ context.Context, _ string, c rotation.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !bytes.Equal(f.value, c.Candidate) {
		return errors.New("the target refuses the value")
	}
	return nil
}

func (f *fakeTarget) Check(_ context.Context, _ string, c rotation.Change) (rotation.Found, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.value == nil || bytes.Equal(f.value, c.Current):
		return rotation.FoundCurrent, nil
	case bytes.Equal(f.value, c.Candidate):
		return rotation.FoundCandidate, nil
	}
	return rotation.FoundNeither, errors.New("the target has a value of its own")
}

func (f *fakeTarget) Restore(_ context.Context, _ string, c rotation.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.value = bytes.Clone(c.Current)
	return nil
}

// A target that fails, and one that panics, cost an attempt each and nothing else: the worker goes on, every attempt
// has the same candidate, the old version stays valid meanwhile, and in the end the target accepts what readers get.
func TestEveryAttemptBringsTheSameCandidate(t *testing.T) {
	s := newScene(t)
	s.mustPut(t, "app/target")

	target := &fakeTarget{failures: []func() error{
		func() error { return errors.New("connection refused") },
		func() error { panic("a bug in the target") },
	}}
	_, wait := s.work(t, target, 2)
	defer wait()

	s.mustRequest(t, "app/target")
	state := `SELECT concat_ws(' ', state, attempt, last_error) FROM vault.rotation_jobs`
	waitUntil(t, s.Store, state,
		"queued 1 setting the new value at its target: connection refused; the value in force is in place")
	s.mustRetry(t, "app/target")
	waitUntil(t, s.Store, state,
		"queued 2 setting the new value at its target: panic of type string; the value in force is in place")
	if string(s.mustGet(t, "app/target")) != "one" {
		t.Fatal("the old version is not valid while attempts fail")
	}
	s.mustRetry(t, "app/target")
	waitUntil(t, s.Store, `SELECT state FROM vault.rotation_jobs`, "done")

	value := s.mustGet(t, "app/target")
	if seen := target.seen; len(seen) != 3 || !bytes.Equal(seen[0], seen[1]) || !bytes.Equal(seen[1], seen[2]) ||
		!bytes.Equal(target.seen[2], value) || !bytes.HasPrefix(value, []byte("shaped ")) {
		t.Error("the attempts brought different candidates, or readers get another value than the target")
	}
	for _, c := range target.current {
		if string(c) != "one" {
			t.Error("an attempt was not told the value in force")
		}
	}
}

// A worker that stops gives back what it claimed and had not begun, and finishes what it had.
func TestStoppingGivesClaimsBack(t *testing.T) {
	s := newScene(t)
	for _, name := range []string{"app/a", "app/b", "app/c"} {
		s.mustPut(t, name)
		s.mustRequest(t, name)
	}
	begun, goOn := make(chan struct{}), make(chan struct{})
	target := &fakeTarget{failures: []func() error{func() error { close(begun); <-goOn; return nil }}}
	stop, wait := s.work(t, target, 1)
	<-begun
	waitUntil(t, s.Store, `SELECT count(*) FROM vault.rotation_jobs WHERE state = 'claimed'`, "3")
	stop()
	waitUntil(t, s.Store, `SELECT count(*) FROM vault.rotation_jobs WHERE state = 'queued' AND failures = 0`, "2")
	close(goOn)
	wait()
	if got := s.MustQuery(t,
		`SELECT string_agg(state, ' ' ORDER BY state) FROM vault.rotation_jobs`); got != "done queued queued" {
		t.Errorf("got jobs %q, want the one begun done and the others given back", got)
	}
}
