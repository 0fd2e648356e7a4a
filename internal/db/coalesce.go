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
	turn   uint64       // of who flies; another number when he is replaced
	sent   departure    // what flies, or is about to
	watch  *time.Timer  // one for all: a timer for each query would wake a thread for each
	armed  bool
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

// departure is a query that was sent. Its context is nobody's own: whoever leaves must not cut off the others.
type departure struct {
	turn      uint64
	ctx       context.Context
	cancel    context.CancelFunc
	at, until time.Time
}

// get asks for one name. It gives up when ctx ends or at the limit, and leaves no work behind that has not begun.
func (c *coalescer[T]) get(ctx context.Context, name string) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, classify(err)
	}
	own, bounded := ctx.Deadline()
	if hurried := bounded && time.Until(own) < hasty; !hurried {
		if d, ok := c.alone(own); ok {
			return c.solo(d, name)
		}
	}
	f := c.board(name)
	select {
	case <-f.done:
		return f.answers[name], f.err
	case <-ctx.Done():
		c.leave(f, name)
		return none, classify(ctx.Err())
	}
}

// alone takes off if nobody flies. The zero time is no deadline.
func (c *coalescer[T]) alone(own time.Time) (d departure, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flying || len(c.queue) > 0 {
		return departure{}, false
	}
	until := time.Now().Add(c.limit)
	if !own.IsZero() && own.Before(until) {
		until = own
	}
	c.flying = true
	return c.depart(until), true
}

// solo asks in the caller's own goroutine: with nobody to share with, handing it over would cost more than the rest of this. The
// client may leave, and its answer comes all the same: a query that is cut off costs its connection.
func (c *coalescer[T]) solo(d departure, name string) (T, error) {
	answers, err := c.ask(d, []string{name})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.turn == d.turn {
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
	if !c.flying {
		c.next()
	}
	return f
}

// next, called with mu held, lets another fly in the place of one that has landed, or is overdue.
func (c *coalescer[T]) next() {
	c.turn++
	if c.flying = len(c.queue) > 0; c.flying {
		c.sent = departure{at: time.Now()} // on its way to the runway
		go c.fly(c.turn)
	}
}

func (c *coalescer[T]) leave(f *flight[T], name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.waiting[name]--; f.waiting[name] == 0 {
		delete(f.waiting, name)
	}
}

// fly sends what is queued, one flight after the other, until nothing is, or it is replaced.
func (c *coalescer[T]) fly(turn uint64) {
	for {
		boarding()
		f, d, names := c.takeOff(turn)
		if f == nil {
			return
		}
		f.land(c.ask(d, names))
	}
}

// depart, called with mu held, says what flies now, and has it watched.
func (c *coalescer[T]) depart(until time.Time) departure {
	d := departure{turn: c.turn, at: time.Now(), until: until}
	if until.Sub(d.at) < overdueAfter {
		d.ctx, d.cancel = context.WithDeadline(context.Background(), until)
	} else {
		d.ctx, d.cancel = context.WithCancel(context.Background()) // the watch limits it, once it is overdue
	}
	c.sent = d
	if !c.armed {
		c.armed = true
		if c.watch == nil {
			c.watch = time.AfterFunc(overdueAfter, c.look)
		} else {
			c.watch.Reset(overdueAfter)
		}
	}
	return d
}

// look runs when the query that was sent last may be overdue, and rests when none flies.
func (c *coalescer[T]) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = c.flying
	if !c.flying {
		return
	}
	left := overdueAfter - time.Since(c.sent.at)
	if left <= 0 {
		if d := c.sent; d.cancel != nil {
			time.AfterFunc(time.Until(d.until), d.cancel)
		}
		left = overdueAfter
		c.next()
	}
	c.watch.Reset(left)
}

// boarding gives way to requests that have been read already: on a busy machine it is half-empty queries that cost. A request that
// finds nobody flying never comes here.
func boarding() {
	for range boardingCalls {
		runtime.Gosched()
	}
}

// takeOff closes the oldest flight. Without one, or out of turn, the caller is not flying any more.
func (c *coalescer[T]) takeOff(turn uint64) (*flight[T], departure, []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.turn != turn {
		return nil, departure{}, nil
	}
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
		return f, c.depart(f.until), names
	}
	c.flying = false
	return nil, departure{}, nil
}

func (c *coalescer[T]) ask(d departure, names []string) (answers map[string]T, err error) {
	defer d.cancel()
	defer func() {
		switch p := recover(); {
		case p != nil:
			err = fmt.Errorf("panic with a %T", p) // its text may hold anything
		case err != nil && d.ctx.Err() != nil:
			err = classify(context.DeadlineExceeded) // nothing else ends it
		}
	}()
	return c.query(d.ctx, names)
}

func (f *flight[T]) land(answers map[string]T, err error) {
	f.answers, f.err = answers, err
	close(f.done)
}
