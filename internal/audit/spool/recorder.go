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
	refusalRows   = 100 // in one window, each of another client or name
)

// Recorder is what the daemon asks to put a read on record. A nil Recorder records nothing: the audit is off.
type Recorder struct {
	Spool *Spool
	Allow bool // reads that cannot be put on record are answered all the same
	Log   *slog.Logger

	mu         sync.Mutex
	refused    refusals
	unrecorded unrecorded
	total      uint64 // of unrecorded, since the start
}

// refusals are what one window has seen.
type refusals struct {
	since  time.Time
	listed map[refusal]bool
	count  int // of those that have no row
}

type refusal struct{ client, action, secret string }

// unrecorded are the reads that went on without a record, and are not on record as such yet.
type unrecorded struct {
	count        int
	since, until time.Time
	reason       string
}

// Record returns when the event is on record. An error, always audit.ErrUnrecorded, means that what it stands for must
// not happen. Refusals beyond the first of a client and name, and beyond a number in all, are counted and get one row a
// minute.
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
		return r.confess(ctx)
	case r.Allow && !errors.Is(err, ErrClosed):
		r.went(e.At, err)
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
	}
	key := refusal{e.Client, e.Action, e.Secret}
	if r.refused.listed[key] || len(r.refused.listed) == refusalRows {
		r.refused.count++
		return false
	}
	r.refused.listed[key] = true
	return true
}

// went notes a read that was answered without a record. The log has it at once, the spool as soon as it can.
func (r *Recorder) went(at time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	if r.unrecorded.count == 0 {
		r.unrecorded.since, r.unrecorded.reason = at, err.Error()
		r.Log.Error("reads are answered without a record", "error", err)
	}
	r.unrecorded.count++
	r.unrecorded.until = at
}

// confess puts on record that reads went without one.
func (r *Recorder) confess(ctx context.Context) error {
	r.mu.Lock()
	went := r.unrecorded
	r.unrecorded = unrecorded{}
	r.mu.Unlock()
	if went.count == 0 {
		return nil
	}
	err := r.Spool.Append(ctx, audit.Event{At: went.until, Actor: "vaultd", Action: audit.Unrecorded,
		Outcome: audit.Failed, Detail: map[string]any{"count": went.count, "since": went.since.UTC(), "reason": went.reason}})
	if err != nil { // with those that went meanwhile
		r.mu.Lock()
		defer r.mu.Unlock()
		went.count += r.unrecorded.count
		went.until = latest(went.until, r.unrecorded.until)
		r.unrecorded = went
	}
	return nil // it is not this read's fault
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Run writes what was counted, until ctx ends, and then once more.
func (r *Recorder) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			r.round(ctx, now)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			r.summarise(last)
			_ = r.confess(last)
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
	_ = r.confess(ctx)
}

// summarise ends a window with one row for all that had none.
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
