package tui

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"
)

// clean makes text from a row safe to show: control characters of both sets, characters that change the writing
// direction, and invisible ones are written out as \x1b or \u202e. A terminal that is not set to UTF-8 gets every
// character outside of ASCII so.
func (g glyphs) clean(s string) string {
	unsafe := func(r rune) bool { return unsafe(r) || g.ascii && r >= utf8.RuneSelf }
	if strings.IndexFunc(s, unsafe) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case !unsafe(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		s = s[size:]
	}
	return b.String()
}

func unsafe(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs)
}

// fit makes a line exactly width cells wide.
func (g glyphs) fit(s string, width int) string {
	if width <= 0 {
		return ""
	}
	s = ansi.Truncate(s, width, g.cut)
	return s + strings.Repeat(" ", max(0, width-lipgloss.Width(s)))
}

// fitEnd keeps the end of a text that is too long: the end of a secret's name is more specific than its beginning.
func (g glyphs) fitEnd(s string, width int) string {
	over := lipgloss.Width(s) - width
	if over <= 0 || width <= 1 {
		return g.fit(s, width)
	}
	return g.fit(ansi.TruncateLeft(s, over+1, g.cut), width)
}

// spread puts one text at the left of a line and another at the right, and shortens the left one to fit.
func (g glyphs) spread(left, right string, width int) string {
	room := width - lipgloss.Width(right) - 1
	if room < 8 {
		return g.fit(left, width)
	}
	return g.fit(left, room) + " " + right
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	digits := strconv.FormatInt(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// span writes a duration in its largest unit or two.
func span(d time.Duration) string {
	switch d = d.Abs(); {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// shortDuration writes a duration in one unit, for a table.
func shortDuration(d time.Duration) string {
	if d = d.Abs(); d >= time.Hour && d < 48*time.Hour {
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return span(d)
}

// count writes a number with its noun.
func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(n) + " " + many
}
