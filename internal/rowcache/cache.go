package rowcache

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/hyperiondb/vault/internal/db"
)

// Source is the local node; [Node] makes one of a reader. Its methods end within a few seconds after their context.
type Source interface {
	// ReadCurrent and ReadLive are the queries for a read that is not kept.
	ReadCurrent(ctx context.Context, name string) (db.Reading, error)
	ReadLive(ctx context.Context, name string) (db.Reading, error)
	// LoadLive is ReadLive with the server that has answered. Its query begins after the call.
	LoadLive(ctx context.Context, name string) (db.Reading, db.Instance, error)
	OpenFeed(ctx context.Context) (Feed, error)
	XMinHolder(ctx context.Context) (string, error)
}

// Feed is a session that names changes. Poll and Close are called by one goroutine at a time.
type Feed interface {
	Poll(ctx context.Context, since uint64) (db.Poll, error)
	Close()
}

// Node is the source of a reader.
func Node(r *db.Reader) Source { return node{r} }

type node struct{ *db.Reader }

func (n node) OpenFeed(ctx context.Context) (Feed, error) {
	f, err := n.Reader.OpenFeed(ctx)
	if err != nil {
		return nil, err // not f: a nil pointer in an interface is not nil
	}
	return f, nil
}

var _ Feed = (*db.Feed)(nil)

// Options of a Cache.
type Options struct {
	Source  Source
	Confirm time.Duration // how old a confirmation may be when a request arrives; more than 0
	Bytes   int64         // of sealed rows, their names included; more than 0
	Survive time.Duration // how long reads of kept rows go on while the node is away; 0 = they wait for it
	Limit   time.Duration // of a read, with its waits for a node that is away; 0 = its context's
	Log     *slog.Logger  // nil: discarded
}

// Cache is safe for concurrent use. It makes no connection and no goroutine before the first read.
type Cache struct {
	source  Source
	confirm int64 // the three in nanoseconds
	survive int64
	limit   int64
	most    int64
	log     *slog.Logger
	now     func() int64 // nanoseconds of steadyClock

	seed   maphash.Seed
	shards [shardCount]shard
	bytes  atomic.Int64
	hand   atomic.Uint32 // the shard that makes room next

	// confirmed is nil until a poll of the feed in use was processed. It changes after the names of its poll are dropped.
	confirmed atomic.Pointer[confirmation]
	// following is the server whose answers are kept; nil: none is kept.
	following atomic.Pointer[db.Instance]
	away      away
	// asked: there was a read since the last poll began. ticking: the timer will begin a round, or end the ticking.
	asked, ticking atomic.Bool

	follower
	stats counters
}

// confirmation says that every row that is kept was current in the snapshot of a poll.
type confirmation struct {
	at      int64     // before the poll's bytes were written
	epoch   uuid.UUID // of access, in that snapshot
	reached db.LSN    // a position that the node had reached before that snapshot was taken
	clock   int64     // what the node's clock, in nanoseconds of Unix time, is ahead of ours, at most
}

// New connects to nothing.
func New(o Options) *Cache {
	c := &Cache{source: o.Source, confirm: int64(o.Confirm), survive: int64(o.Survive), limit: int64(o.Limit),
		most: o.Bytes, log: o.Log, now: steadyNow, seed: maphash.MakeSeed()}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.timer = time.AfterFunc(time.Hour, c.tick)
	c.timer.Stop()
	return c
}

func steadyNow() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(steadyClock, &t); err != nil {
		panic(err) // the clock is in every kernel that Go runs on
	}
	return t.Nano()
}

// Ask is what one read needs. The zero Ask is the current version.
type Ask struct {
	Live   bool   // the versions in grace too; an answer from memory has them in any case
	Fresh  bool   // as of the request's arrival, or later
	MinLSN db.LSN // the node has reached this position; the answer is of a snapshot that was taken later
}

// Answer is what the node has of a name.
type Answer struct {
	db.Reading
	// Unconfirmed is how long ago the answer was known to be the node's, if that is longer ago than the bound allows:
	// the node is away, and Options.Survive lets reads go on.
	Unconfirmed time.Duration
}

