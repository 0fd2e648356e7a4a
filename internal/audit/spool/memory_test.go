package spool

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// weigher is a primary that notes how much of the heap is free and not returned when a batch of rows comes.
type weigher struct {
	taker
	reads       int
	free, inUse uint64
}

func (p *weigher) ShipWindows(ctx context.Context, w Windows) (Position, error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	p.reads, p.free, p.inUse = int(w.Next-w.First), m.HeapIdle-m.HeapReleased, m.HeapInuse
	return p.taker.ShipWindows(ctx, w)
}

// What grouping a batch of many reads has left is returned before the batch is sent: sending takes as much again.
func TestABatchIsSentWithoutTheMemoryOfItsGrouping(t *testing.T) {
	s := mustOpen(t, Options{Dir: filepath.Join(t.TempDir(), "spool"), Node: func() string { return "n" },
		Sync: Interval, MaxBytes: 1 << 30, SegmentBytes: 64 << 20})
	defer mustClose(t, s)
	const reads = 60_000
	for i := range reads {
		if err := s.Append(t.Context(), readAt(time.Now(), fmt.Sprint("app/", i%1000), nil)); err != nil {
			t.Fatal(err)
		}
	}
	s.flush()
	debug.FreeOSMemory() // of the appends
	primary := &weigher{}
	shipper := &Shipper{Spool: s, Primary: primary, Window: 10 * time.Second, Log: slog.New(slog.DiscardHandler)}
	shipper.round(t.Context(), newBackOff())
	t.Logf("%d reads: %d kB free, %d in use", primary.reads, primary.free>>10, primary.inUse>>10)
	if primary.reads < reads || primary.free > 1<<20 {
		t.Errorf("a batch of %d reads is sent with %d kB of free heap, want %d with at most 1024", primary.reads,
			primary.free>>10, reads)
	}
}
