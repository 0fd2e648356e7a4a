package tui

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
)

// clock stands still, on a Wednesday evening.
func clock() time.Time { return time.Date(2026, 11, 25, 20, 33, 27, 0, time.UTC) }

// log is a source in memory: a few keys of the filter, in the order and with the pages of the real one.
type log struct {
	mu      sync.Mutex
	events  []audit.Row // newest first
	fresh   []audit.Row // of the next Follower.Next
	secrets []audit.SecretUse
	sealed  int64 // up to this id
	err     error
	slow    map[string]chan struct{} // queries whose filter is held until the channel is closed
	asked   []string                 // filters, in the order of the queries
	cut     int                      // how many events a search looks at before it pauses; 0 = all
}

var errAway = errors.New("the database is away")

// sampleLog has n events, a few minutes apart.
func sampleLog(n int) *log {
	l := &log{sealed: int64(n - 3)}
	actors := []string{"client:10.0.0.5", "token:ci-deploy", "client:10.0.1.17", "worker:db1", "token:alice"}
	actions := []string{"read", "read", "verify", "read", "put"}
	names := []string{"prod/db/password", "prod/api/stripe", "test/db/password", "prod/web/session",
		"billing/smtp/relay/credentials"}
	for i := range n {
		at := clock().Add(-time.Duration(i)*7*time.Minute - time.Duration(i*i)*time.Second/3)
		e := audit.Row{ID: int64(n - i), At: at, RecordedAt: at.Add(2 * time.Second), Actor: actors[i%5], DBRole: "vaultd",
			Client: fmt.Sprintf("10.0.%d.%d", i%2, 5+i%13), Node: "db1", Action: actions[i%5], Secret: names[(i/2)%5],
			Version: 1 + i%4, Outcome: audit.OK, RequestID: fmt.Sprintf("00000000-0000-4000-8000-%012d", n-i),
			Detail: json.RawMessage(`{"match": "current"}`)}
		switch {
		case i%17 == 9:
			e.Outcome, e.Detail = audit.Denied, json.RawMessage(`{"reason": "the address is not on the allowlist"}`)
		case i%43 == 21:
			e.Outcome, e.Action = audit.Failed, "rotate"
		}
		l.events = append(l.events, e)
	}
	rotated, next, late := clock().Add(-50*time.Hour), clock().Add(30*time.Hour), clock().Add(-time.Hour)
	l.secrets = []audit.SecretUse{
		{Name: "billing/smtp/relay/credentials", Version: 3, RotatedAt: &rotated, LastReadAt: &rotated},
		{Name: "prod/api/stripe", Version: 12, RotatedAt: &rotated, NextRotationAt: &next, LastReadAt: &late},
		{Name: "prod/db/password", Version: 7, RotatedAt: &rotated, NextRotationAt: &late, JobState: "failed",
			JobError: "dial tcp 10.0.0.9:5432: connection refused"},
		{Name: "prod/web/session", Version: 1, RotatedAt: &rotated, NextRotationAt: &late},
		{Name: "test/db/password", Version: 2, RotatedAt: &rotated, NextRotationAt: &next, Paused: true},
	}
	return l
}

// hold waits until the test opens the gate of this filter.
func (l *log) hold(ctx context.Context, f filter.Filter) error {
	l.mu.Lock()
	l.asked = append(l.asked, f.String())
	gate, err := l.slow[f.String()], l.err
	l.mu.Unlock()
	if gate != nil {
		<-gate // not ctx: the answer arrives although the query was cancelled
	}
	return cmp.Or(err, ctx.Err())
}

