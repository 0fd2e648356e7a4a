package tui

import (
	"context"
	"io"
	"os"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/audit/filter"
)

type page int

const (
	anyPage page = iota
	eventsPage
	secretsPage
)

// Below this there is no room for a table with its frame.
const (
	minWidth  = 60
	minHeight = 15
)

// model is the browser: the panes and their common state.
type model struct {
	ctx       context.Context // of every query
	source    Source
	now       func() time.Time
	theme     theme
	keys      []command
	clipboard io.Writer // the terminal; nil = there is none
	terminal  *os.File  // to query its background colour; nil = not queried
	after     func(time.Duration, tea.Msg) tea.Cmd

	width, height int
	page          page
	help          bool
	helpTop       int
	broken        error  // a panic, with which the browser ends
	notice        string // the result of the last key, until the next one

	filter    string   // as typed; relative times in it are resolved at each query
	before    []string // filters that Backspace returns to
	status    statusLine
	events    eventsPane
	histogram histogramPane
	follow    followPane
	detail    detailPane
	secrets   secretsPane
	prompt    promptPane
	export    exportPane
}

func newModel(ctx context.Context, source Source, now func() time.Time, t theme, line string) *model {
	return &model{ctx: ctx, source: source, now: now, theme: t, keys: keymap(), page: eventsPage, filter: line,
		prompt: newPrompt(), after: after}
}

// after sends a message after d.
func after(d time.Duration, msg tea.Msg) tea.Cmd {
	return tea.Tick(d, func(time.Time) tea.Msg { return msg })
}

// tickMsg arrives once a second: it updates times like "3 s ago", and following looks for new events.
type tickMsg struct{}

func (m *model) tick() tea.Cmd { return m.after(time.Second, tickMsg{}) }

// Init loads the first screen.
func (m *model) Init() tea.Cmd {
	return tea.Batch(m.queryBackground(), m.loadNewest(), m.queryStatus(), m.tick())
}

// Update passes a message to its pane. After a panic, here or in View, the browser ends like after q: bubbletea's own
// handling closes the keyboard while it is still read.
func (m *model) Update(msg tea.Msg) (next tea.Model, cmd tea.Cmd) {
	defer func() {
		if r := recover(); r != nil {
			m.broken = panicked(r)
		}
		if m.broken != nil {
			next, cmd = m, tea.Quit
		}
	}()
	return m, m.handle(msg)
}

func (m *model) handle(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		return m.resize(msg)
	case tea.KeyMsg:
		var cmds []tea.Cmd
		for _, one := range oneByOne(msg) {
			cmds = append(cmds, m.pressed(one))
		}
		return tea.Batch(cmds...)
	case tea.MouseMsg:
		return m.mouse(msg)
	case backgroundMsg:
		m.theme.renderer.SetHasDarkBackground(msg.dark)
	case tickMsg:
		return tea.Batch(m.tick(), m.ticked())
	case brokenMsg:
		m.broken = msg.err
	case answer:
		return msg.arrive(m)
	}
	return nil
}

// answer is the message of a finished query.
type answer interface{ arrive(m *model) tea.Cmd }

func (m *model) resize(size tea.WindowSizeMsg) tea.Cmd {
	wider := size.Width != m.width
	m.width, m.height = size.Width, size.Height
	m.events.show(m.rows())
	if wider {
		return tea.Batch(m.queryCounts(), m.queryMore())
	}
	return m.queryMore()
}

// oneByOne splits keys typed so fast that they arrive in one message: "jj" is twice j, and "/put" opens the filter.
// Pasted text stays together, and is no command.
func oneByOne(msg tea.KeyMsg) []tea.KeyMsg {
	if msg.Type != tea.KeyRunes || msg.Paste || len(msg.Runes) < 2 {
		return []tea.KeyMsg{msg}
	}
	var each []tea.KeyMsg
	for _, r := range msg.Runes {
		one := msg
		one.Runes = []rune{r}
		each = append(each, one)
	}
	return each
}

