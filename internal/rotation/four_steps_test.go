package rotation_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
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
	store := vaulttest.New(t)
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	admin, closeAdmin := open(t, store, vaulttest.Operator, ring)
	daemon, closeDaemon := open(t, store, vaulttest.Daemon, ring)
	defer func() { closeAdmin(); closeDaemon(); must(t, ring.Close()) }()
	as := vault.Change{Token: vaulttest.AdminToken(t)}
	generator, rotator := "hex:32", "target"
	_, err = admin.Put(t.Context(), vault.PutRequest{Change: as, Name: "app/target", Value: []byte("one"),
		Settings: vault.Settings{Generator: &generator, Rotator: &rotator}})
	must(t, err)

	target := &fakeTarget{failures: []func() error{
		func() error { return errors.New("connection refused") },
		func() error { panic("a bug in the target") },
	}}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	worker := &rotation.Worker{Vault: daemon, Target: target, ID: "w", Concurrency: 2, Poll: 20 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler)}
	running.Go(func() { worker.Run(ctx) })
	defer running.Wait()
	defer stop()

	_, err = admin.RequestRotation(t.Context(), as, "app/target")
	must(t, err)
	state := `SELECT concat_ws(' ', state, attempt, last_error) FROM vault.rotation_jobs`
	waitUntil(t, store, state,
		"queued 1 setting the new value at its target: connection refused; the value in force is in place")
	_, err = admin.RetryRotation(t.Context(), as, "app/target")
	must(t, err)
	waitUntil(t, store, state,
		"queued 2 setting the new value at its target: panic of type string; the value in force is in place")
	if s, err := admin.Get(t.Context(), "app/target", vault.GetOptions{}); err != nil || string(s.Value) != "one" {
		t.Fatalf("got error %v, want the old version valid while attempts fail", err)
	}
	_, err = admin.RetryRotation(t.Context(), as, "app/target")
	must(t, err)
	waitUntil(t, store, `SELECT state FROM vault.rotation_jobs`, "done")

	s, err := admin.Get(t.Context(), "app/target", vault.GetOptions{})
	must(t, err)
	defer s.Wipe()
	if seen := target.seen; len(seen) != 3 || !bytes.Equal(seen[0], seen[1]) || !bytes.Equal(seen[1], seen[2]) ||
		!bytes.Equal(target.seen[2], s.Value) || !bytes.HasPrefix(s.Value, []byte("shaped ")) {
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
	store := vaulttest.New(t)
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	admin, closeAdmin := open(t, store, vaulttest.Operator, ring)
	daemon, closeDaemon := open(t, store, vaulttest.Daemon, ring)
	defer func() { closeAdmin(); closeDaemon(); must(t, ring.Close()) }()
	as := vault.Change{Token: vaulttest.AdminToken(t)}
	generator, rotator := "hex:32", "target"
	for _, name := range []string{"app/a", "app/b", "app/c"} {
		_, err = admin.Put(t.Context(), vault.PutRequest{Change: as, Name: name, Value: []byte("one"),
			Settings: vault.Settings{Generator: &generator, Rotator: &rotator}})
		must(t, err)
		_, err = admin.RequestRotation(t.Context(), as, name)
		must(t, err)
	}
	begun, goOn := make(chan struct{}), make(chan struct{})
	target := &fakeTarget{failures: []func() error{func() error { close(begun); <-goOn; return nil }}}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	worker := &rotation.Worker{Vault: daemon, Target: target, ID: "w", Concurrency: 1, Poll: 20 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler)}
	running.Go(func() { worker.Run(ctx) })
	<-begun
	waitUntil(t, store, `SELECT count(*) FROM vault.rotation_jobs WHERE state = 'claimed'`, "3")
	stop()
	waitUntil(t, store, `SELECT count(*) FROM vault.rotation_jobs WHERE state = 'queued' AND failures = 0`, "2")
	close(goOn)
	running.Wait()
	if got := store.MustQuery(t,
		`SELECT string_agg(state, ' ' ORDER BY state) FROM vault.rotation_jobs`); got != "done queued queued" {
		t.Errorf("got jobs %q, want the one begun done and the others given back", got)
	}
}
