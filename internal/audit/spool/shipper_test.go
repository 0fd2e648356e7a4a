package spool

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// taker is a primary that accepts every batch.
type taker struct{ at Position }

func (p *taker) Ship(_ context.Context, b Batch) (Position, error) {
	if n := len(b.Records); n > 0 {
		p.at.Next, p.at.Last = b.First+uint64(n), b.Hash()
	} else if p.at.Next == 0 {
		p.at.Next = 1
	}
	return p.at, nil
}

func (p *taker) ShipWindows(_ context.Context, w Windows) (Position, error) {
	p.at.Next, p.at.Last = w.Next, w.Last
	return p.at, nil
}

// With a backlog the shipper pauses for the node's readers, unless the backlog is pressing.
func TestShippingLeavesRoomForReads(t *testing.T) {
	for name, test := range map[string]struct {
		room    int64
		age     time.Duration
		pausing bool
	}{
		"a burst":             {room: 1 << 30, pausing: true},
		"a burst that waits":  {room: 1 << 30, age: lateAfter + time.Second},
		"a burst that crowds": {room: 8 * 250 * shipBatch},
	} {
		t.Run(name, func(t *testing.T) {
			var late time.Duration // before the spool's goroutine is there, and after it has nothing to do
			w := newWorld(t)
			o := w.small(nil)
			o.SegmentBytes, o.MaxBytes, o.Sync = 64<<20, test.room, Interval
			began := time.Now()
			o.Now = func() time.Time { return began.Add(late) }
			s := mustOpen(t, o)
			defer mustClose(t, s)
			for i := range 3 * shipBatch {
				w.mustAppend(s, fmt.Sprint(i))
			}
			s.flush()
			if err := s.exclusively(func() { late = test.age }); err != nil {
				t.Fatal(err)
			}
			shipper := &Shipper{Spool: s, Primary: &taker{}, Log: slog.New(slog.DiscardHandler)}
			wait, shipped := shipper.round(t.Context(), newBackOff())
			if shipper.State().Shipped != shipBatch {
				t.Fatalf("a round shipped %d records, want %d", shipper.State().Shipped, shipBatch)
			}
			if !shipped || (wait > 0) != test.pausing {
				t.Errorf("with %+v it waits %s, want a pause: %t", s.Stats(), wait, test.pausing)
			}
			for range 10 {
				shipper.round(t.Context(), newBackOff())
			}
			if left := s.Stats().Records; left != 0 {
				t.Errorf("after ten more rounds %d records are left", left)
			}
		})
	}
}

// The pause is for readers: it ends without reads, and when the backlog is pressing, since the long pauses of a slow
// primary would fill the spool.
func TestAPauseEnds(t *testing.T) {
	for name, test := range map[string]struct {
		room int64
		each int // reads in a tenth of a shipPause
		want time.Duration
	}{
		"no reads":            {room: 1 << 30, want: shipPause},
		"few read":            {room: 1 << 30, each: quietReads/10 - 1, want: shipPause},
		"many read":           {room: 1 << 30, each: quietReads / 10, want: 3 * shipPause},
		"the backlog presses": {room: 128 << 10, each: quietReads / 10, want: shipPause},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			synctest.Test(t, func(t *testing.T) {
				o := w.small(nil)
				o.Sync, o.MaxBytes, o.SegmentBytes = Interval, test.room, 64<<20
				s := mustOpen(t, o)
				defer mustClose(t, s)
				w.mustAppend(s, "before")
				shipper := &Shipper{Spool: s, Primary: &taker{}, Log: slog.New(slog.DiscardHandler)}
				reading, stop := context.WithCancel(t.Context())
				var reader sync.WaitGroup
				reader.Go(func() {
					time.Sleep(shipPause / 20)
					for reading.Err() == nil {
						for range test.each {
							w.mustAppend(s, "read")
						}
						time.Sleep(shipPause / 10)
					}
				})
				began := time.Now()
				shipper.pause(t.Context(), 3*shipPause)
				if took := time.Since(began); took != test.want {
					t.Errorf("it ended after %s with %+v, want %s", took, s.Stats(), test.want)
				}
				stop()
				reader.Wait()
			})
		})
	}
}

