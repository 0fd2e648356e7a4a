package spool

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
)

// Open locks a folder, repairs it, and continues after its last record.
func Open(o Options) (*Spool, error) {
	o = o.withDefaults()
	if err := folder(o.Dir); err != nil {
		return nil, fmt.Errorf("the spool's folder: %w", err)
	}
	lock, err := lock(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", o.Dir, err)
	}
	s := &Spool{
		o: o, lock: lock, wake: make(chan struct{}, 1), busy: make(chan struct{}, 1), stop: make(chan struct{}),
		done: make(chan struct{}), fresh: make(chan struct{}, 1), ready: make(chan struct{}, 1),
		next: 1, durable: 1, acknowledged: 1, deadline: deadline{limit: o.Timeout},
	}
	if err := s.recover(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("reading the spool: %w", err)
	}
	go s.run()
	return s, nil
}

// recover runs the same code for a clean folder and for one that a crash left.
func (s *Spool) recover() error {
	names, err := s.o.FS.List(s.o.Dir)
	if err != nil {
		return err
	}
	var found []segment
	for _, name := range names {
		if strings.HasSuffix(name, partialSuffix) {
			if err := s.o.FS.Remove(s.path(name)); err != nil {
				return err
			}
		}
		if first, ok := segmentFirst(name); ok {
			found = append(found, segment{name: name, first: first})
		}
	}
	slices.SortFunc(found, func(a, b segment) int { return cmp.Compare(a.first, b.first) })
	if err := s.identify(found); err != nil {
		return err
	}
	for i, seg := range found {
		if err := s.adopt(seg, i, found, names); err != nil {
			return err
		}
	}
	s.durable, s.durableLink = s.next, s.link
	if len(s.segments) > 0 {
		s.acknowledged = s.segments[0].first
		signal(s.fresh)
	}
	return nil
}

// identify reads the folder's node and boot from the newest segment with a valid header.
func (s *Spool) identify(found []segment) error {
	for _, seg := range slices.Backward(found) {
		b, err := readAll(s.o.FS, s.path(seg.name))
		if err != nil {
			return err
		}
		if h, _, err := decodeHeader(b); err == nil {
			s.node, s.boot = h.node, h.boot
			return nil
		}
	}
	if s.o.Existing {
		return ErrNoSpool
	}
	s.node, s.boot, s.begun = nodeName(s.o.Node()), uuid.New(), true
	s.note(audit.SpoolBegun, audit.OK, map[string]any{"boot": s.boot.String()})
	return nil
}

// nodeName makes a name that the primary accepts, also of a folder that was begun with another: printable, of 1 to 255
// bytes.
func nodeName(name string) string {
	return cmp.Or(audit.Cut(audit.Printable(strings.ToValidUTF8(name, "")), maxNode), "unnamed")
}

// adopt reads one segment, and cuts its tail or sets it aside. Its records end where the next segment begins. names are
// all files of the folder.
func (s *Spool) adopt(seg segment, i int, all []segment, names []string) error {
	b, err := readAll(s.o.FS, s.path(seg.name))
	if err != nil {
		return err
	}
	limit := ^uint64(0)
	if i+1 < len(all) {
		limit = all[i+1].first
	}
	c := scan(b, limit == ^uint64(0))
	why := s.wrong(seg, c, limit)
	if why == "" && c.end < limit && limit != ^uint64(0) {
		known, err := s.gapIsKnown(seg, c, names)
		if err != nil {
			return err
		}
		if !known {
			why = fmt.Sprintf("it ends before record %d, the next segment begins with %d", c.end, limit)
		}
	}
	if why != "" {
		return s.setAside(seg.name, why, limit)
	}
	if c.tail > 0 && limit == ^uint64(0) {
		if err := s.o.FS.Truncate(s.path(seg.name), int64(c.whole)); err != nil {
			return err
		}
		s.note(audit.TornTail, audit.Failed, map[string]any{"segment": seg.name, "bytes": c.tail})
	}
	var records run
	if len(c.runs) > 0 {
		records = c.runs[0]
	}
	s.resume(seg.name, c.header.first, c.header.link, records, int64(c.whole), limit)
	return nil
}

