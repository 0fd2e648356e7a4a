package rowcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hyperiondb/vault/internal/db"
)

const (
	// pollTimeout is how long a poll may take, and a query for a row that could be shown while the node is away.
	pollTimeout = time.Second
	// openTimeout is how long it may take to open a feed.
	openTimeout = 10 * time.Second
	// leadTime: a caller with less time left leads no poll. It waits for one that another goroutine makes.
	leadTime = 2 * pollTimeout
	// The pauses before a feed is opened again: after a failure, and where there is none.
	firstReopen, longestReopen     = 50 * time.Millisecond, time.Second
	firstUnusable, longestUnusable = time.Second, 30 * time.Second
	overflowPause                  = 200 * time.Millisecond // between polls that name too much
	holderTimeout                  = 2 * time.Second
)

// follower makes the polls, one at a time. A round is one poll, and before the first of a feed the opening of it. Its
// goroutine is the timer's, or that of a read that waits for it.
type follower struct {
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	timer  *time.Timer
	others sync.WaitGroup // goroutines that are not waited for otherwise

	// mu guards the rest. What is marked as the round's is also written with mu held, and read by the round without.
	mu       sync.Mutex
	closed   bool
	round    *round // in flight
	next     *round // reads wait for it; it begins when the one in flight is over
	earliest int64  // no round of the timer begins before

	feed     Feed      // the round's; nil: none is open
	polled   *lastPoll // the round's; nil: the feed has not been polled
	failures int       // the round's: since the last success
	trouble  string    // the round's: why there is no feed, as it was logged; "": there is one
}

// lastPoll is what the next poll is compared with.
type lastPoll struct {
	xmin     uint64
	scope    string
	position db.LSN
	overflow bool
}

// round is one poll and the reads that wait for it.
type round struct {
	at   int64         // before the poll; set when it begins
	done chan struct{} // closed when it is over
	ok   bool          // rows are confirmed as of at; constant once done is closed
}

// noteRead keeps the polls going. A read finds both flags set, and writes nothing.
func (c *Cache) noteRead() {
	if !c.asked.Load() {
		c.asked.Store(true)
	}
	if !c.ticking.Load() {
		c.startTicking()
	}
}

// startTicking does not poll at once while there is a feed: a read that needs a poll makes one itself, and one that
// does not is answered before.
func (c *Cache) startTicking() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.ticking.Swap(true) {
		return
	}
	from := c.now()
	if c.feed != nil {
		from += c.confirm / 2
	}
	c.timer.Reset(time.Duration(max(from, c.earliest) - c.now()))
}

// tick begins a round, or ends the ticking if there was no read since the last one began.
func (c *Cache) tick() {
	c.mu.Lock()
	if c.closed || c.round != nil { // the round in flight sets the timer again
		c.mu.Unlock()
		return
	}
	if !c.asked.Load() {
		c.ticking.Store(false)
		if !c.asked.Load() { // else a read has found ticking set, and relies on it
			c.mu.Unlock()
			return
		}
		c.ticking.Store(true)
	}
	r := &round{}
	c.begin(r)
	c.mu.Unlock()
	c.run(r)
}

// awaitPoll waits for a poll that began at from or later, and reports whether it has confirmed the rows. The caller
// leads it if none is in flight: without other reads, a handover to another goroutine would cost more than the rest.
func (c *Cache) awaitPoll(ctx context.Context, from int64) bool {
	c.mu.Lock()
	if c.closed || c.feed == nil || c.following.Load() == nil {
		c.mu.Unlock()
		return false
	}
	r := c.round
	if r == nil {
		r = &round{}
		c.begin(r)
		if deadline, bounded := ctx.Deadline(); bounded && time.Until(deadline) < leadTime {
			c.others.Go(func() { c.run(r) })
			c.mu.Unlock()
			return r.wait(ctx)
		}
		c.mu.Unlock()
		c.run(r)
		return r.ok
	}
	if r.at < from {
		if c.next == nil {
			c.next = &round{done: make(chan struct{})}
		}
		r = c.next
	}
	c.mu.Unlock()
	return r.wait(ctx)
}

func (r *round) wait(ctx context.Context) bool {
	select {
	case <-r.done:
		return r.ok
	case <-ctx.Done():
		return false
	}
}

// begin is called with mu held, and no round in flight. The caller runs the round.
func (c *Cache) begin(r *round) {
	if r.done == nil {
		r.done = make(chan struct{})
	}
	c.asked.Store(false)
	r.at = c.now()
	c.round = r
}

