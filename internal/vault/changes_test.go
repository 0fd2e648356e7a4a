package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/leaks"
)

// node stands for the database: its current versions, and an error while it does not answer.
type node struct {
	mu      sync.Mutex
	ids     map[string]uuid.UUID
	epoch   uuid.UUID
	err     error
	asked   [][]string
	queried chan struct{}
}

func newNode() *node { return &node{ids: map[string]uuid.UUID{}, queried: make(chan struct{}, 1000)} }

func (n *node) query(_ context.Context, names []string) (map[string]uuid.UUID, uuid.UUID, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, names)
	defer func() {
		select {
		case n.queried <- struct{}{}:
		default: // the test has not looked at the last rounds
		}
	}()
	found := map[string]uuid.UUID{}
	for _, name := range names {
		if id, ok := n.ids[name]; ok {
			found[name] = id
		}
	}
	return found, n.epoch, n.err
}

func (n *node) set(name string, id uuid.UUID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ids[name] = id
}

func (n *node) setEpoch(epoch uuid.UUID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.epoch = epoch
}

func (n *node) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

// rounds waits for that many more rounds.
func (n *node) rounds(t *testing.T, count int) {
	t.Helper()
	for range count {
		select {
		case <-n.queried:
		case <-time.After(30 * time.Second):
			t.Fatal("no round in 30 s")
		}
	}
}

// waitIn calls wait in a goroutine of its own.
func waitIn(ctx context.Context, c *changes, name string, held uuid.UUID) <-chan error {
	return waitWith(ctx, c, name, held, uuid.Nil)
}

// waitWith calls wait in a goroutine of its own, for a caller that was judged by an epoch.
func waitWith(ctx context.Context, c *changes, name string, held, epoch uuid.UUID) <-chan error {
	done := make(chan error, 1)
	go func() { done <- c.wait(ctx, name, held, epoch) }()
	return done
}

func mustEnd(t *testing.T, done <-chan error, want error) {
	t.Helper()
	select {
	case err := <-done:
		if !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it still waits")
	}
}

func mustWait(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Fatalf("the wait ended with %v", err)
	default:
	}
}

func (c *changes) mustCount(t *testing.T, want int64) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); c.waiting.Load() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %d callers, want %d", c.waiting.Load(), want)
		}
	}
}

func fast(n *node) *changes {
	c := newChanges(n.query)
	c.every = 2 * time.Millisecond
	return c
}

func TestAWaitEndsWhenTheVersionIsAnother(t *testing.T) {
	defer leaks.None(t)
	n, one, two := newNode(), uuid.New(), uuid.New()
	n.set("a", one)
	n.set("b", one)
	c := fast(n)
	ctx, leave := context.WithCancel(t.Context())
	a, again, b := waitIn(t.Context(), c, "a", one), waitIn(t.Context(), c, "a", one), waitIn(ctx, c, "b", one)
	c.mustCount(t, 3)
	n.rounds(t, 3)
	for _, w := range []<-chan error{a, again, b} {
		mustWait(t, w)
	}
	n.set("a", two)
	mustEnd(t, a, nil)
	mustEnd(t, again, nil)
	mustWait(t, b)
	leave()
	mustEnd(t, b, context.Canceled)

	// deleted
	gone := waitIn(t.Context(), c, "c", one)
	mustEnd(t, gone, nil)
	c.mustCount(t, 0)
	if len(c.callers) != 0 {
		t.Errorf("got %d names left, want none", len(c.callers))
	}
}

// When apps or their rights change, a caller that they concern looks again, although its secret is the same.
func TestAnotherEpochWakesWhomItConcerns(t *testing.T) {
	defer leaks.None(t)
	n, one, before, after := newNode(), uuid.New(), uuid.New(), uuid.New()
	n.set("a", one)
	n.setEpoch(before)
	c := fast(n)
	ctx, leave := context.WithCancel(t.Context())
	app, address := waitWith(ctx, c, "a", one, before), waitIn(ctx, c, "a", one)
	c.mustCount(t, 2)
	n.rounds(t, 3)
	mustWait(t, app)
	n.setEpoch(after)
	mustEnd(t, app, nil)
	mustWait(t, address)
	mustEnd(t, waitWith(ctx, c, "a", one, before), nil) // judged before the change
	again := waitWith(ctx, c, "a", one, after)
	n.rounds(t, 3)
	mustWait(t, again)
	leave()
	mustEnd(t, again, context.Canceled)
	mustEnd(t, address, context.Canceled)
}

// A query that began before a caller came shows an older state than the caller has read.
func TestARoundInFlightDoesNotCountForALaterCaller(t *testing.T) {
	defer leaks.None(t)
	one, two := uuid.New(), uuid.New()
	begun, answer := make(chan struct{}), make(chan struct{})
	var rounds atomic.Int64
	c := newChanges(func(context.Context, []string) (map[string]uuid.UUID, uuid.UUID, error) {
		if rounds.Add(1) > 1 {
			return map[string]uuid.UUID{"a": two}, uuid.Nil, nil
		}
		begun <- struct{}{}
		<-answer
		return map[string]uuid.UUID{"a": one}, uuid.Nil, nil
	})
	c.every = 2 * time.Millisecond
	ctx, leave := context.WithCancel(t.Context())
	early := waitIn(ctx, c, "a", one)
	<-begun
	late := waitIn(ctx, c, "a", two)
	c.mustCount(t, 2)
	answer <- struct{}{}
	mustEnd(t, early, nil) // by the second round
	mustWait(t, late)
	leave()
	mustEnd(t, late, context.Canceled)
}

func TestADatabaseThatIsAwayEndsWaitsAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, one := newNode(), uuid.New()
		n.set("a", one)
		n.fail(&db.Error{Kind: db.ErrUnavailable, Text: "away"})
		c := fast(n)
		began := time.Now()
		w := waitIn(t.Context(), c, "a", one)
		n.rounds(t, 3)
		mustWait(t, w)
		mustEnd(t, w, nil)
		if took := time.Since(began); took < awayAfter {
			t.Errorf("the wait ended after %s, want %s at least", took, awayAfter)
		}
		if rounds := c.rounds.Load(); rounds > 20 {
			t.Errorf("got %d queries of a database that is away for %s, want a growing pause between them", rounds, awayAfter)
		}

		// What does not pass by itself ends waits at once, and the callers see it.
		n.fail(fmt.Errorf("reading: %w", db.ErrRefused))
		w = waitIn(t.Context(), c, "a", one)
		mustEnd(t, w, nil)

		// The pause holds while the database is away, until the last caller leaves.
		ctx, leave := context.WithCancel(t.Context())
		w = waitIn(ctx, c, "a", one)
		c.mustCount(t, 1)
		leave()
		mustEnd(t, w, context.Canceled)
	})
}

func TestNoQueryWithoutACaller(t *testing.T) {
	defer leaks.None(t)
	n, one := newNode(), uuid.New()
	n.set("a", one)
	c := fast(n)
	for range 20 {
		ctx, leave := context.WithCancel(t.Context())
		w := waitIn(ctx, c, "a", one)
		c.mustCount(t, 1)
		leave()
		mustEnd(t, w, context.Canceled)
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	if err := c.wait(ended, "a", one, uuid.Nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's end", err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for running := true; running; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		running = c.running
		c.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatal("the rounds go on without a caller")
		}
	}
	before := c.rounds.Load()
	w := waitIn(t.Context(), c, "b", one) // has no version
	mustEnd(t, w, nil)
	if got := c.rounds.Load(); got != before+1 {
		t.Errorf("got %d queries for one wait, want 1", got-before)
	}
}
