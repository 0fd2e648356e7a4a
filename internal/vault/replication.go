package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/hyperiondb/vault/internal/db"
)

var (
	ErrBehind = errors.New("the node is behind")                     // it has not replayed the position asked for
	ErrStale  = errors.New("the node is too far behind the primary") // or it is not known how far
)

// LSN is a position in the log, as [Receipt] has it.
type LSN = db.LSN

// ParseLSN reads a position: 0/16B3748.
func ParseLSN(text string) (LSN, error) { return db.ParseLSN(text) }

// AwaitReplay returns once the local node has replayed (or, a primary, written) the log up to a position, and
// [ErrBehind] when it has not after atMost. Waiting callers hold no connection, and one at a time queries the position
// for all of them. Where rows are kept, a position that a poll has seen needs no query.
func (v *Vault) AwaitReplay(ctx context.Context, position LSN, atMost time.Duration) error {
	if v.rows != nil && v.rows.Reached(position) {
		return nil
	}
	waiting, stop := context.WithTimeout(ctx, atMost)
	defer stop()
	pause := newPause()
	for {
		reached, err := v.progress.get(ctx, v.reader.Position)
		switch {
		case err != nil && (v.rows == nil || !isErr(err, ErrUnavailable) || waiting.Err() != nil):
			return err // a read waits for a node that restarts, and so does what comes before it
		case err != nil:
		case reached >= position:
			return nil
		case ctx.Err() == nil && waiting.Err() != nil: // after a query, so that every wait makes at least one
			return fmt.Errorf("%w: it has come to %s, not yet to %s", ErrBehind, reached, position)
		}
		sleep(waiting, pause.NextBackOff())
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func newPause() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 2*time.Millisecond, 100*time.Millisecond
	return b
}

func sleep(ctx context.Context, pause time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}

// queryEvery is the least time between two queries of one node's position.
const queryEvery = 2 * time.Millisecond

// progress is the position of a node for many waiting callers: a leader queries it, and the others share its result.
type progress struct {
	leader chan struct{} // full while a query is in flight

	// Guarded by leader.
	seen   LSN
	seenAt time.Time // before the query: its result is for every caller that came by then
}

func newProgress() *progress { return &progress{leader: make(chan struct{}, 1)} }

func (p *progress) get(ctx context.Context, position func(context.Context) (LSN, error)) (LSN, error) {
	arrived := time.Now()
	select {
	case p.leader <- struct{}{}:
		defer func() { <-p.leader }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if p.seenAt.After(arrived.Add(-queryEvery)) {
		return p.seen, nil
	}
	now := time.Now()
	seen, err := position(ctx)
	if err == nil {
		p.seen, p.seenAt = seen, now
	}
	return seen, err
}

// AwaitStandbys returns once every standby connected to the primary has replayed the log up to a position ("" = up to
// now), at the latest after atMost, and reports for each whether it has. One that disconnects meanwhile keeps its last
// state.
func (v *Vault) AwaitStandbys(ctx context.Context, lsn string, atMost time.Duration) ([]db.Standby, error) {
	waiting, stop := context.WithTimeout(ctx, atMost)
	defer stop()
	pause := newPause()
	replayed := map[string]bool{}
	for {
		now, err := v.writer.Standbys(ctx, lsn)
		if err != nil {
			return nil, fmt.Errorf("asking for the standbys: %w", err)
		}
		all := noteReplayed(replayed, now)
		if all || waiting.Err() != nil {
			return standbysOf(replayed), nil
		}
		sleep(waiting, pause.NextBackOff())
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// noteReplayed updates replayed. Standbys that share a name have replayed when all of them have.
func noteReplayed(replayed map[string]bool, now []db.Standby) (all bool) {
	connected := map[string]bool{}
	for _, s := range now {
		before, twice := connected[s.Name]
		connected[s.Name] = s.Replayed && (before || !twice)
	}
	for name, has := range connected {
		replayed[name] = has
	}
	all = true
	for _, has := range replayed {
		all = all && has
	}
	return all
}

func standbysOf(replayed map[string]bool) []db.Standby {
	standbys := []db.Standby{}
	for name, has := range replayed {
		standbys = append(standbys, db.Standby{Name: name, Replayed: has})
	}
	slices.SortFunc(standbys, func(a, b db.Standby) int { return strings.Compare(a.Name, b.Name) })
	return standbys
}

// Freshness limits how far the local node may be behind, without a query for every read: it takes samples of the lag
// and adds their age. A read that it admits is never further behind than the limit, as exactly as the clocks of node
// and primary agree; one that it refuses is behind by the limit less, at most, the time between two samples.
type Freshness struct {
	lag     func(context.Context) (*time.Duration, error)
	confirm time.Duration // an answer from memory may be older by this
	limit   atomic.Int64  // 0 = none
	last    atomic.Pointer[sample]
	changed chan struct{} // holds one
}

type sample struct {
	lag *time.Duration // nil: no heartbeat
	at  time.Time      // before the query
}

const (
	sampleEvery   = time.Second     // at most; and four times within the limit
	sampleTimeout = 2 * time.Second // of one; a node that does not answer becomes stale
)

// NewFreshness begins with a limit; 0 = none, and then it takes no samples.
func (v *Vault) NewFreshness(limit time.Duration) *Freshness {
	f := &Freshness{lag: v.reader.Lag, confirm: v.readConfirm, changed: make(chan struct{}, 1)}
	f.limit.Store(int64(limit))
	return f
}

// SetLimit changes the limit while it runs.
func (f *Freshness) SetLimit(limit time.Duration) {
	if f.limit.Swap(int64(limit)) != int64(limit) {
		select {
		case f.changed <- struct{}{}:
		default: // a change is signalled already
		}
	}
}

// Run takes samples until ctx ends.
func (f *Freshness) Run(ctx context.Context) {
	for ctx.Err() == nil {
		var next <-chan time.Time
		if limit := time.Duration(f.limit.Load()); limit > 0 {
			f.sample(ctx)
			next = time.After(min(limit/4, sampleEvery))
		}
		select {
		case <-ctx.Done():
		case <-f.changed:
		case <-next:
		}
	}
}

// sample keeps the last sample if the node does not answer: Check adds its age.
func (f *Freshness) sample(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	at := time.Now()
	if lag, err := f.lag(ctx); err == nil {
		f.last.Store(&sample{lag: lag, at: at})
	}
}

// Check is [ErrStale] when the node is, or may be, further behind than the limit.
func (f *Freshness) Check() error {
	limit := time.Duration(f.limit.Load())
	if limit == 0 {
		return nil
	}
	last := f.last.Load()
	switch {
	case last == nil:
		return fmt.Errorf("%w: this node's replication lag is not known yet", ErrStale)
	case last.lag == nil:
		return fmt.Errorf("%w: no heartbeat of the primary has been replayed", ErrStale)
	case *last.lag+time.Since(last.at)+f.confirm > limit:
		return fmt.Errorf("%w: the last heartbeat seen is %s old", ErrStale,
			(*last.lag + time.Since(last.at)).Round(time.Millisecond))
	}
	return nil
}
