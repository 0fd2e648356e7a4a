package tui

import (
	"context"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
)

// slowScreen is a browser whose queries are answered when the test says so.
type slowScreen struct {
	*screen
	source *log
	asked  []tea.Cmd
}

func newSlowScreen(t *testing.T, l *log, width, height int) *slowScreen {
	t.Helper()
	return &slowScreen{screen: newScreen(t, l, "", width, height), source: l}
}

func (s *slowScreen) hold(cmd tea.Cmd) {
	if cmd != nil {
		s.asked = append(s.asked, cmd)
	}
}

// press presses keys; their queries wait.
func (s *slowScreen) press(keys ...string) {
	s.t.Helper()
	for _, k := range keys {
		msgs := []tea.KeyMsg{}
		if kind, named := namedKeys[k]; named {
			msgs = append(msgs, tea.KeyMsg{Type: kind})
		} else {
			for _, r := range strings.Trim(k, "'") {
				msgs = append(msgs, tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune{r}})
			}
		}
		for _, msg := range msgs {
			_, cmd := s.Update(msg)
			s.hold(cmd)
		}
	}
}

// answer answers one query; its further queries wait.
func (s *slowScreen) answer(i int) {
	cmd := s.asked[i]
	s.asked = append(s.asked[:i:i], s.asked[i+1:]...)
	switch msg := cmd().(type) {
	case nil:
	case tea.BatchMsg:
		for _, c := range msg {
			s.hold(c)
		}
	default:
		_, next := s.Update(msg)
		s.hold(next)
	}
}

// checkPanes fails if a pane shows what is not of its query.
func (s *slowScreen) checkPanes() {
	s.t.Helper()
	f, err := s.parse()
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range s.events.events {
		if e := &s.events.events[i]; !matches(f, e) {
			s.t.Fatalf("under the filter %q an event of another is shown: %+v\n%s", s.filter, *e, s.View())
		}
	}
	if h := &s.histogram; len(h.Buckets) > 0 && !h.inFlight() {
		want, err := s.source.counts(f.Without(filter.Since, filter.Until), h.From, h.To, len(h.Buckets))
		if err != nil {
			s.t.Fatal(err)
		}
		for i := range want.Buckets {
			if want.Buckets[i] != h.Buckets[i] {
				s.t.Fatalf("under the filter %q the counts of another are shown\n%s", s.filter, s.View())
			}
		}
	}
	for _, row := range s.secrets.rows {
		if !strings.HasPrefix(row.Name, s.secrets.prefix) {
			s.t.Fatalf("under %q the secret %q is shown", s.secrets.prefix, row.Name)
		}
	}
	e, ok := s.events.current()
	if d := &s.detail; ok && d.sealOf == e.ID && d.seal.Known {
		if want, _ := s.source.SealOf(s.t.Context(), e); want != d.seal {
			s.t.Fatalf("event %d has the seal of another", e.ID)
		}
	}
	if s.page == eventsPage && !s.help && !s.prompt.open() && len(s.events.events) == 0 {
		s.saysWhy()
	}
}

// saysWhy fails unless an empty table says whether that is the answer.
func (s *slowScreen) saysWhy() {
	s.t.Helper()
	view := s.View()
	for _, text := range []string{"asking ...", "ERROR", "r asks again", "none found so far", "no events match"} {
		if strings.Contains(view, text) {
			if text == "no events match" && (!s.events.loaded || s.events.inFlight()) {
				break
			}
			return
		}
	}
	s.t.Fatalf("the table is empty and does not say why:\n%s", view)
}

// TestStoppedBeforeTheAnswer types a filter while the database does not answer, and stops the query. The rows of the
// filter before would look like the answer.
func TestStoppedBeforeTheAnswer(t *testing.T) {
	l := sampleLog(300)
	s := newSlowScreen(t, l, 80, 24)
	s.press("/", "'action:put'", "enter")
	s.wantLine("/ action:put")
	s.wantLine("counting ...")
	s.wantLine("asking ...")
	s.checkPanes()
	s.press("esc")
	s.wantLine("not asked, Esc has stopped it; r asks again")
	if view := s.View(); strings.Contains(view, "verify") || strings.Contains(view, "of 200") {
		t.Errorf("events of the filter before are shown:\n%s", view)
	}
	s.checkPanes()

	// What arrives late is dropped: the answer to the stopped query.
	for len(s.asked) > 0 {
		s.answer(0)
		s.checkPanes()
	}
	s.wantLine("not asked, Esc has stopped it; r asks again")
	s.wantLine("58 events") // nothing has stopped the count
	s.press("E")
	s.wantLine("the events are not loaded")
	s.keys("r")
	s.wantLine("1 of 58")
	s.checkPanes()
}

