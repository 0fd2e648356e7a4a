package spool

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
)

func denied(client, secret string) audit.Event {
	return audit.Event{Actor: "client:" + client, Client: client, Action: audit.Read, Secret: secret,
		Outcome: audit.Denied}
}

// Refusals have a row each for so many clients and names, and one for all the rest.
func TestRefusalsAreCountedWhenMany(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, w.small(nil))
		defer mustClose(t, s)
		r := &Recorder{Spool: s, Log: slog.New(slog.DiscardHandler)}
		for i := range 3 * refusalRows {
			for range 2 {
				if err := r.Record(t.Context(), denied("192.0.2.1", fmt.Sprintf("n%d", i))); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := r.Record(t.Context(), event("a read between them")); err != nil {
			t.Fatal(err)
		}
		r.round(t.Context(), time.Now())
		if d := drain(t, s); len(d.ids) != refusalRows+1 || len(d.notes) != 1 {
			t.Errorf("within the minute there are %d rows and notes %v, want %d", len(d.ids), d.notes, refusalRows+1)
		}
		r.round(t.Context(), time.Now().Add(2*refusalWindow))
		d := drain(t, s)
		sum, ok := d.note(audit.Refused)
		if want := float64(5 * refusalRows); !ok || sum.Detail["count"] != want || sum.Outcome != audit.Denied {
			t.Errorf("after it there is %+v, want a row for %v", d.notes, want)
		}
		if err := r.Record(t.Context(), denied("192.0.2.1", "n1")); err != nil {
			t.Fatal(err)
		}
		if d := drain(t, s); len(d.ids) != 1 {
			t.Errorf("in the next minute the first is listed again; got %v", d.ids)
		}
	})
}

// With allow, reads are answered without a record; their number is on record as soon as possible, and in the log at
// once.
func TestAllow(t *testing.T) {
	broken := false
	fs := &faulty{before: func(int, string) error {
		if broken {
			return syscall.ENOSPC
		}
		return nil
	}}
	w := newWorld(t)
	s := mustOpen(t, w.small(fs))
	defer mustClose(t, s)
	var log bytes.Buffer
	r := &Recorder{Spool: s, Allow: true, Log: slog.New(slog.NewTextHandler(&log, nil))}
	broken = true
	for i := range 3 {
		if err := r.Record(t.Context(), event(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if r.Unrecorded() != 3 || strings.Count(log.String(), "without a record") != 1 || s.Stats().Failing == nil {
		t.Errorf("got %d unrecorded, %+v and the log %q", r.Unrecorded(), s.Stats(), log.String())
	}
	r.round(t.Context(), time.Now())
	broken = false
	if err := r.Record(t.Context(), event("kept")); err != nil {
		t.Fatal(err)
	}
	d := drain(t, s)
	went, ok := d.note(audit.Unrecorded)
	if !ok || went.Detail["count"] != 3.0 || !strings.Contains(fmt.Sprint(went.Detail["reason"]), "no space left") ||
		len(d.ids) != 1 {
		t.Errorf("got %v and notes %+v, want that three went", d.ids, d.notes)
	}

	blocking := &Recorder{Spool: s, Log: r.Log}
	broken = true
	if err := blocking.Record(t.Context(), event("refused")); err == nil {
		t.Error("without allow the read is answered")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	broken = false
	if err := blocking.Record(ctx, event("gone")); err == nil {
		t.Error("a record whose caller had gone counts as kept")
	}
}

// A recorder with nothing to write does not wake up. What comes then is on record no later than at any time.
func TestAnIdleRecorderRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		fs := &faulty{before: func(int, string) error {
			if full.Load() {
				return syscall.ENOSPC
			}
			return nil
		}}
		w := newWorld(t)
		s := mustOpen(t, w.small(fs))
		defer mustClose(t, s)
		r := &Recorder{Spool: s, Allow: true, Log: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { r.Run(ctx) })
		wait := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		resting := func(when string) {
			t.Helper()
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.ticking {
				t.Errorf("%s: it ticks with nothing to write", when)
			}
		}
		noted := func(when, action string) {
			t.Helper()
			if d := drain(t, s); len(d.notes) == 0 || d.notes[len(d.notes)-1].Action != action {
				t.Errorf("%s: got notes %+v, want the last to be %s", when, d.notes, action)
			}
		}
		wait(2 * tickPause)
		resting("after its start")

		full.Store(true)
		if err := r.Record(t.Context(), event("unrecorded")); err != nil {
			t.Fatal(err)
		}
		wait(tickPause)
		full.Store(false)
		wait(tickPause)
		noted("a second after the disk has room", audit.Unrecorded)
		resting("after unrecorded reads")

		for range 2 {
			if err := r.Record(t.Context(), denied("192.0.2.1", "a")); err != nil {
				t.Fatal(err)
			}
		}
		wait(refusalWindow + tickPause)
		noted("after a window with refusals", audit.Refused)
		resting("after refusals")
		stop()
		running.Wait()
	})
}
