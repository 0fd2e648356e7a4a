package spool

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
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
