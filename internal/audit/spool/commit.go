package spool

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
)

// This file is the path of a record, top to bottom: append joins the queue; the leader of the queue takes a batch,
// numbers and frames it, writes it to the segment in one write, and with Always fsyncs the segment. That fsync is the
// commit point (syncSegment). With Interval the commit point of an answer is the write, and flush makes it durable
// later.

// unsharedWrites: a leader yields to other appends until so many writes in a row had one record. To yield costs a lone
// reader as much as its record, since the runtime wakes a thread for it.
const unsharedWrites = 16

// entry returns one that no append uses.
func (s *Spool) entry() *entry {
	if e, reused := s.entries.Get().(*entry); reused {
		return e
	}
	return &entry{done: make(chan error, 1)}
}

// append queues one event and waits for its record. If no write is in progress, the caller writes the whole queue: a
// handover costs more than the write. A batch that takes an fsync is left to the committer, since an fsync cannot be
// interrupted when the caller's context ends. An entry that is not answered in time stays the queue's.
func (s *Spool) append(ctx context.Context, e *entry) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", audit.ErrUnrecorded, err)
	}
	lead, err := s.queue.join(e)
	if err != nil {
		return err
	}
	if lead && !s.writeNow() {
		signal(s.wake)
	}
	select {
	case err = <-e.done: // usual for the leader; its deadline does not count then
		return s.release(e, err)
	default:
	}
	select {
	case err = <-e.done:
		return s.release(e, err)
	case <-s.deadline.channel():
		err = context.DeadlineExceeded
	case <-ctx.Done():
		err = ctx.Err()
	}
	return fmt.Errorf("%w: %w", audit.ErrUnrecorded, err) // the record may be written all the same
}

// release returns an answered entry to the pool, with the memory of its event: a read's would else be garbage.
func (s *Spool) release(e *entry, err error) error {
	if cap(e.event) > usualEvent {
		e.event = nil
	}
	s.entries.Put(e)
	return err
}

// writeNow leads in the caller's goroutine, if the batch takes no more than a write.
func (s *Spool) writeNow() bool {
	if s.o.Sync == Always {
		return false
	}
	s.yield()
	if !s.writeMu.TryLock() {
		return false
	}
	if s.file == nil || s.segmentFull() {
		s.writeMu.Unlock()
		return false
	}
	s.lead()
	return true
}

// yield lets other appends join, while recent batches were shared: requests that shared a query append one right after
// the other.
func (s *Spool) yield() {
	if s.shared.Load() > 0 {
		runtime.Gosched()
	}
}

// lead writes one batch. It is called with writeMu held and releases it. Entries that arrive meanwhile go with the
// committer's next write.
func (s *Spool) lead() {
	batch := s.queue.take()
	switch {
	case len(batch) > 1:
		s.shared.Store(unsharedWrites)
	case s.shared.Load() > 0:
		s.shared.Add(-1)
	}
	s.commit(batch)
	s.writeMu.Unlock()
	if s.queue.resign() {
		signal(s.wake)
	}
}

// idlePause is between two ticks of the committer while nothing is pending and appends succeed. It then only looks
// whether the segment is old, for the archive; without one it does not tick.
const idlePause = time.Minute

// run is the committer's loop. When records become pending, or appends begin to fail, a tick follows within
// SyncInterval.
func (s *Spool) run() {
	defer close(s.done)
	tick, idle := time.NewTimer(s.o.SyncInterval), false
	defer tick.Stop()
	for {
		select {
		case <-s.wake:
			s.yield()
			s.writeMu.Lock()
			s.lead()
		case <-s.busy:
			if idle {
				tick.Reset(s.o.SyncInterval)
				idle = false
			}
		case <-tick.C:
			s.flush()
			switch idle = s.recheck(); {
			case !idle:
				tick.Reset(s.o.SyncInterval)
			case s.o.Archived:
				tick.Reset(max(s.o.SyncInterval, idlePause))
			}
		case <-s.stop:
			s.finish()
			return
		}
	}
}

// finish commits what is left in the queue, which is closed.
func (s *Spool) finish() {
	s.writeMu.Lock()
	for batch := s.queue.take(); len(batch) > 0; batch = s.queue.take() {
		s.commit(batch)
	}
	s.writeMu.Unlock()
	s.flush()
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.abandonSegment()
	s.ended = true
}

// commit records a batch as a whole, or refuses it as a whole, and answers its entries.
func (s *Spool) commit(batch []*entry) {
	if len(batch) == 0 {
		return
	}
	err := s.room(size(batch))
	if err == nil {
		err = s.commitNotes()
	}
	if err == nil {
		err = s.store(s.number(batch), s.o.Sync == Always)
	}
	if err != nil {
		s.refused = size(batch[:1])
	}
	s.mu.Lock()
	if err != nil && s.failing == nil {
		signal(s.busy)
	}
	s.failing = err
	if err == nil {
		s.counts.appended += uint64(len(batch))
		s.mark(s.next-uint64(len(batch)), batch[0].at)
		if slices.ContainsFunc(batch, func(e *entry) bool { return e.urgent }) {
			s.urgent = s.next - 1
		}
	} else {
		s.counts.failures += uint64(len(batch))
	}
	s.mu.Unlock()
	for _, e := range batch {
		e.done <- err
	}
}

