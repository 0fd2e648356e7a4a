package tui

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/charmbracelet/bubbles/textinput"
	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"

	"github.com/hyperiondb/vault/internal/audit/filter"
)

// promptPane is the input line. Its purpose decides what Enter does.
type promptPane struct {
	pending
	input   textinput.Model
	purpose *purpose // nil = closed
	before  string   // the filter, to return to
	edits   int
	wrong   error // the error in the text, shown beneath it

	completion filter.Completion
	words      []string // candidates for the word at the cursor
	noWords    error    // why there are none
	chosen     int      // -1 = none
}

// purpose is one use of the prompt.
type purpose struct {
	label     string
	live      func(m *model, text string) tea.Cmd          // called while typing, unless nil
	accept    func(m *model, text string) (tea.Cmd, error) // an error keeps the prompt open
	abandon   func(m *model) tea.Cmd
	completes bool
}

const (
	valuesShown  = 50                     // completions
	typingPause  = 250 * time.Millisecond // after which a filter is tried
	maxWords     = 6
	maxTyped     = 4096
	promptIndent = 1
)

func newPrompt() promptPane {
	input := textinput.New()
	input.Prompt = ""
	input.CharLimit = maxTyped
	input.KeyMap.Paste.SetEnabled(false) // it would run another program; pasting in the terminal arrives as keys
	return promptPane{input: input, chosen: -1}
}

func (p *promptPane) open() bool { return p.purpose != nil }

func (m *model) openPrompt(use purpose, text string) tea.Cmd {
	p := &m.prompt
	p.purpose, p.before, p.wrong = &use, m.filter, nil
	p.input.SetValue(text)
	p.input.CursorEnd()
	p.input.Focus()
	return m.suggest()
}

func (m *model) closePrompt() {
	m.prompt.stop()
	m.prompt.edits++
	m.prompt.purpose, m.prompt.words, m.prompt.wrong = nil, nil, nil
	m.prompt.input.Blur()
}

// typed handles a key while the prompt is open.
func (m *model) typed(msg tea.KeyMsg) tea.Cmd {
	p := &m.prompt
	switch msg.Type {
	case tea.KeyEsc:
		abandon := p.purpose.abandon
		m.closePrompt()
		if abandon != nil {
			return abandon(m)
		}
		return nil
	case tea.KeyEnter:
		return m.accepted()
	case tea.KeyTab:
		return m.completed()
	case tea.KeyUp, tea.KeyDown:
		p.choose(map[bool]int{true: 1, false: -1}[msg.Type == tea.KeyDown])
		return nil
	}
	was := p.input.Value()
	p.input, _ = p.input.Update(msg)
	if p.input.Value() == was {
		return nil
	}
	return m.edited()
}

func (m *model) accepted() tea.Cmd {
	cmd, err := m.prompt.purpose.accept(m, m.prompt.input.Value())
	if err != nil {
		m.prompt.wrong = err
		return nil
	}
	m.closePrompt()
	return cmd
}

func (m *model) edited() tea.Cmd {
	p := &m.prompt
	p.edits++
	p.wrong = nil
	return tea.Batch(m.suggest(), m.after(typingPause, pauseMsg(p.edits)))
}

// pauseMsg arrives typingPause after an edit; it is ignored if there was another one.
type pauseMsg int

func (msg pauseMsg) arrive(m *model) tea.Cmd {
	p := &m.prompt
	if int(msg) != p.edits || !p.open() || p.purpose.live == nil {
		return nil
	}
	return p.purpose.live(m, p.input.Value())
}

// Suggestions.

type valuesMsg struct {
	number int
	values []string
	err    error
}