// Read returns what the node had of a name when the request arrived, or at most Options.Confirm before. Its errors are
// those of the source.
func (c *Cache) Read(ctx context.Context, name string, a Ask) (Answer, error) {
	t := c.now()
	c.noteRead()
	s := &c.shards[maphash.String(c.seed, name)%shardCount]
	answer, found, from := c.lookup(s, name, a, t)
	if found == unconfirmed && c.awaitPoll(ctx, from) {
		answer, found, _ = c.lookup(s, name, a, t)
	}
	if found == kept {
		return answer, nil
	}
	return c.ask(ctx, s, name, a, t)
}

// finding is what memory has for a read.
type finding int

const (
	absent      finding = iota // no row
	unconfirmed                // a row that a poll has to confirm
	kept                       // the answer
)

// lookup judges the entry of a name for a request that arrived at t. Of an unconfirmed one it returns when a poll has
// to begin, or later.
func (c *Cache) lookup(s *shard, name string, a Ask, t int64) (Answer, finding, int64) {
	// Before the entry: what a poll names is dropped before the poll confirms the rest.
	confirmed := c.confirmed.Load()
	if confirmed == nil || confirmed.epoch == uuid.Nil { // without an epoch, apps are answered nothing
		return Answer{}, absent, 0
	}
	e := s.get(name)
	if e == nil {
		return Answer{}, absent, 0
	}
	need := t - c.confirm
	if a.Fresh || a.MinLSN > confirmed.reached {
		need = t
	}
	epoch, age := e.reading.Epoch(), int64(0)
	// The poll's epoch may be older than the rows if the poll began before their load was done, and the load's may be
	// older than the poll.
	same := confirmed.at >= e.done || confirmed.epoch == epoch
	switch {
	case confirmed.at >= need && same:
		epoch = confirmed.epoch
	case e.began >= need && (same || a.MinLSN == 0 || need == t): // its own epoch may be from before the position
	case c.survives(confirmed, t) && same && need < t:
		epoch, age = confirmed.epoch, c.now()-confirmed.at // the read may have waited for the node
		c.stats.survived.Add(1)
	case t-confirmed.at > int64(longPause):
		return Answer{}, absent, 0
	default:
		return Answer{}, unconfirmed, max(need, e.done)
	}
	if !e.read.Load() {
		e.read.Store(true)
	}
	s.hits.Add(1)
	reading := e.reading
	if there := t + confirmed.clock; there >= e.ends {
		reading = reading.At(time.Unix(0, there))
	}
	return Answer{reading.WithEpoch(epoch), time.Duration(age)}, kept, 0
}

// survives reports whether rows may be shown though the node does not confirm them.
func (c *Cache) survives(confirmed *confirmation, t int64) bool {
	return c.survive > 0 && t-confirmed.at <= c.survive && c.away.lately(t)
}

// longPause is after how long without a poll the feed may not reach back any more: then a read loads its row at once.
const longPause = 5 * time.Minute

// away remembers that the node does not answer.
type away struct{ since, last atomic.Int64 } // the first and the newest failure; 0: it answers

// awayAgain is after how long without a failure the next one counts as the first. It is longer than a query takes to
// fail; without reads there is neither a failure nor a success.
const awayAgain = 30 * time.Second

func (a *away) note(now int64) {
	if a.since.Load() == 0 || now-a.last.Load() > int64(awayAgain) {
		a.since.Store(now)
	}
	a.last.Store(now)
}

func (a *away) end() {
	if a.since.Load() != 0 {
		a.since.Store(0)
	}
}

// tryAgain is how long reads of kept rows go on without another query that fails.
const tryAgain = 2 * time.Second

// lately reports whether the last query has failed, and not long ago.
func (a *away) lately(now int64) bool {
	return a.since.Load() != 0 && now-a.last.Load() <= int64(tryAgain)
}

// tooLong reports whether it is of no use to wait for the node.
func (a *away) tooLong(now int64) bool {
	since := a.since.Load()
	return since != 0 && now-since > int64(patience)
}

const (
	// patience is how long the node may have been away for a read to wait for it. A restart takes about two seconds; of a
	// node that is away for longer the client hears at once, so that it asks another.
	patience = 5 * time.Second
	// The pauses between two tries of a read that waits.
	firstPause, longestPause = 10 * time.Millisecond, 100 * time.Millisecond
)

