package spool

import (
	"errors"
	"syscall"
	"time"
)

// segmentFull reports whether the next record begins a new segment. A segment that is being fsynced does not end: of
// two fsyncs of one descriptor, only one may report a failure.
func (s *Spool) segmentFull() bool {
	return (s.written >= s.o.SegmentBytes || s.aged) && s.file != s.syncing
}

// archiveAge is how long a segment takes records if they are archived: a node with few reads would fill one in weeks.
const archiveAge = time.Hour

// age ends a segment that is old, at the next record. It is called with writeMu held.
func (s *Spool) age() {
	s.aged = s.o.Archived && s.file != nil && s.next > s.segments[len(s.segments)-1].first &&
		s.o.Now().Sub(s.begunAt) >= archiveAge
}

// endSegment closes the segment. Records that did not become durable are written again, into the next one.
func (s *Spool) endSegment() {
	if len(s.pending) > 0 && syncSegment(s.file) == nil {
		s.advance(numbered{}, true)
	}
	s.abandonSegment()
}

// beginSegment makes a segment whose first record will be the first one not known to be durable.
func (s *Spool) beginSegment() error {
	h := header{node: s.node, boot: s.boot, first: s.durable, link: s.durableLink}
	name := segmentName(h.first)
	zeroed := int64(0)
	if s.o.Sync == Always {
		zeroed = s.o.SegmentBytes
	}
	file, size, err := s.create(name, h.encode(), zeroed)
	for isFull(err) && s.makeRoom() {
		file, size, err = s.create(name, h.encode(), zeroed)
	}
	if isFull(err) && zeroed > 0 {
		file, size, err = s.create(name, h.encode(), 0)
	}
	if err != nil {
		return err
	}
	s.file, s.written, s.begunAt, s.aged = file, size, s.o.Now(), false
	s.mu.Lock()
	defer s.mu.Unlock()
	// none of its records was durable, and the new segment has its name
	if n := len(s.segments); n > 0 && s.segments[n-1].first == h.first {
		s.segments = s.segments[:n-1]
	} else if n > 0 {
		s.segments[n-1].next = min(s.segments[n-1].next, h.first)
	}
	s.segments = append(s.segments, segment{name: name, first: h.first, next: h.first, size: size})
	return nil
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// makeRoom removes the oldest segment that is only kept for a primary that may be promoted, and reports whether there
// was one. On a full disk such a segment would be the reason of refused reads. It is called with writeMu held.
func (s *Spool) makeRoom() bool {
	s.mu.Lock()
	name := ""
	for i, seg := range s.segments {
		if i < len(s.segments)-1 && seg.next <= s.acknowledged && (seg.archived || !s.o.Archived) {
			name = seg.name
			break
		}
	}
	s.mu.Unlock()
	return name != "" && s.remove([]string{name}) == nil
}

var zeros [64 << 10]byte // what a new segment is filled with

// create makes a segment's file and leaves it open. Its commit point is the rename, once the folder is fsynced. The
// file is filled with zeros up to so many bytes: an fsync that does not make a file longer takes two thirds of the
// time.
func (s *Spool) create(name string, content []byte, zeroed int64) (_ File, size int64, err error) {
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
	for at := int64(len(content)); at < zeroed; at += int64(len(zeros)) {
		if _, err = file.WriteAt(zeros[:min(int64(len(zeros)), zeroed-at)], at); err != nil {
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

// abandonSegment stops using the segment's descriptor. An error of Close adds nothing to the result of the fsync.
func (s *Spool) abandonSegment() {
	if s.file != nil && s.file != s.syncing { // flush closes a file that is being fsynced
		_ = s.file.Close()
	}
	s.file = nil
}