// TestKeysTypedAhead presses e before the first page of a filter has arrived.
func TestKeysTypedAhead(t *testing.T) {
	for filter, want := range map[string]string{"outcome:ok": "no further refusal or failure", "action:put": "DENIED"} {
		s := newSlowScreen(t, sampleLog(300), 80, 24)
		s.press("/", "'"+filter+"'", "enter", "e")
		for len(s.asked) > 0 {
			s.answer(0)
			s.checkPanes()
		}
		s.wantLine(want)
		if e, ok := s.events.current(); !ok || want == "DENIED" && e.Outcome != audit.Denied {
			t.Errorf("%s: got %+v", filter, e)
		}
	}
}

// TestAnswersInAnyOrder presses keys at random while answers come late, in another order, or not, and some are errors.
// After every step, what each pane shows is of its own query.
func TestAnswersInAnyOrder(t *testing.T) {
	t.Chdir(t.TempDir()) // for exports
	keys := []string{"/", "/", "'action:put'", "'prod/'", "'outcome:denied '", "enter", "enter", "esc", "esc", "backspace",
		"0", "2", "4", "s", "o", "O", "r", "G", "g", "e", "E", "]", "[", "tab", "down", "up", "pgdown", "J",
		"'xyz'", "ctrl+u", "f"}
	for seed := range uint64(40) {
		l := sampleLog(700)
		l.cut = 150
		s := newSlowScreen(t, l, 120, 30)
		random := rand.New(rand.NewPCG(seed, 1))
		for range 150 {
			switch n := random.IntN(10); {
			case n < 4 && len(s.asked) > 0:
				s.answer(random.IntN(len(s.asked)))
			case n == 4:
				l.err = nil
				if random.IntN(3) == 0 {
					l.err = errAway
				}
			default:
				s.press(keys[random.IntN(len(keys))])
			}
			s.checkPanes()
		}
		l.err = nil
		for len(s.asked) > 0 {
			s.answer(random.IntN(len(s.asked)))
			s.checkPanes()
		}
	}
}

// TestAFailedPaneSaysSo makes one query fail at a time.
func TestAFailedPaneSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		height int
		source Source
		keys   []string
		want   string
	}{
		"the counts":        {24, noCounts{sampleLog(300)}, nil, "the counts: the database is away"},
		"the counts, small": {15, noCounts{sampleLog(300)}, nil, "not counted"},
		"the seal":          {40, noSeal{sampleLog(300)}, []string{"enter"}, "not known: the database is away"},
		"suggestions": {24, noValues{sampleLog(300)}, []string{"/", "'secret:pr'"},
			"no suggestions: the database is away"},
		"the secrets": {24, noSecrets{sampleLog(300)}, []string{"tab"}, "ERROR (r asks again) the database is away"},
		"following":   {24, noFollower{sampleLog(300)}, []string{"f"}, "FOLLOW FAILS"},
		"a filter while it is typed": {24, sampleLog(300), []string{"/", "'action:put secert:'"},
			"shown: all events"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			s := newScreenOf(t, c.source, "", 80, c.height)
			s.keys(c.keys...)
			s.wantLine(c.want)
			s.fits(80, c.height)
		})
	}
}

type (
	noCounts   struct{ *log }
	noSeal     struct{ *log }
	noValues   struct{ *log }
	noSecrets  struct{ *log }
	noFollower struct{ *log }
)

