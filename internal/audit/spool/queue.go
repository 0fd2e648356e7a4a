package spool

import (
	"sync"
	"time"
)

// maxBatch is how many entries share one write and one fsync.
const maxBatch = 1024

// entry is one append.
type entry struct {
	event  []byte // in memory that the next append uses
	at     time.Time
	urgent bool       // it is shipped at once
	done   chan error // holds one
}

// queue holds the entries that are not written yet. Its leader is the goroutine that writes them next: the append that
// found no leader, or the committer.
type queue struct {
	mu      sync.Mutex
	waiting []*entry
	taken   []*entry // the last batch, whose memory the entries after the next one use
	led     bool     // a leader writes, or is about to
	closed  bool
}

// join adds an entry, and reports whether its caller is now the leader.
func (q *queue) join(e *entry) (lead bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false, ErrClosed
	}
	q.waiting = append(q.waiting, e)
	lead = !q.led
	q.led = true
	return lead, nil
}

// take removes the next batch, which is the caller's until take is called again.
func (q *queue) take() []*entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), maxBatch)
	batch := q.waiting[:n:n]
	if n < len(q.waiting) {
		q.waiting = q.waiting[n:]
	} else {
		q.waiting, q.taken = q.taken[:0], q.waiting
	}
	return batch
}

// resign reports whether entries wait, which the committer then leads. Otherwise the next append becomes the leader.
func (q *queue) resign() (waiting bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.led = len(q.waiting) > 0
	return q.led
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// deadline ends the wait of many appends: a timer for each would cost as much as its record.
type deadline struct {
	limit time.Duration

	mu      sync.Mutex
	until   time.Time // appends that arrive by then share the channel
	expired chan struct{}
}

// channel closes when an append that starts now has waited for the limit, or up to a sixteenth longer.
func (d *deadline) channel() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if now.After(d.until) {
		expired := make(chan struct{})
		slack := d.limit / 16
		d.until, d.expired = now.Add(slack), expired
		time.AfterFunc(d.limit+slack, func() { close(expired) })
	}
	return d.expired
}
