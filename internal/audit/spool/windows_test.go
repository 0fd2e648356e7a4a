package spool

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
)

// idAt is a request id as a daemon makes it.
func idAt(at time.Time) string {
	id := uuid.Must(uuid.NewV7())
	for i, milli := 5, at.UnixMilli(); i >= 0; i, milli = i-1, milli>>8 {
		id[i] = byte(milli)
	}
	return id.String()
}

var noon = time.Date(2026, 11, 25, 12, 0, 0, 123_456_000, time.UTC)

func readAt(at time.Time, secret string, change func(*audit.Event)) audit.Event {
	e := audit.Event{At: at, Actor: "client:192.0.2.7", Client: "192.0.2.7", Action: audit.Read, Secret: secret,
		Version: 3, Outcome: audit.OK, RequestID: idAt(at)}
	if change != nil {
		change(&e)
	}
	return e
}

// What a row of several reads can hold is parsed as it was written; all else is left as an event.
func TestParseShared(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*audit.Event)
		alone  bool
	}{
		"a read": {},
		"a verify": {func(e *audit.Event) {
			e.Action, e.Detail = audit.Verify, map[string]any{"valid": false}
		}, false},
		"of an app":          {func(e *audit.Event) { e.Detail = map[string]any{"credential": "x", "via": "token"} }, false},
		"over a unix socket": {func(e *audit.Event) { e.Client = "" }, false},
		"IPv6":               {func(e *audit.Event) { e.Client = "2001:db8::7" }, false},
		"with its node":      {func(e *audit.Event) { e.Node = "db1" }, false},
		"without a version":  {func(e *audit.Event) { e.Version = 0 }, false},
		"refused":            {func(e *audit.Event) { e.Outcome = audit.Denied }, true},
		"failed":             {func(e *audit.Event) { e.Outcome = audit.Failed }, true},
		"in grace":           {func(e *audit.Event) { e.Detail = map[string]any{"match": "grace"} }, true},
		"of no secret":       {func(e *audit.Event) { e.Secret = "" }, true},
		"a list":             {func(e *audit.Event) { e.Action = audit.List }, true},
		"a gap":              {func(e *audit.Event) { e.Action = audit.Gap }, true},
		"an id of its own":   {func(e *audit.Event) { e.RequestID = "order-17" }, true},
		"version 4":          {func(e *audit.Event) { e.RequestID = uuid.NewString() }, true},
		"a late id":          {func(e *audit.Event) { e.RequestID = idAt(noon.Add(-AroundRequest)) }, true},
		"no id":              {func(e *audit.Event) { e.RequestID = "" }, true},
		"an id in capitals":  {func(e *audit.Event) { e.RequestID = "0198C0DE-0000-7000-8000-000000000000" }, true},
		"an odd name":        {func(e *audit.Event) { e.Secret = `a"b` }, true},
		"another alphabet":   {func(e *audit.Event) { e.Actor = "client:é" }, true},
		"a zone":             {func(e *audit.Event) { e.Client = "fe80::1%eth0" }, true},
		"a nested detail":    {func(e *audit.Event) { e.Detail = map[string]any{"a": map[string]any{"b": 1}} }, true},
		"a list in a detail": {func(e *audit.Event) { e.Detail = map[string]any{"a": []int{1}} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := readAt(noon, "app/x", test.change)
			text, err := e.AppendJSON(nil)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := parseShared(text)
			if ok == test.alone {
				t.Fatalf("%s: parsed %t, want it alone: %t", text, ok, test.alone)
			}
			if !ok {
				return
			}
			e.Node = ""
			want, _ := e.AppendJSON(nil)
			if diff := cmp.Diff(string(want), again(t, got)); diff != "" {
				t.Errorf("written again it differs (-want +got):\n%s", diff)
			}
		})
	}
}