func (m *model) pressed(msg tea.KeyMsg) tea.Cmd {
	switch {
	case msg.Type == tea.KeyCtrlC:
		return m.quit()
	case m.prompt.open():
		return m.typed(msg)
	case m.help:
		return m.helpKey(msg)
	}
	m.notice = ""
	m.export.seen()
	cmd := m.key(msg)
	m.events.show(m.rows())
	return tea.Batch(cmd, m.queryMore(), m.querySeal())
}

func (m *model) helpKey(msg tea.KeyMsg) tea.Cmd {
	switch msg.String() {
	case "down", "j":
		m.helpTop++
	case "up", "k":
		m.helpTop--
	case "pgdown", " ":
		m.helpTop += 10
	case "pgup", "b":
		m.helpTop -= 10
	default:
		m.help = false
	}
	return nil
}

func (m *model) ticked() tea.Cmd {
	m.export.tick()
	return tea.Batch(m.queryNew(), m.recount(), m.keepStatus())
}

func (m *model) quit() tea.Cmd {
	m.export.abort()
	return tea.Quit
}

// parse parses the filter at the present time. It parsed before, but may fail as time passes: since:10:00 until:now is
// the wrong way round before ten.
func (m *model) parse() (filter.Filter, error) { return filter.Parse(m.filter, m.now()) }

// setFilter shows the events of another filter; back returns to the one before.
func (m *model) setFilter(line string) tea.Cmd {
	if line != m.filter {
		m.before = append(m.before, m.filter)
	}
	return m.show(line)
}

// show is the only place that changes the filter: what is on the screen of the one before goes with it.
func (m *model) show(line string) tea.Cmd {
	if line != m.filter {
		m.events.forget()
		m.histogram.forget()
	}
	m.filter, m.page = line, eventsPage
	return tea.Batch(m.queryBackground(), m.loadNewest(), m.refollow())
}

func (m *model) back() tea.Cmd {
	if len(m.before) == 0 {
		m.notice = "there is no filter before this one"
		return nil
	}
	last := len(m.before) - 1
	line := m.before[last]
	m.before = m.before[:last]
	return m.show(line)
}

// edit replaces terms of the filter.
func (m *model) edit(change func(filter.Filter) filter.Filter) tea.Cmd {
	f, err := m.parse()
	if err != nil {
		m.notice = err.Error()
		return nil
	}
	return m.setFilter(change(f).String())
}

func rangeOf(since string) func(*model) tea.Cmd {
	return func(m *model) tea.Cmd {
		return m.edit(func(f filter.Filter) filter.Filter {
			f = f.Without(filter.Since, filter.Until)
			if since != "" {
				f = f.With(filter.Term{Key: filter.Since, Text: since})
			}
			return f
		})
	}
}

// only replaces the filter by one term, and keeps its times.
func (m *model) only(key filter.Key, text string) tea.Cmd {
	return m.edit(func(f filter.Filter) filter.Filter {
		times := filter.Filter{}
		for _, t := range f.Terms {
			if key != filter.Request && (t.Key == filter.Since || t.Key == filter.Until) {
				times = times.With(t)
			}
		}
		return times.With(filter.Term{Key: key, Text: text})
	})
}

func (m *model) sameRequest() tea.Cmd {
	e, ok := m.events.current()
	request := filter.Filter{}.With(filter.Term{Key: filter.Request, Text: e.RequestID}).String()
	switch {
	case !ok:
		return nil
	case e.RequestID == "" || m.filter == request:
		return m.sameActor()
	}
	return m.only(filter.Request, e.RequestID)
}

func (m *model) sameActor() tea.Cmd {
	if e, ok := m.events.current(); ok {
		return m.only(filter.Actor, e.Actor)
	}
	return nil
}

func (m *model) sameSecret() tea.Cmd {
	e, ok := m.events.current()
	if ok && e.Secret == "" {
		m.notice = "this event is about no secret"
	}
	if !ok || e.Secret == "" {
		return nil
	}
	return m.only(filter.Secret, e.Secret)
}

