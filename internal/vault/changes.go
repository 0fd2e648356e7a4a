package vault

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/envelope"
)

const (
	// roundEvery is the time between two rounds, less or more by a fifth: a change is noticed that much later at most,
	// and a query's time.
	roundEvery = 250 * time.Millisecond
	// A round that takes longer than a twentieth of roundEvery delays the next one, so that rounds use a twentieth of
	// one connection at most.
	roundShare = 20
	// roundSlowest is the longest time between two rounds, also while the database does not answer.
	roundSlowest = 5 * time.Second
	// roundTimeout is for one round's query.
	roundTimeout = 5 * time.Second
	// awayAfter is how long the database may not answer before the callers are told to look for themselves.
	awayAfter = 5 * time.Second
)

// changes notices new versions for any number of callers that wait. While there are callers, one goroutine queries the
// ids of all names waited for in one statement a round; callers hold no connection. It only says that it is worth
// looking: what a caller then reads, and whether it may, Get decides.
//
// It compares states, not events, so a change between a caller's read and its wait is noticed in the next round.
type changes struct {
	query func(ctx context.Context, names []string) (ids map[string]uuid.UUID, epoch uuid.UUID, err error)
	every time.Duration
	empty chan struct{} // holds one: the last caller has left

	rounds  atomic.Uint64
	waiting atomic.Int64

	mu      sync.Mutex
	callers map[string]map[*caller]struct{} // by the name that they wait for
	started uint64                          // rounds begun
	running bool                            // the goroutine is, or is about to
}

// caller is one call of wait.
type caller struct {
	held   uuid.UUID
	epoch  uuid.UUID     // access epoch that it was judged by; Nil: by none
	joined uint64        // rounds begun before it came: those do not count for it
	wake   chan struct{} // closed once
}

func newChanges(query func(context.Context, []string) (map[string]uuid.UUID, uuid.UUID, error)) *changes {
	return &changes{query: query, every: roundEvery, empty: make(chan struct{}, 1),
		callers: map[string]map[*caller]struct{}{}}
}

// AwaitChange returns nil when the current version of a secret on the local node is no longer the one that the caller
// holds, or may be: the caller reads it again to know. So it does when apps or their rights are no longer those of
// epoch; uuid.Nil = the caller's rights do not depend on them. It returns the context's error when that ends first.
// Thousands of callers cost one query a round, four rounds a second; without a caller there is none. A database that
// does not answer for five seconds ends the wait of every caller, as a reason to look.
func (v *Vault) AwaitChange(ctx context.Context, name string, held, epoch uuid.UUID) error {
	if err := envelope.CheckName(name); err != nil {
		return err
	}
	return v.changes.wait(ctx, name, held, epoch)
}

// Waiting is how many callers AwaitChange has now, and how many queries it has made for them so far.
func (v *Vault) Waiting() (callers int64, queries uint64) {
	return v.changes.waiting.Load(), v.changes.rounds.Load()
}

func (c *changes) wait(ctx context.Context, name string, held, epoch uuid.UUID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := c.join(name, held, epoch)
	select {
	case <-w.wake:
		return nil
	case <-ctx.Done():
		c.leave(name, w)
		return ctx.Err()
	}
}

func (c *changes) join(name string, held, epoch uuid.UUID) *caller {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &caller{held: held, epoch: epoch, joined: c.started, wake: make(chan struct{})}
	if c.callers[name] == nil {
		c.callers[name] = map[*caller]struct{}{}
	}
	c.callers[name][w] = struct{}{}
	c.waiting.Add(1)
	if !c.running {
		c.running = true
		go c.run()
	}
	return w
}

// leave takes a caller out that gave up; one that was woken is out already.
func (c *changes) leave(name string, w *caller) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(name, w)
	if len(c.callers) == 0 {
		select {
		case c.empty <- struct{}{}:
		default: // it is told already
		}
	}
}

// remove is called with mu held.
func (c *changes) remove(name string, w *caller) {
	if _, in := c.callers[name][w]; !in {
		return
	}
	c.waiting.Add(-1)
	if delete(c.callers[name], w); len(c.callers[name]) == 0 {
		delete(c.callers, name)
	}
}

// run makes rounds until no caller is left.
func (c *changes) run() {
	pause := c.every
	var awaySince time.Time // zero: the last query was answered
	timer := time.NewTimer(jittered(pause))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.empty:
			if c.end() {
				return
			}
			continue // callers that come and go make no additional rounds
		}
		names, round := c.begin()
		if names == nil {
			return
		}
		began := time.Now()
		ids, epoch, err := c.ask(names)
		if err == nil {
			awaySince, pause = time.Time{}, max(c.every, min(time.Since(began)*(roundShare-1), roundSlowest))
			c.finish(round, names, ids, epoch)
		} else {
			if awaySince.IsZero() {
				awaySince = began
			}
			pause = min(2*pause, roundSlowest)
			if !errors.Is(err, ErrUnavailable) || time.Since(awaySince) >= awayAfter {
				c.wakeAll()
			}
		}
		timer.Reset(jittered(pause))
	}
}

// end reports whether no caller is left, and then the goroutine ends.
func (c *changes) end() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = len(c.callers) > 0
	return !c.running
}

// begin returns the names to query, or nil if no caller is left, and then the goroutine ends.
func (c *changes) begin() (names []string, round uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running = len(c.callers) > 0; !c.running {
		return nil, 0
	}
	c.started++
	names = make([]string, 0, len(c.callers))
	for name := range c.callers {
		names = append(names, name)
	}
	return names, c.started
}

// ask has its own context: pgx closes the connection of a query that is cancelled, and callers come and go.
func (c *changes) ask(names []string) (map[string]uuid.UUID, uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	c.rounds.Add(1)
	return c.query(ctx, names)
}

// finish wakes the callers whose version is not the current one, or whose rights may have changed. A caller that came
// during the query may have read something newer than it shows.
func (c *changes) finish(round uint64, names []string, ids map[string]uuid.UUID, epoch uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		for w := range c.callers[name] {
			if w.joined < round && (w.held != ids[name] || w.epoch != uuid.Nil && w.epoch != epoch) {
				c.remove(name, w)
				close(w.wake)
			}
		}
	}
}

func (c *changes) wakeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, callers := range c.callers {
		for w := range callers {
			c.remove(name, w)
			close(w.wake)
		}
	}
}

// jittered is d, less or more by a fifth, so that the rounds of many daemons do not fall together.
func jittered(d time.Duration) time.Duration {
	return d*4/5 + rand.N(d*2/5+1)
}
