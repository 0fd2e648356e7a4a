package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
)

// Position is how far the primary has the records of one (node, boot).
type Position struct {
	Next uint64 // the number it takes next
	Last Hash   // of the record before
	Gaps uint64 // how often records were missing since the boot began
}

// Primary takes records.
type Primary interface {
	// Ship stores a batch in one transaction and returns the position after it. Records that it has already are skipped; a
	// batch that begins behind Position.Next is not stored, unless its Lost is set. A batch without records only asks for
	// the position.
	Ship(ctx context.Context, b Batch) (Position, error)
}

// ErrDiverged says that the primary has other records under the numbers of this folder: it was restored to an earlier
// state.
var ErrDiverged = errors.New("the primary has other records of this spool: " +
	"its folder was put back to an earlier state; move it away and start again")

const (
	shipBatch   = 1000
	shipTimeout = 30 * time.Second
	shipPause   = 100 * time.Millisecond // between two batches, at least
	shipPoll    = 5 * time.Second        // without new records: to remove kept segments and notice a promotion
	settleLimit = 5 * time.Second        // of the last batches, when the daemon stops

	// A record costs the primary more than its read cost this node, so a burst of reads is shipped mostly after it: a
	// batch is followed by a pause of pauseFactor times as long as it took. The pause ends when there are fewer than
	// quietReads in a shipPause, and there is none when the backlog is a minute old, or has an eighth of the room.
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

	diverged uuid.UUID // the boot of the row about it; see witness

	mu    sync.Mutex
	state Shipping
}

// Shipping is the state of a Shipper.
type Shipping struct {
	Shipped   uint64    // records acknowledged since it runs
	Gaps      uint64    // as the primary counts them
	GapAt     time.Time // when one was last found here
	Failing   error     // of the newest attempt
	FailingAt time.Time // since when
}

// State may be called at any time.
func (s *Shipper) State() Shipping {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Run ships until ctx ends, and then the rest, for settleLimit at most, so that a stopped daemon leaves no records if
// the primary answers.
func (s *Shipper) Run(ctx context.Context) {
	pause := newBackOff()
	for ctx.Err() == nil {
		wait, shipped := s.round(ctx, pause)
		if shipped {
			s.pause(ctx, wait)
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

// pause waits for atMost, or until there are few reads or the backlog is pressing: a slow primary makes long pauses.
func (s *Shipper) pause(ctx context.Context, atMost time.Duration) {
	if atMost == 0 {
		return
	}
	over := time.After(atMost)
	ticks := time.NewTicker(shipPause)
	defer ticks.Stop()
	for before := s.Spool.Stats().Appended; ; {
		select {
		case <-ctx.Done():
			return
		case <-over:
			return
		case <-ticks.C:
		}
		now := s.Spool.Stats().Appended
		if now-before < quietReads || s.Spool.pressing() {
			return
		}
		before = now
	}
}

// round ships one batch, if there is any, and returns how long to wait after it. After a failure the position of the
// primary is unknown, so the next round begins by asking for it.
func (s *Shipper) round(ctx context.Context, pause *backoff.ExponentialBackOff) (wait time.Duration, shipped bool) {
	began := time.Now()
	n, full, err := s.ship(ctx)
	s.witness(ctx, err)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return 0, false // the daemon stopped, and the primary may still answer: the rest may still be shipped
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

// ship sends one batch. It does the same whether the last one arrived, was lost or its reply was lost: the primary
// returns its position, and the spool continues there.
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
		// A promoted primary has fewer records than the one before acknowledged.
		return 0, false, errors.Join(s.Spool.Acknowledge(at.Next), ErrBehind)
	}
	s.shipped(batch, at)
	return len(batch.Records), batch.Full, s.Spool.Acknowledge(end)
}

// ErrBehind is not returned twice in a row: the next batch begins at the primary's position.
var ErrBehind = errors.New("the primary has fewer records than were acknowledged; they are sent again")

// unsure reports whether the primary's position is unknown: nothing was shipped yet, or the last attempt failed.
func (s *Shipper) unsure() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Shipped == 0 || s.state.Failing != nil
}

// ask gets the primary's position, and checks that the primary's last record is this folder's.
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
