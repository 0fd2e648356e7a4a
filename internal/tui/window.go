package tui

import "slices"

const (
	maxEvents = 2000 // held at once
	pageSize  = 200  // asked for at once
	lookahead = 60   // events left towards an end when the next page is asked for
)

// window is a stretch of the log, newest first, and the place of the eye in it.
type window struct {
	events       []Event
	newer, older *Cursor // where the log goes on; nil = it does not, as far as we know
	selected     int
	top          int // the first event on the screen
}

// current is the selected event.
func (w *window) current() (Event, bool) {
	if w.selected < 0 || w.selected >= len(w.events) {
		return Event{}, false
	}
	return w.events[w.selected], true
}

// addOlder appends a page. Beyond maxEvents the newest are let go.
func (w *window) addOlder(p Page) {
	w.events, w.older = append(w.events, p.Events...), p.Next
	if over := len(w.events) - maxEvents; over > 0 {
		over = min(over, w.top) // never what is looked at
		w.events = slices.Clone(w.events[over:])
		w.selected, w.top = w.selected-over, w.top-over
		first := w.events[0].Cursor()
		w.newer = &first
	}
}

// addNewer puts a page in front. Beyond maxEvents the oldest are let go.
func (w *window) addNewer(p Page) {
	if len(w.events) > 0 {
		w.selected, w.top = w.selected+len(p.Events), w.top+len(p.Events)
	}
	w.events, w.newer = append(slices.Clone(p.Events), w.events...), p.Next
	if len(w.events) > maxEvents {
		keep := max(maxEvents, w.selected+lookahead)
		if keep < len(w.events) {
			w.events = slices.Clone(w.events[:keep])
			last := w.events[keep-1].Cursor()
			w.older = &last
		}
	}
}

// insert takes in events that were recorded meanwhile, wherever they belong, and returns how many. What belongs beyond
// the older end will be found there.
func (w *window) insert(fresh []Event) int {
	n := 0
	for _, e := range fresh {
		i, known := slices.BinarySearchFunc(w.events, e, func(a, b Event) int {
			switch {
			case a.ID == b.ID && a.At.Equal(b.At):
				return 0
			case b.Cursor().before(a.Cursor()):
				return -1
			}
			return 1
		})
		if known || i == len(w.events) && w.older != nil {
			continue
		}
		w.events = slices.Insert(w.events, i, e)
		if i <= w.selected && w.selected > 0 { // the eye stays where it is, but at the very top
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

// move selects another event, as far as there are any.
func (w *window) move(by int) { w.choose(w.selected + by) }

func (w *window) choose(i int) { w.selected = max(0, min(i, len(w.events)-1)) }

// find selects an event that is held.
func (w *window) find(c Cursor) bool {
	i := slices.IndexFunc(w.events, func(e Event) bool { return e.Cursor() == c || e.ID == c.ID && e.At.Equal(c.At) })
	if i >= 0 {
		w.selected = i
	}
	return i >= 0
}

// show keeps the selected event on a screen of so many rows.
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
