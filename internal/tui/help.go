package tui

import (
	"slices"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
)

func (m *model) toggleHelp() tea.Cmd {
	m.help, m.helpTop = !m.help, 0
	return nil
}

// helpLines are made of the keymap, in two columns if there is room.
func (m *model) helpLines(width, height int) []string {
	var groups [][]string
	for _, group := range []string{moving, asking, acting, elsewhere} {
		lines := []string{m.theme.title.Render(group)}
		for _, c := range m.keys {
			if h := c.Help(); c.group == group {
				lines = append(lines, "  "+m.theme.accent.Render(m.theme.fit(m.theme.keys(h.Key), 11))+h.Desc)
			}
		}
		groups = append(groups, append(lines, ""))
	}
	lines := slices.Concat(groups...)
	if width >= 100 {
		left, right := slices.Concat(groups[0], groups[3]), slices.Concat(groups[1], groups[2])
		lines = lines[:0]
		for i := range max(len(left), len(right)) {
			lines = append(lines, m.theme.fit(at(left, i), width/2)+at(right, i))
		}
	}
	lines = append(lines, "A filter is words that must all hold: actor:ci action:read secret:prod/* ip:10.0.0.0/8",
		"outcome:denied since:-2h until:today request: node: version:. Of one key any will do, - negates.",
		"Shift and the mouse mark text as usual; copying (y) takes a terminal that allows OSC 52.")
	m.helpTop = max(0, min(m.helpTop, len(lines)-height))
	return lines[m.helpTop:]
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

// hints is the last line: how to leave, and as many other keys as fit.
func (m *model) hints(width int) string {
	if m.help {
		return m.theme.dim.Render(m.theme.arrows + " scroll   any other key closes")
	}
	if m.prompt.open() {
		return m.theme.dim.Render("Enter takes it   Esc leaves it   Tab completes   " + m.theme.arrows + " choose")
	}
	shown := []string{"/ filter", "Enter details", "Tab secrets", "f follow", "t time", "e refusals"}
	if m.page == secretsPage {
		shown = []string{"/ find", "Enter events", "Tab events"}
	}
	const gap, quit = "   ", "q quit"
	line := "? help"
	for _, h := range shown {
		if lipgloss.Width(line+gap+h+gap+quit) > width {
			break
		}
		line += gap + h
	}
	return m.theme.dim.Render(line + gap + quit)
}
