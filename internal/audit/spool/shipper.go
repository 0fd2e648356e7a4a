package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
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
	// ShipWindows is Ship for rows of several reads. A batch that does not begin at Position.Next is not stored, unless it
	// begins behind it and its Lost is set.
	ShipWindows(ctx context.Context, w Windows) (Position, error)
}

// ErrDiverged says that the primary has other records under the numbers of this folder: it was restored to an earlier
// state.
var ErrDiverged = errors.New("the primary has other records of this spool: " +
	"its folder was put back to an earlier state; move it away and start again")

const (
	shipBatch   = 1000
	shipTimeout = 30 * time.Second
	shipPause   = 100 * time.Millisecond // between two batches, at least
	shipPoll    = 15 * time.Second       // without new records: to remove kept segments and notice a promotion
	settleLimit = 5 * time.Second        // of the last batches, when the daemon stops

	// A record costs the primary more than its read cost this node, so a burst of reads is shipped mostly after it: a
	// batch is followed by a pause of pauseFactor times as long as it took. The pause ends when there are fewer than
	// quietReads in a shipPause, and there is none when the backlog is a minute old, or has an eighth of the room.
	pauseFactor = 39
	quietReads  = shipBatch / 10
	lateAfter   = time.Minute
	crowdedPart = 8

	// Reads are held until their window is over, and then shipped together. Up to quietReads in a window are not held, and
	// each is a row of its own: so few cost the primary little, and a person who looks for a read finds it. An urgent
	// event ends the window, once in urgentPause.
	urgentPause = time.Second

	// A batch of rows is one transaction. If it took less, the next one may have more rows; after a failure, which may
	// be a timeout, or four times as long, it has fewer.
	quickBatch = time.Second

	// A batch of so many reads takes as much memory as all else that a small daemon holds, once in some seconds. It is
	// returned at once, which takes a tenth of a microsecond a read: else the heap would stay as large as it was.
	manyReads = 16384
)

// Shipper sends a spool's records to the primary, for as long as it runs.
type Shipper struct {
	Spool   *Spool
	Primary Primary
	Window  time.Duration // many reads of a secret within it are one row; at most LongestWindow; 0 = a row for each
	Log     *slog.Logger

	// Of the goroutine that ships:
	began    time.Time // of the window
	early    int       // records shipped since then
	last     time.Time // when a batch was shipped
	refused  bool      // the last batch of rows failed: the next one is of events
	rows     int       // of the next batch of rows; 0 = firstRows
	diverged uuid.UUID // the boot of the row about it; see witness

	mu    sync.Mutex
	state Shipping
}

// Shipping is the state of a Shipper.
type Shipping struct {
	Shipped uint64    // records acknowledged since it runs
	Gaps    uint64    // as the primary counts them
	GapAt   time.Time // when one was last found here
	Failure
}

// Failure is the error of the newest of many attempts.
type Failure struct {
	Failing   error     // nil: that attempt succeeded
	FailingAt time.Time // since when every attempt has failed; meaningless without an error
}

// take notes the result of an attempt. It reports whether the attempt failed with another error than the one before,
// and whether it is the first to succeed after failures.
func (f *Failure) take(err error) (fails, works bool) {
	before := f.Failing
	f.Failing = err
	if err != nil && before == nil {
		f.FailingAt = time.Now()
	}
	return err != nil && (before == nil || before.Error() != err.Error()), err == nil && before != nil
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
		if wait := s.hold(time.Now()); wait > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(min(wait, shipPause)):
			}
			continue
		}
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
		if now-before < quietReads || s.Spool.pressing() || s.Window > 0 && s.Spool.hasUrgent() {
			return
		}
		before = now
	}
}

