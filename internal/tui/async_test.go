package tui

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/exp/teatest"

	"github.com/hyperiondb/vault/internal/audit"
)

const waitFor = time.Minute // a bound, not a measurement

// running is a browser with its event loop, in an emulated terminal. The loop owns the model: a test reads it after the
// loop has ended.
func running(t *testing.T, source Source, now func() time.Time) *teatest.TestModel {
	t.Helper()
	plain, err := newTheme("none", io.Discard, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	m := newModel(t.Context(), source, time.Now, plain, "")
	m.now = now
	return teatest.NewTestModel(t, m, teatest.WithInitialTermSize(80, 24))
}

func wantOutput(t *testing.T, tm *teatest.TestModel, text string) {
	t.Helper()
	teatest.WaitFor(t, tm.Output(), func(out []byte) bool { return bytes.Contains(out, []byte(text)) },
		teatest.WithDuration(waitFor))
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(waitFor); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, waitFor)
		}
	}
}

// TestLateAnswersAreDropped answers an older query after the newer one.
func TestLateAnswersAreDropped(t *testing.T) {
	l := sampleLog(300)
	slow := make(chan struct{})
	l.slow = map[string]chan struct{}{"action:verify": slow}
	tm := running(t, l, clock)
	wantOutput(t, tm, "300 events")
	tm.Type("/action:verify")
	tm.Send(tea.KeyMsg{Type: tea.KeyEnter})
	until(t, "the slow question", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return slices.Contains(l.asked, "action:verify")
	})
	tm.Send(tea.KeyMsg{Type: tea.KeyBackspace})
	tm.Type("/action:put")
	tm.Send(tea.KeyMsg{Type: tea.KeyEnter})
	wantOutput(t, tm, "58 events")
	close(slow)
	tm.Type("q")
	m := tm.FinalModel(t, teatest.WithFinalTimeout(waitFor)).(*model)
	if m.filter != "action:put" || !m.events.loaded {
		t.Errorf("got filter %q, loaded: %t", m.filter, m.events.loaded)
	}
	for _, e := range m.events.events {
		if e.Action != "put" {
			t.Fatalf("an event of another filter is shown: %s", e.Action)
		}
	}
}

// TestAnAnswerThatNeverComes checks that Esc stops a query, and that the browser can be left.
func TestAnAnswerThatNeverComes(t *testing.T) {
	l := sampleLog(300)
	slow := make(chan struct{})
	t.Cleanup(func() { close(slow) })
	l.slow = map[string]chan struct{}{"": slow}
	began := clock()
	tm := running(t, l, func() time.Time { began = began.Add(100 * time.Millisecond); return began })
	wantOutput(t, tm, "asking for ")
	tm.Send(tea.KeyMsg{Type: tea.KeyEsc})
	tm.Type("q")
	tm.WaitFinished(t, teatest.WithFinalTimeout(waitFor))
}

// panickingSource panics when secrets are queried.
type panickingSource struct{ *log }

func (panickingSource) SecretUses(context.Context, string, string, int) ([]audit.SecretUse, error) {
	panic("no such thing")
}

func TestAPanicEndsTheBrowserInOrder(t *testing.T) {
	for where, tm := range map[string]*teatest.TestModel{
		"no such thing":            running(t, panickingSource{sampleLog(10)}, clock), // of a query
		"(*model).Update stops it": running(t, sampleLog(10), panickingClock("(*model).Update")),
		"(*model).View stops it":   running(t, sampleLog(10), panickingClock("(*model).View")),
	} {
		tm.Send(tea.KeyMsg{Type: tea.KeyTab})
		m := tm.FinalModel(t, teatest.WithFinalTimeout(waitFor)).(*model)
		if m.broken == nil || !strings.Contains(m.broken.Error(), where) {
			t.Errorf("got %v, want %q", m.broken, where)
		}
	}
}

// panickingClock panics after a second, when that function calls it.
func panickingClock(function string) func() time.Time {
	began := time.Now()
	return func() time.Time {
		if time.Since(began) > time.Second && bytes.Contains(debug.Stack(), []byte(function+"(")) {
			panic(function + " stops it")
		}
		return time.Now()
	}
}

// TestRunLeavesTheTerminalAsItWas: also after a panic in the loop itself, and when ctx ends.
func TestRunLeavesTheTerminalAsItWas(t *testing.T) {
	for name, c := range map[string]struct {
		source Source
		typed  string
		clock  func() time.Time
		cancel bool
		want   string // of the error; "" = none
	}{
		"left":            {sampleLog(10), "q", time.Now, false, ""},
		"panic beside":    {panickingSource{sampleLog(10)}, "\t", time.Now, false, "no such thing"},
		"panic in a loop": {sampleLog(10), "", panickingClock("(*model).Update"), false, "stops it"},
		"ended":           {sampleLog(10), "", time.Now, true, "context canceled"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			in, keys, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := os.Create(filepath.Join(t.TempDir(), "out"))
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- Run(ctx, Options{Source: c.source, Theme: "dark", In: in, Out: out, Now: c.clock}) }()
			if c.cancel {
				until(t, "the alternate screen", func() bool { return strings.Contains(read(t, out.Name()), "\x1b[?1049h") })
				cancel()
			}
			_, _ = keys.WriteString(c.typed)
			select {
			case err = <-done:
			case <-time.After(waitFor):
				t.Fatal("it does not end")
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			text := read(t, out.Name())
			for on, off := range map[string]string{"\x1b[?1049h": "\x1b[?1049l", "\x1b[?25l": "\x1b[?25h",
				"\x1b[?1002h": "\x1b[?1002l"} {
				if strings.LastIndex(text, off) < strings.LastIndex(text, on) {
					t.Errorf("%q is not undone by %q", on, off)
				}
			}
		})
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRunRefuses(t *testing.T) {
	if err := Run(t.Context(), Options{Filter: "secert:x", Now: time.Now}); err == nil ||
		!strings.Contains(err.Error(), "secert") {
		t.Errorf("a filter that is none: got %v", err)
	}
	if err := Run(t.Context(), Options{Theme: "pink", Out: os.Stdout, Now: time.Now}); !errors.Is(err, ErrTheme) {
		t.Errorf("a theme that is none: got %v", err)
	}
}
