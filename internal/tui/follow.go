package tui

import (
	"context"
	"fmt"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
)

// followPane waits for new events. They appear at once while the newest event is selected; otherwise the table does not
// move, and the state line has their number.
type followPane struct {
	pending
	on       bool
	follower Follower
	waiting  int64       // new events that are not in the table
	recent   []audit.Row // the latest new events, for a page that was queried before they were recorded
	err      error
}

const (
	maxRecent    = 500
	recountEvery = 5 * time.Second // how often the histogram is updated while events arrive
)

type followMsg struct {
	number   int
	follower Follower
	fresh    []audit.Row
	more     bool
	err      error
}

func (m *model) toggleFollow() tea.Cmd {
	if m.follow.on {
		m.follow.stop()
		m.follow = followPane{pending: m.follow.pending}
		return nil
	}
	if f, err := m.parse(); err == nil && !f.Until().IsZero() {
		m.notice = "the filter has an end (until:), so nothing new will match"
		return nil
	}
	m.follow.on = true
	m.follow.follower = nil
	return tea.Batch(m.queryNew(), m.home())
}

// refollow follows another filter.
func (m *model) refollow() tea.Cmd {
	m.follow.stop()
	m.follow = followPane{pending: m.follow.pending, on: m.follow.on}
	if f, err := m.parse(); err == nil && !f.Until().IsZero() {
		m.follow.on = false
	}
	return m.queryNew()
}

// queryNew queries new events: every second, one query at a time. The first one only opens the Follower.
func (m *model) queryNew() tea.Cmd {
	f, err := m.parse()
	if !m.follow.on || m.follow.inFlight() || err != nil {
		return nil
	}
	f = f.Without(filter.Since) // new events are later than it
	follower := m.follow.follower
	return query(m, &m.follow.pending, func(ctx context.Context) (followMsg, error) {
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
		return nil // the next tick tries again
	}
	begun := f.follower == nil
	f.follower = msg.follower
	var cmds []tea.Cmd
	if begun { // events recorded between loading the table and opening the Follower
		cmds = append(cmds, m.loadNewest())
	}
	f.recent = append(f.recent, msg.fresh...)
	f.recent = f.recent[max(0, len(f.recent)-maxRecent):]
	m.histogram.behind = m.histogram.behind || len(msg.fresh) > 0
	cmds = append(cmds, m.recount())
	switch {
	case len(msg.fresh) == 0:
	case !m.events.loaded: // the page that is being queried takes them from recent
	case m.events.selected == 0 && m.events.newer == nil && f.waiting == 0:
		m.events.insert(msg.fresh)
		m.events.show(m.rows())
		cmds = append(cmds, m.querySeal())
	default:
		f.waiting += int64(len(msg.fresh))
	}
	if msg.more {
		cmds = append(cmds, m.queryNew())
	}
	return tea.Batch(cmds...)
}

// recount updates the histogram, at most once in recountEvery.
func (m *model) recount() tea.Cmd {
	if !m.histogram.behind || m.histogram.inFlight() || m.now().Sub(m.histogram.sentAt) < recountEvery {
		return nil
	}
	return m.queryCounts()
}

func (f *followPane) text(m *model) string {
	switch {
	case !f.on:
		return ""
	case f.err != nil:
		return m.theme.failed.Render("FOLLOW FAILS")
	case f.waiting > 0:
		return m.theme.accent.Render(fmt.Sprintf("FOLLOW PAUSED  +%s new (Home)", thousands(f.waiting)))
	case m.events.selected > 0 || m.events.newer != nil:
		return m.theme.accent.Render("FOLLOW PAUSED")
	}
	return m.theme.accent.Render(m.theme.here + " FOLLOW")
}
