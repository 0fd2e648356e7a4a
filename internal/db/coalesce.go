package db

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"
)

const (
	// namesPerBatch bounds what one query asks for. A request that finds the batch full starts the next one.
	namesPerBatch = 256
	// yieldsBeforeSend is how often the leader yields before it sends a batch: at 64 connections four yields answered
	// a sixth more reads than one, and fifteen no more than four.
	yieldsBeforeSend = 4
	// overdueAfter is how long a query may keep the next batch waiting. A server or connection that hangs then delays
	// only the requests in its own batch, as long as the pool has connections.
	overdueAfter = 500 * time.Millisecond
	// shortDeadline: a caller with less time than this joins a shared query, which it can abandon. A query of its own
	// would run in its own goroutine.
	shortDeadline = 2 * overdueAfter
)

// coalescer answers many requests with few queries: requests that arrive while a query is in flight share the next one.
// A batch is closed before it is sent, so its snapshot is never older than the arrival of a request in it.
//
// A request that finds no query in flight is sent at once. One query is in flight at a time, unless it is overdue: two
// would be half as large, and a query costs more than its rows.
type coalescer[T any] struct {
	// query asks for distinct names. What it leaves out has the zero answer; an error of one name is in its answer.
	query func(ctx context.Context, names []string) (map[string]T, error)
	limit time.Duration // of a request, its wait for a query included

	// mu guards the rest.
	mu       sync.Mutex
	queue    []*batch[T] // not sent yet, oldest first; only the last may have room
	busy     bool        // a leader sends, or is about to; overdue queries do not count
	leader   uint64      // the leader's number; it changes when an overdue leader is replaced
	inFlight dispatch    // the leader's query, or the time at which it began to prepare one
	watch    *time.Timer // finds overdue queries; one timer for all, since one for each would wake a thread for each
	watching bool
}

// batch is one query and the requests that share it.
type batch[T any] struct {
	waiting map[string]int // requests by name; guarded by the coalescer's mu
	until   time.Time      // the earliest limit of its requests
	done    chan struct{}
	// Written by the leader until done is closed, constant afterwards.
	answers map[string]T
	err     error
}

// dispatch is a query that was sent. It has its own context, so one caller's cancellation does not cancel it for the
// rest.
type dispatch struct {
	leader    uint64
	ctx       context.Context
	cancel    context.CancelFunc
	at, until time.Time
}

// get asks for one name. It gives up when ctx ends or at the limit. A request that was not sent yet then leaves no work
// behind.
func (c *coalescer[T]) get(ctx context.Context, name string) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, classify(err)
	}
	deadline, bounded := ctx.Deadline()
	if short := bounded && time.Until(deadline) < shortDeadline; !short {
		if d, ok := c.leadAlone(deadline); ok {
			return c.queryAlone(d, name)
		}
	}
	b := c.join(name)
	select {
	case <-b.done:
		return b.answers[name], b.err
	case <-ctx.Done():
		c.leave(b, name)
		return none, classify(ctx.Err())
	}
}

// leadAlone makes the caller the leader if no query is in flight or queued. The zero deadline is none.
func (c *coalescer[T]) leadAlone(deadline time.Time) (d dispatch, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy || len(c.queue) > 0 {
		return dispatch{}, false
	}
	until := time.Now().Add(c.limit)
	if !deadline.IsZero() && deadline.Before(until) {
		until = deadline
	}
	c.busy = true
	return c.send(until), true
}

// askAlone queries in the caller's goroutine: without other requests, a handover would cost more than the rest of this.
// The caller's cancellation does not end the query, because pgx closes the connection of a query that it cancels.
func (c *coalescer[T]) queryAlone(d dispatch, name string) (T, error) {
	answers, err := c.runQuery(d, []string{name})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader == d.leader {
		c.replaceLeader()
	}
	return answers[name], err
}