// again is the JSON of the event that was parsed.
func again(t *testing.T, e sharedEvent) string {
	t.Helper()
	event := audit.Event{At: e.at, Actor: string(e.actor), Client: string(e.client), Action: string(e.action),
		Secret: string(e.secret), Outcome: audit.OK, RequestID: e.request.String()}
	_, _ = fmt.Sscan(string(e.version), &event.Version)
	if len(e.detail) > 0 {
		if err := json.Unmarshal(e.detail, &event.Detail); err != nil {
			t.Fatal(err)
		}
	}
	text, err := event.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// FuzzParseShared: what is taken for a plain read is one, with the fields that encoding/json finds.
func FuzzParseShared(f *testing.F) {
	text, _ := readAt(noon, "app/x", func(e *audit.Event) { e.Detail = map[string]any{"via": "token"} }).AppendJSON(nil)
	f.Add(text)
	f.Add([]byte(`{"at":"2026-01-01T00:00:00Z","actor":"a","action":"read","secret":"s",` +
		`"outcome":"ok","outcome":"denied"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, ok := parseShared(text)
		if !ok {
			return
		}
		var want audit.Event
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatalf("%q is no event: %v", text, err)
		}
		if want.Actor != string(e.actor) || want.Secret != string(e.secret) || want.Action != string(e.action) ||
			want.Outcome != audit.OK || want.RequestID != e.request.String() || want.Client != string(e.client) ||
			!want.At.Round(time.Microsecond).Equal(e.at) || want.Detail["match"] == "grace" {
			t.Errorf("%q became %+v", text, e)
		}
	})
}

// flat is one read of a batch.
type flat struct {
	Seq     uint64
	At      time.Time
	Secret  string
	Actor   string
	Request string
}

// flatten takes the rows of a batch apart.
func flatten(t *testing.T, w Windows) (reads []flat) {
	t.Helper()
	next := 0
	for _, r := range w.Rows {
		own := w.Readers[r.Own-1]
		reads = append(reads, flat{r.Seq, r.At, r.Secret, own.Actor, r.Request.String()})
		for i := range r.Earlier {
			j := next + i
			reader := w.Readers[r.Readers[w.Reader[j]-1]-1]
			reads = append(reads, flat{uint64(int64(r.Seq) - int64(w.Back[j])),
				r.At.Add(-time.Duration(w.Ago[j]) * time.Microsecond), r.Secret, reader.Actor, uuid.UUID(w.Requests[j]).String()})
			if i > 0 && w.Ago[j] < w.Ago[j-1] {
				t.Errorf("the reads of row %d are not from the newer to the older", r.Seq)
			}
		}
		next += r.Earlier
	}
	if next != len(w.Ago) || next != len(w.Back) || next != len(w.Requests) || next != len(w.Reader) {
		t.Errorf("the rows have %d earlier reads, the arrays %d, %d, %d and %d", next, len(w.Ago), len(w.Back),
			len(w.Requests), len(w.Reader))
	}
	for i, seq := range w.Seqs {
		var e audit.Event
		if err := json.Unmarshal([]byte(w.Events[i]), &e); err != nil {
			t.Fatal(err)
		}
		reads = append(reads, flat{seq, e.At, e.Secret, e.Actor, e.RequestID})
	}
	slices.SortFunc(reads, func(a, b flat) int { return int(a.Seq) - int(b.Seq) })
	return reads
}

// Random reads, with clocks that go back, months that end and refusals between them: each record is in the batch once,
// as it was, and no row is longer than a window or goes over a month.
func TestWindowsHoldEveryRecordOnce(t *testing.T) {
	w := newWorld(t)
	o := w.small(nil)
	o.SegmentBytes, o.MaxBytes, o.Sync = 32<<10, 64<<20, Interval
	s := mustOpen(t, o)
	defer mustClose(t, s)
	random := rand.New(rand.NewPCG(7, 11))
	at := time.Date(2026, 11, 30, 23, 59, 30, 0, time.UTC)
	var want []flat
	for i := range 4000 {
		at = at.Add(time.Duration(random.IntN(40)) * time.Millisecond)
		if random.IntN(400) == 0 {
			at = at.Add(-time.Duration(random.IntN(30)) * time.Second)
		}
		at = at.Round(time.Microsecond)
		e := readAt(at, fmt.Sprintf("app/%d", random.IntN(9)), func(e *audit.Event) {
			e.Actor = fmt.Sprintf("client:192.0.2.%d", random.IntN(5))
			switch random.IntN(30) {
			case 0:
				e.Outcome = audit.Denied
			case 1:
				e.RequestID = uuid.NewString()
			}
		})
		if err := s.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		want = append(want, flat{uint64(i) + 2, e.At, e.Secret, e.Actor, e.RequestID}) // 1 says that the spool began
	}
	s.flush()
	const window = 10 * time.Second
	got, err := s.ReadWindows(window, firstRows)
	if err != nil {
		t.Fatal(err)
	}
	if got.First != 1 || got.Next != 4002 || len(got.Rows) > 4000/20 {
		t.Errorf("got records %d to %d in %d rows", got.First, got.Next, len(got.Rows))
	}
	if diff := cmp.Diff(want, flatten(t, got)[1:]); diff != "" {
		t.Errorf("the batch differs (-want +got):\n%.4000s", diff)
	}
	next := 0
	for _, r := range got.Rows {
		next += r.Earlier
		oldest := r.At.Add(-time.Duration(got.Ago[next-1]) * time.Microsecond)
		if r.At.Sub(oldest) >= window || r.At.Month() != oldest.Month() {
			t.Errorf("a row has reads from %s to %s", oldest, r.At)
		}
	}
	last, err := s.readFrom(got.Next-1, 1)
	if err != nil || got.Last != last.Hash() {
		t.Errorf("got the last hash %x (%v), want %x", got.Last[:4], err, last.Hash())
	}
}

// shipments is a primary that notes when what came.
type shipments struct {
	taker
	mu   sync.Mutex
	came []string
	fail bool // the next batch of rows
}

func (p *shipments) Ship(ctx context.Context, b Batch) (Position, error) {
	if len(b.Records) > 0 {
		p.note("%d events", len(b.Records))
	}
	return p.taker.Ship(ctx, b)
}

func (p *shipments) ShipWindows(ctx context.Context, w Windows) (Position, error) {
	p.note("%d in rows", w.Next-w.First)
	if p.fail {
		p.fail = false
		return Position{}, ErrUnwritable // any error
	}
	return p.taker.ShipWindows(ctx, w)
}

func (p *shipments) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.came = append(p.came, fmt.Sprintf(format, args...))
}

func (p *shipments) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	came := p.came
	p.came = nil
	return came
}

// Few reads are shipped at once, as a row each; many when their window is over; a refusal ends the window.
func TestWhenAWindowEnds(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, Options{Dir: filepath.Join(dir, "spool"), Node: func() string { return "n" }, Sync: Interval,
			MaxBytes: 1 << 30, SegmentBytes: 64 << 20})
		defer mustClose(t, s)
		primary := &shipments{}
		shipper := &Shipper{Spool: s, Primary: primary, Window: 10 * time.Second, Log: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { shipper.Run(ctx) })
		read := func(n int, change func(*audit.Event)) {
			for range n {
				if err := s.Append(t.Context(), readAt(time.Now(), "app/x", change)); err != nil {
					t.Fatal(err)
				}
			}
		}
		came := func(after time.Duration, want ...string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := primary.take(); !slices.Equal(got, want) {
				t.Errorf("after %s got %q, want %q", after, got, want)
			}
		}
		time.Sleep(time.Minute)
		read(3, nil)
		came(time.Second, "4 events") // and that the spool began
		time.Sleep(time.Minute)
		read(5, nil)
		came(time.Second, "5 events")
		read(400, nil)
		came(8 * time.Second) // the window began with the five
		came(2*time.Second, "400 in rows")
		read(500, nil)
		came(4 * time.Second)
		read(1, func(e *audit.Event) { e.Outcome = audit.Denied })
		came(time.Second, "501 in rows")
		read(200, nil)
		primary.mu.Lock()
		primary.fail = true
		primary.mu.Unlock()
		came(11*time.Second, "200 in rows", "200 events")
		read(300, nil)
		came(time.Second)
		stop()
		running.Wait()
		if got := primary.take(); !slices.Equal(got, []string{"300 in rows"}) {
			t.Errorf("when it ends it ships %q, want the rest", got)
		}
	})
}
