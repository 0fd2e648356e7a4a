package tui

import (
	"slices"

	"github.com/hyperiondb/vault/internal/audit"
)

const (
	maxEvents = 2000 // held at once
	pageSize  = 200  // of one query
	lookahead = 60   // events left towards an end when the next page is loaded
)

// window is a part of the log, newest first, and the selection in it.
type window struct {
	events       []audit.Row
	newer, older *audit.Cursor // where the log goes on; nil = no further events are known
	selected     int
	top          int // the first event on the screen
}

// current is the selected event.
func (w *window) current() (audit.Row, bool) {
	if w.selected < 0 || w.selected >= len(w.events) {
		return audit.Row{}, false
	}
	return w.events[w.selected], true
}

// addOlder appends a page. Beyond maxEvents it drops the newest.
func (w *window) addOlder(p audit.Page) {
	w.events, w.older = append(w.events, p.Rows...), p.Next
	if over := len(w.events) - maxEvents; over > 0 {
		over = min(over, w.top) // keep the events on the screen
		w.events = slices.Clone(w.events[over:])
		w.selected, w.top = w.selected-over, w.top-over
		first := w.events[0].Cursor()
		w.newer = &first
	}
}

// addNewer puts a page in front. Beyond maxEvents it drops the oldest.
func (w *window) addNewer(p audit.Page) {
	if len(w.events) > 0 {
		w.selected, w.top = w.selected+len(p.Rows), w.top+len(p.Rows)
	}
	w.events, w.newer = append(slices.Clone(p.Rows), w.events...), p.Next
	if len(w.events) > maxEvents {
		keep := max(maxEvents, w.selected+lookahead)
		if keep < len(w.events) {
			w.events = slices.Clone(w.events[:keep])
			last := w.events[keep-1].Cursor()
			w.older = &last
		}
	}
}

// insert adds newly recorded events at their places and returns how many. Events beyond the older end are left out:
// loading that page finds them.
func (w *window) insert(fresh []audit.Row) int {
	n := 0
	for _, e := range fresh {
		i, known := slices.BinarySearchFunc(w.events, e, func(a, b audit.Row) int {
			switch {
			case a.ID == b.ID && a.Read == b.Read && a.At.Equal(b.At):
				return 0
			case b.Cursor().Before(a.Cursor()):
				return -1
			}
			return 1
		})
		if known || i == len(w.events) && w.older != nil {
			continue
		}
		w.events = slices.Insert(w.events, i, e)
		if i <= w.selected && w.selected > 0 { // the selection stays on its event, except at the top
			w.selected++
		}
		n++
	}
	if len(w.events) > maxEvents {
		w.events = slices.Clone(w.events[:maxEvents])
		last := w.events[maxEvents-1].Cursor()
		w.older = &last
	}
	return n
}

// move moves the selection, up to the first and last event.
func (w *window) move(by int) { w.choose(w.selected + by) }

func (w *window) choose(i int) { w.selected = max(0, min(i, len(w.events)-1)) }

// find selects an event that is held.
func (w *window) find(c audit.Cursor) bool {
	i := slices.IndexFunc(w.events, func(e audit.Row) bool { return e.ID == c.ID && e.Read == c.Read && e.At.Equal(c.At) })
	if i >= 0 {
		w.selected = i
	}
	return i >= 0
}

// show scrolls so that the selected event is among the rows of the screen.
func (w *window) show(rows int) {
	rows = max(rows, 1)
	w.top = max(w.top, w.selected-rows+1)
	w.top = min(w.top, w.selected)
	w.top = max(0, min(w.top, len(w.events)-rows))
}

func (w *window) wantsOlder(rows int) bool {
	return w.older != nil && len(w.events)-w.selected <= max(lookahead, 2*rows)
}

func (w *window) wantsNewer(rows int) bool {
	return w.newer != nil && w.selected < max(lookahead, 2*rows)
}
