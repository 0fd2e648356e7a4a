package db

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// startFor is how long the callers of a pool wait for each other, from its first use.
var startFor = 500 * time.Millisecond

const startPause = time.Millisecond

// start has the first callers of a pool share connections. All rounds of a daemon begin when it starts. A session for
// each would cost the server 15 ms for its caches and plans, and be idle from then on.
type start struct {
	length time.Duration // also the longest delay of a caller
	over   atomic.Bool
	turns  chan struct{} // holds an element while a caller has its turn
	ends   time.Time     // zero until the first turn; guarded by turns
}

func newStart() *start { return &start{length: startFor, turns: make(chan struct{}, 1)} }

// turn waits until the pool has an idle connection, or none at all. The caller acquires one and ends its turn.
func (s *start) turn(ctx context.Context, p *pgxpool.Pool) (end func()) {
	nothing := func() {}
	if s.over.Load() {
		return nothing
	}
	limited, cancel := context.WithTimeout(ctx, s.length)
	defer cancel()
	select {
	case s.turns <- struct{}{}:
	case <-limited.Done():
		return nothing
	}
	end = func() { <-s.turns }
	if s.ends.IsZero() {
		s.ends = time.Now().Add(s.length)
	}
	for time.Now().Before(s.ends) {
		if stat := p.Stat(); stat.IdleConns() > 0 || stat.TotalConns() == 0 {
			return end
		}
		select {
		case <-ctx.Done():
			end()
			return nothing
		case <-time.After(startPause):
		}
	}
	s.over.Store(true)
	end()
	return nothing
}
