package spool

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
)

func (l *queue) length() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

// resigned waits until no goroutine leads the queue. An append is answered before its leader resigns; the next append
// leads only after that.
func resigned(t *testing.T, s *Spool) {
	t.Helper()
	until(t, "the leader of the queue has resigned", func() bool {
		s.queue.mu.Lock()
		defer s.queue.mu.Unlock()
		return !s.queue.led
	})
}

// gated stops the first call of a kind until the gate opens.
func gated(fs *faulty, kind string) (reached, gate chan struct{}) {
	reached, gate = make(chan struct{}), make(chan struct{})
	var first sync.Once
	fs.before = func(_ int, op string) error {
		if op == kind {
			first.Do(func() {
				close(reached)
				<-gate
			})
		}
		return nil
	}
	return reached, gate
}

// With Interval an append does not wait for an fsync that is in progress.
func TestAppendsGoOnDuringAnFsync(t *testing.T) {
	fs := &faulty{}
	w := newWorld(t)
	o := w.small(fs)
	o.Sync, o.SegmentBytes = Interval, 1<<20
	s := mustOpen(t, o)
	w.mustAppend(s, "before")
	reached, gate := gated(fs, "fsync")
	var flush sync.WaitGroup
	flush.Go(s.flush)
	<-reached
	w.mustAppend(s, "during", "it")
	close(gate)
	flush.Wait()
	if d := drain(t, s); fmt.Sprint(d.ids) != "[before]" {
		t.Errorf("%v is shipped, of which the fsync was asked for the first alone", d.ids)
	}
	s.flush()
	if d := drain(t, s); fmt.Sprint(d.ids) != "[during it]" {
		t.Errorf("the next fsync left %v to be shipped", d.ids)
	}
	mustClose(t, s)
	fs.check(t)
	w.check()
}

// A write that hangs in the kernel blocks the appender that leads it. Appends that arrive then are answered in time.
func TestAWriteThatHangs(t *testing.T) {
	fs := &faulty{}
	w := newWorld(t)
	o := w.small(fs)
	o.Sync, o.SegmentBytes = Interval, 1<<20
	s := mustOpen(t, o)
	w.mustAppend(s, "before")
	resigned(t, s)
	s.deadline = deadline{limit: 10 * time.Millisecond}
	reached, gate := gated(fs, "write")
	kept := make(chan error, 1)
	go func() { kept <- s.Append(context.Background(), event("the leader")) }()
	<-reached
	for range 2 {
		if err := w.append(s, "late"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want that it is not on record in time", err)
		}
	}
	close(gate)
	if err := <-kept; err != nil {
		t.Errorf("the leader got %v", err)
	}
	mustClose(t, s)
}

// Many append while segments end and fsyncs run, and both fail now and then: every accepted record is there once, in
// one chain.
func TestManyAppendToAFailingDisk(t *testing.T) {
	for _, sync := range []Sync{Interval, Always} {
		manyAppend(t, sync)
	}
}

func manyAppend(t *testing.T, mode Sync) {
	const appenders, each = 16, 200
	var calls, failed atomic.Int64
	var mended atomic.Bool
	fs := &faulty{before: func(_ int, op string) error {
		if !mended.Load() && (op == "fsync" || op == "write") && calls.Add(1)%17 == 0 {
			failed.Add(1)
			return syscall.EIO
		}
		return nil
	}}
	w := newWorld(t)
	o := w.small(fs)
	o.Sync, o.SyncInterval, o.SegmentBytes = mode, time.Millisecond, 20_000
	s := mustOpen(t, o)
	var mu sync.Mutex
	accepted := map[string]bool{}
	var all sync.WaitGroup
	for i := range appenders {
		all.Go(func() {
			for j := range each {
				id := fmt.Sprintf("%d/%d", i, j)
				err := s.Append(context.Background(), event(id))
				if err != nil && !errors.Is(err, audit.ErrUnrecorded) {
					t.Errorf("got %v, want it to be a refusal", err)
				}
				mu.Lock()
				accepted[id] = err == nil
				mu.Unlock()
			}
		})
	}
	all.Wait()
	mended.Store(true)
	mustClose(t, s)
	again := mustOpen(t, w.small(nil))
	defer mustClose(t, again)
	seen := map[string]bool{}
	d := drain(t, again)
	for _, id := range d.ids {
		if seen[id] {
			t.Errorf("%s is there twice", id)
		}
		seen[id] = true
	}
	yes := 0
	for id, told := range accepted {
		if told {
			yes++
			if !seen[id] {
				t.Errorf("%s was accepted and is not there", id)
			}
		}
	}
	if d.lost > 0 || yes < appenders*each/2 || failed.Load() < 5 {
		t.Errorf("%d of %d were accepted, %d calls failed, %d gaps", yes, appenders*each, failed.Load(), d.lost)
	}
}

