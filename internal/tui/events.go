package tui

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
)

// eventsPane is the table of events and its running query. The events are always of the model's filter: another filter
// begins with none ([model.show]).
type eventsPane struct {
	window
	pending
	loaded   bool          // a page of this filter has arrived
	searched *audit.Cursor // how far an unfinished search has come
	halted   bool          // the search was stopped, until the selection moves
	err      error         // of the last query; the events are of an earlier one
}

// forget drops the events and the running query, whose answer is dropped too.
func (p *eventsPane) forget() {
	p.stop()
	*p = eventsPane{pending: p.pending}
}

// stopSearch stops the search until the selection moves.
func (p *eventsPane) stopSearch() {
	p.stop()
	p.halted = true
}

// place is where a page goes.
type place int

const (
	atStart place = iota // replaces the events; the first is selected
	atEnd                // replaces the events; the last is selected
	below
	above
)

type pageMsg struct {
	number int
	place  place
	from   *audit.Cursor
	audit.Page
	err error
}

func (m *model) queryPage(q audit.Query, where place) tea.Cmd {
	f, err := m.parse()
	if err != nil {
		m.events.stop()
		m.events.err = err
		return nil
	}
	q.Filter, q.Limit = f, pageSize
	m.events.halted = false
	return query(m, &m.events.pending, func(ctx context.Context) (audit.Page, error) { return m.source.Events(ctx, q) },
		func(n int, p audit.Page, err error) tea.Msg { return pageMsg{n, where, q.From, p, err} })
}

func (m *model) loadNewest() tea.Cmd {
	m.events.err = nil
	return tea.Batch(m.queryPage(audit.Query{}, atStart), m.queryCounts())
}

func (m *model) loadOldest() tea.Cmd { return m.queryPage(audit.Query{Newer: true}, atEnd) }

// loadAt puts the last event before a cursor on top.
func (m *model) loadAt(c audit.Cursor) tea.Cmd { return m.queryPage(audit.Query{From: &c}, atStart) }

// justAfter is the place after all events of a time.
func justAfter(t time.Time) audit.Cursor { return audit.Cursor{At: t.Add(time.Microsecond)} }

// queryMore loads the next page when the selection comes near an end.
func (m *model) queryMore() tea.Cmd {
	p := &m.events
	switch {
	case p.inFlight() || p.halted || p.err != nil || !p.loaded:
		return nil
	case p.wantsOlder(m.rows()):
		return m.queryPage(audit.Query{From: p.older}, below)
	case p.wantsNewer(m.rows()):
		return m.queryPage(audit.Query{From: p.newer, Newer: true}, above)
	}
	return nil
}

func (msg pageMsg) arrive(m *model) tea.Cmd {
	p := &m.events
	if !p.take(msg.number) {
		return nil
	}
	if p.err = msg.err; msg.err != nil {
		return nil
	}
	p.loaded, p.searched = true, nil
	if msg.Next != nil && len(msg.Rows) < pageSize {
		p.searched = msg.Next
	}
	switch msg.place {
	case below:
		p.addOlder(msg.Page)
	case above:
		p.addNewer(msg.Page)
	case atStart:
		p.window = window{events: msg.Rows, older: msg.Next, newer: msg.from}
	case atEnd:
		p.window = window{events: msg.Rows, newer: msg.Next}
		p.choose(len(p.events) - 1)
	}
	if msg.place == atStart && msg.from == nil {
		p.insert(m.follow.recent)
		m.follow.waiting = 0
	}
	p.show(m.rows())
	return tea.Batch(m.queryMore(), m.querySeal())
}

// seekMsg is the answer to a search for a refusal beyond the held events.
type seekMsg struct {
	number int
	newer  bool
	audit.Page
	err error
}

func (m *model) nextRefusal() tea.Cmd     { return m.seek(1) }
func (m *model) previousRefusal() tea.Cmd { return m.seek(-1) }

// seek looks among the held events, then queries the first refusal beyond them.
func (m *model) seek(step int) tea.Cmd {
	p := &m.events
	for i := p.selected + step; i >= 0 && i < len(p.events); i += step {
		if p.events[i].Outcome != audit.OK {
			p.choose(i)
			return nil
		}
	}
	from := p.older
	if step < 0 {
		from = p.newer
	}
	switch {
	case !p.loaded && step > 0: // typed before the first page has arrived
		return m.seekFrom(nil, false)
	case !p.loaded:
		m.notice = "the events are not loaded"
		return nil
	}
	if from == nil {
		m.notice = "no further refusal or failure"
		return nil
	}
	return m.seekFrom(from, step < 0)
}