func (m *model) suggest() tea.Cmd {
	p := &m.prompt
	p.stop()
	p.words, p.noWords, p.chosen = nil, nil, -1
	if !p.open() || !p.purpose.completes || p.input.Position() != len([]rune(p.input.Value())) {
		return nil
	}
	p.completion = filter.Complete(p.input.Value())
	p.words = p.completion.Words
	// after a finished word, candidates would hide the events that it found
	if p.completion.Key == "" && p.completion.Typed == "" && p.input.Value() != "" {
		p.words = nil
	}
	if !p.completion.Asks() {
		return nil
	}
	c := p.completion
	return query(m, &p.pending,
		func(ctx context.Context) ([]string, error) { return m.source.Values(ctx, c.Key, c.Typed, valuesShown) },
		func(n int, values []string, err error) tea.Msg { return valuesMsg{n, values, err} })
}

func (msg valuesMsg) arrive(m *model) tea.Cmd {
	p := &m.prompt
	if !p.take(msg.number) {
		return nil
	}
	if p.noWords = msg.err; msg.err == nil { // an error only costs the suggestions
		p.words = p.completion.Of(msg.values)
	}
	return nil
}

func (p *promptPane) choose(step int) {
	if len(p.words) > 0 {
		p.chosen = (max(p.chosen, -1) + step + len(p.words)) % len(p.words)
	}
}

// completed inserts the chosen word, or the first.
func (m *model) completed() tea.Cmd {
	p := &m.prompt
	if len(p.words) == 0 {
		return nil
	}
	word := p.words[max(p.chosen, 0)]
	if p.completion.Key != "" {
		word += " "
	}
	p.input.SetValue(p.completion.Keep + word)
	p.input.CursorEnd()
	return m.edited()
}

// over puts the prompt over the lines of the page: its own line, and beneath it the error or the candidates.
func (p *promptPane) over(lines []string, m *model) {
	lines[1] = strings.Repeat(" ", promptIndent) + m.theme.accent.Render(p.purpose.label) + " " + p.withCursor(m)
	if p.wrong != nil {
		lines[2] = p.complaint(m)
		return
	}
	if p.noWords != nil {
		lines[2] = "   " + m.theme.dim.Render("no suggestions: "+m.theme.clean(p.noWords.Error()))
		return
	}
	first := max(0, p.chosen-maxWords+1)
	for i := first; i < len(p.words) && i < first+maxWords; i++ {
		mark, text := "   ", m.theme.clean(p.words[i])
		if i == p.chosen {
			mark, text = " "+m.theme.cursor+" ", m.theme.selected.Render(text)
		}
		lines[2+i-first] = strings.Repeat(" ", promptIndent) + mark + text
	}
}

// complaint is the error, with a caret under its place if that is known and there is room.
func (p *promptPane) complaint(m *model) string {
	text := m.theme.clean(p.wrong.Error())
	var wrong *filter.Error
	if !errors.As(p.wrong, &wrong) || lipgloss.Width(p.input.Value()) > m.width-10 {
		return "   " + m.theme.failed.Render("! ") + text
	}
	text = m.theme.clean(wrong.Text)
	typed := []rune(p.input.Value())
	column := promptIndent + lipgloss.Width(p.purpose.label) + 1 +
		lipgloss.Width(m.theme.clean(string(typed[:min(wrong.Column, len(typed))])))
	caret := m.theme.failed.Render("^ ")
	if column+2+lipgloss.Width(text) <= m.width || column < m.width/2 {
		return m.theme.fit("", column) + caret + text
	}
	return m.theme.fit(text, column-1) + " " + caret
}

// withCursor shows the end of a long text, and a mark as the cursor.
func (p *promptPane) withCursor(m *model) string {
	value := []rune(p.input.Value())
	before, after := string(value[:p.input.Position()]), string(value[p.input.Position():])
	room := m.width - lipgloss.Width(p.purpose.label) - 4
	if over := lipgloss.Width(m.theme.clean(before)) - room; over > 0 {
		before = strings.TrimRight(m.theme.fitEnd(m.theme.clean(before), room), " ")
	}
	return m.theme.clean(before) + m.theme.title.Render(m.theme.caret) + m.theme.clean(after)
}

// The uses of the prompt.

