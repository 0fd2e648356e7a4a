package httpapi

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How many lines the log has of refusals of one kind: a burst, so that each of a few is shown, and then one a pause.
const (
	refusalLines    = 10
	refusalLineEach = 10 * time.Second
)

// refusalLog bounds the lines about requests that were refused because of what a client sent, so that a client in a
// loop does not fill the log. Metrics count all of them, and the audit log has them too.
type refusalLog struct {
	mu   sync.Mutex
	kind map[string]*refusalKind // by code and reason, which are constants: it stays small
}

type refusalKind struct {
	lines    *rate.Limiter
	unlogged int // since the last line
}

func newRefusalLog() *refusalLog { return &refusalLog{kind: map[string]*refusalKind{}} }

// admit reports whether a refusal gets a line, and how many of its kind had none since the last one.
func (l *refusalLog) admit(o outcome, now time.Time) (unlogged int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kind[o.code+" "+o.reason]
	if k == nil {
		k = &refusalKind{lines: rate.NewLimiter(rate.Every(refusalLineEach), refusalLines)}
		l.kind[o.code+" "+o.reason] = k
	}
	if !k.lines.AllowN(now, 1) {
		k.unlogged++
		return 0, false
	}
	unlogged, k.unlogged = k.unlogged, 0
	return unlogged, true
}
