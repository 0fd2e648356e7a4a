package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Position is how far the primary has the records of one (node, boot).
type Position struct {
	Next uint64 // the number it takes next
	Last Hash   // of the record before
	Gaps uint64 // how often records were missing, since the boot began
}

// Primary takes records.
type Primary interface {
	// Ship puts a batch on record in one transaction and answers where it stands then. What it has already it takes once;
	// what begins behind Position.Next it does not take, unless the batch says that what is between is lost. A batch
	// without records only asks.
	Ship(ctx context.Context, b Batch) (Position, error)
}

// ErrDiverged: the primary has other records under the numbers of this folder's. The folder was put back to an earlier
// state.
var ErrDiverged = errors.New("the primary has other records of this spool: its folder was put back to an earlier state; move it away and start again")

const (
	shipBatch   = 1000
	shipTimeout = 30 * time.Second
	shipPause   = 100 * time.Millisecond // between two batches, at least
	shipPoll    = 5 * time.Second        // without anything fresh: what is kept goes, and a promotion shows
	settleLimit = 5 * time.Second        // of the last batches, when the daemon stops

	// A record costs the primary more than its read cost this node, so a burst of reads is shipped rather after it than
	// during it: a batch is followed by a pause of so many times as long as it took. The pause ends when there are fewer
	// than quietReads in a shipPause, and there is none when the backlog is a minute old, or has an eighth of the room
	// there is.
	pauseFactor = 39
	quietReads  = shipBatch / 10
	lateAfter   = time.Minute
	crowdedPart = 8
)

// Shipper sends a spool's records to the primary, for as long as it runs.
type Shipper struct {
	Spool   *Spool
	Primary Primary
	Log     *slog.Logger

	mu    sync.Mutex
	state Shipping
}

// Shipping is what there is to say of it.
type Shipping struct {
	Shipped   uint64    // records acknowledged since it runs
	Gaps      uint64    // as the primary counts them
	GapAt     time.Time // when one was last found here
	Failing   error     // of the newest attempt
	FailingAt time.Time // since when
}

// State is safe to ask at any time.
func (s *Shipper) State() Shipping {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Run ships until ctx ends, then what is left, if that is soon done: a daemon that is stopped leaves nothing behind
// where it can help it.
func (s *Shipper) Run(ctx context.Context) {
	pause := newBackOff()
	for ctx.Err() == nil {
		wait, shipped := s.round(ctx, pause)
		if shipped {
			s.rest(ctx, wait)
			continue
		}
		fresh := s.Spool.Fresh()
		if wait != shipPoll {
			fresh = nil // failing
		}
		select {
		case <-ctx.Done():
		case <-fresh:
		case <-time.After(wait):
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	for s.State().Failing == nil && s.Spool.Stats().Records > 0 && ctx.Err() == nil {
		s.round(ctx, pause)
	}
}

func newBackOff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 100*time.Millisecond, 10*time.Second
	return b
}

// rest waits, at most until nobody reads much any more or the backlog presses: a primary that is slow makes for long
// pauses.
func (s *Shipper) rest(ctx context.Context, atMost time.Duration) {
	if atMost == 0 {
		return
	}
	over := time.After(atMost)
	look := time.NewTicker(shipPause)
	defer look.Stop()
	for before := s.Spool.Stats().Appended; ; {
		select {
		case <-ctx.Done():
			return
		case <-over:
			return
		case <-look.C:
		}
		now := s.Spool.Stats().Appended
		if now-before < quietReads || s.Spool.pressing() {
			return
		}
		before = now
	}
}

// round ships one batch, if there is any, and says how long to wait then. After a failure nothing is known of where the
// primary stands, so the next round begins by asking.
func (s *Shipper) round(ctx context.Context, pause *backoff.ExponentialBackOff) (wait time.Duration, shipped bool) {
	began := time.Now()
	n, full, err := s.ship(ctx)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return 0, false // stopped in the middle, which says nothing of the primary: what is left may still be shipped
	}
	s.report(err)
	if err != nil {
		return pause.NextBackOff(), false
	}
	pause.Reset()
	switch {
	case n == 0:
		return shipPoll, false
	case full && s.Spool.pressing():
		return 0, true
	}
	return max(shipPause, pauseFactor*time.Since(began)), true
}

// ship sends one batch. It is the same whether the last one arrived, was lost or was half answered: the primary says
// where it stands, and what it has is taken from here or set against it.
func (s *Shipper) ship(ctx context.Context) (n int, full bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, shipTimeout)
	defer cancel()
	if s.unsure() {
		if err := s.ask(ctx); err != nil {
			return 0, false, err
		}
	}
	batch, err := s.Spool.Read(shipBatch)
	if err != nil {
		return 0, false, fmt.Errorf("reading the spool: %w", err)
	}
	if len(batch.Records) == 0 {
		return 0, false, s.ask(ctx) // a primary that was promoted may have less than the one before
	}
	at, err := s.Primary.Ship(ctx, batch)
	if err != nil {
		return 0, false, err
	}
	end := batch.First + uint64(len(batch.Records))
	switch {
	case at.Next > end, at.Next == end && at.Last != batch.Hash():
		return 0, false, ErrDiverged
	case at.Next < end:
		// Another primary, which has less than the one before acknowledged.
		return 0, false, errors.Join(s.Spool.Acknowledge(at.Next), ErrBehind)
	}
	s.shipped(batch, at)
	return len(batch.Records), batch.Full, s.Spool.Acknowledge(end)
}

// ErrBehind is not said twice in a row: the next batch begins where the primary stands.
var ErrBehind = errors.New("the primary has fewer records than were acknowledged; they are sent again")

// unsure: nothing was shipped yet, or the last attempt failed.
func (s *Shipper) unsure() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Shipped == 0 || s.state.Failing != nil
}

// ask finds out where the primary stands, and that it has what this folder has.
func (s *Shipper) ask(ctx context.Context) error {
	node, boot, _ := s.Spool.identity()
	at, err := s.Primary.Ship(ctx, Batch{Node: node, Boot: boot})
	if err != nil {
		return err
	}
	_, _, durable := s.Spool.identity()
	if at.Next > durable {
		return ErrDiverged
	}
	if at.Next > 1 {
		last, err := s.Spool.readFrom(at.Next-1, 1)
		if err != nil {
			return fmt.Errorf("reading the spool: %w", err)
		}
		if last.First == at.Next-1 && len(last.Records) == 1 && last.Hash() != at.Last {
			return ErrDiverged
		}
	}
	s.mu.Lock()
	s.state.Gaps = at.Gaps
	s.mu.Unlock()
	return s.Spool.Acknowledge(at.Next)
}

func (s *Shipper) shipped(b Batch, at Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Shipped += uint64(len(b.Records))
	s.state.Gaps = at.Gaps
	if b.Lost {
		s.state.GapAt = time.Now()
		s.Log.Error("reads are missing: they are not on the primary and no longer in the spool", "before", b.First, "boot",
			b.Boot.String())
	}
}

func (s *Shipper) report(err error) {
	s.mu.Lock()
	before := s.state.Failing
	s.state.Failing = err
	if err != nil && before == nil {
		s.state.FailingAt = time.Now()
	}
	s.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()) && !errors.Is(err, context.Canceled):
		s.Log.Warn("reads wait in the spool", "error", err)
	case err == nil && before != nil:
		s.Log.Info("reads are shipped again")
	}
}
