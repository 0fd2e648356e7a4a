package tui

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/audit"
)

// check fails if an invariant of the window is broken.
func (s *screen) check() {
	s.t.Helper()
	w := &s.events.window
	if len(w.events) > maxEvents+pageSize {
		s.t.Fatalf("%d events are held", len(w.events))
	}
	for i := 1; i < len(w.events); i++ { // without copies, which the race detector makes expensive
		e, above := &w.events[i], &w.events[i-1]
		if c := e.At.Compare(above.At); c > 0 || c == 0 && !e.Cursor().Before(above.Cursor()) {
			s.t.Fatalf("event %d is not older than the one above", i)
		}
	}
	if len(w.events) > 0 && (w.selected < 0 || w.selected >= len(w.events) || w.top > w.selected ||
		w.selected >= w.top+s.rows()) {
		s.t.Fatalf("event %d of %d is selected, the screen shows %d from %d", w.selected, len(w.events), s.rows(), w.top)
	}
}

func (s *screen) selected() audit.Row {
	s.t.Helper()
	e, ok := s.events.current()
	if !ok {
		s.t.Fatal("nothing is selected")
	}
	return e
}

func (s *screen) wantLine(text string) {
	s.t.Helper()
	if !strings.Contains(s.View(), text) {
		s.t.Errorf("the screen does not say %q:\n%s", text, s.View())
	}
}

// TestWalkThroughTheWholeLog goes down to the oldest event and up again; every event is met once and few are held.
func TestWalkThroughTheWholeLog(t *testing.T) {
	l := sampleLog(9000)
	s := newScreen(t, l, "", 80, 24)
	id := int64(9000)
	for ; id > 1; id-- {
		if s.selected().ID != id {
			t.Fatalf("got event %d, want %d", s.selected().ID, id)
		}
		s.keys("down")
		s.check()
	}
	s.keys("down", "pgdown", "end")
	for ; id < 9000; id++ {
		if s.selected().ID != id {
			t.Fatalf("on the way back: got event %d, want %d", s.selected().ID, id)
		}
		s.keys("up")
		s.check()
	}
	s.keys("end")
	if s.selected().ID != 1 {
		t.Errorf("End: got event %d, want the oldest", s.selected().ID)
	}
	s.keys("home")
	if s.selected().ID != 9000 || s.events.newer != nil {
		t.Errorf("Home: got event %d, want the newest", s.selected().ID)
	}
}

func TestRefusalsAreFoundBeyondWhatIsHeld(t *testing.T) {
	l := sampleLog(6000)
	for i := range l.events {
		l.events[i].Outcome = audit.OK
	}
	l.events[1500].Outcome, l.events[5500].Outcome = audit.Denied, audit.Failed
	l.cut = 700 // a search takes several queries
	s := newScreen(t, l, "", 80, 24)
	for _, want := range []int{1500, 5500} {
		s.keys("e")
		if got := s.selected(); got.ID != l.events[want].ID {
			t.Fatalf("e: got event %d, want %d", got.ID, l.events[want].ID)
		}
		s.check()
	}
	s.keys("e")
	s.wantLine("no further refusal or failure")
	s.keys("E")
	if got := s.selected(); got.ID != l.events[1500].ID {
		t.Fatalf("E: got event %d, want %d", got.ID, l.events[1500].ID)
	}
}

func TestASearchGoesOnUntilItIsStopped(t *testing.T) {
	l := sampleLog(5000)
	l.events[4990].Action = "purge"
	l.cut = 300
	s := newScreen(t, l, "action:purge", 80, 24)
	if s.selected().ID != l.events[4990].ID {
		t.Errorf("got event %d", s.selected().ID)
	}
	// One query at a time, as with a slow database.
	s.filter = "action:none"
	s.Update(s.queryPage(audit.Query{}, atStart)())
	s.wantLine("searching back to 2026-11-2")
	s.Update(tea.KeyMsg{Type: tea.KeyEsc})
	s.wantLine("searched back to")
	if s.events.inFlight() {
		t.Error("it goes on after Esc")
	}
	s.keys("down") // the search continues
	s.wantLine("no events match")
}

