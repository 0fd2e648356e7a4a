package tui

import (
	"io"
	"os"
	"strings"
	"testing"
)

// The terminal's answers are removed from the typed keys, at any place and in any pieces.
func TestAnswersAmongKeys(t *testing.T) {
	const light, dark = "\x1b]11;rgb:ffff/ffff/ffff\x1b\\", "\x1b]11;rgb:1e1e/1e1e/2e2e\x07"
	for _, c := range []struct {
		name, keys, answers string
		reads               []string
	}{
		{"alone", "", "light", []string{light}},
		{"rgba and short channels", "", "dark light", []string{"\x1b]11;rgba:00/00/00/ff\x07", "\x1b]11;rgb:f/f/f\x1b\\"}},
		{"among keys", "abq", "dark", []string{"a", "b" + dark + "q"}},
		{"two at once", "x", "dark light", []string{dark + "x" + light}},
		{"in pieces", "abc", "light", []string{"a\x1b]1", "1;rgb:ff", "ff/ffff/ff", "ff\x1b", "\\bc"}},
		{"Escape by itself", "\x1bj", "", []string{"\x1b", "j"}},
		{"an arrow", "\x1b[A\x1b[B", "", []string{"\x1b[A", "\x1b[B"}},
		{"Alt-] and more", "\x1b]q", "", []string{"\x1b]", "q"}},
		{"another report", "\x1b]10;rgb:ffff/ffff/ffff\x07", "", []string{"\x1b]10;rgb:ffff/ffff/ffff\x07"}},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		var answers []string
		k := &keyboard{File: r, answered: func(m backgroundMsg) {
			answers = append(answers, map[bool]string{true: "dark", false: "light"}[m.dark])
		}}
		keys, buffer := "", make([]byte, 256)
		for _, text := range c.reads {
			if _, err := io.WriteString(w, text); err != nil {
				t.Fatal(err)
			}
			n, err := k.Read(buffer)
			if err != nil {
				t.Fatal(err)
			}
			keys += string(buffer[:n])
		}
		if keys != c.keys || strings.Join(answers, " ") != c.answers {
			t.Errorf("%s: got keys %q and %v, want %q and %s", c.name, keys, answers, c.keys, c.answers)
		}
		_, _ = r.Close(), w.Close()
	}
}

// The environment and the caller's choice count before the terminal's answer.
func TestWhoSaysTheBackground(t *testing.T) {
	for _, c := range []struct {
		theme, colours, term string
		dark, ask            bool
	}{
		{"auto", "", "xterm", true, true},
		{"auto", "", "linux", true, false},
		{"auto", "15;0", "xterm", true, false},
		{"auto", "0;15", "xterm", false, false},
		{"auto", "0;default;7", "xterm", false, false},
		{"auto", "12;8", "xterm", true, false},
		{"auto", "0;default", "xterm", true, true},
		{"dark", "0;15", "xterm", true, false},
		{"light", "15;0", "xterm", false, false},
		{"light", "", "xterm", false, false},
	} {
		env := map[string]string{"COLORFGBG": c.colours, "TERM": c.term}
		got, err := newTheme(c.theme, io.Discard, func(name string) string { return env[name] })
		if err != nil {
			t.Fatal(err)
		}
		if dark := got.renderer.HasDarkBackground(); dark != c.dark || got.ask != c.ask {
			t.Errorf("%+v: got dark %v, ask %v", c, dark, got.ask)
		}
	}
}
