package spool

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"
)

// taker is a primary that takes whatever comes.
type taker struct{ at Position }

func (p *taker) Ship(_ context.Context, b Batch) (Position, error) {
	if n := len(b.Records); n > 0 {
		p.at.Next, p.at.Last = b.First+uint64(n), b.Hash()
	} else if p.at.Next == 0 {
		p.at.Next = 1
	}
	return p.at, nil
}

// With a backlog the shipper leaves the node to its readers, unless the backlog presses.
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
			o.Now = func() time.Time { return time.Now().Add(late) }
			s := mustOpen(t, o)
			defer mustClose(t, s)
			for i := range 3 * shipBatch {
				w.mustAppend(s, fmt.Sprint(i))
			}
			s.flush()
			if err := s.perform(func() { late = test.age }); err != nil {
				t.Fatal(err)
			}
			shipper := &Shipper{Spool: s, Primary: &taker{}, Log: slog.New(slog.DiscardHandler)}
			wait, burst := shipper.round(t.Context(), newBackOff())
			if shipper.State().Shipped != shipBatch {
				t.Fatalf("a round shipped %d records, want %d", shipper.State().Shipped, shipBatch)
			}
			if burst != test.pausing || (wait > 0) != test.pausing {
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

// The pause is for the readers there are: without any it ends.
func TestAPauseEndsWithTheBurst(t *testing.T) {
	w := newWorld(t)
	o := w.small(nil)
	o.SegmentBytes, o.Sync = 64<<20, Interval
	s := mustOpen(t, o)
	defer mustClose(t, s)
	shipper := &Shipper{Spool: s, Primary: &taker{}, Log: slog.New(slog.DiscardHandler)}
	shipper.rest(t.Context(), time.Hour) // the test would time out

	reading, stop := context.WithCancel(t.Context())
	var reader sync.WaitGroup
	reader.Go(func() {
		for reading.Err() == nil {
			if err := s.Append(t.Context(), event("read")); err != nil {
				t.Error(err)
				return
			}
		}
	})
	began, pause := time.Now(), 3*shipPause
	shipper.rest(t.Context(), pause)
	if took := time.Since(began); took < pause {
		t.Errorf("the pause ended after %s of %s, with %d reads", took, pause, s.Stats().Appended)
	}
	stop()
	reader.Wait()
}
