package tui

import (
	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/audit"
)

const wheelRows = 3

// mouse moves with the wheel. A click selects an event, a second click shows its details, a click on a bar goes there.
func (m *model) mouse(msg tea.MouseMsg) tea.Cmd {
	if msg.Action != tea.MouseActionPress || m.prompt.open() || m.help || m.height < minHeight {
		return nil
	}
	var cmd tea.Cmd
	switch msg.Button {
	case tea.MouseButtonWheelUp:
		cmd = m.move(-wheelRows)
	case tea.MouseButtonWheelDown:
		cmd = m.move(wheelRows)
	case tea.MouseButtonLeft:
		cmd = m.click(msg.X, msg.Y)
	default:
		return nil
	}
	m.events.show(m.rows())
	return tea.Batch(cmd, m.queryMore(), m.querySeal())
}

func (m *model) click(x, y int) tea.Cmd {
	switch {
	case y == 0:
		return m.otherPage()
	case m.page == secretsPage:
		return m.clickSecret(y - 3) // title, what is shown, heading
	case y == 1:
		return m.promptFilter()
	case y < 2+m.histogramHeight():
		if i := x - histogramMargin; i >= 0 && i < len(m.histogram.Buckets) {
			return m.loadAt(audit.Cursor{At: m.histogram.end(i)})
		}
		return nil
	}
	return m.clickEvent(x, y-3-m.histogramHeight()) // title, filter, heading
}

func (m *model) clickEvent(x, row int) tea.Cmd {
	p := &m.events
	i := p.top + row
	if row < 0 || row >= m.rows() || i >= len(p.events) || m.detail.open && m.beside() && x >= m.width-m.detailWidth() {
		return nil
	}
	if i == p.selected {
		return m.enter()
	}
	p.choose(i)
	return nil
}

func (m *model) clickSecret(row int) tea.Cmd {
	p := &m.secrets
	i := p.top + row
	if row < 0 || i >= len(p.rows) {
		return nil
	}
	if i == p.selected {
		return m.enter()
	}
	p.selected = i
	return nil
}