// join adds a request to the last batch of the queue, or to a new one if that is full.
func (c *coalescer[T]) join(name string) *batch[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b *batch[T]
	if n := len(c.queue); n > 0 && len(c.queue[n-1].waiting) < namesPerBatch {
		b = c.queue[n-1]
	} else {
		b = &batch[T]{waiting: make(map[string]int, 1), until: time.Now().Add(c.limit), done: make(chan struct{})}
		c.queue = append(c.queue, b)
	}
	b.waiting[name]++
	if !c.busy {
		c.replaceLeader()
	}
	return b
}

// leave takes a request out of its batch.
func (c *coalescer[T]) leave(b *batch[T], name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.waiting[name]--; b.waiting[name] == 0 {
		delete(b.waiting, name)
	}
}

// replaceLeader starts a leader for the queue, in place of one that has finished or whose query is overdue. It is
// called with mu held.
func (c *coalescer[T]) replaceLeader() {
	c.leader++
	if c.busy = len(c.queue) > 0; c.busy {
		c.inFlight = dispatch{at: time.Now()} // nothing is sent yet, but a leader that hangs is overdue too
		go c.lead(c.leader)
	}
}

// lead sends the queued batches one after the other, until none is left or another leader takes over.
func (c *coalescer[T]) lead(leader uint64) {
	for {
		yield()
		b, d, names := c.sendNext(leader)
		if b == nil {
			return
		}
		b.finish(c.runQuery(d, names))
	}
}

// yield lets goroutines run whose requests have been read from their sockets, so that they join the batch: on a busy
// machine half-empty queries are what costs. A request that finds no query in flight does not come here.
func yield() {
	for range yieldsBeforeSend {
		runtime.Gosched()
	}
}

// sendNext closes the oldest batch. It returns nil if the queue is empty or the caller is no longer the leader.
func (c *coalescer[T]) sendNext(leader uint64) (*batch[T], dispatch, []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader != leader {
		return nil, dispatch{}, nil
	}
	for len(c.queue) > 0 {
		b := c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		if len(b.waiting) == 0 {
			continue // every request has left
		}
		names := make([]string, 0, len(b.waiting))
		for name := range b.waiting {
			names = append(names, name)
		}
		return b, c.send(b.until), names
	}
	c.busy = false
	return nil, dispatch{}, nil
}

// send records the leader's query and has the timer watch it. It is called with mu held.
func (c *coalescer[T]) send(until time.Time) dispatch {
	d := dispatch{leader: c.leader, at: time.Now(), until: until}
	if until.Sub(d.at) < overdueAfter {
		d.ctx, d.cancel = context.WithDeadline(context.Background(), until)
	} else {
		d.ctx, d.cancel = context.WithCancel(context.Background()) // checkOverdue sets its limit
	}
	c.inFlight = d
	if !c.watching {
		c.watching = true
		if c.watch == nil {
			c.watch = time.AfterFunc(overdueAfter, c.checkOverdue)
		} else {
			c.watch.Reset(overdueAfter)
		}
	}
	return d
}

// checkOverdue runs when the query in flight may be overdue. It gives an overdue query its limit and starts the next
// leader; it stops watching when no query is in flight.
func (c *coalescer[T]) checkOverdue() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watching = c.busy
	if !c.busy {
		return
	}
	left := overdueAfter - time.Since(c.inFlight.at)
	if left <= 0 {
		if d := c.inFlight; d.cancel != nil {
			time.AfterFunc(time.Until(d.until), d.cancel)
		}
		left = overdueAfter
		c.replaceLeader()
	}
	c.watch.Reset(left)
}

func (c *coalescer[T]) runQuery(d dispatch, names []string) (answers map[string]T, err error) {
	defer d.cancel()
	defer func() {
		switch p := recover(); {
		case p != nil:
			err = fmt.Errorf("panic with a %T", p) // its text may hold anything
		case err != nil && d.ctx.Err() != nil:
			err = classify(context.DeadlineExceeded) // only its deadline ends the context before the query returns
		}
	}()
	return c.query(d.ctx, names)
}

func (b *batch[T]) finish(answers map[string]T, err error) {
	b.answers, b.err = answers, err
	close(b.done)
}
