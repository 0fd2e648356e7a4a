package tui

import (
	"context"
	"fmt"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/audit/filter"
)

// followPane waits for new events. While the newest event is selected they appear above it; elsewhere the table stands
// still, and says how many there are.
type followPane struct {
	asker
	on       bool
	follower Follower
	waiting  int64   // new ones that are not in the table
	recent   []Event // the last of all new ones: a page that was asked for before they came lacks them
	err      error
}

const (
	keepRecent = 500
	recount    = 5 * time.Second // how often the strip is counted anew while events come
)

type followMsg struct {
	number   int
	follower Follower
	fresh    []Event
	more     bool
	err      error
}

func (m *model) toggleFollow() tea.Cmd {
	if m.follow.on {
		m.follow.stop()
		m.follow = followPane{asker: m.follow.asker}
		return nil
	}
	if f, err := m.parse(); err == nil && !f.Until().IsZero() {
		m.notice = "the filter has an end (until:), so nothing new will match"
		return nil
	}
	m.follow.on = true
	m.follow.follower = nil
	return tea.Batch(m.look(), m.home())
}

// refollow follows another filter.
func (m *model) refollow() tea.Cmd {
	m.follow.stop()
	m.follow = followPane{asker: m.follow.asker, on: m.follow.on}
	if f, err := m.parse(); err == nil && !f.Until().IsZero() {
		m.follow.on = false
	}
	return m.look()
}

// look asks for what is new: every second, one question at a time. The first look only begins.
func (m *model) look() tea.Cmd {
	f, err := m.parse()
	if !m.follow.on || m.follow.asking() || err != nil {
		return nil
	}
	f = f.Without(filter.Since) // what comes is newer than that
	follower := m.follow.follower
	return ask(m, &m.follow.asker, func(ctx context.Context) (followMsg, error) {
		if follower == nil {
			begun, err := m.source.Follow(ctx, f)
			return followMsg{follower: begun}, err
		}
		fresh, more, err := follower.Next(ctx)
		return followMsg{follower: follower, fresh: fresh, more: more}, err
	}, func(n int, msg followMsg, err error) tea.Msg {
		msg.number, msg.err = n, err
		return msg
	})
}

func (msg followMsg) arrive(m *model) tea.Cmd {
	f := &m.follow
	if !f.take(msg.number) {
		return nil
	}
	if f.err = msg.err; msg.err != nil {
		return nil // the next second asks again
	}
	begun := f.follower == nil
	f.follower = msg.follower
	var cmds []tea.Cmd
	if begun { // what came between the table and the first look
		cmds = append(cmds, m.loadNewest())
	}
	f.recent = append(f.recent, msg.fresh...)
	f.recent = f.recent[max(0, len(f.recent)-keepRecent):]
	if len(msg.fresh) > 0 && m.now().Sub(m.strip.asked) >= recount {
		cmds = append(cmds, m.askCounts())
	}
	switch {
	case len(msg.fresh) == 0:
	case m.events.selected == 0 && m.events.newer == nil && f.waiting == 0:
		m.events.insert(msg.fresh)
		m.events.show(m.rows())
		cmds = append(cmds, m.askSeal())
	default:
		f.waiting += int64(len(msg.fresh))
	}
	if msg.more {
		cmds = append(cmds, m.look())
	}
	return tea.Batch(cmds...)
}

func (f *followPane) text(m *model) string {
	switch {
	case !f.on:
		return ""
	case f.waiting > 0:
		return m.theme.accent.Render(fmt.Sprintf("FOLLOW PAUSED  +%s new (Home)", thousands(f.waiting)))
	case m.events.selected > 0 || m.events.newer != nil:
		return m.theme.accent.Render("FOLLOW PAUSED")
	}
	return m.theme.accent.Render(m.theme.here + " FOLLOW")
}
