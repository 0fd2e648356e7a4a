package spool

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Batch is consecutive records, for the primary.
type Batch struct {
	Node    string
	Boot    uuid.UUID
	First   uint64 // the number of the first record; without records, that of the next
	Lost    bool   // the records before First that the primary does not have are lost
	Full    bool   // the batch reached its bounds, so there may be more records
	Records []Record
}

func (b Batch) bytes() int {
	bytes := 0
	for _, r := range b.Records {
		bytes += len(r.Event)
	}
	return bytes
}

// Hash is that of the last record.
func (b Batch) Hash() Hash { return b.Records[len(b.Records)-1].Hash() }

const (
	longestFrame = frameSize + linkedSize + MaxEvent
	usualFrame   = 512 // a little more than the frame of a read of a long name

	// batchBytes ends a batch, which the primary stores in one transaction. It refuses 16 MiB.
	batchBytes = 2 << 20
)

// cursor is the position of a record, so that the next batch need not search for it.
type cursor struct {
	name string
	seq  uint64
	at   int64
}

// Read returns up to limit durable records that the primary has not acknowledged, none if there are none. It sets aside
// a segment that it finds damaged, and reads the records after it. Read has one caller at a time.
func (s *Spool) Read(limit int) (Batch, error) {
	s.mu.Lock()
	from := s.acknowledged
	s.mu.Unlock()
	return s.readFrom(from, limit)
}

func (s *Spool) readFrom(wanted uint64, limit int) (Batch, error) {
	return s.readInto(new(loaded), wanted, limit)
}

// loaded is the memory of one batch, which the next one uses again.
type loaded struct {
	records []Record
	pieces  [][]byte
}

// readInto is readFrom. The batch is a part of to.
func (s *Spool) readInto(to *loaded, wanted uint64, limit int) (Batch, error) {
	for range 16 { // damaged segments to set aside; the next call continues
		seg, from, end := s.holding(wanted)
		b := Batch{Node: nodeName(s.node), Boot: s.boot, First: from}
		if from == end {
			return b, nil
		}
		b.Lost = from > wanted
		var err error
		if b.Records, err = s.load(to, seg, from, end, limit); err == nil {
			b.Full = len(b.Records) == limit || b.bytes() >= batchBytes
			return b, nil
		}
		if err := s.repair(seg.name, err); err != nil {
			return Batch{}, err
		}
	}
	return Batch{}, errors.New("too many damaged segments at once")
}

// holding returns the first segment with durable records from a number on, and their numbers.
func (s *Spool) holding(wanted uint64) (seg segment, from, end uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range s.segments {
		from, end := max(seg.first, wanted), min(seg.next, s.durable)
		if from < end {
			return seg, from, end
		}
	}
	return segment{}, s.durable, s.durable
}

var errDamaged = errors.New("a record cannot be read")