// run makes the poll of a round, and then begins the next one or sets the timer for it.
func (c *Cache) run(r *round) {
	pause, err := c.poll(r)
	if err != nil {
		pause = c.lose(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(r.done)
	next := c.next
	c.round, c.next = nil, nil
	c.earliest = r.at + int64(pause)
	switch {
	case c.closed || next != nil && c.feed == nil:
		if next != nil {
			close(next.done) // not ok: its reads ask the node themselves
		}
	case next != nil:
		c.begin(next)
		c.others.Go(func() { c.run(next) })
		return
	}
	if !c.closed {
		c.ticking.Store(true)
		c.timer.Reset(max(time.Duration(c.earliest-c.now()), 0))
	}
}

// poll opens a feed if there is none, polls it and confirms the rows. It returns when the next poll is to begin,
// counted from the beginning of this one.
func (c *Cache) poll(r *round) (pause time.Duration, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic with a %T", v) // its text may hold anything
			c.log.Error("polling for changes", "error", err, "stack", string(debug.Stack()))
		}
	}()
	if c.feed == nil {
		if err := c.open(r); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithTimeout(c.ctx, pollTimeout)
	defer cancel()
	var since uint64
	if c.polled != nil {
		since = c.polled.xmin
	}
	c.stats.polls.Add(1)
	p, err := c.feed.Poll(ctx, since)
	if err == nil && !p.Instance.Known() {
		err = fmt.Errorf("%w: the server does not say which one it is", db.ErrFeedUnusable)
	}
	if err != nil {
		return 0, err
	}
	return c.process(r, p), nil
}

func (c *Cache) open(r *round) error {
	ctx, cancel := context.WithTimeout(c.ctx, openTimeout)
	defer cancel()
	feed, err := c.source.OpenFeed(ctx)
	if err != nil {
		return fmt.Errorf("opening the change feed: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feed, c.polled = feed, nil
	r.at = c.now() // no read waits for this round: it had no feed when it began
	return nil
}

// process drops what a poll names, and then confirms the rest.
func (c *Cache) process(r *round, p db.Poll) (pause time.Duration) {
	before := c.polled
	now := &lastPoll{xmin: p.XMin, scope: p.Scope, position: p.Position, overflow: p.Overflow}
	if p.Overflow {
		c.following.Store(nil) // before the rows are dropped: no load adds one afterwards
	}
	var reached db.LSN
	switch {
	case before == nil:
		c.dropAll(newSession)
	case p.Overflow:
		c.dropAll(overflow)
	case before.xmin < p.Floor:
		c.dropAll(belowFloor)
	case before.scope != p.Scope:
		c.dropAll(newScope)
	case p.All:
		c.dropAll(namedAll)
	default:
		for _, name := range p.Names {
			c.drop(name, named)
		}
	}
	if before != nil {
		reached = before.position // it was read after the snapshot of that poll, and before that of this one
	}
	c.mu.Lock()
	c.polled, c.failures = now, 0
	c.mu.Unlock()
	c.away.end()
	if p.Overflow {
		c.confirmed.Store(nil)
		if before == nil || !before.overflow {
			c.others.Go(c.reportHolder)
		}
		return overflowPause
	}
	if before != nil && before.overflow {
		c.log.Info("reads are answered from memory again: the changes fit into one poll")
	}
	if following := c.following.Load(); following == nil || *following != p.Instance {
		c.following.Store(&p.Instance)
	}
	c.confirmed.Store(&confirmation{at: r.at, epoch: p.Epoch, reached: reached, clock: p.Now.UnixNano() - r.at})
	r.ok = true
	c.settled()
	return time.Duration(c.confirm / 2)
}

// reportHolder names what keeps the polls from getting shorter.
func (c *Cache) reportHolder() {
	ctx, cancel := context.WithTimeout(c.ctx, holderTimeout)
	defer cancel()
	holder, err := c.source.XMinHolder(ctx)
	switch {
	case err != nil:
		holder = "not known: " + err.Error()
	case holder == "":
		holder = "not known to this node; vaultctl doctor asks the primary"
	}
	c.log.Warn("too many changes for one poll, because a transaction has been open for long: until it ends, reads "+
		"ask the database", "transaction", holder)
}

// lose closes the feed after a failure, and returns the pause until the next is opened. Rows stay only to be shown
// while the node is away: not those of a schema that this binary does not know.
func (c *Cache) lose(err error) (pause time.Duration) {
	unusable := errors.Is(err, db.ErrFeedUnusable)
	c.following.Store(nil) // before the rows are dropped: no load adds one afterwards
	c.mu.Lock()
	feed := c.feed
	c.feed, c.polled = nil, nil
	pause, longest := firstReopen, longestReopen
	if unusable {
		pause, longest = firstUnusable, longestUnusable
	}
	pause = min(pause<<min(c.failures, 10), longest)
	c.failures++
	c.mu.Unlock()
	if feed != nil {
		feed.Close()
	}
	if confirmed := c.confirmed.Load(); confirmed != nil && (unusable || errors.Is(err, db.ErrSchema) ||
		c.now()-confirmed.at > c.survive) {
		c.confirmed.Store(nil)
		c.dropAll(lost)
	}
	if c.ctx.Err() == nil {
		c.complain(err, unusable)
	}
	return pause
}

// complain logs a trouble once, not at every try. A node that is away is reported by the reads that it does not answer.
func (c *Cache) complain(err error, unusable bool) {
	text := err.Error()
	if !unusable && errors.Is(err, db.ErrUnavailable) {
		c.log.Debug("polling for changes", "error", err)
		return
	}
	c.mu.Lock()
	news := c.trouble != text
	c.trouble = text
	c.mu.Unlock()
	if news {
		level := slog.LevelWarn
		if unusable { // as behind a pooler: an operator may want it so
			level = slog.LevelInfo
		}
		c.log.Log(c.ctx, level, "reads ask the database and are not answered from memory", "error", err)
	}
}

func (c *Cache) settled() {
	c.mu.Lock()
	mended := c.trouble != ""
	c.trouble = ""
	c.mu.Unlock()
	if mended {
		c.log.Info("reads are answered from memory again")
	}
}

// Close ends the session of the feed and forgets all rows. Reads that come later ask the source.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	r := c.round
	c.mu.Unlock()
	c.cancel()
	c.timer.Stop()
	if r != nil {
		<-r.done
	}
	c.others.Wait()
	c.following.Store(nil)
	c.confirmed.Store(nil)
	c.dropAll(closed)
	if c.feed != nil {
		c.feed.Close()
	}
}
