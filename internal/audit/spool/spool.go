package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
)

// Errors of Append, all of them also audit.ErrUnrecorded.
var (
	ErrFull       = fmt.Errorf("the spool is full: %w", audit.ErrUnrecorded)
	ErrUnwritable = fmt.Errorf("the spool cannot be written: %w", audit.ErrUnrecorded)
	ErrClosed     = fmt.Errorf("the spool is closed: %w", audit.ErrUnrecorded)
)

// Errors of Open.
var (
	ErrInUse   = errors.New("another process uses the spool")
	ErrNoSpool = errors.New("the folder has no segment of a spool that can be read")
)

// Sync says when a record counts as kept.
type Sync int

const (
	Always   Sync = iota // on disk
	Interval             // with the kernel, and on disk within SyncInterval
)

// Options of a spool. Zero fields take the defaults.
type Options struct {
	Dir          string
	Node         func() string // called for a new folder; one with records keeps its name
	Sync         Sync
	SyncInterval time.Duration // 200 ms
	MaxBytes     int64         // of what is not shipped; 1 GiB
	MaxAge       time.Duration // of the oldest record not shipped; 0 = any
	SegmentBytes int64         // after which the next one begins; 4 MiB, at most an eighth of MaxBytes
	Timeout      time.Duration // how long an append waits for its record; 5 s
	// how long a segment is kept after all of it is shipped; 15 min, in at most an eighth of MaxBytes
	KeepShipped time.Duration
	Archived    bool // a segment stays until an Archiver has kept it; until then it counts in MaxBytes
	Existing    bool // ErrNoSpool for a folder without a segment that can be read, instead of a new spool
	FS          FS
	Now         func() time.Time
}

func (o Options) withDefaults() Options {
	if o.SyncInterval == 0 {
		o.SyncInterval = 200 * time.Millisecond
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 30
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 4 << 20
	}
	o.SegmentBytes = min(o.SegmentBytes, o.MaxBytes/8)
	if o.KeepShipped == 0 {
		o.KeepShipped = 15 * time.Minute
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.FS == nil {
		o.FS = disk{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// usualEvent is the room for the event of a read, in bytes: it stays for the next one.
const usualEvent = 1 << 10

// Spool is safe for concurrent use.
type Spool struct {
	o       Options
	node    string
	boot    uuid.UUID
	begun   bool // the folder had no records
	lock    *os.File
	queue   queue
	entries sync.Pool     // of answered appends
	stop    chan struct{} // closed by Close
	done    chan struct{} // closed when the committer has ended
	closed  sync.Once
	wake    chan struct{} // holds one: the committer is to lead the queue
	busy    chan struct{} // holds one: records have become pending, or appends have begun to fail
	fresh   chan struct{} // holds one: more records are durable than before
	ready   chan struct{} // holds one: a segment may be ready for the archive

	deadline deadline
	shared   atomic.Int32 // above zero: recent batches had several records; written with writeMu held

	flushMu sync.Mutex // one flush at a time; taken before writeMu

	// writeMu is held by the goroutine that changes the folder. It is taken before mu, and guards:
	writeMu     sync.Mutex
	ended       bool
	syncing     File          // what is being fsynced without writeMu; nil: nothing
	file        File          // the segment being written, the last of segments; nil: the next record begins one
	written     int64         // its size
	begunAt     time.Time     // when it was begun
	aged        bool          // it ends at the next record, for the archive
	link        Hash          // of the record before next
	durableLink Hash          // of the record before durable
	pending     []byte        // the frames that are written and not known to be durable; in memory that is used again
	notes       []audit.Event // to be recorded before anything else
	refused     int64         // size in bytes of the newest append that was refused
	buffer      []byte        // of the newest batch: memory that the next one uses

	cursors [2]cursor // of Read, which has one caller at a time

	// mu guards the rest. next and segments are written with writeMu held as well.
	mu           sync.Mutex
	segments     []segment
	next         uint64 // the number of the next record
	durable      uint64 // all numbers below are on disk
	acknowledged uint64 // all numbers below are on the primary
	urgent       uint64 // the number of the newest record that is shipped at once; 0: none since it was opened
	marks        []mark
	counts       counts
	failing      error // of the newest append; nil: it was recorded
}

// counts only go up.
type counts struct {
	appended, failures, damaged uint64
}

type segment struct {
	name        string
	first, next uint64
	size        int64
	shipped     time.Time // since when all of it is; zero: it is not
	archived    bool
}

// mark is the time of a record; only some records have one.
type mark struct {
	seq uint64
	at  time.Time
}

// Append records an event. The package doc says what nil guarantees.
func (s *Spool) Append(ctx context.Context, e audit.Event) error {
	if e.At.IsZero() {
		e.At = s.o.Now()
	}
	e.At = e.At.UTC()
	to := s.entry()
	text, err := e.AppendJSON(to.event[:0])
	if err == nil && len(text) > MaxEvent {
		text, err = e.Shortened().AppendJSON(nil)
	}
	if err != nil || len(text) > MaxEvent {
		return fmt.Errorf("%w: an event of %d bytes: %v", ErrUnwritable, len(text), err)
	}
	to.event, to.at, to.urgent = text, e.At, isUrgent(e)
	return s.append(ctx, to)
}

// Close makes accepted records durable and unlocks the folder.
func (s *Spool) Close() error {
	s.closed.Do(func() {
		s.queue.close()
		close(s.stop)
	})
	<-s.done
	return s.lock.Close()
}

func (s *Spool) note(action string, outcome audit.Outcome, detail map[string]any) {
	s.notes = append(s.notes, audit.Event{At: s.o.Now().UTC(), Actor: "vaultd", Action: action, Outcome: outcome,
		Detail: detail})
}

func size(batch []*entry) int64 {
	bytes := 0
	for _, e := range batch {
		bytes += frameSize + linkedSize + len(e.event)
	}
	return int64(bytes)
}

// room is ErrFull if size more bytes would exceed a bound.
func (s *Spool) room(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.unshippedBytes()
	shipped, _ := s.unarchived()
	switch {
	case waiting+size > s.o.MaxBytes:
		return fmt.Errorf("%w: %d of %d bytes wait for the primary", ErrFull, waiting, s.o.MaxBytes)
	case waiting+shipped+size > s.o.MaxBytes:
		return fmt.Errorf("%w: %d of %d bytes wait for the archive, and %d for the primary", ErrFull, shipped, s.o.MaxBytes,
			waiting)
	}
	if at := s.oldest(); s.o.MaxAge > 0 && !at.IsZero() && s.o.Now().Sub(at) > s.o.MaxAge {
		return fmt.Errorf("%w: a record has waited for the primary since %s", ErrFull, at.Format(time.RFC3339))
	}
	return nil
}

func (s *Spool) path(name string) string { return filepath.Join(s.o.Dir, name) }

// exclusively changes the folder while no append does.
func (s *Spool) exclusively(do func()) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if s.ended {
		return ErrClosed
	}
	do()
	return nil
}
