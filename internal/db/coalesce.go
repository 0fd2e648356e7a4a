package db

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"
)

const (
	// flights is how many queries of one kind are under way at once. While one waits for the server the other is made or read;
	// more of them are smaller, and cost the server more for each row.
	flights = 2
	// namesPerFlight bounds what one query asks for. Whoever comes when it is full has the next one.
	namesPerFlight = 256
	// overdueAfter is how long a query keeps others on the ground. A server or a connection that hangs holds up those who wait
	// for it, and nobody else while the pool has connections.
	overdueAfter = 500 * time.Millisecond
	// hasty is who has less time left than a server may well take: he shares a query, which he can leave.
	hasty = 2 * overdueAfter
)

// coalescer answers many requests with few queries: those that come while a query is under way share the next one. A query is
// closed before it is sent, so its snapshot is never older than the arrival of anybody who shares it.
//
// Nobody waits for others to come: a request that finds a flight free is sent at once.
type coalescer[T any] struct {
	// query asks for distinct names. What it leaves out has the zero answer; an error of one name is in its answer.
	query func(ctx context.Context, names []string) (map[string]T, error)
	limit time.Duration // of a query

	mu     sync.Mutex
	queue  []*flight[T] // not sent yet, oldest first; only the last may have room
	flying int          // without those that are overdue
}

// flight is one query and who shares it.
type flight[T any] struct {
	waiting map[string]int // how many, by name; guarded by the coalescer's mu
	done    chan struct{}
	// Of the one that flies, until done is closed; then nobody's to change.
	answers map[string]T
	err     error
}

// get asks for one name. It gives up when ctx ends, and then leaves no work behind that has not begun.
func (c *coalescer[T]) get(ctx context.Context, name string) (T, error) {
	if err := ctx.Err(); err != nil {
		var none T
		return none, classify(err)
	}
	deadline := time.Now().Add(c.limit)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if time.Until(deadline) > hasty && c.alone() {
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
	if c.flying > 0 || len(c.queue) > 0 {
		return false
	}
	c.flying++
	return true
}

// solo asks in the caller's own goroutine: with nobody to share with, handing it over would cost more than the rest of this. The
// client may leave, and its answer comes all the same: a query that is cut off costs its connection.
func (c *coalescer[T]) solo(deadline time.Time, name string) (T, error) {
	overdue := time.AfterFunc(overdueAfter, c.ground)
	answers, err := c.ask(deadline, []string{name})
	if overdue.Stop() {
		c.mu.Lock()
		c.flying--
		c.launch()
		c.mu.Unlock()
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
		f = &flight[T]{waiting: make(map[string]int, 1), done: make(chan struct{})}
		c.queue = append(c.queue, f)
	}
	f.waiting[name]++
	c.launch()
	return f
}

// launch is called with mu held.
func (c *coalescer[T]) launch() {
	if c.flying < flights && len(c.queue) > 0 {
		c.flying++
		go c.fly()
	}
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
		runtime.Gosched() // requests that have been read already get on
		f, names := c.takeOff()
		if f == nil {
			return
		}
		overdue := time.AfterFunc(overdueAfter, c.ground)
		f.land(c.ask(time.Now().Add(c.limit), names))
		if !overdue.Stop() {
			return // it was replaced
		}
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
	c.flying--
	return nil, nil
}

// ground lets another fly in the place of one that is overdue.
func (c *coalescer[T]) ground() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flying--
	c.launch()
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
