package spool

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
)

// What an Append is refused with, all of them also audit.ErrUnrecorded.
var (
	ErrFull       = fmt.Errorf("the spool is full: %w", audit.ErrUnrecorded)
	ErrUnwritable = fmt.Errorf("the spool cannot be written: %w", audit.ErrUnrecorded)
	ErrClosed     = fmt.Errorf("the spool is closed: %w", audit.ErrUnrecorded)
)

// ErrInUse: another process writes to the folder.
var ErrInUse = errors.New("another process uses the spool")

// Sync says when a record counts as kept.
type Sync int

const (
	Always   Sync = iota // on disk
	Interval             // with the kernel, and on disk within SyncInterval
)

// Options of a spool. Zero fields take the defaults.
type Options struct {
	Dir          string
	Node         func() string // asked for a folder without a past; one that has it keeps its name
	Sync         Sync
	SyncInterval time.Duration // 200 ms
	MaxBytes     int64         // of what is not shipped; 1 GiB
	MaxAge       time.Duration // of the oldest record not shipped; 0 = any
	SegmentBytes int64         // after which the next one begins; 4 MiB, at most an eighth of MaxBytes
	Patience     time.Duration // how long an append waits for its place on record; 5 s
	KeepShipped  time.Duration // how long a segment stays when all of it is shipped; 15 min, in at most an eighth of MaxBytes
	FS           FS
	Now          func() time.Time
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
	if o.Patience == 0 {
		o.Patience = 5 * time.Second
	}
	if o.FS == nil {
		o.FS = disk{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// usualEvent is more than what most events have.
const usualEvent = 256

// Spool is safe for concurrent use.
type Spool struct {
	o       Options
	node    string
	boot    uuid.UUID
	begun   bool // the folder had no past
	lock    *os.File
	line    line
	entries sync.Pool // of appends that have had their answer
	late    alarm
	call    chan struct{} // holds one, for the committer: somebody waits in the line
	stop    chan struct{} // closed by Close
	done    chan struct{} // closed when the committer has ended
	closed  sync.Once
	fresh   chan struct{} // holds one: there is something durable that was not before

	company atomic.Int32 // above zero: appends come in company; changes with the turn

	turn sync.Mutex // of whoever changes the folder; guards what follows, and is taken before mu

	ended       bool
	syncing     File  // what is being fsynced without the turn; nil: nothing
	file        File  // the segment being written, the last of segments; nil: the next record begins one
	written     int64 // its size
	link        Hash  // of the record before next
	durableLink Hash  // of the record before durable
	pending     []Record
	notes       []audit.Event // to be put on record before anything else
	refused     int64         // bytes that the newest append to be refused wanted
	buffer      []byte

	cursors [2]cursor // of Read, which has one caller at a time

	mu           sync.Mutex // guards what follows, of which next and segments change only with the turn
	segments     []segment
	next         uint64 // the number of the next record
	durable      uint64 // what is below is on disk
	acknowledged uint64 // what is below is on the primary
	marks        []mark
	counts       counts
	failing      error // of the newest append; nil: it was kept
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
}

// mark tells when a record happened, for some of them.
type mark struct {
	seq uint64
	at  time.Time
}

// Append puts an event on record. See the package for what nil means.
func (s *Spool) Append(ctx context.Context, e audit.Event) error {
	if e.At.IsZero() {
		e.At = s.o.Now()
	}
	e.At = e.At.UTC()
	text, err := e.AppendJSON(make([]byte, 0, usualEvent))
	if err == nil && len(text) > MaxEvent {
		text, err = e.Shortened().AppendJSON(nil)
	}
	if err != nil || len(text) > MaxEvent {
		return fmt.Errorf("%w: an event of %d bytes: %v", ErrUnwritable, len(text), err)
	}
	return s.append(ctx, text, e.At)
}

// Close makes durable what was accepted and lets go of the folder.
func (s *Spool) Close() error {
	s.closed.Do(func() {
		s.line.close()
		close(s.stop)
	})
	<-s.done
	return s.lock.Close()
}

// keep puts a batch on record as a whole, or refuses it as a whole.
func (s *Spool) keep(batch []*entry) {
	if len(batch) == 0 {
		return
	}
	err := s.room(size(batch))
	if err == nil {
		err = s.keepNotes()
	}
	if err == nil {
		err = s.store(s.number(batch), s.o.Sync == Always)
	}
	if err != nil {
		s.refused = size(batch[:1])
	}
	s.mu.Lock()
	s.failing = err
	if err == nil {
		s.counts.appended += uint64(len(batch))
		s.mark(s.next-uint64(len(batch)), batch[0].at)
	} else {
		s.counts.failures += uint64(len(batch))
	}
	s.mu.Unlock()
	for _, e := range batch {
		e.done <- err
	}
}

// numbered is records that follow one another, and how they are written.
type numbered struct {
	records []Record
	frames  []byte // in the spool's buffer
	last    Hash
}

// number gives the records their places. Numbers that are refused are used again, by what comes instead.
func (s *Spool) number(batch []*entry) numbered {
	n := numbered{records: make([]Record, len(batch)), frames: s.buffer[:0], last: s.link}
	for i, e := range batch {
		n.records[i] = Record{Seq: s.next + uint64(i), Previous: n.last, Event: e.event}
		at := len(n.frames)
		n.frames = appendFrame(n.frames, n.records[i])
		n.last = sha256.Sum256(n.frames[at+frameSize:])
	}
	s.buffer = n.frames
	return n
}

// keepNotes puts what the spool has to say of itself on record.
func (s *Spool) keepNotes() error {
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
	}
	return err
}

func (s *Spool) note(action string, outcome audit.Outcome, detail map[string]any) {
	s.notes = append(s.notes, audit.Event{At: s.o.Now().UTC(), Actor: "vaultd", Action: action, Outcome: outcome, Detail: detail})
}

func size(batch []*entry) int64 {
	bytes := 0
	for _, e := range batch {
		bytes += frameSize + linkedSize + len(e.event)
	}
	return int64(bytes)
}

// room is ErrFull when so many bytes more would go beyond a bound.
func (s *Spool) room(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.unshippedBytes(); have+size > s.o.MaxBytes {
		return fmt.Errorf("%w: %d of %d bytes wait for the primary", ErrFull, have, s.o.MaxBytes)
	}
	if at := s.oldest(); s.o.MaxAge > 0 && !at.IsZero() && s.o.Now().Sub(at) > s.o.MaxAge {
		return fmt.Errorf("%w: a record has waited for the primary since %s", ErrFull, at.Format(time.RFC3339))
	}
	return nil
}

// store writes records behind what is pending, and with sync makes all of it durable. When the segment fails, what is not
// known to be durable is written once more, into a new one; when that fails too, the records are refused and what was
// accepted before stays pending.
func (s *Spool) store(n numbered, sync bool) error {
	if s.file != nil && s.segmentEnds() {
		s.endSegment()
	}
	var err error
	for range 2 {
		frames := n.frames
		if s.file == nil {
			if err = s.begin(); err != nil {
				break
			}
			frames = append(appendFrames(nil, s.pending), n.frames...)
		}
		if err = s.put(frames, sync); err == nil {
			s.accept(n, sync)
			return nil
		}
		s.giveUp()
	}
	return fmt.Errorf("%w: %w", ErrUnwritable, err)
}

// segmentEnds when it is full; but not while it is being fsynced: of two at once, either may be told of a failure and the other
// not.
func (s *Spool) segmentEnds() bool { return s.written >= s.o.SegmentBytes && s.file != s.syncing }

// endSegment makes room for the next one. What did not become durable is written again there.
func (s *Spool) endSegment() {
	if len(s.pending) > 0 && synced(s.file) == nil {
		s.accept(numbered{}, true)
	}
	s.giveUp()
}

// begin makes a segment appear whole, its first record still to come: the one that is not known to be durable.
func (s *Spool) begin() error {
	h := header{node: s.node, boot: s.boot, first: s.durable, link: s.durableLink}
	name := segmentName(h.first)
	layOut := int64(0)
	if s.o.Sync == Always {
		layOut = s.o.SegmentBytes
	}
	file, size, err := s.create(name, h.encode(), layOut)
	if err != nil {
		return err
	}
	s.file, s.written = file, size
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.segments); n > 0 && s.segments[n-1].first == h.first { // nothing of it was durable, and its name is taken over
		s.segments = s.segments[:n-1]
	} else if n > 0 {
		s.segments[n-1].next = min(s.segments[n-1].next, h.first)
	}
	s.segments = append(s.segments, segment{name: name, first: h.first, next: h.first, size: size})
	return nil
}

var zeros [64 << 10]byte // to lay a segment out with

// create is the commit point of a segment: the rename, once the folder is fsynced. The file stays open. It is laid out with zeros
// up to so many bytes: an fsync that need not make a file longer takes two thirds of the time.
func (s *Spool) create(name string, content []byte, layOut int64) (_ File, size int64, err error) {
	partial, path := s.path(name+partialSuffix), s.path(name)
	file, err := s.o.FS.Create(partial)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			_ = file.Close()
			_ = s.o.FS.Remove(partial) // else the next Open does it
		}
	}()
	if _, err = file.WriteAt(content, 0); err != nil {
		return nil, 0, err
	}
	for at := int64(len(content)); at < layOut; at += int64(len(zeros)) {
		if _, err = file.WriteAt(zeros[:min(int64(len(zeros)), layOut-at)], at); err != nil {
			return nil, 0, err
		}
	}
	if err = file.Sync(); err != nil {
		return nil, 0, err
	}
	if err = s.o.FS.Rename(partial, path); err != nil {
		return nil, 0, err
	}
	if err = s.o.FS.SyncDir(s.o.Dir); err != nil {
		return nil, 0, err
	}
	return file, int64(len(content)), nil
}