// slow is a primary with slow answers.
type slow struct {
	taker
	each time.Duration
}

func (p *slow) Ship(ctx context.Context, b Batch) (Position, error) {
	time.Sleep(p.each)
	return p.taker.Ship(ctx, b)
}

// The pause is pauseFactor times the time of the batch, also for one that is not full: a lone reader's batches never
// are.
func TestAPauseIsForWhatTheBatchTook(t *testing.T) {
	for _, records := range []int{10, shipBatch} {
		w := newWorld(t)
		synctest.Test(t, func(t *testing.T) {
			o := w.small(nil)
			o.Sync, o.SegmentBytes = Interval, 64<<20
			s := mustOpen(t, o)
			defer mustClose(t, s)
			for i := range records {
				w.mustAppend(s, fmt.Sprint(i))
			}
			s.flush()
			shipper := &Shipper{Spool: s, Primary: &slow{each: 10 * time.Millisecond}, Log: slog.New(slog.DiscardHandler)}
			shipper.state.Shipped = 1 // it need not ask first
			if wait, shipped := shipper.round(t.Context(), newBackOff()); !shipped || wait != pauseFactor*10*time.Millisecond {
				t.Errorf("after %d records it waits %s (shipped: %t), want %s", records, wait, shipped,
					pauseFactor*10*time.Millisecond)
			}
		})
	}
}

// counting counts the statements of its shipper.
type counting struct {
	taker
	statements int
}

func (p *counting) Ship(ctx context.Context, b Batch) (Position, error) {
	p.statements++
	return p.taker.Ship(ctx, b)
}

func TestARoundWithoutRecordsAsksOnce(t *testing.T) {
	w := newWorld(t)
	s := mustOpen(t, w.small(nil))
	defer mustClose(t, s)
	p := &counting{}
	shipper := &Shipper{Spool: s, Primary: p, Log: slog.New(slog.DiscardHandler)}
	for round := 1; round <= 2; round++ { // nothing was ever shipped
		if wait, shipped := shipper.round(t.Context(), newBackOff()); shipped || wait != shipPoll || p.statements != round {
			t.Errorf("round %d: it waits %s (shipped: %t) after %d statements, want a poll's pause and one a round", round,
				wait, shipped, p.statements)
		}
	}
	w.mustAppend(s, "read")
	shipper.round(t.Context(), newBackOff())
	p.statements = 0
	if shipper.round(t.Context(), newBackOff()); p.statements != 1 {
		t.Errorf("after a read was shipped: %d statements, want 1", p.statements)
	}
}

// metered counts what is read.
type metered struct {
	FS
	read int
}

type meteredFile struct {
	Opened
	of *metered
}

func (m *metered) Open(path string) (Opened, error) {
	file, err := m.FS.Open(path)
	return meteredFile{file, m}, err
}

func (f meteredFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.Opened.ReadAt(b, at)
	f.of.read += n
	return n, err
}

// Once a batch is shipped the shipper compares the primary's last record with its own: it reads that record only, and
// not the segment from its beginning.
func TestAskingReadsOneRecord(t *testing.T) {
	w := newWorld(t)
	fs := &metered{FS: &faulty{}}
	o := w.small(fs)
	o.SegmentBytes, o.Sync = 64<<20, Interval
	s := mustOpen(t, o)
	defer mustClose(t, s)
	shipper := &Shipper{Spool: s, Primary: &taker{}, Log: slog.New(slog.DiscardHandler)}
	for batch := range 3 {
		for i := range shipBatch / 2 {
			w.mustAppend(s, fmt.Sprint(batch, i))
		}
		s.flush()
		if n, _, err := shipper.ship(t.Context()); n < shipBatch/2 || err != nil {
			t.Fatalf("it shipped %d records: %v", n, err)
		}
		fs.read = 0
		if n, _, err := shipper.ship(t.Context()); n != 0 || err != nil {
			t.Fatalf("with nothing left it shipped %d records: %v", n, err)
		}
		if fs.read == 0 || fs.read > longestFrame {
			t.Errorf("asking after batch %d read %d bytes, want at most %d", batch, fs.read, longestFrame)
		}
	}
}