func (m *model) seekFrom(from *audit.Cursor, newer bool) tea.Cmd {
	f, err := m.parse()
	if err != nil {
		m.notice = err.Error()
		return nil
	}
	q := audit.Query{Filter: f.With(filter.Term{Key: filter.Outcome, Not: true, Text: "ok"}), From: from, Newer: newer,
		Limit: 1}
	return query(m, &m.events.pending, func(ctx context.Context) (audit.Page, error) { return m.source.Events(ctx, q) },
		func(n int, p audit.Page, err error) tea.Msg { return seekMsg{n, newer, p, err} })
}

func (msg seekMsg) arrive(m *model) tea.Cmd {
	p := &m.events
	if !p.take(msg.number) {
		return nil
	}
	switch p.err = msg.err; {
	case msg.err != nil:
		return nil
	case len(msg.Rows) > 0:
		return m.loadAt(justAfter(msg.Rows[0].At))
	case msg.Next != nil:
		p.searched = msg.Next
		return m.seekFrom(msg.Next, msg.newer)
	}
	p.searched = nil
	m.notice = "no further refusal or failure"
	if !p.loaded {
		return m.loadNewest()
	}
	return nil
}

// column is a column of the table. Text that is too long loses its end, or with end set its beginning.
type column struct {
	title string
	width int // 0 = a share of the remaining width
	share int
	end   bool
	text  func(audit.Row) string
}

// columns depend on the width alone, so that they do not move while the events change.
func (m *model) columns(width int) []column {
	layout, timeWidth := "01-02 15:04", 11
	switch {
	case width >= 100:
		layout, timeWidth = "2006-01-02 15:04:05", 19
	case width >= 76:
		layout, timeWidth = "01-02 15:04:05", 14
	}
	zone := m.now().Location()
	cs := []column{
		{"TIME", timeWidth, 0, false, func(e audit.Row) string { return e.At.In(zone).Format(layout) }},
		{"OUTCOME", 7, 0, false, func(e audit.Row) string { return word(string(e.Outcome)) }},
		{"ACTION", 12, 0, false, func(e audit.Row) string { return e.Action }},
		{"ACTOR", 17, 0, false, func(e audit.Row) string { return e.Actor }}, // "client:10.0.12.34" is whole
	}
	switch {
	case width < 76:
		cs[1].title, cs[1].width, cs[2].width, cs[3].width = "OUT", 4, 7, 16
		cs[1].text = func(e audit.Row) string {
			return strings.NewReplacer("DENIED", "DENY", "FAILED", "FAIL").Replace(word(string(e.Outcome)))
		}
	case width >= 100:
		cs[2].width = 16
	}
	secret := column{"SECRET", 0, 3, true, func(e audit.Row) string { return e.Secret }}
	version := column{"VER", 4, 0, false, func(e audit.Row) string { return versionText(e.Version) }}
	node := column{"NODE", 10, 0, false, func(e audit.Row) string { return e.Node }}
	from := column{"FROM", 18, 0, false, fromText}
	detail := column{"DETAIL", 0, 4, false, detailText}
	switch {
	case width >= 150:
		cs = append(cs, secret, version, node, from, detail)
	case width >= 140:
		cs = append(cs, secret, version, from, detail)
	case width >= 110:
		cs = append(cs, secret, version, from)
	case width >= 76:
		cs = append(cs, secret, version)
	default:
		cs = append(cs, secret)
	}
	return share(cs, width-2) // less the mark of the selected event
}

// share divides the remaining width among the columns without one.
func share(cs []column, width int) []column {
	shares := 0
	for _, c := range cs {
		width -= c.width + 1
		shares += c.share
	}
	width++ // no gap after the last column
	for i := range cs {
		if c := &cs[i]; c.share > 0 {
			c.width = max(1, width*c.share/shares)
			width, shares = width-c.width, shares-c.share
		}
	}
	return cs
}

