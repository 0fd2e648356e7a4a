package tui

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/audit/filter"
)

// Deadline is how long one query may take.
const Deadline = 15 * time.Second

// ErrTheme rejects an unknown theme.
var ErrTheme = errors.New("no such theme")

// Options of a browser.
type Options struct {
	Source  Source
	Filter  string // as it is typed
	Theme   string // auto, dark, light or none
	In, Out *os.File
	Now     func() time.Time // in the zone that times are shown in
}

// Run shows the browser until it is left or ctx ends. It restores the terminal, after a panic too.
func Run(ctx context.Context, o Options) error {
	if _, err := filter.Parse(o.Filter, o.Now()); err != nil {
		return err
	}
	theme, err := newTheme(o.Theme, o.Out, os.Getenv)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends running queries
	m := newModel(ctx, o.Source, o.Now, theme, o.Filter)
	m.clipboard = o.Out
	if theme.ask {
		m.terminal = o.Out
	}
	input := &keyboard{File: o.In}
	program := tea.NewProgram(m, tea.WithInput(input), tea.WithOutput(o.Out), tea.WithAltScreen(),
		tea.WithMouseCellMotion(),
		tea.WithoutSignalHandler()) // signals end ctx
	// in a goroutine, because the reader of keys must not wait for the model
	input.answered = func(answer backgroundMsg) { go program.Send(answer) }
	// Not tea.WithContext: a program that is killed closes its input while it still reads from it.
	defer context.AfterFunc(ctx, program.Quit)()
	if _, err := program.Run(); err != nil {
		return fmt.Errorf("running the browser: %w", err)
	}
	if m.broken != nil {
		return fmt.Errorf("running the browser: %w", m.broken)
	}
	return ctx.Err()
}
