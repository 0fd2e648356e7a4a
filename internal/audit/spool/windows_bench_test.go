package spool

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
)

// BenchmarkReadWindows groups the reads of a few seconds for the primary: 120,000 of a thousand names by one client or
// by fifty, and 8,192 of a name each. For a read it reports the processor time and the bytes that the batch keeps.
func BenchmarkReadWindows(b *testing.B) {
	for _, c := range []struct{ reads, names, clients int }{{120_000, 1000, 1}, {120_000, 1000, 50}, {8192, 1 << 30, 1}} {
		b.Run(fmt.Sprintf("names=%d/clients=%d", min(c.names, c.reads), c.clients), func(b *testing.B) {
			s, err := Open(Options{Dir: filepath.Join(b.TempDir(), "spool"), Node: func() string { return "bench" },
				Sync: Interval, SyncInterval: time.Hour})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			random := rand.New(rand.NewPCG(1, 2))
			for i := range c.reads {
				at := noon.Add(time.Duration(i) * 50 * time.Microsecond)
				e := readAt(at, fmt.Sprintf("prod/bench/name-%d", random.IntN(c.names)), func(e *audit.Event) {
					e.Client = fmt.Sprintf("192.0.2.%d", random.IntN(c.clients))
					e.Actor = "client:" + e.Client
				})
				if err := s.Append(b.Context(), e); err != nil {
					b.Fatal(err)
				}
			}
			s.flush()
			var kept uint64
			var cpu time.Duration
			b.ReportAllocs()
			for b.Loop() {
				began := processorTime(b)
				w, err := s.ReadWindows(10*time.Second, firstRows)
				cpu += processorTime(b) - began
				if err != nil || w.Next < uint64(c.reads) {
					b.Fatalf("got the records to %d, %v", w.Next, err)
				}
				b.StopTimer()
				kept = heap()
				runtime.KeepAlive(w)
				w = Windows{}
				kept -= min(kept, heap())
				b.StartTimer()
			}
			per := float64(b.N) * float64(c.reads)
			b.ReportMetric(float64(cpu.Nanoseconds())/per, "cpu_ns/read")
			b.ReportMetric(float64(kept)/float64(c.reads), "kept_B/read")
		})
	}
}

func processorTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
