package tui

import (
	"fmt"
	"time"

	tea "github.com/charmbracelet/bubbletea"
)

// statusLine says which node answers, and how far behind it is.
type statusLine struct {
	pending
	Status
	known bool
	asked time.Time
	err   error
}

const statusEvery = 10 * time.Second

type statusMsg struct {
	number int
	Status
	err error
}

func (m *model) queryStatus() tea.Cmd {
	m.status.asked = m.now()
	return query(m, &m.status.pending, m.source.Status, func(n int, s Status,
		err error) tea.Msg {
		return statusMsg{n, s, err}
	})
}

func (m *model) keepStatus() tea.Cmd {
	if m.status.inFlight() || m.now().Sub(m.status.asked) < statusEvery {
		return nil
	}
	return m.queryStatus()
}

func (msg statusMsg) arrive(m *model) tea.Cmd {
	if !m.status.take(msg.number) {
		return nil
	}
	back := m.status.err != nil && msg.err == nil
	if m.status.err = msg.err; msg.err == nil {
		m.status.Status, m.status.known = msg.Status, true
	}
	if back && m.events.err != nil { // the database is back: reload without waiting for a key
		return m.loadNewest()
	}
	return nil
}

func (s *statusLine) text(m *model) string {
	name := m.theme.clean(s.Node)
	if name == "" {
		name = "vault"
	}
	switch {
	case s.err != nil:
		return m.theme.failed.Render("database away ")
	case !s.known:
		return ""
	case s.Standby && s.ReplayedUntil != nil:
		return m.theme.dim.Render(fmt.Sprintf("%s, standby, replayed until %s ", name,
			s.ReplayedUntil.In(m.now().Location()).Format("15:04:05")))
	case s.Standby:
		return m.theme.dim.Render(name + ", standby ")
	}
	return m.theme.dim.Render(name + ", primary ")
}

func sizeText(width, height int) string { return fmt.Sprintf("%dx%d", width, height) }
