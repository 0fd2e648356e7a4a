package tui

import (
	"context"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
)

// histogramPane is the row of bars over the table: how many events there are per span of time.
type histogramPane struct {
	pending
	audit.Counts // of the model's filter: another filter begins with none
	sentAt       time.Time
	behind       bool // events were shown that are not counted
	err          error
}

// forget drops the counts and the running query, whose answer is dropped too.
func (s *histogramPane) forget() {
	s.stop()
	*s = histogramPane{pending: s.pending}
}

const histogramMargin = 1

type countsMsg struct {
	number int
	audit.Counts
	err error
}

// queryCounts queries one count per column of the terminal.
func (m *model) queryCounts() tea.Cmd {
	f, err := m.parse()
	buckets := m.width - 2*histogramMargin
	if err != nil {
		m.histogram.forget()
		m.histogram.err = err
	}
	if err != nil || buckets < 1 {
		return nil
	}
	m.histogram.sentAt, m.histogram.behind = m.now(), false
	from, to := f.Since(), f.Until()
	if to.IsZero() {
		to = m.now()
	}
	f = f.Without(filter.Since, filter.Until)
	return query(m, &m.histogram.pending,
		func(ctx context.Context) (audit.Counts, error) { return m.source.Counts(ctx, f, from, to, buckets) },
		func(n int, c audit.Counts, err error) tea.Msg { return countsMsg{n, c, err} })
}

func (msg countsMsg) arrive(m *model) tea.Cmd {
	if !m.histogram.take(msg.number) {
		return nil
	}
	m.histogram.Counts, m.histogram.err = msg.Counts, msg.err
	if msg.err != nil {
		m.histogram.Counts = audit.Counts{}
	}
	return nil
}

func (m *model) histogramHeight() int {
	if m.height < 18 {
		return 1
	}
	return 2
}

func (m *model) histogramLines(width int) []string {
	s := &m.histogram
	lines := []string{m.theme.accent.Render(strings.Repeat(" ", histogramMargin) + s.bars(m.theme.glyphs.bars))}
	if m.histogramHeight() == 2 {
		lines = append(lines, m.theme.dim.Render(m.axis(width)))
	}
	return lines
}

// bars draws bars as high as their counts; a single event has at least the lowest bar.
func (s *histogramPane) bars(levels []string) string {
	most := int64(1)
	for _, b := range s.Buckets {
		most = max(most, b.Events)
	}
	var line strings.Builder
	for _, b := range s.Buckets {
		level := int(b.Events * int64(len(levels)-1) / most)
		if b.Events > 0 {
			level = max(level, 1)
		}
		line.WriteString(levels[level])
	}
	return line.String()
}

// axis shows the first and last time, and where the selected event is.
func (m *model) axis(width int) string {
	s := &m.histogram
	switch {
	case s.err != nil:
		return " the counts: " + m.theme.clean(s.err.Error())
	case len(s.Buckets) == 0:
		return ""
	}
	layout := "2006-01-02"
	if s.To.Sub(s.From) < 72*time.Hour {
		layout = "2006-01-02 15:04"
	}
	zone := m.now().Location()
	left, right := " "+s.From.In(zone).Format(layout)+" ", " "+s.To.In(zone).Format(layout)+" "
	here := -1
	if e, ok := m.events.current(); ok && s.bucket(e.At) >= 0 {
		here = s.bucket(e.At) + histogramMargin
	}
	switch mark := m.theme.below; { // the mark keeps its column, the dates are moved or cut
	case here < 0:
		return m.theme.fit(left, width-len(right)) + right
	case here < len(left):
		return m.theme.fit(m.theme.fit("", here)+mark+left, width-len(right)) + right
	case here >= width-len(right):
		return m.theme.fit(m.theme.fit(left, here-len(right))+right+mark, width)
	default:
		return m.theme.fit(m.theme.fit(left, here)+mark, width-len(right)) + right
	}
}

// bucket is the place of a time in the histogram, -1 for earlier times. Later times are in the last bucket.
func (s *histogramPane) bucket(t time.Time) int {
	switch {
	case len(s.Buckets) == 0 || t.Before(s.From) || !s.From.Before(s.To):
		return -1
	case t.After(s.To):
		return len(s.Buckets) - 1
	}
	return min(int(int64(len(s.Buckets))*int64(t.Sub(s.From)/time.Microsecond)/max(1,
		int64(s.To.Sub(s.From)/time.Microsecond))), len(s.Buckets)-1)
}

// end is the time at which a bucket ends.
func (s *histogramPane) end(i int) time.Time {
	return s.From.Add(s.To.Sub(s.From) / time.Duration(len(s.Buckets)) * time.Duration(i+1))
}

func (s *histogramPane) total(m *model) string {
	var sum int64
	about := ""
	for _, b := range s.Buckets {
		sum += b.Events
		if b.Approximate {
			about = "about "
		}
	}
	switch {
	case s.err != nil:
		return m.theme.failed.Render("not counted ") // the axis says why, if there is room for one
	case len(s.Buckets) == 0 && !s.inFlight():
		return ""
	case len(s.Buckets) == 0:
		return m.theme.dim.Render("counting ... ")
	}
	return m.theme.dim.Render(about + count(rounded(sum, about != ""), "event", "events") + " ")
}

// rounded keeps two figures of an estimate.
func rounded(n int64, estimate bool) int64 {
	unit := int64(1)
	for estimate && n/unit >= 100 {
		unit *= 10
	}
	return (n + unit/2) / unit * unit
}

func (m *model) bucketOlder() tea.Cmd { return m.jumpBucket(-1) }
func (m *model) bucketNewer() tea.Cmd { return m.jumpBucket(1) }

// jumpBucket goes to the next span in which there are events.
func (m *model) jumpBucket(step int) tea.Cmd {
	e, ok := m.events.current()
	i := m.histogram.bucket(e.At)
	if !ok || i < 0 {
		return nil
	}
	for i += step; i >= 0 && i < len(m.histogram.Buckets); i += step {
		if m.histogram.Buckets[i].Events > 0 {
			return m.loadAt(audit.Cursor{At: m.histogram.end(i)})
		}
	}
	m.notice = "no events further on in this range"
	return nil
}