func (m *model) promptFilter() tea.Cmd {
	if m.page == secretsPage {
		return m.openPrompt(purpose{label: "find", live: (*model).findSecrets,
			accept:  func(m *model, text string) (tea.Cmd, error) { return m.findSecrets(text), nil },
			abandon: func(m *model) tea.Cmd { return m.findSecrets("") }}, m.secrets.prefix)
	}
	text := m.filter
	if text != "" {
		text += " "
	}
	return m.openPrompt(purpose{label: "/", live: (*model).tryFilter, accept: (*model).acceptFilter,
		abandon: (*model).abandonFilter, completes: true}, text)
}

// of is the filter that a typed text will have: the model's, unless it is valid and not tried yet, or wrong.
func (p *promptPane) of(m *model) string {
	if !p.open() || !p.purpose.completes {
		return m.filter
	}
	f, err := filter.Parse(p.input.Value(), m.now())
	if err != nil {
		return p.input.Value()
	}
	if shown, err := m.parse(); err == nil && shown.String() == f.String() {
		return m.filter
	}
	return f.String()
}

// tryFilter shows the events of the typed filter as soon as it is valid.
func (m *model) tryFilter(text string) tea.Cmd {
	f, err := filter.Parse(text, m.now())
	if err != nil {
		m.prompt.wrong = err
		if len(m.prompt.words) > 0 { // the word is not finished
			m.prompt.wrong = nil
		}
		return nil
	}
	if f.String() == m.filter {
		return nil
	}
	return m.show(f.String())
}

func (m *model) acceptFilter(text string) (tea.Cmd, error) {
	f, err := filter.Parse(text, m.now())
	if err != nil {
		return nil, err
	}
	before := m.prompt.before
	if f.String() == m.filter { // tryFilter has applied it
		if m.filter != before {
			m.before = append(m.before, before)
		}
		return nil, nil
	}
	if f.String() != before {
		m.before = append(m.before, before)
	}
	return m.show(f.String()), nil
}

func (m *model) abandonFilter() tea.Cmd {
	if m.filter == m.prompt.before {
		return nil
	}
	return m.show(m.prompt.before)
}

func (m *model) promptTime() tea.Cmd {
	var times []string
	if f, err := m.parse(); err == nil {
		for _, key := range []filter.Key{filter.Since, filter.Until} {
			if any, _ := f.Of(key); len(any) > 0 {
				times = append(times, any[0].String())
			}
		}
	}
	return m.openPrompt(purpose{label: "time, such as -2h or yesterday, or two:", accept: (*model).acceptTime},
		strings.Join(times, " "))
}

// acceptTime takes "-2h", "monday tuesday" or the since: and until: of a filter.
func (m *model) acceptTime(text string) (tea.Cmd, error) {
	words := strings.Fields(text)
	if len(words) > 2 {
		return nil, errors.New("a beginning, or a beginning and an end")
	}
	for i, key := range []filter.Key{filter.Since, filter.Until}[:len(words)] {
		if !strings.Contains(words[i], "since:") && !strings.Contains(words[i], "until:") {
			words[i] = string(key) + ":" + words[i]
		}
	}
	times, err := filter.Parse(strings.Join(words, " "), m.now())
	var wrong *filter.Error
	if errors.As(err, &wrong) { // its column does not fit the typed text
		return nil, errors.New(wrong.Text)
	} else if err != nil {
		return nil, err
	}
	return m.edit(func(f filter.Filter) filter.Filter {
		f = f.Without(filter.Since, filter.Until)
		for _, t := range times.Terms {
			f = f.With(t)
		}
		return f
	}), nil
}

func (m *model) promptMoment() tea.Cmd {
	return m.openPrompt(purpose{label: "go to a time:", accept: func(m *model, text string) (tea.Cmd, error) {
		at, err := filter.Moment(strings.TrimSpace(text), m.now())
		if err != nil {
			return nil, errors.New(strings.TrimPrefix(err.Error(), "since: "))
		}
		return m.loadAt(justAfter(at)), nil
	}}, "")
}
