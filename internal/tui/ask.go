package tui

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	tea "github.com/charmbracelet/bubbletea"
)

// asker numbers the queries of one kind. Only the newest counts.
type asker struct {
	number int
	cancel context.CancelFunc
	began  time.Time // zero = nothing is being asked
}

// ask runs a query beside the event loop, with a deadline. Its answer comes back as what wrap makes of it and of its
// number; whoever takes it asks [asker.take] first.
func ask[T any](m *model, a *asker,
	query func(context.Context) (T, error), wrap func(number int, answer T, err error) tea.Msg) tea.Cmd {
	a.stop()
	ctx, cancel := context.WithTimeout(m.ctx, Deadline)
	a.cancel, a.began = cancel, m.now()
	number := a.number
	return func() (msg tea.Msg) {
		defer cancel()
		defer recoverInto(&msg)
		answer, err := query(ctx)
		return wrap(number, answer, err)
	}
}

// stop makes whatever is being asked stale.
func (a *asker) stop() {
	a.number++
	if a.cancel != nil {
		a.cancel()
	}
	a.cancel, a.began = nil, time.Time{}
}

// take reports whether an answer is the one that is waited for, and ends the waiting.
func (a *asker) take(number int) bool {
	if number != a.number {
		return false
	}
	a.cancel, a.began = nil, time.Time{}
	return true
}

func (a *asker) asking() bool { return !a.began.IsZero() }

// brokenMsg is a panic of a query. Nothing but the loop may end the loop: the terminal is put right before anything is
// printed.
type brokenMsg struct{ err error }

func recoverInto(msg *tea.Msg) {
	if r := recover(); r != nil {
		*msg = brokenMsg{panicked(r)}
	}
}

func panicked(by any) error { return fmt.Errorf("panic: %v\n%s", by, debug.Stack()) }
