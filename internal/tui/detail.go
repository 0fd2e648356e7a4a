package tui

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"

	"github.com/hyperiondb/vault/internal/audit"
)

// detailPane shows all of the selected event, under the table or beside it.
type detailPane struct {
	pending
	open   bool
	top    int
	sealOf int64 // the event that seal is about
	seal   audit.RowSeal
	err    error
}

type sealMsg struct {
	number int
	audit.RowSeal
	err error
}

// querySeal queries the seal of an event once, when its details are shown.
func (m *model) querySeal() tea.Cmd {
	e, ok := m.events.current()
	if !ok || !m.detail.open || m.detail.sealOf == e.ID {
		return nil
	}
	m.detail.sealOf, m.detail.seal, m.detail.err = e.ID, audit.RowSeal{}, nil
	return query(m, &m.detail.pending, func(ctx context.Context) (audit.RowSeal, error) { return m.source.SealOf(ctx, e) },
		func(n int, s audit.RowSeal, err error) tea.Msg { return sealMsg{n, s, err} })
}

func (msg sealMsg) arrive(m *model) tea.Cmd {
	if m.detail.take(msg.number) {
		m.detail.seal, m.detail.err = msg.RowSeal, msg.err
	}
	return nil
}

func (m *model) beside() bool { return m.width >= 120 }

func (m *model) detailWidth() int { return max(48, m.width*2/5) }

func (m *model) detailHeight() int {
	return max(5, (m.height-2-1-m.histogramHeight()-2)*3/5)
}

func (m *model) detailDown() tea.Cmd { m.detail.top++; return nil }
func (m *model) detailUp() tea.Cmd   { m.detail.top = max(0, m.detail.top-1); return nil }

func (m *model) detailLines(width, height int) []string {
	e, ok := m.events.current()
	if !ok {
		return make([]string, height)
	}
	lines := m.describe(e, width-2)
	m.detail.top = max(0, min(m.detail.top, len(lines)-height))
	more := len(lines) - m.detail.top - height
	lines = lines[m.detail.top:]
	if more > 0 {
		lines = append(lines[:height-1:height-1], m.theme.dim.Render(fmt.Sprintf("%d more lines: J and K scroll", more+1)))
	}
	out := make([]string, height)
	for i := range out {
		out[i] = m.theme.fit(" "+at(lines, i), width)
	}
	return out
}

// describe lists all fields of an event, wrapped to a width.
func (m *model) describe(e audit.Row, width int) []string {
	zone := m.now().Location()
	lines := []string{m.theme.title.Render(m.theme.clean(strings.TrimSpace(e.Action+" "+e.Secret))) + " " +
		m.theme.outcome(string(e.Outcome)).Render(m.theme.clean(word(string(e.Outcome))))}
	field := func(name, text string) {
		if text != "" {
			lines = append(lines, m.field(name, m.theme.clean(text), width)...)
		}
	}
	field("when", e.At.In(zone).Format("2006-01-02 15:04:05.000000 MST")+", "+span(m.now().Sub(e.At))+" ago")
	if late := e.RecordedAt.Sub(e.At); late >= time.Second {
		field("arrived", span(late)+" later")
	}
	field("actor", e.Actor)
	field("from", cmp.Or(e.Client, "a local socket")+" as "+e.DBRole)
	field("node", e.Node)
	field("secret", e.Secret)
	field("version", versionText(e.Version))
	field("request", e.RequestID)
	field("event", fmt.Sprintf("%d", e.ID))
	field("seal", m.detail.text(e, zone))
	details := e.Details()
	for _, key := range slices.Sorted(maps.Keys(details)) {
		field(key, pretty(details[key]))
	}
	return lines
}

func (d *detailPane) text(e audit.Row, zone *time.Location) string {
	switch {
	case d.inFlight() && d.sealOf == e.ID:
		return "asking ..."
	case d.err != nil && d.sealOf == e.ID:
		return "not known: " + d.err.Error()
	case d.sealOf != e.ID || !d.seal.Known:
		return ""
	case d.seal.ID == 0:
		return "not sealed yet"
	}
	return fmt.Sprintf("sealed in #%d at %s", d.seal.ID, d.seal.SealedAt.In(zone).Format("15:04:05"))
}

const fieldName = 13

// field is a name and its text, wrapped in a column beside it.
func (m *model) field(name, text string, width int) []string {
	room := max(8, width-fieldName-1)
	var lines []string
	for _, part := range strings.Split(ansi.Wrap(text, room, ""), "\n") {
		label := ""
		if lines == nil {
			label = m.theme.clean(name)
		}
		if lipgloss.Width(label) > fieldName {
			lines = append(lines, m.theme.dim.Render(label))
			label = ""
		}
		lines = append(lines, m.theme.dim.Render(m.theme.fit(label, fieldName))+" "+part)
	}
	return lines
}

// pretty writes a value of the detail: text as it is, other values as JSON.
func pretty(v any) string {
	if text, ok := v.(string); ok {
		return text
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

// detailText is the detail in one line, for the table, without the place in its node's spool.
func detailText(e audit.Row) string {
	var parts []string
	details := e.Details()
	for _, key := range slices.Sorted(maps.Keys(details)) {
		if e.IsPlace(key) {
			continue
		}
		parts = append(parts, key+"="+pretty(details[key]))
	}
	return strings.Join(parts, " ")
}