func (s *Spool) load(to *loaded, seg segment, from, end uint64, limit int) ([]Record, error) {
	file, err := s.o.FS.Open(s.path(seg.name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	at := s.near(seg, from)
	last := at
	records := slices.Grow(to.records[:0], int(min(end-from, uint64(limit))))
	to.records = records
	var before Hash // of the last of them
	bytes := 0
	for i := 0; at.seq < end && len(records) < limit && bytes < batchBytes; i++ {
		room := max(longestFrame, usualFrame*(min(end-at.seq, uint64(limit))))
		b := to.piece(i, min(int64(room), max(seg.size-at.at, 0))) // the events of the records are slices of it
		n, err := file.ReadAt(b, at.at)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		read := 0
		for at.seq < end && len(records) < limit && bytes < batchBytes {
			r, size, ok := decodeFrame(b[read:n])
			if !ok {
				break
			}
			if r.Seq != at.seq || len(records) > 0 && r.Previous != before {
				return nil, fmt.Errorf("%w: record %d is in place of %d", errDamaged, r.Seq, at.seq)
			}
			if r.Seq >= from {
				records = append(records, r)
				bytes += len(r.Event)
				before = sha256.Sum256(b[read+frameSize : read+size])
			}
			read += size
			last = at
			at.seq++
			at.at += int64(size)
		}
		if read == 0 && at.seq < end && len(records) < limit && bytes < batchBytes {
			return nil, fmt.Errorf("%w: %d", errDamaged, at.seq)
		}
	}
	s.cursors = [...]cursor{last, at}
	return records, nil
}

func (to *loaded) piece(i int, size int64) []byte {
	if i == len(to.pieces) {
		to.pieces = append(to.pieces, nil)
	}
	if int64(cap(to.pieces[i])) < size {
		to.pieces[i] = make([]byte, size)
	}
	return to.pieces[i][:size]
}

// near is where a search for a record begins: where the last Read ended, or at its last record, which a shipper
// compares with the primary's.
func (s *Spool) near(seg segment, seq uint64) cursor {
	at := cursor{name: seg.name, seq: seg.first, at: int64(headerSize + len(s.node))}
	for _, known := range s.cursors {
		if known.name == seg.name && known.seq <= seq && known.seq > at.seq {
			at = known
		}
	}
	return at
}

// repair sets aside a segment that cannot be read, or drops one whose file is gone.
func (s *Spool) repair(name string, why error) error {
	var err error
	performed := s.exclusively(func() { err = s.replace(name, why) })
	return errors.Join(performed, err)
}

// replace is called with writeMu held.
func (s *Spool) replace(name string, why error) error {
	gone := errors.Is(why, fs.ErrNotExist)
	switch {
	case !gone && !errors.Is(why, errDamaged):
		return why // EIO and the like: a later read may succeed
	case gone && s.exists(name):
		return nil // the shipper and the archiver found the damage, and the other one has replaced the segment
	}
	s.abandonSegment()
	s.mu.Lock()
	defer s.mu.Unlock()
	before, i := s.segments, 0
	for i < len(before) && before[i].name != name {
		i++
	}
	if i == len(before) {
		return nil
	}
	next, link, limit := s.next, s.link, min(before[i].next, s.durable)
	s.segments, s.next = append([]segment(nil), before[:i]...), before[i].first
	var err error
	if gone {
		s.counts.damaged++
		s.note("audit.damaged", "failed", map[string]any{"segment": name, "reason": "it was removed", "saved": 0})
	} else {
		err = s.setAside(name, why.Error(), limit)
	}
	s.segments = append(s.segments, before[i+1:]...)
	s.next, s.link = next, link
	return err
}

// Acknowledge sets how far the primary has the records: below next. It can go back, when a primary was promoted that
// had not received everything.
func (s *Spool) Acknowledge(next uint64) error {
	s.mu.Lock()
	s.acknowledged = min(next, s.durable)
	removable := s.shipped()
	s.mu.Unlock()
	if s.o.Archived {
		signal(s.ready)
	}
	if len(removable) == 0 {
		return nil
	}
	var err error
	performed := s.exclusively(func() { err = s.remove(removable) })
	return errors.Join(performed, err)
}

// shipped marks the segments that the primary has whole, and returns those that may be removed: never the last, whose
// header has the node and boot of the folder.
func (s *Spool) shipped() []string {
	var removable []string
	kept := int64(0)
	for i := len(s.segments) - 2; i >= 0; i-- {
		seg := &s.segments[i]
		switch {
		case seg.next > s.acknowledged:
			seg.shipped = time.Time{}
			continue
		case seg.shipped.IsZero():
			seg.shipped = s.o.Now()
		}
		if s.o.Archived && !seg.archived && seg.first < seg.next {
			continue
		}
		if kept += seg.size; kept > s.o.MaxBytes/8 || s.o.Now().Sub(seg.shipped) >= s.o.KeepShipped {
			removable = append(removable, seg.name)
		}
	}
	return removable
}

func (s *Spool) remove(names []string) error {
	for _, name := range names {
		if err := s.o.FS.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.mu.Lock()
		for i, seg := range s.segments {
			if seg.name == name {
				s.segments = append(s.segments[:i:i], s.segments[i+1:]...)
				break
			}
		}
		s.mu.Unlock()
	}
	return nil
}

// Stats is the state of a spool.
type Stats struct {
	Node     string
	Boot     uuid.UUID
	Records  uint64    // durable or not, that the primary has not acknowledged
	Bytes    int64     // of them
	Oldest   time.Time // of them; zero: none
	Archive  int64     // bytes that the primary has and the archive lacks
	Ripe     time.Time // since when the oldest of them waits for the archive; zero: none
	Appended uint64    // since it was opened, as the following
	Failures uint64    // appends that were refused, and fsyncs that failed later
	Damaged  uint64    // segments that were set aside
	Failing  error     // of the newest append; nil: it was kept
}

// Stats returns the state without reading the disk.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	archive, ripe := s.unarchived()
	return Stats{Node: s.node, Boot: s.boot, Records: s.next - s.acknowledged, Bytes: s.unshippedBytes(),
		Oldest: s.oldest(), Archive: archive, Ripe: ripe, Appended: s.counts.appended, Failures: s.counts.failures,
		Damaged: s.counts.damaged, Failing: s.failing}
}

// Fresh signals that more records are durable than before.
func (s *Spool) Fresh() <-chan struct{} { return s.fresh }

// pressing reports whether the records that wait for the primary are old, or use much of the room.
func (s *Spool) pressing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.oldest()
	return s.unshippedBytes() > s.o.MaxBytes/crowdedPart || !at.IsZero() && s.o.Now().Sub(at) > lateAfter
}

// hasUrgent reports whether a record that is shipped at once is on disk and waits for the primary.
func (s *Spool) hasUrgent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.urgent >= s.acknowledged && s.urgent < s.durable && s.urgent > 0
}

// unshippedBytes counts the part of a segment that is shipped by its records.
func (s *Spool) unshippedBytes() int64 {
	total := int64(0)
	for _, seg := range s.segments {
		if left := seg.next - min(seg.next, max(seg.first, s.acknowledged)); left > 0 {
			total += seg.size * int64(left) / int64(seg.next-seg.first)
		}
	}
	return total
}

// maxMarks bounds the marks: they are a second apart, and further when there are more.
const maxMarks = 4096

func (s *Spool) mark(seq uint64, at time.Time) {
	if n := len(s.marks); n > 0 && at.Sub(s.marks[n-1].at) < time.Second {
		return
	}
	s.marks = append(s.marks, mark{seq, at})
	if len(s.marks) > maxMarks {
		kept := s.marks[:0]
		for i := 0; i < len(s.marks); i += 2 {
			kept = append(kept, s.marks[i])
		}
		s.marks = kept
	}
}

// oldest is the time of the first record that is not shipped, or a little before.
func (s *Spool) oldest() time.Time {
	if s.next == s.acknowledged || len(s.marks) == 0 {
		return time.Time{}
	}
	at := s.marks[0].at
	for _, m := range s.marks {
		if m.seq > s.acknowledged {
			break
		}
		at = m.at
	}
	return at
}

func (s *Spool) identity() (node string, boot uuid.UUID, durable uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return nodeName(s.node), s.boot, s.durable
}
