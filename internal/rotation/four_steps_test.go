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

// door is a target whose trouble is scripted: what happens at each call of Set, in order.
type door struct {
	mu      sync.Mutex
	trouble []func() error
	key     []byte   // what opens it now
	seen    [][]byte // every candidate it was given
	current [][]byte // the value in force that came along
}

func (d *door) Shape(_ string, current, generated []byte) ([]byte, error) {
	return append([]byte("shaped "), generated...), nil
}

func (d *door) Set(_ context.Context, _ string, c rotation.Change) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen = append(d.seen, bytes.Clone(c.Candidate))
	d.current = append(d.current, bytes.Clone(c.Current))
	if len(d.trouble) > 0 {
		next := d.trouble[0]
		d.trouble = d.trouble[1:]
		if err := next(); err != nil {
			return err
		}
	}
	d.key = bytes.Clone(c.Candidate)
	return nil
}

func (d *door) Test(_ context.Context, _ string, c rotation.Change) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !bytes.Equal(d.key, c.Candidate) {
		return errors.New("the door stays shut")
	}
	return nil
}

func (d *door) Check(_ context.Context, _ string, c rotation.Change) (rotation.Found, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.key == nil || bytes.Equal(d.key, c.Current):
		return rotation.FoundCurrent, nil
	case bytes.Equal(d.key, c.Candidate):
		return rotation.FoundCandidate, nil
	}
	return rotation.FoundNeither, errors.New("the door has a key of its own")
}

func (d *door) Restore(_ context.Context, _ string, c rotation.Change) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.key = bytes.Clone(c.Current)
	return nil
}

// A target that fails, and one that panics, cost an attempt each and nothing else: the worker goes on, every attempt
// brings the same candidate, the old version stays valid meanwhile, and what readers get in the end opens the door.
func TestEveryAttemptBringsTheSameCandidate(t *testing.T) {
	store := vaulttest.New(t)
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	admin, closeAdmin := open(t, store, vaulttest.Operator, ring)
	daemon, closeDaemon := open(t, store, vaulttest.Daemon, ring)
	defer func() { closeAdmin(); closeDaemon(); must(t, ring.Close()) }()
	as := vault.Change{Token: vaulttest.AdminToken(t)}
	generator, rotator := "hex:32", "door"
	_, err = admin.Put(t.Context(), vault.PutRequest{Change: as, Name: "app/door", Value: []byte("one"),
		Settings: vault.Settings{Generator: &generator, Rotator: &rotator}})
	must(t, err)

	d := &door{trouble: []func() error{
		func() error { return errors.New("nobody at the door") },
		func() error { panic("the door fell on us") },
	}}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	worker := &rotation.Worker{Vault: daemon, Target: d, ID: "w", Concurrency: 2, Poll: 20 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler)}
	running.Go(func() { worker.Run(ctx) })
	defer running.Wait()
	defer stop()

	_, err = admin.RequestRotation(t.Context(), as, "app/door")
	must(t, err)
	state := `SELECT concat_ws(' ', state, attempt, last_error) FROM vault.rotation_jobs`
	waitUntil(t, store, state,
		"queued 1 setting the new value at its target: nobody at the door; the value in force is in place")
	_, err = admin.RetryRotation(t.Context(), as, "app/door")
	must(t, err)
	waitUntil(t, store, state,
		"queued 2 setting the new value at its target: panic of type string; the value in force is in place")
	if s, err := admin.Get(t.Context(), "app/door", vault.GetOptions{}); err != nil || string(s.Value) != "one" {
		t.Fatalf("got error %v, want the old version valid while attempts fail", err)
	}
	_, err = admin.RetryRotation(t.Context(), as, "app/door")
	must(t, err)
	waitUntil(t, store, `SELECT state FROM vault.rotation_jobs`, "done")

	s, err := admin.Get(t.Context(), "app/door", vault.GetOptions{})
	must(t, err)
	defer s.Wipe()
	if len(d.seen) != 3 || !bytes.Equal(d.seen[0], d.seen[1]) || !bytes.Equal(d.seen[1], d.seen[2]) ||
		!bytes.Equal(d.seen[2], s.Value) || !bytes.HasPrefix(s.Value, []byte("shaped ")) {
		t.Error("the attempts brought different candidates, or readers get another value than the door")
	}
	for _, c := range d.current {
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
	generator, rotator := "hex:32", "door"
	for _, name := range []string{"app/a", "app/b", "app/c"} {
		_, err = admin.Put(t.Context(), vault.PutRequest{Change: as, Name: name, Value: []byte("one"),
			Settings: vault.Settings{Generator: &generator, Rotator: &rotator}})
		must(t, err)
		_, err = admin.RequestRotation(t.Context(), as, name)
		must(t, err)
	}
	begun, goOn := make(chan struct{}), make(chan struct{})
	d := &door{trouble: []func() error{func() error { close(begun); <-goOn; return nil }}}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	worker := &rotation.Worker{Vault: daemon, Target: d, ID: "w", Concurrency: 1, Poll: 20 * time.Millisecond,
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
