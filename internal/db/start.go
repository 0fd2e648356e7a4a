package db

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// startFor is how long the callers of a pool wait for each other, from its first use.
var startFor = 500 * time.Millisecond

const startPause = time.Millisecond

// start has the first callers of a pool share connections. All rounds of a daemon begin when it starts. A session for
// each would cost the server 15 ms for its caches and plans, and be idle from then on.
type start struct {
	length time.Duration // from the first use; also the longest delay of a caller
	first  sync.Once
	over   chan struct{} // closed at the end
	turns  chan struct{} // holds an element while a caller has its turn
}

func newStart() *start {
	return &start{length: startFor, over: make(chan struct{}), turns: make(chan struct{}, 1)}
}

// turn waits until the pool has an idle connection, or none at all. The caller acquires one and ends its turn.
func (s *start) turn(ctx context.Context, p *pgxpool.Pool) (end func()) {
	s.first.Do(func() { time.AfterFunc(s.length, func() { close(s.over) }) })
	nothing := func() {}
	select {
	case <-s.over:
		return nothing
	default:
	}
	select {
	case s.turns <- struct{}{}:
	case <-s.over:
		return nothing
	case <-ctx.Done():
		return nothing
	}
	end = func() { <-s.turns }
	for {
		if stat := p.Stat(); stat.IdleConns() > 0 || stat.TotalConns() == 0 {
			return end
		}
		select {
		case <-ctx.Done():
		case <-s.over:
		case <-time.After(startPause):
			continue
		}
		end()
		return nothing
	}
}
