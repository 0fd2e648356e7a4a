package tui

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
)

// secretsPane is the page of secrets: their state, without values.
type secretsPane struct {
	pending
	prefix        string // of the names
	rows          []audit.SecretUse
	more          bool // there are secrets after the last row
	loaded        bool
	selected, top int
	err           error
}

const (
	secretsAtOnce = 100
	maxSecrets    = 2000
)

type secretsMsg struct {
	number int
	after  string // "" = the first page
	rows   []audit.SecretUse
	err    error
}

func (m *model) openSecrets() tea.Cmd {
	if m.secrets.loaded {
		return nil
	}
	return m.loadSecrets()
}

func (m *model) loadSecrets() tea.Cmd {
	m.secrets = secretsPane{pending: m.secrets.pending, prefix: m.secrets.prefix, rows: m.secrets.rows}
	return m.querySecrets("")
}

// findSecrets shows the secrets whose names begin with prefix.
func (m *model) findSecrets(prefix string) tea.Cmd {
	if strings.TrimSpace(prefix) == m.secrets.prefix {
		return nil
	}
	m.secrets.prefix, m.secrets.rows = strings.TrimSpace(prefix), nil // they are of another prefix
	return m.loadSecrets()
}

func (m *model) querySecrets(after string) tea.Cmd {
	prefix := m.secrets.prefix
	return query(m, &m.secrets.pending, func(ctx context.Context) ([]audit.SecretUse, error) {
		return m.source.SecretUses(ctx, prefix, after, secretsAtOnce)
	},
		func(n int, rows []audit.SecretUse, err error) tea.Msg { return secretsMsg{n, after, rows, err} })
}

func (msg secretsMsg) arrive(m *model) tea.Cmd {
	p := &m.secrets
	if !p.take(msg.number) {
		return nil
	}
	if p.err = msg.err; msg.err != nil {
		return nil
	}
	p.loaded = true
	if msg.after == "" {
		p.rows, p.selected, p.top = nil, 0, 0
	}
	p.rows, p.more = append(p.rows, msg.rows...), len(msg.rows) == secretsAtOnce
	if over := len(p.rows) - maxSecrets; over > 0 {
		p.rows = slices.Clone(p.rows[over:])
		p.selected, p.top = max(0, p.selected-over), max(0, p.top-over)
	}
	return nil
}

func (m *model) moveSecret(by int) tea.Cmd {
	p := &m.secrets
	p.selected = max(0, min(p.selected+by, len(p.rows)-1))
	if p.more && !p.inFlight() && len(p.rows)-p.selected <= lookahead {
		return m.querySecrets(p.rows[len(p.rows)-1].Name)
	}
	return nil
}

func (m *model) eventsOfSecret() tea.Cmd {
	p := &m.secrets
	if p.selected >= len(p.rows) {
		return nil
	}
	m.page = eventsPage
	return m.setFilter(filter.Filter{}.With(filter.Term{Key: filter.Secret, Text: p.rows[p.selected].Name}).String())
}

// secretsLines are the table and the state line.
func (m *model) secretsLines(width, height int) []string {
	p := &m.secrets
	rows := max(1, height-3)
	p.top = min(max(p.top, p.selected-rows+1), p.selected)
	what := "all secrets"
	if p.prefix != "" {
		what = "secrets under " + m.theme.clean(p.prefix)
	}
	lines := []string{" " + m.theme.dim.Render(what), m.secretHeader(width)}
	for i := p.top; i < len(p.rows) && i < p.top+rows; i++ {
		lines = append(lines, m.secretRow(p.rows[i], width, i == p.selected))
	}
	if len(p.rows) == 0 && p.err == nil {
		empty := "  there are none"
		if p.inFlight() {
			empty = m.theme.dim.Render("  asking ...")
		} else if !p.loaded {
			empty = "  not asked, Esc has stopped it; r asks again"
		}
		lines = append(lines, "", empty)
	}
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	return append(lines[:height-1], m.secretState(width))
}

func (m *model) secretState(width int) string {
	p := &m.secrets
	left := ""
	switch {
	case p.err != nil:
		left = m.theme.failed.Render("ERROR ") + m.theme.dim.Render("(r asks again) ") + m.theme.clean(p.err.Error())
	case m.notice != "":
		left = m.theme.clean(m.notice)
	case p.selected < len(p.rows) && p.rows[p.selected].JobError != "":
		left = m.theme.failed.Render("the rotation: ") + m.theme.clean(p.rows[p.selected].JobError)
	}
	more := ""
	if p.more {
		more = "+"
	}
	right := ""
	if len(p.rows) > 0 {
		right = m.theme.dim.Render(fmt.Sprintf("%d of %d%s ", p.selected+1, len(p.rows), more))
	}
	return m.theme.spread(" "+left, right, width)
}

// secretColumns are the widths of name, version, last read, last rotated, next rotation and state.
func secretColumns(width int) []int {
	if width < 90 {
		return []int{max(10, width-2-4-11-11-14-4), 4, 11, 0, 11, 14}
	}
	return []int{min(64, width-2-5-14-14-14-22-5), 5, 14, 14, 14, 22}
}

func (m *model) secretHeader(width int) string {
	titles := []string{"NAME", "VER", "LAST READ", "ROTATED", "NEXT", "STATE"}
	return m.theme.header.Render(m.theme.fit("  "+m.cells(titles, secretColumns(width)), width))
}

func (m *model) cells(texts []string, widths []int) string {
	var parts []string
	for i, text := range texts {
		switch {
		case widths[i] == 0:
		case i == 0:
			parts = append(parts, m.theme.fitEnd(text, widths[i]))
		default:
			parts = append(parts, m.theme.fit(text, widths[i]))
		}
	}
	return strings.Join(parts, " ")
}

func (m *model) secretRow(s audit.SecretUse, width int, selected bool) string {
	state := state(s, m.now())
	line := m.cells([]string{m.theme.clean(s.Name), versionText(s.Version), m.ago(s.LastReadAt), m.ago(s.RotatedAt),
		m.until(s.NextRotationAt), m.theme.clean(state)}, secretColumns(width))
	switch {
	case selected:
		return m.theme.selected.Render(m.theme.fit(m.theme.cursor+" "+line, width))
	case state == strings.ToUpper(state) && state != "":
		return m.theme.failed.Render(m.theme.fit("! "+line, width))
	}
	return m.theme.fit("  "+line, width)
}

// state is in capitals if an operator has to act.
func state(s audit.SecretUse, now time.Time) string {
	switch {
	case s.JobState == "failed":
		return "FAILED"
	case s.Paused:
		return "paused"
	case s.NextRotationAt != nil && now.Sub(*s.NextRotationAt) > 5*time.Minute:
		return "OVERDUE"
	case s.JobState != "":
		return "rotating"
	}
	return "ok"
}

func (m *model) ago(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return shortDuration(m.now().Sub(*t)) + " ago"
}

func (m *model) until(t *time.Time) string {
	switch {
	case t == nil:
		return "-"
	case t.Before(m.now()):
		return m.ago(t)
	}
	return "in " + shortDuration(t.Sub(m.now()))
}
