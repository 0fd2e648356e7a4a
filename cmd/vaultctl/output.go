package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"
	"golang.org/x/term"

	"github.com/hyperiondb/vault/internal/rotation"
)

// listedFailures is how many failures the JSON answer of a bulk command lists; it counts all of them.
const listedFailures = 1000

func (a *app) json() bool  { return a.output == "json" }
func (a *app) jsonl() bool { return a.output == "jsonl" }

// streamsKey marks a command that also writes jsonl: a JSON document a line, for output without an end or too long for
// one document.
const streamsKey = "streams"

// printJSON writes one indented document.
func (a *app) printJSON(v any) error {
	encoder := json.NewEncoder(a.shown())
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

// printTable writes aligned columns with a heading. If there are no rows it prints the given text on stderr instead.
func (a *app) printTable(heading []string, rows [][]string, ifEmpty string) error {
	if len(rows) == 0 {
		fmt.Fprintln(a.err, ifEmpty)
		return nil
	}
	for _, row := range rows {
		for i := range row {
			row[i] = printable(row[i])
			if row[i] == "" {
				row[i] = "-"
			}
		}
	}
	if width, _, err := term.GetSize(int(a.out.Fd())); err == nil { // it is a terminal
		fitTable(heading, rows, width)
	}
	table := tabwriter.NewWriter(a.out, 0, 0, columnGap, ' ', 0)
	fmt.Fprintln(table, strings.Join(heading, "\t"))
	for _, row := range rows {
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

const (
	columnGap = 2
	// narrowest is how far a column is cut: less would say nothing.
	narrowest = 12
	cut       = "..." // not one character of Unicode: the locale may be C
)

// fitTable cuts cells so that no line is wider than the terminal, the widest column first. The first column stays
// whole, since its names are what other commands take, and so does a table that cannot fit.
func fitTable(heading []string, rows [][]string, width int) {
	widths := make([]int, len(heading))
	total := columnGap * (len(heading) - 1)
	for i := range heading {
		widths[i] = len(heading[i])
		for _, row := range rows {
			widths[i] = max(widths[i], lipgloss.Width(row[i]))
		}
		total += widths[i]
	}
	for ; total > width; total-- {
		widest := 0
		for i := 1; i < len(widths); i++ {
			if widths[i] > narrowest && widths[i] > len(heading[i]) && (widest == 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest == 0 {
			return
		}
		widths[widest]--
	}
	for _, row := range rows {
		for i := range row {
			if lipgloss.Width(row[i]) > widths[i] {
				row[i] = ansi.Truncate(row[i], widths[i], cut)
			}
		}
	}
}

// printFields writes name and value pairs, one a line; empty values are left out.
func (a *app) printFields(pairs ...string) error {
	table := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(table, "%s\t%s\n", pairs[i], printable(pairs[i+1]))
		}
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

// note prints a message that is not data on stderr.
func (a *app) note(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		fmt.Fprintln(a.err, printable(line))
	}
}

// shown is standard output for JSON. On a terminal, characters that control it or change the writing direction become
// \u escapes, which mean the same in JSON; elsewhere every byte stays as it is.
func (a *app) shown() io.Writer {
	if term.IsTerminal(int(a.out.Fd())) {
		return &escapedJSON{to: a.out}
	}
	return a.out
}

// escapedJSON writes JSON with those escapes. A character may arrive in two writes.
type escapedJSON struct {
	to   io.Writer
	rest []byte
}

func (e *escapedJSON) Write(text []byte) (int, error) {
	all := append(e.rest, text...)
	defer clear(all)
	var out []byte
	defer func() { clear(out) }()
	for len(all) > 0 && utf8.FullRune(all) {
		r, size := utf8.DecodeRune(all)
		switch {
		case r == '\n' || r == '\t' || printableRune(r):
			out = append(out, all[:size]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		all = all[size:]
	}
	e.rest = bytes.Clone(all)
	if _, err := e.to.Write(out); err != nil {
		return 0, err
	}
	return len(text), nil
}

// printable escapes characters of a row that control the terminal or change the writing direction.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !printableRune(r) {
			return '?'
		}
		return r
	}, s)
}

func printableRune(r rune) bool {
	return !unicode.IsControl(r) && !unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// when prints a time in the local zone; "" for none.
func when(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05 MST")
}

func at(t time.Time) string { return when(&t) }

func seconds(n int64) string { return rotation.FormatInterval(time.Duration(n) * time.Second) }

// durationFlag is a flag in the notation of rotation intervals: 30d, 1w2d, 36h. Nil until it is given.
type durationFlag struct{ value **time.Duration }

func (d durationFlag) String() string {
	if d.value == nil || *d.value == nil {
		return ""
	}
	return rotation.FormatInterval(**d.value)
}

func (d durationFlag) Set(text string) error {
	parsed, err := rotation.ParseInterval(text)
	if err == nil {
		*d.value = &parsed
	}
	return err
}

func (durationFlag) Type() string { return "duration" }