// wrong returns why the content of a segment must be set aside; "" if it need not be.
func (s *Spool) wrong(seg segment, c scanned, limit uint64) string {
	switch {
	case c.header.boot != s.boot || c.header.first != seg.first:
		return cmp.Or(c.reason, "it belongs to another spool")
	case c.end >= limit: // the damage is in records for which the next segment counts
		return ""
	}
	return c.reason
}

// gapIsKnown reports whether the records between a readable segment and the next one were set aside before: it is what
// was saved of a damaged segment, up to the damage, or a damaged segment followed it.
func (s *Spool) gapIsKnown(seg segment, c scanned, names []string) (bool, error) {
	for _, name := range names {
		whole, number, isAside := strings.Cut(name, damagedSuffix)
		first, isSegment := segmentFirst(whole)
		if !isAside || !isSegment || number != "" && !strings.HasPrefix(number, "-") {
			continue
		}
		if first == c.end {
			return true, nil
		}
		if first > c.end {
			continue
		}
		b, err := readAll(s.o.FS, s.path(name))
		if err != nil {
			return false, err
		}
		for _, r := range scan(b, false).runs {
			if r[0].Seq == seg.first && r[len(r)-1].Seq+1 == c.end {
				return true, nil
			}
		}
	}
	return false, nil
}

// resume adds a segment and its records, up to where the next one begins.
func (s *Spool) resume(name string, first uint64, link Hash, records run, size int64, limit uint64) {
	next := first
	for i, r := range records {
		if r.Seq >= limit {
			break
		}
		if i%256 == 0 {
			s.mark(r.Seq, happened(r))
		}
		next, link = r.Seq+1, r.Hash()
	}
	s.segments = append(s.segments, segment{name: name, first: first, next: next, size: size})
	s.next, s.link = next, link
}

func happened(r Record) time.Time {
	var e struct {
		At time.Time `json:"at"`
	}
	_ = json.Unmarshal(r.Event, &e) // the checksum held, so it is what was appended
	return e.At
}

// setAside renames a damaged segment, writes its readable records anew, and records that. Numbers of unreadable records
// are not used again.
func (s *Spool) setAside(name, why string, limit uint64) error {
	b, err := readAll(s.o.FS, s.path(name))
	if err != nil {
		return err
	}
	aside := name + damagedSuffix
	for n := 2; s.exists(aside); n++ {
		aside = fmt.Sprintf("%s%s-%d", name, damagedSuffix, n)
	}
	if err := s.o.FS.Rename(s.path(name), s.path(aside)); err != nil {
		return err
	}
	c := scan(b, false)
	saved := 0
	headless := c.header.boot == uuid.Nil && !s.begun // the segments around it have the boot
	if c.header.boot == s.boot || headless {
		for _, r := range c.runs {
			if r[0].Seq < s.next || r[0].Seq >= limit {
				continue
			}
			if err := s.rewrite(r, limit); err != nil {
				return err
			}
			saved += len(r)
		}
	}
	if limit == ^uint64(0) && c.tail > 0 { // skip as many numbers as the tail may have had records
		s.next += uint64(c.tail/smallestFrame) + 1
	}
	s.counts.damaged++
	s.note(audit.Damaged, audit.Failed, map[string]any{"segment": aside, "reason": why, "saved": saved})
	return s.o.FS.SyncDir(s.o.Dir)
}

func (s *Spool) exists(name string) bool {
	f, err := s.o.FS.Open(s.path(name))
	if err == nil {
		f.Close()
	}
	return err == nil
}

func (s *Spool) rewrite(r run, limit uint64) error {
	h := header{node: s.node, boot: s.boot, first: r[0].Seq, link: r[0].Previous}
	content := h.encode()
	for _, record := range r {
		content = appendFrame(content, record)
	}
	name := segmentName(h.first)
	file, size, err := s.create(name, content, 0)
	if err != nil {
		return err
	}
	_ = file.Close() // it is durable
	s.resume(name, h.first, h.link, r, size, limit)
	return nil
}
