package tui

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"github.com/aymanbagabas/go-osc52/v2"
	tea "github.com/charmbracelet/bubbletea"
)

// exportPane writes all events of the filter to a file while the browser can be used.
type exportPane struct {
	cancel  context.CancelFunc // nil = no export runs
	written *atomic.Int64
	path    string
	of      string // its filter
	state   string // how the last one ended
}

func (p *exportPane) running() bool { return p.cancel != nil }

func (p *exportPane) abort() {
	if p.cancel != nil {
		p.cancel()
	}
}

type exportMsg struct{ err error }

func (m *model) promptExport() tea.Cmd {
	if m.export.running() {
		m.notice = "an export is being written; Esc stops it"
		return nil
	}
	name := "audit-" + m.now().Format("20060102-150405") + ".jsonl"
	return m.openPrompt(purpose{label: "export the filter to:", accept: (*model).startExport}, name)
}

func (m *model) startExport(path string) (tea.Cmd, error) {
	path = strings.TrimSpace(path)
	f, err := m.parse()
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return nil, fmt.Errorf("%q: %w", path, pathErr.Err)
	} else if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(m.ctx) // no deadline: it reads in short transactions, and Esc stops it
	written := &atomic.Int64{}
	m.export = exportPane{cancel: cancel, written: written, path: path, of: m.filter}
	m.export.state = m.export.progress()
	return func() (msg tea.Msg) {
		defer cancel()
		defer recoverInto(&msg)
		return exportMsg{writeAll(ctx, file, func(w io.Writer) error { return m.source.Export(ctx, f, w, written.Store) })}
	}, nil
}

// writeAll removes the file if not all of it was written.
func writeAll(ctx context.Context, file *os.File, write func(io.Writer) error) error {
	buffered := bufio.NewWriterSize(file, 1<<16)
	err := write(buffered)
	if err == nil {
		err = errors.Join(buffered.Flush(), file.Sync())
	}
	err = errors.Join(err, file.Close())
	if err != nil {
		os.Remove(file.Name())
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (msg exportMsg) arrive(m *model) tea.Cmd {
	p := &m.export
	p.cancel = nil
	switch {
	case errors.Is(msg.err, context.Canceled):
		p.state = "the export was stopped, and its file removed"
	case msg.err != nil:
		p.state = "the export failed: " + msg.err.Error()
	default:
		p.state = count(p.written.Load(), "event", "events") + " in " + p.path
	}
	return nil
}

func (p *exportPane) progress() string {
	return fmt.Sprintf("exporting to %s: %s (Esc stops)", p.path, count(p.written.Load(), "event", "events"))
}

// text is the state, with the export's filter if that is not the one shown.
func (p *exportPane) text(shown string) string {
	if p.of == shown {
		return p.state
	}
	return p.state + ", of " + cmp.Or(p.of, "no filter")
}

// seen clears the result of the last export.
func (p *exportPane) seen() {
	if !p.running() {
		p.state = ""
	}
}

// tick updates the number of written events.
func (p *exportPane) tick() {
	if p.running() {
		p.state = p.progress()
	}
}

// copy puts the selected event into the clipboard of the terminal, which may be on another machine (OSC 52).
func (m *model) copy() tea.Cmd {
	what, text := "the event", ""
	if e, ok := m.events.current(); ok && m.page == eventsPage {
		indented, _ := json.MarshalIndent(e, "", "  ") // it came from JSON
		text = string(indented)
	}
	if p := &m.secrets; m.page == secretsPage && p.selected < len(p.rows) {
		what, text = "the name", p.rows[p.selected].Name
	}
	if text == "" || m.clipboard == nil {
		return nil
	}
	if _, err := osc52.New(text).WriteTo(m.clipboard); err != nil {
		m.notice = "copying: " + err.Error()
		return nil
	}
	m.notice = "copied " + what + ", if the terminal allows it"
	return nil
}