func (m *model) otherPage() tea.Cmd {
	if m.page == secretsPage {
		m.page = eventsPage
		return nil
	}
	m.page = secretsPage
	return m.openSecrets()
}

func (m *model) reload() tea.Cmd {
	if m.page == secretsPage {
		return m.loadSecrets()
	}
	m.detail.sealOf = 0
	return tea.Batch(m.queryBackground(), m.loadNewest(), m.queryStatus())
}

func (m *model) escape() tea.Cmd {
	switch {
	case m.export.running():
		m.export.abort()
	case m.page == secretsPage && m.secrets.inFlight():
		m.secrets.stop()
	case m.page == eventsPage && m.events.inFlight():
		m.events.stopSearch()
	case m.page == eventsPage && m.detail.open:
		m.detail.open = false
	case m.page == secretsPage:
		m.page = eventsPage
	}
	return nil
}

func (m *model) enter() tea.Cmd {
	if m.page == secretsPage {
		return m.eventsOfSecret()
	}
	m.detail.open, m.detail.top = !m.detail.open, 0
	return nil
}

// These move on both pages.
func (m *model) up() tea.Cmd       { return m.move(-1) }
func (m *model) down() tea.Cmd     { return m.move(1) }
func (m *model) pageUp() tea.Cmd   { return m.move(-max(1, m.rows()-1)) }
func (m *model) pageDown() tea.Cmd { return m.move(max(1, m.rows()-1)) }

func (m *model) move(by int) tea.Cmd {
	if m.page == secretsPage {
		return m.moveSecret(by)
	}
	m.detail.top = 0
	m.events.halted = false
	m.events.move(by)
	return nil
}

func (m *model) home() tea.Cmd {
	if m.page == secretsPage {
		return m.loadSecrets()
	}
	if m.events.newer != nil || m.follow.waiting > 0 || !m.events.loaded {
		return m.loadNewest()
	}
	m.events.choose(0)
	return nil
}

func (m *model) end() tea.Cmd {
	if m.page == secretsPage {
		return m.moveSecret(len(m.secrets.rows))
	}
	// the answer of a running query would select the newest
	if m.events.older != nil || !m.events.loaded || m.events.inFlight() {
		return m.loadOldest()
	}
	m.events.choose(len(m.events.events) - 1)
	return nil
}

// View is exactly as wide and high as the terminal.
func (m *model) View() (screen string) {
	defer func() {
		if r := recover(); r != nil && m.broken == nil {
			m.broken = panicked(r) // the next message ends the browser, tickMsg within a second
		}
	}()
	if m.width < minWidth || m.height < minHeight {
		return m.tooSmall()
	}
	lines := m.lines()
	for i := range lines {
		lines[i] = m.theme.fit(lines[i], m.width)
	}
	return strings.Join(lines, "\n")
}

func (m *model) tooSmall() string {
	lines := make([]string, max(m.height, 1))
	if m.height > 0 {
		lines[m.height/2] = m.theme.fit("the browser takes 60x15; this is "+sizeText(m.width, m.height), m.width)
	}
	return strings.Join(lines, "\n")
}

func (m *model) lines() []string {
	body := m.height - 2 // title and hints
	lines := []string{m.titleLine()}
	switch {
	case m.help:
		lines = append(lines, m.helpLines(m.width, body)...)
	case m.page == secretsPage:
		lines = append(lines, m.secretsLines(m.width, body)...)
	default:
		lines = append(lines, m.eventsLines(m.width, body)...)
	}
	if m.prompt.open() {
		m.prompt.over(lines, m)
	}
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	return append(lines[:m.height-1], m.hints(m.width))
}

func (m *model) titleLine() string {
	tabs := m.theme.title.Render(" [Events]") + m.theme.dim.Render("  Secrets")
	if m.page == secretsPage {
		tabs = m.theme.dim.Render("  Events ") + m.theme.title.Render(" [Secrets]")
	}
	return m.theme.spread(tabs, m.status.text(m), m.width)
}