// ask queries the node. While that has been away for less than patience, it waits and asks again.
func (c *Cache) ask(ctx context.Context, s *shard, name string, a Ask, t int64) (Answer, error) {
	r, err := c.query(ctx, s, name, a)
	if !c.isAway(ctx, err) {
		return Answer{Reading: r}, err
	}
	if c.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(t+c.limit-c.now()))
		defer cancel()
	}
	c.stats.waited.Add(1)
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		if answer, found, _ := c.lookup(s, name, a, t); found == kept {
			return answer, nil
		}
		if c.away.tooLong(c.now()) {
			return Answer{}, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return Answer{}, err // of the node, which says more
		}
		r, again := c.query(ctx, s, name, a)
		if away := c.isAway(ctx, again); again == nil || !away && ctx.Err() == nil {
			return Answer{Reading: r}, again
		}
	}
}

// isAway judges an answer of the node, or that there was none. A caller without time left does not know.
func (c *Cache) isAway(ctx context.Context, err error) bool {
	switch {
	case !errors.Is(err, db.ErrUnavailable):
		if err == nil {
			c.away.end()
		}
		return false
	case ctx.Err() != nil:
		return false
	}
	c.away.note(c.now())
	return true
}

// query reads a name from the node and keeps the answer, if answers are kept.
func (c *Cache) query(ctx context.Context, s *shard, name string, a Ask) (db.Reading, error) {
	if c.survive > 0 && s.get(name) != nil {
		// The row may be shown if the node is away. One that is frozen does not say so.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, pollTimeout)
		defer cancel()
	}
	following := c.following.Load()
	if following == nil {
		read := c.source.ReadCurrent
		if a.Live {
			read = c.source.ReadLive
		}
		r, err := read(ctx, name)
		if err == nil && s.get(name) != nil { // to be shown while the node is away; it may be older
			c.drop(name, outdated)
		}
		return r, err
	}
	c.stats.loads.Add(1)
	l := s.register(name, c.now())
	r, from, err := c.source.LoadLive(ctx, name)
	c.settle(s, name, l, r, from, err)
	return r, err
}

// settle keeps the result of a load, unless it was doomed, another server has answered, or there is no row to keep. No
// later read may be answered with something older: other loads of the name are doomed, and an entry that shows
// something else than a result that is not kept is dropped.
func (c *Cache) settle(s *shard, name string, l *load, r db.Reading, from db.Instance, err error) {
	var e *entry
	if compact, bytes, ok := r.Compact(); ok && err == nil && from.Known() {
		e = &entry{name: name, reading: compact, began: l.began, ends: firstEnd(compact),
			bytes: int64(bytes+len(name)) + entryOverhead}
	}
	s.mu.Lock()
	fits := s.finish(name, l)
	if err != nil {
		s.mu.Unlock()
		return
	}
	s.loads[name].doom()
	// following is read with the shard's lock held: it is set to nil before the shards are emptied.
	following := c.following.Load()
	if e == nil || !fits || following == nil || *following != from || e.bytes > c.most {
		var freed int64
		if old := s.entries[name]; old != nil && !old.reading.Shows(r) {
			freed = s.remove(old)
			c.stats.drops[outdated].Add(1)
		}
		s.mu.Unlock()
		c.bytes.Add(-freed)
		return
	}
	e.done = c.now()
	grown := s.insert(e)
	s.mu.Unlock()
	c.makeRoom(c.bytes.Add(grown))
}

// makeRoom evicts entries, from one shard after the other, until the rest is within the bound.
func (c *Cache) makeRoom(bytes int64) {
	for bytes > c.most {
		freed := c.shards[c.hand.Add(1)%shardCount].evict()
		if freed > 0 {
			c.stats.drops[evicted].Add(1)
		}
		bytes = c.bytes.Add(-freed)
	}
}

// Drop forgets a name that this process may have changed. Reads that begin afterwards see what was committed before.
func (c *Cache) Drop(name string) { c.drop(name, changedHere) }

func (c *Cache) drop(name string, why reason) {
	if freed := c.shards[maphash.String(c.seed, name)%shardCount].drop(name); freed > 0 {
		c.bytes.Add(-freed)
		c.stats.drops[why].Add(1)
	}
}

func (c *Cache) dropAll(why reason) {
	var freed int64
	for i := range c.shards {
		freed += c.shards[i].dropAll()
	}
	c.bytes.Add(-freed)
	c.stats.dropsOfAll[why].Add(1)
}

// Reached reports whether a read without Fresh sees all changes up to a position of the node's log.
func (c *Cache) Reached(position db.LSN) bool {
	confirmed := c.confirmed.Load()
	return confirmed != nil && position <= confirmed.reached && c.now()-confirmed.at <= c.confirm
}
