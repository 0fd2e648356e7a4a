package tui

import (
	"context"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/hyperiondb/vault/internal/audit/filter"
)

// stripPane is the row of bars over the table: how many events there are per span of time.
type stripPane struct {
	asker
	Counts
	of    string // the filter that they are of
	asked time.Time
	err   error
}

const stripMargin = 1

type countsMsg struct {
	number int
	of     string
	Counts
	err error
}

// askCounts counts for the width there is.
func (m *model) askCounts() tea.Cmd {
	f, err := m.parse()
	buckets := m.width - 2*stripMargin
	if err != nil || buckets < 1 {
		return nil
	}
	m.strip.asked = m.now()
	from, to := f.Since(), f.Until()
	if to.IsZero() {
		to = m.now()
	}
	f = f.Without(filter.Since, filter.Until)
	of := m.filter
	return ask(m, &m.strip.asker, func(ctx context.Context) (Counts,
		error) {
		return m.source.Counts(ctx, f, from, to, buckets)
	},
		func(n int, c Counts, err error) tea.Msg { return countsMsg{n, of, c, err} })
}

func (msg countsMsg) arrive(m *model) tea.Cmd {
	if !m.strip.take(msg.number) {
		return nil
	}
	m.strip.Counts, m.strip.err, m.strip.of = msg.Counts, msg.err, msg.of
	if msg.err != nil {
		m.strip.Counts = Counts{}
	}
	return nil
}

func (m *model) stripHeight() int {
	if m.height < 18 {
		return 1
	}
	return 2
}

func (m *model) stripLines(width int) []string {
	s := &m.strip
	lines := []string{m.theme.accent.Render(strings.Repeat(" ", stripMargin) + s.bars(m.theme.glyphs.bars))}
	if m.stripHeight() == 2 {
		lines = append(lines, m.theme.dim.Render(m.axis(width)))
	}
	return lines
}

// bars are as high as their counts; even a single event can be seen.
func (s *stripPane) bars(levels []string) string {
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

// axis says from when to when, and where the selected event is.
func (m *model) axis(width int) string {
	s := &m.strip
	switch {
	case s.err != nil:
		return " the counts: " + clean(s.err.Error())
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
		here = s.bucket(e.At) + stripMargin
	}
	switch mark := m.theme.below; { // the mark stands where it belongs, the dates give way
	case here < 0:
		return fit(left, width-len(right)) + right
	case here < len(left):
		return fit(fit("", here)+mark+left, width-len(right)) + right
	case here >= width-len(right):
		return fit(fit(left, here-len(right))+right+mark, width)
	default:
		return fit(fit(left, here)+mark, width-len(right)) + right
	}
}

// bucket is the place of a time in the strip; -1 = it is not there. What came since it was counted is in the last.
func (s *stripPane) bucket(t time.Time) int {
	switch {
	case len(s.Buckets) == 0 || t.Before(s.From) || !s.From.Before(s.To):
		return -1
	case t.After(s.To):
		return len(s.Buckets) - 1
	}
	return min(int(int64(len(s.Buckets))*int64(t.Sub(s.From)/time.Microsecond)/max(1,
		int64(s.To.Sub(s.From)/time.Microsecond))), len(s.Buckets)-1)
}

// end is the time at which a bucket is over.
func (s *stripPane) end(i int) time.Time {
	return s.From.Add(s.To.Sub(s.From) / time.Duration(len(s.Buckets)) * time.Duration(i+1))
}

func (s *stripPane) total(m *model) string {
	var sum int64
	about := ""
	for _, b := range s.Buckets {
		sum += b.Events
		if b.Approximate {
			about = "about "
		}
	}
	switch {
	case s.err != nil || len(s.Buckets) == 0 && !s.asking():
		return ""
	case len(s.Buckets) == 0 || s.of != m.filter:
		return m.theme.dim.Render("counting ... ")
	}
	return m.theme.dim.Render(about + count(rounded(sum, about != ""), "event", "events") + " ")
}

// rounded keeps two figures of an estimate: more it does not know.
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
	i := m.strip.bucket(e.At)
	if !ok || i < 0 {
		return nil
	}
	for i += step; i >= 0 && i < len(m.strip.Buckets); i += step {
		if m.strip.Buckets[i].Events > 0 {
			return m.loadAt(Cursor{At: m.strip.end(i)})
		}
	}
	m.notice = "no events further on in this range"
	return nil
}