func TestFiltersByKeys(t *testing.T) {
	l := sampleLog(500)
	s := newScreen(t, l, "", 80, 24)
	s.keys("4")
	if s.filter != "since:-7d" {
		t.Errorf("4: got filter %q", s.filter)
	}
	s.keys("down", "down", "s")
	if want := "since:-7d secret:" + l.events[2].Secret; s.filter != want {
		t.Errorf("s: got filter %q, want %q", s.filter, want)
	}
	s.keys("o")
	if want := "request:" + l.events[2].RequestID; s.filter != want || len(s.events.events) != 1 {
		t.Errorf("o: got filter %q, want %q", s.filter, want)
	}
	s.keys("o")
	if want := "actor:" + l.events[2].Actor; s.filter != want {
		t.Errorf("o again: got filter %q, want %q", s.filter, want)
	}
	s.keys("t", "'2026-11-24 yesterday'", "enter")
	if want := "actor:" + l.events[2].Actor + " since:2026-11-24 until:yesterday"; s.filter != want {
		t.Errorf("t: got filter %q, want %q", s.filter, want)
	}
	s.keys("f")
	s.wantLine("the filter has an end")
	s.keys("backspace", "backspace", "backspace", "backspace", "backspace", "backspace")
	if s.filter != "" {
		t.Errorf("Backspace: got filter %q, want the first", s.filter)
	}
	s.wantLine("there is no filter before this one")
	s.keys("@", "'2026-11-24T12:00'", "enter")
	if at := s.selected().At; at.After(time.Date(2026, 11, 24, 12, 0, 0, 1000, time.UTC)) ||
		at.Before(time.Date(2026, 11, 24, 11, 30, 0, 0, time.UTC)) {
		t.Errorf("@: got an event at %s", at)
	}
	s.keys("[")
	if at := s.selected().At; !at.After(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)) {
		t.Errorf("[: got an event at %s", at)
	}
	s.keys("@", "'never'", "enter")
	s.wantLine("takes a time such as -2h")
	s.keys("esc")
}

// TestEndBeforeTheAnswer presses End while all events of the filter before are held and on the screen.
func TestEndBeforeTheAnswer(t *testing.T) {
	l := sampleLog(300)
	s := newScreen(t, l, "", 80, 24)
	s.keys("G")
	want := s.selected().ID
	s.keys("/", "action:put", "enter")
	_, late := s.Update(tea.KeyMsg{Type: tea.KeyBackspace})
	s.keys("G")
	s.settle(late)
	if got := s.selected().ID; got != want {
		t.Errorf("event %d is selected, want the oldest, %d", got, want)
	}
}

func TestTheFilterIsLiveWhileTyping(t *testing.T) {
	s := newScreen(t, sampleLog(300), "action:read", 80, 24)
	s.keys("/", "'outcome:denied'")
	s.send(pauseMsg(s.prompt.edits))
	if s.filter != "action:read outcome:denied" || !s.events.loaded || s.selected().Outcome != audit.Denied {
		t.Errorf("while typing: got %q", s.filter)
	}
	s.send(pauseMsg(s.prompt.edits - 1)) // an older pause changes nothing
	s.keys("esc")
	if s.filter != "action:read" || !s.events.loaded {
		t.Errorf("Esc: got %q, want the filter before", s.filter)
	}
	s.keys("/", "ctrl+u", "'acti'", "tab", "'pu'", "tab")
	if got := s.prompt.input.Value(); got != "action:put " {
		t.Errorf("Tab: got %q", got)
	}
	s.keys("'secret:prod/'", "down", "down", "tab", "enter")
	if want := "action:put secret:prod/db/password"; s.filter != want {
		t.Errorf("got %q, want %q", s.filter, want)
	}
	s.keys("backspace")
	if s.filter != "action:read" {
		t.Errorf("Backspace: got %q", s.filter)
	}
}

func TestFollow(t *testing.T) {
	l := sampleLog(300)
	s := newScreen(t, l, "", 80, 24)
	news := func(n int) {
		for range n {
			e := l.events[0]
			e.ID, e.At = int64(1000+len(l.fresh)), clock().Add(time.Duration(len(l.fresh))*time.Millisecond)
			l.fresh = append(l.fresh, e)
		}
		s.send(tickMsg{})
	}
	s.keys("f")
	s.wantLine("FOLLOW")
	news(3)
	if s.selected().ID != 1002 || len(s.events.events) < 203 {
		t.Errorf("at the top: got event %d on top", s.selected().ID)
	}
	s.keys("down", "down")
	news(2)
	s.wantLine("FOLLOW PAUSED  +2 new (Home)")
	if s.selected().ID != 1000 {
		t.Errorf("below: got event %d, the table has to stand still", s.selected().ID)
	}
	s.keys("home")
	if s.selected().ID != 1004 {
		t.Errorf("Home: got event %d, want the newest", s.selected().ID)
	}
	// A read that arrives late goes where it belongs.
	late := l.events[0]
	late.ID, late.At = 2000, l.events[5].At.Add(time.Second)
	l.fresh = append(l.fresh, late)
	s.send(tickMsg{})
	if !s.events.find(late.Cursor()) || s.events.selected != 10 {
		t.Errorf("a late read is at %d, want 10", s.events.selected)
	}
	s.keys("home")
	l.err = errAway
	s.send(tickMsg{})
	s.wantLine("ERROR (following goes on) the database is away")
	l.err = nil
	news(1)
	if s.selected().ID != 1006 {
		t.Errorf("after an error: got event %d", s.selected().ID)
	}
	s.keys("f")
	if strings.Contains(s.View(), "FOLLOW") {
		t.Error("f again does not end it")
	}
}