func (noCounts) Counts(context.Context, filter.Filter, time.Time, time.Time, int) (audit.Counts, error) {
	return audit.Counts{}, errAway
}
func (noSeal) SealOf(context.Context, audit.Row) (audit.RowSeal, error) {
	return audit.RowSeal{}, errAway
}
func (noValues) Values(context.Context, filter.Key, string, int) ([]string, error) {
	return nil, errAway
}
func (noSecrets) SecretUses(context.Context, string, string, int) ([]audit.SecretUse, error) {
	return nil, errAway
}
func (noFollower) Follow(context.Context, filter.Filter) (Follower, error) { return nil, errAway }

// TestCountsCatchUp: events that were shown are counted a few seconds later, also if none follows them.
func TestCountsCatchUp(t *testing.T) {
	l := sampleLog(300)
	s := newScreen(t, l, "", 80, 24)
	now := clock()
	s.now = func() time.Time { return now }
	s.keys("f")
	news := l.events[0]
	news.ID, news.At = 9000, clock().Add(time.Millisecond)
	l.events = append([]audit.Row{news}, l.events...)
	l.fresh = append(l.fresh, news)
	s.send(tickMsg{})
	if s.selected().ID != 9000 {
		t.Fatalf("got event %d, want the new one", s.selected().ID)
	}
	s.wantLine("300 events")
	now = now.Add(recountEvery)
	s.send(tickMsg{})
	s.wantLine("301 events")
}

// TestOnlyASCII draws every page for a terminal that is not set to UTF-8, with text in rows that is not ASCII.
func TestOnlyASCII(t *testing.T) {
	t.Chdir(t.TempDir()) // for an export
	env := func(name string) string { return map[string]string{"LC_ALL": "C", "LANG": "en_US.UTF-8"}[name] }
	plain, err := newTheme("none", io.Discard, env)
	if err != nil {
		t.Fatal(err)
	}
	l := sampleLog(300)
	foreign := "prod/\u65e5\u672c/schl\u00fcssel-\U0001f511-that-is-too-long-for-its-column"
	for i := range l.events {
		l.events[i].Secret, l.events[i].Actor = foreign, "client:"+foreign
	}
	l.secrets[0].Name, l.secrets[0].JobError = foreign, foreign
	for _, size := range sizes {
		s := newScreenOf(t, l, "", size[0], size[1])
		s.theme = plain
		for _, keys := range [][]string{{}, {"enter"}, {"/", "'secret:prod/\u65e5'"}, {"esc", "f", "down"}, {"tab"},
			{"'/b'"}, {"esc"}, {"?"}, {"j", "j", "x", "tab", "G", "s"}, {"/", "'outcome:no'", "enter"}} {
			s.keys(keys...)
			view := s.fits(size[0], size[1])
			if i := strings.IndexFunc(view, func(r rune) bool { return r > '~' }); i >= 0 {
				t.Errorf("%v at %v: got %q", keys, size, view[i:min(i+20, len(view))])
			}
		}
	}
	s := newScreenOf(t, l, "", 160, 50)
	s.theme = plain
	s.keys("enter")
	s.wantLine(`prod/\u65e5\u672c/schl\xfcssel-\U0001f511`) // the details have all of it
}

// TestTheKeyToLeaveIsAlwaysShown at every width, on both pages.
func TestTheKeyToLeaveIsAlwaysShown(t *testing.T) {
	s := newScreen(t, sampleLog(30), "", 80, 24)
	for range 2 {
		for width := minWidth; width <= 200; width++ {
			s.Update(tea.WindowSizeMsg{Width: width, Height: 24})
			lines := strings.Split(s.View(), "\n")
			if last := strings.TrimRight(lines[len(lines)-1], " "); !strings.HasSuffix(last, "   q quit") {
				t.Fatalf("%d columns: got %q", width, last)
			}
		}
		s.keys("tab")
	}
}

// TestAnActorIsWholeOrCutAtItsEnd: its kind and the beginning of an address are what tells actors apart at a glance.
func TestAnActorIsWholeOrCutAtItsEnd(t *testing.T) {
	l := sampleLog(2)
	l.events[0].Actor, l.events[1].Actor = "client:10.0.1.18", "client:2001:db8:85a3:8d3:1319:8a2e:370:7348"
	for width := minWidth; width <= 200; width++ {
		s := newScreen(t, l, "", width, 15)
		s.wantLine(" client:10.0.1.18 ")
		s.wantLine(" client:2001:db8")
	}
}
