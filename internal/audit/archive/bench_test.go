package archive

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/audit/spool"
)

// manyReads are segments of reads as vaultd records them: of 1,000 secrets by 50 clients, in an order that repeats
// nothing, 10,000 a second.
func manyReads(b *testing.B, records int) (segments []spool.Segment, bytes int) {
	b.Helper()
	const each = 15_000 // 4 MiB of the spool
	random := rand.New(rand.NewPCG(1, 2))
	at := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	boot, link := uuid.New(), spool.Hash{}
	for seq := uint64(1); seq <= uint64(records); {
		s := spool.Segment{Node: "db2@host", Boot: boot, Link: link}
		for range min(each, records-int(seq)+1) {
			at = at.Add(time.Duration(random.IntN(200_000)))
			client := fmt.Sprintf("10.0.%d.%d", random.IntN(2), random.IntN(25))
			id, err := uuid.NewV7()
			if err != nil {
				b.Fatal(err)
			}
			text, err := audit.Event{At: at, Actor: "client:" + client, Client: client, Action: audit.Read,
				Secret: fmt.Sprintf("prod/service-%d/password", random.IntN(1000)), Version: 1 + random.IntN(9), Outcome: audit.OK,
				RequestID: id.String()}.AppendJSON(nil)
			if err != nil {
				b.Fatal(err)
			}
			r := spool.Record{Seq: seq, Previous: link, Event: text}
			s.Records, link = append(s.Records, r), r.Hash()
			bytes += len(text) + 48 // in the spool
			seq++
		}
		segments = append(segments, s)
	}
	return segments, bytes
}

// BenchmarkArchive keeps, verifies and searches 150,000 reads in a folder.
func BenchmarkArchive(b *testing.B) {
	const records = 150_000
	segments, spooled := manyReads(b, records)
	open := func(dir string) *Archive {
		a, err := Open(b.Context(), dir, ofVault)
		must(b, err)
		return a
	}
	keep := func(a *Archive) {
		for _, s := range segments {
			must(b, a.Keep(context.Background(), s))
		}
	}
	b.Run("Keep", func(b *testing.B) {
		before := cpu()
		for b.Loop() {
			a := open(b.TempDir())
			keep(a)
			must(b, a.Close())
		}
		b.ReportMetric((cpu()-before)*1e6/float64(b.N)/records, "cpu-µs/record")
		b.ReportMetric(float64(spooled)/records, "spool-B/record")
	})
	a := open(b.TempDir())
	defer a.Close()
	keep(a)
	b.Run("Verify", func(b *testing.B) {
		var r Report
		before := cpu()
		for b.Loop() {
			var err error
			r, err = a.Verify(b.Context(), Options{})
			must(b, err)
		}
		if len(r.Faults) > 0 || r.Records != records {
			b.Fatalf("got %+v", r)
		}
		b.ReportMetric((cpu()-before)*1e6/float64(b.N)/records, "cpu-µs/record")
		b.ReportMetric(float64(r.Bytes)/records, "B/record")
		b.ReportMetric(float64(r.Text)/records, "text-B/record")
	})
	b.Run("List", func(b *testing.B) {
		f := mustFilter(b, "secret:prod/service-7/password")
		before := cpu()
		for b.Loop() {
			events, err := a.List(b.Context(), f, 1000)
			must(b, err)
			if len(events) == 0 {
				b.Fatal("nothing was found")
			}
		}
		b.ReportMetric((cpu()-before)*1e6/float64(b.N)/records, "cpu-µs/record")
	})
}

// cpu is the processor time of this process, in seconds: other programs do not change it.
func cpu() float64 {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // of itself it never fails
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

func mustFilter(b *testing.B, text string) filter.Filter {
	b.Helper()
	f, err := filter.Parse(text, began)
	must(b, err)
	return f
}