// commitNotes records the spool's own events before anything else.
func (s *Spool) commitNotes() error {
	var batch []*entry
	for _, e := range s.notes {
		text, err := e.AppendJSON(nil)
		if err != nil {
			panic(err) // of this package's own
		}
		batch = append(batch, &entry{event: text})
	}
	if len(batch) == 0 {
		return nil
	}
	err := s.store(s.number(batch), s.o.Sync == Always)
	if err == nil {
		s.notes = nil
		s.mu.Lock()
		s.urgent = s.next - 1
		s.mu.Unlock()
	}
	return err
}

// numbered is the frames of consecutive records.
type numbered struct {
	count  int
	frames []byte // in the spool's memory
	last   Hash   // of the last record
}

// number assigns consecutive numbers to the entries of a batch. The numbers of a refused batch are used again.
func (s *Spool) number(batch []*entry) numbered {
	n := numbered{count: len(batch), frames: s.buffer[:0], last: s.link}
	for i, e := range batch {
		at := len(n.frames)
		n.frames = appendFrame(n.frames, Record{Seq: s.next + uint64(i), Previous: n.last, Event: e.event})
		n.last = sha256.Sum256(n.frames[at+frameSize:])
	}
	s.buffer = n.frames
	return n
}

// store writes records behind those that are pending, and with sync makes all of them durable. When the segment fails,
// the records that are not known to be durable are written once more, into a new segment. When that fails too, the new
// records are refused, and those accepted before stay pending.
func (s *Spool) store(n numbered, sync bool) error {
	if s.file != nil && s.segmentFull() {
		s.endSegment()
	}
	var err error
	for attempt := 0; attempt < 2; {
		frames := n.frames
		if s.file == nil {
			if err = s.beginSegment(); err != nil {
				break
			}
			frames = slices.Concat(s.pending, n.frames)
		}
		if err = s.write(frames, sync); err == nil {
			s.advance(n, sync)
			return nil
		}
		s.abandonSegment()
		if !isFull(err) || !s.makeRoom() {
			attempt++
		}
	}
	return fmt.Errorf("%w: %w", ErrUnwritable, err)
}

func (s *Spool) write(frames []byte, sync bool) error {
	if len(frames) > 0 {
		n, err := s.file.WriteAt(frames, s.written)
		s.written += int64(n)
		if err != nil {
			return err
		}
	}
	if sync {
		return syncSegment(s.file)
	}
	return nil // a removed file is noticed at the next fsync; the pending records are written again then
}

// syncSegment is the commit point: when it returns nil, the records written so far survive a power cut.
func syncSegment(file File) error {
	if err := file.Sync(); err != nil {
		return err
	}
	return checkLinked(file)
}

// checkLinked fails if another process removed the segment.
func checkLinked(file File) error {
	if linked, err := file.Linked(); err != nil || !linked {
		return fmt.Errorf("the segment was removed (%v)", err)
	}
	return nil
}

// advance moves past records that were written. With durable, every record so far is on disk.
func (s *Spool) advance(n numbered, durable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.count > 0 {
		s.next, s.link = s.next+uint64(n.count), n.last
	}
	last := &s.segments[len(s.segments)-1]
	last.next, last.size = s.next, s.written
	if !durable && len(s.pending) == 0 && n.count > 0 {
		signal(s.busy)
	}
	s.pending = append(s.pending, n.frames...)
	if durable {
		s.markDurable(len(s.pending), s.next, s.link)
	}
}

// keptPending is how many bytes of memory stay for pending frames: more than a busy node writes in an interval.
const keptPending = 4 << 20

// markDurable removes so many bytes of the pending frames: everything below next is on disk. It is called with mu held.
func (s *Spool) markDurable(pending int, next uint64, link Hash) {
	s.pending = slices.Delete(s.pending, 0, pending)
	if cap(s.pending) > keptPending {
		s.pending = slices.Clone(s.pending) // an fsync took long
	}
	s.durable, s.durableLink = next, link
	signal(s.fresh)
}

// flush makes durable what Interval has only handed to the kernel. It releases writeMu during the fsync, so appends go
// on; flushMu keeps a second flush, which would take the same pending records, until it is done.
func (s *Spool) flush() {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if len(s.pending) == 0 {
		return
	}
	if file := s.file; file != nil {
		pending, next, link := len(s.pending), s.next, s.link
		s.syncing = file
		s.writeMu.Unlock()
		err := syncSegment(file)
		s.writeMu.Lock()
		s.syncing = nil
		switch {
		case s.file != file: // a write failed, and the pending records were written again
			_ = file.Close()
			return
		case err == nil:
			s.mu.Lock()
			s.markDurable(pending, next, link)
			s.mu.Unlock()
			return
		}
		s.abandonSegment()
	}
	if err := s.store(numbered{}, true); err != nil {
		s.mu.Lock()
		s.failing = err
		s.counts.failures++
		s.mu.Unlock()
	}
}

// recheck finds out whether the append that was refused would succeed now. A daemon that is taken out of service
// because appends fail gets no more appends to find out by. It reports whether the committer has nothing to do.
func (s *Spool) recheck() (idle bool) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.age()
	s.mu.Lock()
	failing := s.failing
	s.mu.Unlock()
	if failing == nil {
		return len(s.pending) == 0
	}
	if s.room(s.refused) != nil || s.file == nil && s.store(numbered{}, true) != nil {
		return false
	}
	s.mu.Lock()
	s.failing = nil
	s.mu.Unlock()
	return len(s.pending) == 0
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