func (s *Spool) put(frames []byte, sync bool) error {
	if len(frames) > 0 {
		n, err := s.file.WriteAt(frames, s.written)
		s.written += int64(n)
		if err != nil {
			return err
		}
	}
	if sync {
		return synced(s.file)
	}
	return nil // whether somebody removed the file shows at the next fsync; what is pending is written again then
}

func synced(file File) error {
	if err := file.Sync(); err != nil {
		return err
	}
	return linked(file)
}

func linked(file File) error {
	if there, err := file.Linked(); err != nil || !there {
		return fmt.Errorf("somebody removed the segment (%v)", err)
	}
	return nil
}

// accept moves on behind records that were written; with durable, everything so far is on disk.
func (s *Spool) accept(n numbered, durable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(n.records) > 0 {
		s.next, s.link = s.next+uint64(len(n.records)), n.last
	}
	last := &s.segments[len(s.segments)-1]
	last.next, last.size = s.next, s.written
	s.pending = append(s.pending, n.records...)
	if durable {
		s.settle(len(s.pending), s.next, s.link)
	}
}

// settle: so many of what is pending are on disk, which is everything below next. It is called with mu held.
func (s *Spool) settle(pending int, next uint64, link Hash) {
	s.pending = slices.Delete(s.pending, 0, pending)
	s.durable, s.durableLink = next, link
	signal(s.fresh)
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// giveUp never asks the descriptor again. An error of Close says nothing that the fsync did not.
func (s *Spool) giveUp() {
	if s.file != nil && s.file != s.syncing { // that one is closed when the fsync is over
		_ = s.file.Close()
	}
	s.file = nil
}

// flush makes durable what Interval has only handed to the kernel. Appends go on while the disk is asked.
func (s *Spool) flush() {
	s.turn.Lock()
	defer s.turn.Unlock()
	if len(s.pending) == 0 {
		return
	}
	if file := s.file; file != nil {
		pending, next, link := len(s.pending), s.next, s.link
		s.syncing = file
		s.turn.Unlock()
		err := synced(file)
		s.turn.Lock()
		s.syncing = nil
		switch {
		case s.file != file: // a write failed, and what is pending was written again
			_ = file.Close()
			return
		case err == nil:
			s.mu.Lock()
			s.settle(pending, next, link)
			s.mu.Unlock()
			return
		}
		s.giveUp()
	}
	if err := s.store(numbered{}, true); err != nil {
		s.mu.Lock()
		s.failing = err
		s.counts.failures++
		s.mu.Unlock()
	}
}

// heal finds out whether the append that was refused would be kept now. A daemon that is taken out of service because they are
// not gets none to find out by.
func (s *Spool) heal() {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	failing := s.failing
	s.mu.Unlock()
	if failing == nil || s.room(s.refused) != nil || s.file == nil && s.store(numbered{}, true) != nil {
		return
	}
	s.mu.Lock()
	s.failing = nil
	s.mu.Unlock()
}

func (s *Spool) path(name string) string { return filepath.Join(s.o.Dir, name) }

// perform changes the folder while nobody else does.
func (s *Spool) perform(do func()) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.ended {
		return ErrClosed
	}
	do()
	return nil
}
