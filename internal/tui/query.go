package tui

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	tea "github.com/charmbracelet/bubbletea"
)

// pending numbers the queries of one kind. Only the answer to the newest is used.
type pending struct {
	number int
	cancel context.CancelFunc
	began  time.Time // zero = no query is running
}

// query calls run outside of the event loop, with a deadline. The answer arrives as the message that wrap makes of it
// and its number. Its arrive method calls [pending.take] first.
func query[T any](m *model, a *pending,
	run func(context.Context) (T, error), wrap func(number int, answer T, err error) tea.Msg) tea.Cmd {
	a.stop()
	ctx, cancel := context.WithTimeout(m.ctx, Deadline)
	a.cancel, a.began = cancel, m.now()
	number := a.number
	return func() (msg tea.Msg) {
		defer cancel()
		defer recoverInto(&msg)
		answer, err := run(ctx)
		return wrap(number, answer, err)
	}
}

// stop cancels the running query and makes its answer stale.
func (a *pending) stop() {
	a.number++
	if a.cancel != nil {
		a.cancel()
	}
	a.cancel, a.began = nil, time.Time{}
}

// take reports whether an answer belongs to the newest query, which it ends.
func (a *pending) take(number int) bool {
	if number != a.number {
		return false
	}
	a.cancel, a.began = nil, time.Time{}
	return true
}

func (a *pending) inFlight() bool { return !a.began.IsZero() }

// brokenMsg is a panic of a query. Only the event loop may end the browser, so that the terminal is restored before
// the panic is printed.
type brokenMsg struct{ err error }

func recoverInto(msg *tea.Msg) {
	if r := recover(); r != nil {
		*msg = brokenMsg{panicked(r)}
	}
}

func panicked(by any) error { return fmt.Errorf("panic: %v\n%s", by, debug.Stack()) }