func versionText(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// word is an outcome as shown: in capitals unless it is ok.
func word(outcome string) string {
	if outcome != "ok" {
		return strings.ToUpper(outcome)
	}
	return outcome
}

func fromText(e audit.Row) string {
	if e.Client == "" {
		return e.DBRole + "@local"
	}
	return e.Client
}

func (m *model) tableHeader(width int) string {
	var titles []string
	for _, c := range m.columns(width) {
		titles = append(titles, m.theme.fit(c.title, c.width))
	}
	return m.theme.header.Render(m.theme.fit("  "+strings.Join(titles, " "), width))
}

func (m *model) tableRow(e audit.Row, width int, selected bool) string {
	cells := make([]string, 0, 8)
	for _, c := range m.columns(width) {
		text := m.theme.fit(m.theme.clean(c.text(e)), c.width)
		if c.end {
			text = m.theme.fitEnd(m.theme.clean(c.text(e)), c.width)
		}
		if strings.HasPrefix(c.title, "OUT") && !selected { // a selected line has one style of its own
			text = m.theme.outcome(string(e.Outcome)).Render(text)
		}
		cells = append(cells, text)
	}
	line := strings.Join(cells, " ")
	if selected {
		return m.theme.selected.Render(m.theme.fit(m.theme.cursor+" "+line, width))
	}
	return m.theme.fit("  "+line, width)
}

func (m *model) tableLines(width, rows int) []string {
	p := &m.events
	lines := []string{m.tableHeader(width)}
	for i := p.top; i < len(p.events) && i < p.top+rows; i++ {
		lines = append(lines, m.tableRow(p.events[i], width, i == p.selected))
	}
	if len(p.events) == 0 {
		lines = append(lines, "", "  "+m.emptyText())
	}
	for len(lines) < rows+1 {
		lines = append(lines, "")
	}
	return lines[:rows+1]
}

func (m *model) emptyText() string {
	p := &m.events
	switch {
	case p.err != nil:
		return ""
	case p.inFlight():
		return m.theme.dim.Render("asking ...")
	case !p.loaded:
		return "not asked, Esc has stopped it; r asks again"
	case p.older != nil:
		return "none found so far; moving goes on"
	case m.filter == "":
		return "nothing is on record yet"
	}
	return "no events match; Backspace returns to the filter before, 0 asks for all times"
}

// eventsLines are the filter, the histogram, the table with its details, and the state line.
func (m *model) eventsLines(width, height int) []string {
	lines := append([]string{m.filterLine(width)}, m.histogramLines(width)...)
	rows := m.rows()
	switch {
	case !m.detail.open:
		lines = append(lines, m.tableLines(width, rows)...)
	case m.beside():
		side := m.detailWidth()
		details := m.detailLines(side, rows+1)
		for i, line := range m.tableLines(width-side-1, rows) {
			lines = append(lines, m.theme.fit(line, width-side-1)+m.theme.dim.Render(m.theme.side)+details[i])
		}
	default:
		lines = append(lines, m.tableLines(width, rows)...)
		lines = append(lines, m.theme.dim.Render(strings.Repeat(m.theme.rule, width)))
		lines = append(lines, m.detailLines(width, m.detailHeight())...)
	}
	return append(lines, m.stateLine(width))
}

// rows is how many events the screen has room for.
func (m *model) rows() int {
	room := m.height - 2 - 1 - m.histogramHeight() - 1 - 1 // title and hints, filter, histogram, heading, state
	if m.detail.open && !m.beside() {
		room -= m.detailHeight() + 1
	}
	return max(room, 1)
}

func (m *model) filterLine(width int) string {
	text := m.theme.clean(m.filter)
	if text == "" {
		text = m.theme.dim.Render("all events")
	}
	return m.theme.spread(" "+m.theme.accent.Render("/")+" "+text, m.histogram.total(m), width)
}

// stateLine shows an error, a search or following, and the position of the selection.
func (m *model) stateLine(width int) string {
	p := &m.events
	right := ""
	if len(p.events) > 0 {
		right = m.theme.dim.Render(p.position() + " ")
	}
	if f := m.follow.text(m); f != "" {
		right = f + "  " + right
	}
	return m.theme.spread(" "+m.stateText(), right, width)
}

func (m *model) stateText() string {
	p := &m.events
	switch {
	case p.err != nil:
		return m.theme.failed.Render("ERROR ") + m.theme.dim.Render("(r asks again) ") + m.theme.clean(p.err.Error())
	case m.notice != "":
		return m.theme.clean(m.notice)
	case m.export.state != "":
		return m.theme.clean(m.export.text(m.filter))
	case m.prompt.of(m) != m.filter:
		return m.theme.dim.Render("shown: ") + m.theme.clean(cmp.Or(m.filter, "all events"))
	case p.inFlight() && p.searched != nil:
		return m.theme.accent.Render("searching ") + "back to " + m.momentText(p.searched.At) +
			m.theme.dim.Render(" (Esc stops)")
	case p.inFlight() && m.now().Sub(p.began) >= time.Second:
		return "asking for " + span(m.now().Sub(p.began)) + m.theme.dim.Render(" (Esc stops)")
	case p.halted && p.searched != nil:
		return "searched back to " + m.momentText(p.searched.At) + m.theme.dim.Render(" (moving goes on)")
	case m.follow.err != nil:
		return m.theme.failed.Render("ERROR ") + m.theme.dim.Render("(following goes on) ") +
			m.theme.clean(m.follow.err.Error())
	}
	return ""
}

func (m *model) momentText(t time.Time) string {
	return t.In(m.now().Location()).Format("2006-01-02 15:04")
}

// position is the number of the selected event if the newest event is held.
func (p *eventsPane) position() string {
	more := ""
	if p.older != nil {
		more = "+"
	}
	switch {
	case p.newer == nil:
		return fmt.Sprintf("%d of %d%s", p.selected+1, len(p.events), more)
	case p.older == nil && p.selected == len(p.events)-1:
		return "the oldest"
	}
	return ""
}
