package spool

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hyperiondb/vault/internal/audit"
)

// An event of any length is recorded, cut and marked as cut: a refusal would refuse the read that it records.
func TestALongEventIsCut(t *testing.T) {
	long := strings.Repeat("é\x00<\u202e", 1<<16)
	many := map[string]any{}
	for i := range 5000 {
		many[strings.Repeat("k", 1+i%90)+string(rune('a'+i%26))] = strings.Repeat("<", i)
	}
	for name, e := range map[string]audit.Event{
		"a secret":   {Secret: long},
		"an actor":   {Actor: long},
		"all texts":  {Actor: long, Client: long, Node: long, Action: long, Secret: long, RequestID: long},
		"a detail":   {Detail: map[string]any{"reason": long, "valid": true}},
		"nested":     {Detail: map[string]any{"x": map[string]any{long: []any{long}}}},
		"a name":     {Detail: map[string]any{long: 1}},
		"many":       {Detail: many},
		"everything": {Actor: long, Client: long, Node: long, Action: long, Secret: long, RequestID: long, Detail: many},
	} {
		w := newWorld(t)
		s := mustOpen(t, w.small(nil))
		if err := s.Append(t.Context(), e); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		batch, err := s.Read(10)
		if err != nil || len(batch.Records) != 2 { // the first is the spool's own, of its beginning
			t.Fatalf("%s: got %d records (%v), want 2", name, len(batch.Records), err)
		}
		event := batch.Records[1].Event
		var kept audit.Event
		if err := json.Unmarshal(event, &kept); err != nil || len(event) > MaxEvent ||
			!strings.Contains(string(event), `truncated`) {
			t.Errorf("%s: %d bytes are on record (%v), want at most %d that say what was cut: %.200s", name, len(event), err,
				MaxEvent, event)
		}
		if !utf8.Valid(event) || strings.ContainsAny(kept.Secret+kept.Actor, "\x00\u202e") {
			t.Errorf("%s: got %.200q, want whole characters that can be shown", name, kept.Secret)
		}
		mustClose(t, s)
	}
}

// A batch ends at a number of bytes, and the next one continues after it.
func TestABatchIsBoundedInBytes(t *testing.T) {
	w := newWorld(t)
	o := w.small(nil)
	o.SegmentBytes = 64 << 20
	s := mustOpen(t, o)
	defer mustClose(t, s)
	const events = 600
	for range events {
		e := event("id")
		e.Detail = map[string]any{"reason": strings.Repeat("x", 15<<10)}
		if err := s.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	read, batches := 0, 0
	for {
		batch, err := s.Read(shipBatch)
		if err != nil {
			t.Fatal(err)
		}
		if len(batch.Records) == 0 {
			break
		}
		if got := batch.bytes(); got > batchBytes+MaxEvent {
			t.Errorf("a batch has %d bytes, want at most %d", got, batchBytes+MaxEvent)
		}
		read += len(batch.Records)
		batches++
		if full := read < events+1; batch.Full != full {
			t.Errorf("batch %d says that it is full: %v, want %v", batches, batch.Full, full)
		}
		if err := s.Acknowledge(batch.First + uint64(len(batch.Records))); err != nil {
			t.Fatal(err)
		}
	}
	if read != events+1 || batches < 4 {
		t.Errorf("got %d records in %d batches, want %d in several", read, batches, events+1)
	}
}

// The primary accepts every name that a node has, or that an older release wrote into the folder.
func TestNodeNames(t *testing.T) {
	for name, want := range map[string]string{
		"db2@host":                     "db2@host",
		"":                             "unnamed",
		"n\x1b[2J\u009b\u202e\x00":     "n?[2J???",
		"n\xff\xfe":                    "n",
		strings.Repeat("é", 200):       strings.Repeat("é", 127),
		strings.Repeat("x", 300):       strings.Repeat("x", 255),
		strings.Repeat("x", 254) + "é": strings.Repeat("x", 254),
	} {
		w := newWorld(t)
		o := w.small(nil)
		o.Node = named(name)
		s := mustOpen(t, o)
		if batch, err := s.Read(1); err != nil || batch.Node != want {
			t.Errorf("a node called %q: got %q (%v), want %q", name, batch.Node, err, want)
		}
		s.mu.Lock()
		s.node = name[:min(len(name), maxNode)] // as a release before wrote it into its segments
		s.mu.Unlock()
		if node, _, _ := s.identity(); node != want {
			t.Errorf("a folder of a node called %q: got %q, want %q", name, node, want)
		}
		mustClose(t, s)
	}
}