func TestExportAndCopy(t *testing.T) {
	l := sampleLog(100)
	s := newScreen(t, l, "outcome:denied", 80, 24)
	var clipboard bytes.Buffer
	s.clipboard = &clipboard
	path := filepath.Join(t.TempDir(), "out.jsonl")
	s.keys("x", "ctrl+u", "'"+path+"'", "enter")
	s.wantLine(" events in ")
	text, err := os.ReadFile(path)
	if err != nil || bytes.Count(text, []byte("\n")) != 6 || bytes.Count(text, []byte(`"denied"`)) != 6 {
		t.Errorf("got %q, %v, want 6 refusals", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
	s.keys("x", "ctrl+u", "'"+path+"'", "enter")
	s.wantLine("file exists")
	s.keys("esc")
	l.err = errAway
	s.keys("x", "ctrl+u", "'"+path+"2'", "enter")
	s.wantLine("the export failed: the database is away")
	if _, err := os.Stat(path + "2"); err == nil {
		t.Error("half an export was left")
	}
	s.keys("y")
	if want := "\x1b]52;c;"; !strings.HasPrefix(clipboard.String(), want) {
		t.Errorf("got %q, want OSC 52", clipboard.String())
	}
}

func TestSecretsPage(t *testing.T) {
	l := sampleLog(100)
	for i := range 350 {
		l.secrets = append(l.secrets, audit.SecretUse{Name: fmt.Sprintf("zone/s%03d", i), Version: 1})
	}
	s := newScreen(t, l, "since:-7d", 80, 24)
	s.keys("tab", "end", "end", "end", "end")
	if got := len(s.secrets.rows); got != 355 {
		t.Errorf("got %d secrets, want 355", got)
	}
	s.keys("/", "'prod/db'", "enter")
	s.wantLine("secrets under prod/db")
	if len(s.secrets.rows) != 1 {
		t.Errorf("got %d secrets under the prefix, want 1", len(s.secrets.rows))
	}
	s.wantLine("the rotation: dial tcp 10.0.0.9:5432: connection refused")
	s.keys("enter")
	if s.page != eventsPage || s.filter != "secret:prod/db/password" {
		t.Errorf("Enter: got filter %q", s.filter)
	}
}

// TestFastTyping sends several keys in one message, and pasted text, which is no command.
func TestFastTyping(t *testing.T) {
	s := newScreen(t, sampleLog(100), "", 80, 24)
	s.send(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("jjj")})
	if s.events.selected != 3 {
		t.Errorf("jjj: got row %d, want 3", s.events.selected)
	}
	s.send(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("q jq"), Paste: true})
	if s.events.selected != 3 {
		t.Errorf("a paste: got row %d, want 3", s.events.selected)
	}
	s.send(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("/action:put")})
	s.send(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(" prod/\nx"), Paste: true})
	if got := s.prompt.input.Value(); got != "action:put prod/ x" {
		t.Errorf("in the prompt: got %q", got)
	}
}

func TestMouse(t *testing.T) {
	l := sampleLog(400)
	s := newScreen(t, l, "", 80, 24)
	click := func(x, y int) {
		s.send(tea.MouseMsg{X: x, Y: y, Action: tea.MouseActionPress, Button: tea.MouseButtonLeft})
	}
	click(10, 8) // the fourth row: title, filter, histogram (2), heading
	if s.events.selected != 3 {
		t.Errorf("click: got row %d, want 3", s.events.selected)
	}
	click(10, 8)
	if !s.detail.open {
		t.Error("a second click does not open the details")
	}
	s.send(tea.MouseMsg{Action: tea.MouseActionPress, Button: tea.MouseButtonWheelDown})
	if s.events.selected != 6 {
		t.Errorf("wheel: got row %d, want 6", s.events.selected)
	}
	click(20, 2)
	if want := s.histogram.end(19); s.selected().At.After(want) || want.Sub(s.selected().At) > 3*time.Hour {
		t.Errorf("a click on a bar: got an event at %s, want one before %s", s.selected().At, want)
	}
	click(10, 0)
	if s.page != secretsPage {
		t.Error("a click on the title does not change the page")
	}
	for y := range 24 {
		click(79, y)
	}
}

func TestAnErrorDoesNotLeaveAnotherFiltersEvents(t *testing.T) {
	l := sampleLog(50)
	s := newScreen(t, l, "", 80, 24)
	l.err = errAway
	s.keys("r")
	if len(s.events.events) == 0 {
		t.Error("the events of the same filter are gone")
	}
	s.keys("4")
	if len(s.events.events) != 0 {
		t.Error("the events of another filter are still there")
	}
	s.send(statusMsg{number: s.status.number, err: errAway})
	l.err = nil
	s.settle(s.queryStatus()) // the database is back: the events load without a key
	if len(s.events.events) == 0 {
		t.Error("the events do not come by themselves")
	}
}