// ship-spool flushes beside the committer: each record becomes durable once.
func TestFlushesAtOnce(t *testing.T) {
	w := newWorld(t)
	o := w.small(&faulty{before: func(_ int, op string) error {
		for range 100 { // lets the others come meanwhile
			runtime.Gosched()
		}
		return nil
	}})
	o.Sync, o.SyncInterval, o.SegmentBytes = Interval, time.Hour, 1<<20
	s := mustOpen(t, o)
	defer mustClose(t, s)
	const flushers, each = 4, 100
	var all sync.WaitGroup
	for i := range flushers {
		all.Go(func() {
			for j := range each {
				if err := s.Append(context.Background(), event(fmt.Sprintf("%d/%d", i, j))); err != nil {
					t.Error(err)
				}
				s.flush()
			}
		})
	}
	all.Wait()
	if d := drain(t, s); d.lost > 0 || len(d.ids) != flushers*each {
		t.Errorf("got %d records and %d gaps, want %d", len(d.ids), d.lost, flushers*each)
	}
}

// An idle committer ticks once a minute. What comes then waits for its fsync or its recheck no longer than at any time.
func TestAnIdleCommitterRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ticks atomic.Int64
		var full atomic.Bool
		fs := &faulty{before: func(int, string) error {
			if full.Load() {
				return syscall.ENOSPC
			}
			return nil
		}}
		w := newWorld(t)
		o := w.archived(fs)
		o.Sync, o.SegmentBytes, o.SyncInterval = Interval, 1<<20, 200*time.Millisecond
		o.Now = func() time.Time { ticks.Add(1); return time.Now() } // once a tick, of a segment that is archived
		s := mustOpen(t, o)
		defer mustClose(t, s)
		w.mustAppend(s, "first")
		rest := func() {
			time.Sleep(10*time.Minute + 30*time.Second) // until the next tick is more than an interval away
			synctest.Wait()
		}
		rest()
		ticks.Store(0)
		if rest(); ticks.Load() < 10 || ticks.Load() > 11 {
			t.Errorf("got %d ticks in ten idle minutes, want one a minute", ticks.Load())
		}

		w.mustAppend(s, "second")
		time.Sleep(o.SyncInterval)
		synctest.Wait()
		if b, err := s.Read(10); err != nil || len(b.Records) != 3 { // with audit.started
			t.Errorf("an interval after a record: got %d durable ones, %v, want 3", len(b.Records), err)
		}

		rest()
		full.Store(true)
		if err := w.append(s, "refused"); err == nil {
			t.Fatal("a full disk took an append")
		}
		full.Store(false)
		time.Sleep(o.SyncInterval)
		synctest.Wait()
		if err := s.Stats().Failing; err != nil {
			t.Errorf("an interval after the disk has room: %v", err)
		}
	})
}

// After many long records, of which none was durable for a while, the spool keeps no more memory than a busy node uses.
func TestMemoryOfABacklogIsReturned(t *testing.T) {
	s, err := Open(Options{Dir: filepath.Join(t.TempDir(), "spool"), Node: func() string { return "node" }, Sync: Interval,
		SyncInterval: time.Hour, SegmentBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	long := audit.Event{Actor: "test", Action: audit.Read, Outcome: audit.OK,
		Detail: map[string]any{"text": strings.Repeat("x", MaxEvent-1024)}}
	for range keptPending/MaxEvent + 100 {
		if err := s.Append(t.Context(), long); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(s.pending); got <= keptPending {
		t.Fatalf("%d bytes are pending, want more than %d", got, keptPending)
	}
	s.flush()
	if got := cap(s.pending); got > keptPending {
		t.Errorf("%d bytes are kept for pending records, want %d at most", got, keptPending)
	}
	if e := s.entry(); cap(e.event) > usualEvent {
		t.Errorf("%d bytes are kept for an event, want %d at most", cap(e.event), usualEvent)
	}
}
