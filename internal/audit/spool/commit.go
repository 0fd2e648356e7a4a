package spool

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
)

const (
	mostAtOnce = 1024 // who share one write and one fsync
	// A write gives way once to those who are about to append, while there are such: yielding costs a lone reader as much as his
	// record, as the runtime wakes a thread for it. They are taken to be there until so many writes in a row had nobody to share
	// with.
	lonelyWrites = 16
)

// entry is one append.
type entry struct {
	event []byte
	at    time.Time
	done  chan error // holds one
}

// line is who waits to be put on record.
type line struct {
	mu      sync.Mutex
	waiting []*entry
	served  bool // somebody is on the way to those who wait
	closed  bool
}

// join reports whether the one who joins has to see to it that the line is served.
func (l *line) join(e *entry) (serve bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, ErrClosed
	}
	l.waiting = append(l.waiting, e)
	serve = !l.served
	l.served = true
	return serve, nil
}

func (l *line) take() []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.waiting), mostAtOnce)
	batch := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	return batch
}

// left reports whether somebody waits. Otherwise the next who joins serves.
func (l *line) left() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.served = len(l.waiting) > 0
	return l.served
}

func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// append puts one event in the line. Whoever finds nobody on the way writes himself, for all who wait by then: to hand a write over
// costs more than the write. What takes an fsync he leaves to the committer, as nobody can be called back from one.
func (s *Spool) append(ctx context.Context, event []byte, at time.Time) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", audit.ErrUnrecorded, err)
	}
	e, again := s.entries.Get().(*entry)
	if !again {
		e = &entry{done: make(chan error, 1)}
	}
	e.event, e.at = event, at
	serve, err := s.line.join(e)
	if err != nil {
		return err
	}
	if serve && !s.write() {
		signal(s.call)
	}
	select {
	case err = <-e.done: // as is usual for the one who wrote, whose patience does not count then
		return s.answered(e, err)
	default:
	}
	select {
	case err = <-e.done:
		return s.answered(e, err)
	case <-s.late.rings():
		err = context.DeadlineExceeded
	case <-ctx.Done():
		err = ctx.Err()
	}
	return fmt.Errorf("%w: %w", audit.ErrUnrecorded, err) // it may be kept all the same
}

func (s *Spool) answered(e *entry, err error) error {
	e.event = nil
	s.entries.Put(e)
	return err
}

// write puts on record who waits, if that takes no more than a write.
func (s *Spool) write() bool {
	if s.o.Sync == Always {
		return false
	}
	s.giveWay()
	if !s.turn.TryLock() {
		return false
	}
	if s.file == nil || s.segmentEnds() {
		s.turn.Unlock()
		return false
	}
	s.serve()
	return true
}

// giveWay yields while there is company: those who shared a query append one right after the other.
func (s *Spool) giveWay() {
	if s.company.Load() > 0 {
		runtime.Gosched()
	}
}

// serve is called with the turn and lets go of it. Whoever comes meanwhile shares the committer's next write.
func (s *Spool) serve() {
	batch := s.line.take()
	switch {
	case len(batch) > 1:
		s.company.Store(lonelyWrites)
	case s.company.Load() > 0:
		s.company.Add(-1)
	}
	s.keep(batch)
	s.turn.Unlock()
	if s.line.left() {
		signal(s.call)
	}
}

// commit is the committer's loop.
func (s *Spool) commit() {
	defer close(s.done)
	tick := time.NewTicker(s.o.SyncInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.call:
			s.giveWay()
			s.turn.Lock()
			s.serve()
		case <-tick.C:
			s.flush()
			s.heal()
		case <-s.stop:
			s.end()
			return
		}
	}
}

// end keeps who is in the line, which nobody joins any more.
func (s *Spool) end() {
	s.turn.Lock()
	for batch := s.line.take(); len(batch) > 0; batch = s.line.take() {
		s.keep(batch)
	}
	s.turn.Unlock()
	s.flush()
	s.turn.Lock()
	defer s.turn.Unlock()
	s.giveUp()
	s.ended = true
}

// alarm ends the patience of many: a timer of its own for each append would cost as much as its record.
type alarm struct {
	patience time.Duration

	mu    sync.Mutex
	until time.Time // who comes by then shares it
	bell  chan struct{}
}

// rings closes when the patience of one who waits from now is at its end, or a sixteenth later.
func (a *alarm) rings() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if now.After(a.until) {
		bell := make(chan struct{})
		share := a.patience / 16
		a.until, a.bell = now.Add(share), bell
		time.AfterFunc(a.patience+share, func() { close(bell) })
	}
	return a.bell
}
