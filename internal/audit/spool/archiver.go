package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Segment is consecutive records that the primary has, as an archive gets them.
type Segment struct {
	Node    string
	Boot    uuid.UUID
	Link    Hash // of the record before the first; zero at the beginning of a boot
	Records []Record
}

// Archive keeps the records of segments for good.
type Archive interface {
	// Keep returns nil when the segment is kept. It is called again with the same segment after a failure, whose reply
	// may have been lost, and after a restart, and then finds it kept.
	Keep(ctx context.Context, s Segment) error
}

// Ledger is what the primary has of one spool, to compare an archive with.
type Ledger struct {
	Node string
	Boot uuid.UUID
	Next uint64  // the number that it takes next
	Last Hash    // of the record before
	Gaps []Range // records that are on record as lost
}

// Range is numbers of records: from First on, below Next.
type Range struct{ First, Next uint64 }

const (
	archivePoll = 5 * time.Second // without news, to notice segments that a promotion or a repair made ready
	keepTimeout = time.Minute     // of one segment
)

// Archiver gives a spool's segments to an archive, oldest first, for as long as it runs. Its spool has
// Options.Archived, so a segment stays until it was kept.
type Archiver struct {
	Spool   *Spool
	Archive Archive
	Log     *slog.Logger

	mu    sync.Mutex
	state Archiving
}

// Archiving is the state of an Archiver.
type Archiving struct {
	Segments uint64 // kept since it runs
	Records  uint64 // of them
	Failure
}

// State may be called at any time.
func (a *Archiver) State() Archiving {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

// Run archives until ctx ends.
func (a *Archiver) Run(ctx context.Context) {
	pause := newBackOff()
	for ctx.Err() == nil {
		kept, err := a.next(ctx, false)
		if ctx.Err() != nil {
			return
		}
		a.report(err)
		wait, ready := archivePoll, a.Spool.ready
		switch {
		case err != nil:
			wait, ready = pause.NextBackOff(), nil
		case kept:
			pause.Reset()
			continue
		}
		select {
		case <-ctx.Done():
		case <-ready:
		case <-time.After(wait):
		}
	}
}

// Finish archives what the primary has, the last segment included, of a folder that gets no more records.
func (a *Archiver) Finish(ctx context.Context) error {
	for {
		kept, err := a.next(ctx, true)
		if err != nil || !kept {
			return err
		}
	}
}

// next archives one segment, if one is ready. A segment that cannot be read is set aside, as the shipper does, so
// that its readable records are archived.
func (a *Archiver) next(ctx context.Context, last bool) (kept bool, err error) {
	seg, ok := a.Spool.ripe(last)
	if !ok {
		return false, nil
	}
	whole, err := a.Spool.whole(seg)
	if err != nil {
		return false, fmt.Errorf("reading the spool: %w", errors.Join(err, a.Spool.repair(seg.name, err)))
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	if err := a.Archive.Keep(ctx, whole); err != nil {
		return false, err
	}
	a.Spool.archived(seg)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state.Segments++
	a.state.Records += uint64(len(whole.Records))
	return true, nil
}

func (a *Archiver) report(err error) {
	a.mu.Lock()
	fails, works := a.state.take(err)
	a.mu.Unlock()
	switch {
	case fails:
		a.Log.Warn("shipped reads wait in the spool for the archive", "error", err)
	case works:
		a.Log.Info("reads are archived again")
	}
}

// ripe returns the oldest segment that the primary has whole and that is not archived. The last one gets more
// records, unless the folder has no writer.
func (s *Spool) ripe(last bool) (segment, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, seg := range s.segments {
		if seg.archived || seg.first == seg.next || i == len(s.segments)-1 && !last {
			continue
		}
		return seg, seg.next <= s.acknowledged
	}
	return segment{}, false
}

// whole reads the records of a segment that gets no more of them.
func (s *Spool) whole(seg segment) (Segment, error) {
	b, err := readAll(s.o.FS, s.path(seg.name))
	if err != nil {
		return Segment{}, err
	}
	h, at, err := decodeHeader(b)
	if err != nil {
		return Segment{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	whole := Segment{Node: nodeName(h.node), Boot: h.boot, Link: h.link}
	link := h.link
	for seq := seg.first; seq < seg.next; seq++ {
		r, size, ok := decodeFrame(b[at:])
		if !ok || r.Seq != seq || r.Previous != link {
			return Segment{}, fmt.Errorf("%w: %d", errDamaged, seq)
		}
		whole.Records = append(whole.Records, r)
		link, at = r.Hash(), at+size
	}
	return whole, nil
}

// archived marks a segment, unless a repair has replaced it meanwhile.
func (s *Spool) archived(kept segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, seg := range s.segments {
		if seg.name == kept.name && seg.next == kept.next {
			s.segments[i].archived = true
		}
	}
}

// unarchived is what only the archive lacks: the bytes, and since when the oldest segment waits. It is called with mu
// held.
func (s *Spool) unarchived() (bytes int64, since time.Time) {
	if !s.o.Archived {
		return 0, time.Time{}
	}
	for i, seg := range s.segments {
		if i == len(s.segments)-1 || seg.archived || seg.first == seg.next || seg.next > s.acknowledged {
			continue
		}
		bytes += seg.size
		if since.IsZero() || seg.shipped.Before(since) {
			since = seg.shipped
		}
	}
	return bytes, since
}