func (l *log) Events(ctx context.Context, q audit.Query) (audit.Page, error) {
	if err := l.hold(ctx, q.Filter); err != nil && l.slow[q.Filter.String()] == nil {
		return audit.Page{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	page := audit.Page{Rows: []audit.Row{}}
	looked := 0
	for i := range l.events {
		e, last := &l.events[i], &l.events[len(l.events)-1]
		if q.Newer {
			e, last = &l.events[len(l.events)-1-i], &l.events[0]
		}
		if q.From != nil && (q.Newer && !q.From.Before(e.Cursor()) || !q.Newer && !e.Cursor().Before(*q.From)) {
			continue
		}
		c := e.Cursor()
		if looked++; l.cut > 0 && looked > l.cut || len(page.Rows) == q.Limit {
			break
		}
		page.Next = &c
		if matches(q.Filter, e) {
			page.Rows = append(page.Rows, *e)
		}
		if e == last {
			page.Next = nil
		}
	}
	if looked == 0 {
		page.Next = nil
	}
	if q.Newer {
		slices.Reverse(page.Rows)
	}
	return page, nil
}

// matches and holds take a pointer, as they are called a million times, and the race detector looks at each byte of a
// copy.
func matches(f filter.Filter, e *audit.Row) bool {
	if since := f.Since(); !since.IsZero() && e.At.Before(since) {
		return false
	}
	if until := f.Until(); !until.IsZero() && !e.At.Before(until) {
		return false
	}
	for _, key := range filter.Keys() {
		any, none := f.Of(key)
		one := func(t filter.Term) bool { return holds(t, e) }
		if len(any) > 0 && !slices.ContainsFunc(any, one) || slices.ContainsFunc(none, one) {
			return false
		}
	}
	return true
}

func holds(t filter.Term, e *audit.Row) bool {
	text := ""
	switch t.Key {
	case filter.Since, filter.Until:
		return true
	case filter.Secret:
		text = e.Secret
	case filter.Action:
		text = e.Action
	case filter.Outcome:
		text = string(e.Outcome)
	case filter.Node:
		text = e.Node
	case filter.Request:
		text = e.RequestID
	case filter.Version:
		return e.Version == t.Number
	case filter.IP:
		address, err := netip.ParseAddr(e.Client)
		return err == nil && t.Network.Contains(address)
	case filter.Actor:
		return slices.ContainsFunc(t.Actors(), func(a string) bool {
			return a == e.Actor || t.Prefix && strings.HasPrefix(e.Actor, a)
		})
	}
	return text == t.Text || t.Prefix && strings.HasPrefix(text, t.Text)
}

func (l *log) Counts(_ context.Context, f filter.Filter, from, to time.Time, buckets int) (audit.Counts, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return audit.Counts{}, l.err
	}
	return l.counts(f, from, to, buckets)
}

func (l *log) counts(f filter.Filter, from, to time.Time, buckets int) (audit.Counts, error) {
	if from.IsZero() {
		from = to
		if len(l.events) > 0 {
			from = l.events[len(l.events)-1].At
		}
	}
	counts := audit.Counts{From: from, To: to, Buckets: make([]audit.Count, buckets)}
	pane := &histogramPane{Counts: counts}
	for i := range l.events {
		e := &l.events[i]
		if at := pane.bucket(e.At); at >= 0 && matches(f, e) {
			counts.Buckets[at].Events++
		}
	}
	return counts, nil
}

type logFollower struct {
	log       *log
	delivered int
}

func (l *log) Follow(context.Context, filter.Filter) (Follower, error) {
	return &logFollower{l, 0}, nil
}

func (f *logFollower) Next(context.Context) ([]audit.Row, bool, error) {
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	fresh := f.log.fresh[f.delivered:]
	f.delivered = len(f.log.fresh)
	return fresh, false, f.log.err
}

func (l *log) Values(_ context.Context, key filter.Key, typed string, _ int) ([]string, error) {
	var found []string
	for _, e := range l.events {
		value := map[filter.Key]string{filter.Secret: e.Secret, filter.Actor: e.Actor, filter.Node: e.Node}[key]
		if strings.HasPrefix(value, typed) {
			found = append(found, value)
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

func (l *log) SecretUses(_ context.Context, prefix, after string, limit int) ([]audit.SecretUse, error) {
	var rows []audit.SecretUse
	for _, s := range l.secrets {
		if strings.HasPrefix(s.Name, prefix) && s.Name > after && len(rows) < limit {
			rows = append(rows, s)
		}
	}
	return rows, l.err
}

func (l *log) SealOf(_ context.Context, e audit.Row) (audit.RowSeal, error) {
	if e.ID > l.sealed {
		return audit.RowSeal{Known: true}, nil
	}
	return audit.RowSeal{Known: true, ID: 1 + e.ID/10, SealedAt: e.At.Add(3 * time.Second)}, nil
}

func (l *log) Status(context.Context) (Status, error) {
	replayed := clock().Add(-3 * time.Second)
	return Status{Node: "db2", Standby: true, ReplayedUntil: &replayed}, l.err
}

func (l *log) Export(_ context.Context, f filter.Filter, w io.Writer, progress func(int64)) error {
	n := int64(0)
	for _, e := range slices.Backward(l.events) {
		if matches(f, &e) {
			n++
			line, err := json.Marshal(e)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "%s\n", line)
		}
	}
	progress(n)
	return l.err
}

// screen is a browser without a terminal or a clock: keys go in, and every query is answered before the next key.
type screen struct {
	t *testing.T
	*model
}

func newScreen(t *testing.T, l *log, line string, width, height int) *screen {
	t.Helper()
	return newScreenOf(t, l, line, width, height)
}

func newScreenOf(t *testing.T, l Source, line string, width, height int) *screen {
	t.Helper()
	plain, err := newTheme("none", io.Discard, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t, newModel(t.Context(), l, clock, plain, line)}
	s.after = func(time.Duration, tea.Msg) tea.Cmd { return nil }
	s.settle(s.Init())
	s.send(tea.WindowSizeMsg{Width: width, Height: height})
	return s
}

func (s *screen) send(msg tea.Msg) {
	s.t.Helper()
	_, cmd := s.Update(msg)
	s.settle(cmd)
}

// settle runs commands until none is left.
func (s *screen) settle(cmd tea.Cmd) {
	s.t.Helper()
	if cmd == nil {
		return
	}
	switch msg := cmd().(type) {
	case nil:
	case tea.BatchMsg:
		for _, c := range msg {
			s.settle(c)
		}
	default:
		s.send(msg)
	}
}

var namedKeys = map[string]tea.KeyType{"enter": tea.KeyEnter, "esc": tea.KeyEsc, "tab": tea.KeyTab, "up": tea.KeyUp,
	"down": tea.KeyDown, "home": tea.KeyHome, "end": tea.KeyEnd, "pgdown": tea.KeyPgDown, "pgup": tea.KeyPgUp,
	"backspace": tea.KeyBackspace, "ctrl+u": tea.KeyCtrlU}

// keys presses names of keys, or types 'text'.
func (s *screen) keys(keys ...string) {
	s.t.Helper()
	for _, k := range keys {
		if kind, ok := namedKeys[k]; ok {
			s.send(tea.KeyMsg{Type: kind})
			continue
		}
		for _, r := range strings.Trim(k, "'") {
			s.send(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune{r}})
		}
	}
}
