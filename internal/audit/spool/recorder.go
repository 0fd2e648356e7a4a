package spool

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
)

const (
	refusalWindow = time.Minute
	refusalRows   = 100 // in one window, each for another client, app or name
)

// Recorder puts a daemon's reads on record. A nil Recorder records nothing: the audit is off.
type Recorder struct {
	Spool *Spool
	Allow bool // reads that cannot be recorded are answered all the same
	Log   *slog.Logger

	mu         sync.Mutex
	refused    refusals
	unrecorded unrecorded
	total      uint64      // of unrecorded, since the start
	tick       *time.Timer // of Run; nil: it does not run
	ticking    bool        // the timer is set: there is something to write
}

// refusals are those of one window.
type refusals struct {
	since  time.Time
	listed map[refusal]bool
	count  int // of those without a row
}

type refusal struct{ actor, client, action, secret string }

// unrecorded are the reads that were answered without a record, and are not reported in the log yet.
type unrecorded struct {
	count        int
	since, until time.Time
	reason       string
}

// Record returns when the event is on record. After an error, always audit.ErrUnrecorded, the request must not be
// answered. Refusals beyond the first of a client, app and name, and beyond refusalRows in all, are counted and get
// one row a minute.
func (r *Recorder) Record(ctx context.Context, e audit.Event) error {
	if r == nil {
		return nil
	}
	e.At = time.Now()
	if e.Outcome != audit.OK && !r.listed(e) {
		return nil
	}
	err := r.Spool.Append(ctx, e)
	switch {
	case err == nil:
		return r.reportUnrecorded(ctx)
	case r.Allow && !errors.Is(err, ErrClosed):
		r.countUnrecorded(e.At, err)
		return nil
	}
	return err
}

// listed reports whether a refusal gets a row of its own.
func (r *Recorder) listed(e audit.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused.listed == nil {
		r.refused.since, r.refused.listed = e.At, map[refusal]bool{}
		r.startTick()
	}
	key := refusal{e.Actor, e.Client, e.Action, e.Secret}
	if r.refused.listed[key] || len(r.refused.listed) == refusalRows {
		r.refused.count++
		return false
	}
	r.refused.listed[key] = true
	return true
}

// countUnrecorded counts a read that is answered without a record. The daemon's log has the first at once, the spool
// all as soon as it can.
func (r *Recorder) countUnrecorded(at time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	if r.unrecorded.count == 0 {
		r.unrecorded.since, r.unrecorded.reason = at, err.Error()
		r.Log.Error("reads are answered without a record", "error", err)
	}
	r.unrecorded.count++
	r.unrecorded.until = at
	r.startTick()
}

// reportUnrecorded puts on record how many reads were answered without a record.
func (r *Recorder) reportUnrecorded(ctx context.Context) error {
	r.mu.Lock()
	reads := r.unrecorded
	r.unrecorded = unrecorded{}
	r.mu.Unlock()
	if reads.count == 0 {
		return nil
	}
	err := r.Spool.Append(ctx, audit.Event{At: reads.until, Actor: "vaultd", Action: audit.Unrecorded,
		Outcome: audit.Failed,
		Detail:  map[string]any{"count": reads.count, "since": reads.since.UTC(), "reason": reads.reason}})
	if err != nil { // the next report has these and those counted meanwhile
		r.mu.Lock()
		defer r.mu.Unlock()
		reads.count += r.unrecorded.count
		reads.until = latest(reads.until, r.unrecorded.until)
		r.unrecorded = reads
		r.startTick()
	}
	return nil // the caller's own read is on record
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// tickPause is between two rounds while there is something to write; without that there is none.
const tickPause = time.Second

// startTick is called with mu held, when there is something to write.
func (r *Recorder) startTick() {
	if r.tick != nil && !r.ticking {
		r.ticking = true
		r.tick.Reset(tickPause)
	}
}

// Run writes the rows of counted refusals and unrecorded reads until ctx ends, and then once more.
func (r *Recorder) Run(ctx context.Context) {
	tick := time.NewTimer(tickPause)
	defer tick.Stop()
	r.mu.Lock()
	r.tick, r.ticking = tick, true
	r.mu.Unlock()
	for {
		select {
		case now := <-tick.C:
			r.round(ctx, now)
			r.mu.Lock()
			r.ticking = false
			if r.refused.listed != nil || r.unrecorded.count > 0 {
				r.startTick()
			}
			r.mu.Unlock()
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			r.summarise(last)
			_ = r.reportUnrecorded(last)
			return
		}
	}
}

func (r *Recorder) round(ctx context.Context, now time.Time) {
	r.mu.Lock()
	over := r.refused.listed != nil && now.Sub(r.refused.since) >= refusalWindow
	r.mu.Unlock()
	if over {
		r.summarise(ctx)
	}
	_ = r.reportUnrecorded(ctx)
}

// summarise ends a window with one row for all refusals without one.
func (r *Recorder) summarise(ctx context.Context) {
	r.mu.Lock()
	window := r.refused
	r.refused = refusals{}
	r.mu.Unlock()
	if window.count == 0 {
		return
	}
	err := r.Spool.Append(ctx, audit.Event{Actor: "vaultd", Action: audit.Refused, Outcome: audit.Denied,
		Detail: map[string]any{"count": window.count, "since": window.since.UTC(), "listed": len(window.listed)}})
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refused.count += window.count // the next window's row has them
	}
}

// Unrecorded is how many reads were answered without a record since the start.
func (r *Recorder) Unrecorded() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}
