package db

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"
)

const (
	// namesPerFlight bounds what one query asks for. Whoever comes when it is full has the next one.
	namesPerFlight = 256
	// boardingCalls is how often a flight gives way before it is sent: 64 connections had a sixth more answers than with one call,
	// and no more with fifteen.
	boardingCalls = 4
	// overdueAfter is how long a query keeps others on the ground. A server or a connection that hangs holds up those who wait
	// for it, and nobody else while the pool has connections.
	overdueAfter = 500 * time.Millisecond
	// hasty is who has less time left than a server may well take: he shares a query, which he can leave.
	hasty = 2 * overdueAfter
)

// coalescer answers many requests with few queries: those that come while one is under way share the next. A query is closed
// before it is sent, so its snapshot is never older than the arrival of anybody who shares it.
//
// Nobody waits for others to come: a request that finds none under way is sent at once. There is one at a time, unless it is
// overdue: two would be half as large, and a query costs more than its rows.
type coalescer[T any] struct {
	// query asks for distinct names. What it leaves out has the zero answer; an error of one name is in its answer.
	query func(ctx context.Context, names []string) (map[string]T, error)
	limit time.Duration // of a request, its wait for a query included

	mu     sync.Mutex
	queue  []*flight[T] // not sent yet, oldest first; only the last may have room
	flying bool         // not true of those that are overdue
}

// flight is one query and who shares it.
type flight[T any] struct {
	waiting map[string]int // how many, by name; guarded by the coalescer's mu
	until   time.Time      // no later than the limit of anybody who shares it
	done    chan struct{}
	// Of the one that flies, until done is closed; then nobody's to change.
	answers map[string]T
	err     error
}

// get asks for one name. It gives up when ctx ends or at the limit, and leaves no work behind that has not begun.
func (c *coalescer[T]) get(ctx context.Context, name string) (T, error) {
	if err := ctx.Err(); err != nil {
		var none T
		return none, classify(err)
	}
	own, bounded := ctx.Deadline()
	if hurried := bounded && time.Until(own) < hasty; !hurried && c.alone() {
		deadline := time.Now().Add(c.limit)
		if bounded && own.Before(deadline) {
			deadline = own
		}
		return c.solo(deadline, name)
	}
	f := c.board(name)
	select {
	case <-f.done:
		return f.answers[name], f.err
	case <-ctx.Done():
		c.leave(f, name)
		var none T
		return none, classify(ctx.Err())
	}
}

// alone reports whether nobody flies, and if so takes a place.
func (c *coalescer[T]) alone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flying || len(c.queue) > 0 {
		return false
	}
	c.flying = true
	return true
}

// solo asks in the caller's own goroutine: with nobody to share with, handing it over would cost more than the rest of this. The
// client may leave, and its answer comes all the same: a query that is cut off costs its connection.
func (c *coalescer[T]) solo(deadline time.Time, name string) (T, error) {
	overdue := time.AfterFunc(overdueAfter, c.next)
	answers, err := c.ask(deadline, []string{name})
	if overdue.Stop() {
		c.next()
	}
	return answers[name], err
}

func (c *coalescer[T]) board(name string) *flight[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	var f *flight[T]
	if n := len(c.queue); n > 0 && len(c.queue[n-1].waiting) < namesPerFlight {
		f = c.queue[n-1]
	} else {
		f = &flight[T]{waiting: make(map[string]int, 1), until: time.Now().Add(c.limit), done: make(chan struct{})}
		c.queue = append(c.queue, f)
	}
	f.waiting[name]++
	c.launch()
	return f
}

// launch is called with mu held.
func (c *coalescer[T]) launch() {
	if !c.flying && len(c.queue) > 0 {
		c.flying = true
		go c.fly()
	}
}

// next lets another fly in the place of one that has landed, or is overdue.
func (c *coalescer[T]) next() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flying = false
	c.launch()
}

func (c *coalescer[T]) leave(f *flight[T], name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.waiting[name]--; f.waiting[name] == 0 {
		delete(f.waiting, name)
	}
}

// fly sends what is queued, one flight after the other, until nothing is.
func (c *coalescer[T]) fly() {
	for {
		boarding()
		f, names := c.takeOff()
		if f == nil {
			return
		}
		overdue := time.AfterFunc(overdueAfter, c.next)
		f.land(c.ask(f.until, names))
		if !overdue.Stop() {
			return // it was replaced
		}
	}
}

// boarding gives way to requests that have been read already: on a busy machine it is half-empty queries that cost. A request that
// finds nobody flying never comes here.
func boarding() {
	for range boardingCalls {
		runtime.Gosched()
	}
}

// takeOff closes the oldest flight. Without one, the caller is not flying any more.
func (c *coalescer[T]) takeOff() (*flight[T], []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 {
		f := c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		if len(f.waiting) == 0 {
			continue // everybody left
		}
		names := make([]string, 0, len(f.waiting))
		for name := range f.waiting {
			names = append(names, name)
		}
		return f, names
	}
	c.flying = false
	return nil, nil
}

func (c *coalescer[T]) ask(limit time.Time, names []string) (answers map[string]T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic with a %T", p) // its text may hold anything
		}
	}()
	// Nobody's own context: whoever leaves must not cut off the others.
	ctx, cancel := context.WithDeadline(context.Background(), limit)
	defer cancel()
	return c.query(ctx, names)
}

func (f *flight[T]) land(answers map[string]T, err error) {
	f.answers, f.err = answers, err
	close(f.done)
}