// hold is how long the records of this window still wait; 0 = they are shipped now.
func (s *Shipper) hold(now time.Time) time.Duration {
	held := s.Spool.Stats().Records
	switch {
	case s.Window == 0, held == 0, s.unsure(), s.Spool.pressing():
		return 0
	case now.Sub(s.began) >= s.Window, s.early+int(held) <= quietReads:
		return 0
	case s.Spool.hasUrgent():
		return s.last.Add(urgentPause).Sub(now)
	}
	return s.began.Add(s.Window).Sub(now)
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
	asked := s.unsure()
	if asked {
		if err := s.ask(ctx); err != nil {
			return 0, false, err
		}
	}
	if s.Window > 0 && !s.refused && s.Spool.Stats().Records > quietReads {
		return s.shipWindows(ctx)
	}
	s.refused = false
	batch, err := s.Spool.Read(shipBatch)
	if err != nil {
		return 0, false, fmt.Errorf("reading the spool: %w", err)
	}
	switch {
	case len(batch.Records) == 0 && asked:
		return 0, false, nil
	case len(batch.Records) == 0:
		return 0, false, s.ask(ctx) // a primary that was promoted may have less than the one before
	}
	at, err := s.Primary.Ship(ctx, batch)
	if err != nil {
		return 0, false, err
	}
	err = s.settle(ctx, batch.First, batch.First+uint64(len(batch.Records)), batch.Hash(), batch.Lost, at)
	if err != nil {
		return 0, false, err
	}
	return len(batch.Records), batch.Full, nil
}

// shipWindows ships rows of several reads. If the primary refuses them, the next batch has a row for each record, so
// that what one of them has done to the batch is on record as it always was, and the others are not held up.
func (s *Shipper) shipWindows(ctx context.Context) (n int, full bool, err error) {
	s.rows = cmp.Or(s.rows, firstRows)
	rows, err := s.Spool.ReadWindows(s.Window, s.rows)
	if err != nil {
		return 0, false, fmt.Errorf("reading the spool: %w", err)
	}
	if rows.Next == rows.First {
		return 0, false, s.ask(ctx)
	}
	s.refused = true
	if n = int(rows.Next - rows.First); n >= manyReads {
		debug.FreeOSMemory() // of what grouping has left: sending takes as much again
		defer debug.FreeOSMemory()
	}
	began := time.Now()
	at, err := s.Primary.ShipWindows(ctx, rows)
	switch took := time.Since(began); {
	case err != nil, took > quickBatch*4:
		s.rows = max(s.rows/2, leastRows)
	case len(rows.Rows)+len(rows.Events) >= s.rows && took < quickBatch:
		s.rows = min(2*s.rows, mostRows)
	}
	if err == nil {
		err = s.settle(ctx, rows.First, rows.Next, rows.Last, rows.Lost, at)
	}
	if err != nil {
		return 0, false, err
	}
	s.refused = false
	if rows.Full { // the rest of this window
		s.began = time.Time{}
	}
	return n, rows.Full, nil
}

// settle compares the position that the primary returned with the end of the batch, and acknowledges the batch.
func (s *Shipper) settle(ctx context.Context, first, end uint64, last Hash, lost bool, at Position) error {
	switch {
	case at.Next > end: // an attempt that was given up, with more records, committed meanwhile
		return s.ask(ctx)
	case at.Next == end && at.Last != last:
		return ErrDiverged
	case at.Next < end:
		// A promoted primary has fewer records than the one before acknowledged.
		return errors.Join(s.Spool.Acknowledge(at.Next), ErrBehind)
	}
	s.shipped(first, end, lost, at)
	return s.Spool.Acknowledge(end)
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

func (s *Shipper) shipped(first, end uint64, lost bool, at Position) {
	s.last = time.Now()
	if s.early += int(end - first); s.last.Sub(s.began) >= s.Window {
		s.began, s.early = s.last, 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Shipped += end - first
	s.state.Gaps = at.Gaps
	if lost {
		s.state.GapAt = time.Now()
		_, boot, _ := s.Spool.identity()
		s.Log.Error("reads are missing: they are not on the primary and no longer in the spool", "before", first, "boot",
			boot.String())
	}
}

func (s *Shipper) report(err error) {
	s.mu.Lock()
	fails, works := s.state.take(err)
	s.mu.Unlock()
	switch {
	case fails && !errors.Is(err, context.Canceled):
		s.Log.Warn("reads wait in the spool", "error", err)
	case works:
		s.Log.Info("reads are shipped again")
	}
}
