package tui

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
	"github.com/google/go-cmp/cmp"

	"github.com/hyperiondb/vault/internal/audit"
)

var sizes = [][2]int{{60, 15}, {80, 24}, {160, 50}}

// TestViews compares the screens with golden files, without colours.
func TestViews(t *testing.T) {
	for name, show := range map[string]func(s *screen, l *log){
		"events":  func(*screen, *log) {},
		"details": func(s *screen, _ *log) { s.keys("down", "down", "enter", "e") },
		"filter":  func(s *screen, _ *log) { s.keys("/", "'action:read secret:prod/'", "down") },
		"wrong":   func(s *screen, _ *log) { s.keys("/", "'action:read secert:x'", "enter") },
		"refused": func(s *screen, _ *log) { s.keys("/", "'outcome:denied since:-7d'", "enter", "down") },
		"nothing": func(s *screen, _ *log) { s.keys("/", "'secret:no/such'", "enter") },
		"oldest":  func(s *screen, _ *log) { s.keys("G") },
		"secrets": func(s *screen, _ *log) { s.keys("tab", "down", "down") },
		"help":    func(s *screen, _ *log) { s.keys("?") },
		"away":    func(s *screen, l *log) { l.err = errAway; s.keys("r") },
		"follow": func(s *screen, l *log) {
			s.keys("f", "down")
			news := l.events[0]
			for i := range 37 {
				news.ID, news.At = int64(9000+i), clock().Add(1)
				l.fresh = append(l.fresh, news)
			}
			s.settle(s.queryNew())
		},
	} {
		for _, size := range sizes {
			title := name + "_" + sizeText(size[0], size[1])
			t.Run(title, func(t *testing.T) {
				l := sampleLog(700)
				s := newScreen(t, l, "", size[0], size[1])
				show(s, l)
				compare(t, title, s.fits(size[0], size[1]))
			})
		}
	}
}

// fits checks that a view has exactly the size of the terminal.
func (s *screen) fits(width, height int) string {
	s.t.Helper()
	view := s.View()
	lines := strings.Split(view, "\n")
	if len(lines) != height {
		s.t.Errorf("got %d lines, want %d", len(lines), height)
	}
	for i, line := range lines {
		if w := lipgloss.Width(line); w != width {
			s.t.Errorf("line %d is %d cells wide, want %d: %q", i, w, width, line)
		}
	}
	return view
}

func compare(t *testing.T, name, view string) {
	t.Helper()
	var lines []string
	for _, line := range strings.Split(view, "\n") {
		lines = append(lines, strings.TrimRight(line, " "))
	}
	got := strings.Join(lines, "\n") + "\n"
	golden := filepath.Join("testdata", name+".golden")
	if flag.Lookup("update").Value.String() == "true" { // teatest's: go test ./internal/tui -update writes them anew
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTooSmall(t *testing.T) {
	s := newScreen(t, sampleLog(3), "", 59, 15)
	if got := s.View(); !strings.Contains(got, "the browser takes 60x15; this is 59x15") {
		t.Errorf("got %q", got)
	}
	for _, size := range [][2]int{{0, 0}, {1, 1}, {200, 3}} {
		s.send(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
		_ = s.View() // nothing panics
		s.keys("down", "pgdown", "e", "enter", "enter")
	}
	s.send(tea.WindowSizeMsg{Width: 60, Height: 15})
	s.fits(60, 15)
}

// TestEverySizeFits draws each page at many sizes.
func TestEverySizeFits(t *testing.T) {
	s := newScreen(t, sampleLog(300), "", 80, 24)
	for _, keys := range [][]string{{}, {"enter"}, {"esc", "tab"}, {"?"}, {"?", "tab", "/"}} {
		s.keys(keys...)
		for width := 60; width <= 200; width += 7 {
			for height := 15; height <= 60; height += 9 {
				s.Update(tea.WindowSizeMsg{Width: width, Height: height})
				s.fits(width, height)
			}
		}
	}
}

// TestNothingInARowSteersTheTerminal uses rows with control characters: rows hold text that clients sent.
func TestNothingInARowSteersTheTerminal(t *testing.T) {
	evil := "a\x1b]0;owned\x07\x1b[2J\u009b31m\u202egnp.exe\u2066\u200b\r\n\t\x7f\xff" +
		"語語語語語語語語語語語語語語語語語語語語👩‍👩‍👧‍👦é"
	l := sampleLog(5)
	e := l.events[0]
	e.Actor, e.Action, e.Secret, e.Node, e.DBRole, e.Client, e.RequestID, e.Outcome = evil, evil, evil, evil, evil, evil,
		evil, audit.Outcome(evil)
	detail, err := json.Marshal(map[string]any{evil: evil, "deep": map[string]any{evil: []any{evil}}})
	if err != nil {
		t.Fatal(err)
	}
	e.Detail = detail
	l.events[0] = e
	l.secrets[0].Name, l.secrets[0].JobError, l.secrets[0].JobState = evil, evil, evil
	for _, size := range sizes {
		s := newScreen(t, l, "", size[0], size[1])
		for _, keys := range [][]string{{}, {"enter"}, {"J", "J", "J"}, {"/", "'secret:'"}, {"esc", "o"}, {"backspace", "s"},
			{"tab"}} {
			s.keys(keys...)
			view := s.fits(size[0], size[1])
			if i := strings.IndexFunc(view, func(r rune) bool { return unsafe(r) && r != '\n' }); i >= 0 {
				t.Errorf("%v: got %q", keys, view[i:min(i+20, len(view))])
			}
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain/name": "plain/name", "日本": "日本", "\x1b[31m": `\x1b[31m`, "\u009b": `\x9b`, "\u202eabc": `\u202eabc`,
		"a\xffb": `a\xffb`, "\u2028": `\u2028`, "\ufeff": `\ufeff`,
	} {
		if got := (glyphs{}).clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestThemes(t *testing.T) {
	for _, name := range []string{"auto", "dark", "light", "none"} {
		if _, err := newTheme(name, os.Stdout, os.Getenv); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newTheme("pink", os.Stdout, os.Getenv); err == nil ||
		!strings.Contains(err.Error(), `"pink": auto, dark, light or none`) {
		t.Errorf("pink: got %v", err)
	}
	latin := func(name string) string { return map[string]string{"LANG": "de_DE.ISO-8859-1"}[name] }
	if got := glyphsFor(latin); got.cursor != ">" || strings.Join(got.bars, "") != " .:-=+*#@" {
		t.Errorf("without UTF-8: got %+v", got)
	}
}

func TestEveryKeyHasOneMeaning(t *testing.T) {
	used := map[string]string{}
	for _, c := range keymap() {
		for _, k := range c.Keys() {
			if other, taken := used[k]; taken {
				t.Errorf("%q is for %q and for %q", k, other, c.Help().Desc)
			}
			used[k] = c.Help().Desc
		}
		if c.Help().Key == "" || c.Help().Desc == "" || lipgloss.Width(c.Help().Key) > 11 {
			t.Errorf("%v: got help %+v", c.Keys(), c.Help())
		}
	}
}
