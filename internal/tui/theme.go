package tui

import (
	"fmt"
	"io"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/muesli/termenv"
)

// theme is the look of the browser. Without colours all styles are plain: words and marks say the same.
type theme struct {
	renderer *lipgloss.Renderer
	ask      bool // the terminal has to be queried for its background colour

	title, dim, header, selected, accent, ok, denied, failed lipgloss.Style
	glyphs
}

// glyphs are the marks; a terminal that is not set to UTF-8 gets ASCII.
type glyphs struct {
	ascii                                               bool
	cursor, rule, side, below, here, cut, caret, arrows string
	bars                                                []string // from nothing to full
}

func newTheme(name string, out io.Writer, env func(string) string) (theme, error) {
	r := lipgloss.NewRenderer(out)
	dark, known := backgroundFrom(env)
	r.SetHasDarkBackground(dark || !known) // otherwise lipgloss would query the terminal, and wait
	switch name {
	case "auto":
	case "dark":
		r.SetHasDarkBackground(true)
	case "light":
		r.SetHasDarkBackground(false)
	case "none":
		r.SetColorProfile(termenv.Ascii)
	default:
		return theme{}, fmt.Errorf("%w as %q: auto, dark, light or none", ErrTheme, name)
	}
	colour := func(light, dark string) lipgloss.Style {
		return r.NewStyle().Foreground(lipgloss.AdaptiveColor{Light: light, Dark: dark})
	}
	return theme{
		renderer: r,
		ask:      name == "auto" && !known && env("TERM") != "linux", // the Linux console would print the query
		title:    r.NewStyle().Bold(true), dim: colour("242", "245"), header: colour("240", "248").Underline(true),
		selected: r.NewStyle().Background(lipgloss.AdaptiveColor{Light: "153", Dark: "24"}).Bold(true),
		accent:   colour("25", "39"), ok: colour("28", "114"), denied: colour("160", "203").Bold(true),
		failed: colour("130", "214").Bold(true),
		glyphs: glyphsFor(env),
	}, nil
}

func glyphsFor(env func(string) string) glyphs {
	locale := env("LC_ALL")
	for _, name := range []string{"LC_CTYPE", "LANG"} {
		if locale == "" {
			locale = env(name)
		}
	}
	locale = strings.ToLower(locale)
	if strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8") || locale == "" {
		return glyphs{cursor: "›", rule: "─", side: "│", below: "▲", here: "●", cut: "…", caret: "▏", arrows: "↑ ↓",
			bars: strings.Split(" ▁▂▃▄▅▆▇█", "")}
	}
	return glyphs{ascii: true, cursor: ">", rule: "-", side: "|", below: "^", here: "*", cut: "~", caret: "_",
		arrows: "Up Down", bars: strings.Split(" .:-=+*#@", "")}
}

// keys names keys as this terminal can show them.
func (g glyphs) keys(text string) string {
	if !g.ascii {
		return text
	}
	return strings.NewReplacer("↑", "Up", "↓", "Down").Replace(text)
}

// outcome is the style of an outcome.
func (t theme) outcome(word string) lipgloss.Style {
	switch word {
	case "ok":
		return t.ok
	case "denied":
		return t.denied
	case "failed":
		return t.failed
	}
	return t.title
}
