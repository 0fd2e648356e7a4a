package spool

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
)

// Open locks a folder, repairs it, and continues after its last record.
func Open(o Options) (*Spool, error) {
	o = o.withDefaults()
	if o.Existing { // before a lock is made in a folder of something else
		if err := holdsSpool(o.FS, o.Dir); err != nil {
			return nil, fmt.Errorf("reading the spool: %w", err)
		}
	}
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
	found := segmentsOf(names)
	if err := s.identify(found); err != nil {
		return err
	}
	for _, name := range names {
		whole, isPartial := strings.CutSuffix(name, partialSuffix)
		if _, ok := segmentFirst(whole); !ok || !isPartial {
			continue
		}
		if err := s.o.FS.Remove(s.path(name)); err != nil {
			return err
		}
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

// segmentsOf are the segments among the files of a folder, oldest first.
func segmentsOf(names []string) []segment {
	var found []segment
	for _, name := range names {
		if first, ok := segmentFirst(name); ok {
			found = append(found, segment{name: name, first: first})
		}
	}
	slices.SortFunc(found, func(a, b segment) int { return cmp.Compare(a.first, b.first) })
	return found
}

// holdsSpool is ErrNoSpool for a folder without a segment that has a valid header. It changes nothing.
func holdsSpool(fs FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	_, known, err := newestHeader(fs, dir, segmentsOf(names))
	if err == nil && !known {
		err = ErrNoSpool
	}
	return err
}

// newestHeader is the header of the newest segment that has a valid one.
func newestHeader(fs FS, dir string, found []segment) (h header, known bool, err error) {
	for _, seg := range slices.Backward(found) {
		switch h, err := readHeader(fs, filepath.Join(dir, seg.name)); {
		case err == nil:
			return h, true, nil
		case !errors.Is(err, errHeader):
			return h, false, err
		}
	}
	return h, false, nil
}

// identify reads the folder's node and boot from its segments, or begins a spool.
func (s *Spool) identify(found []segment) error {
	h, known, err := newestHeader(s.o.FS, s.o.Dir, found)
	switch {
	case err != nil:
		return err
	case known:
		s.node, s.boot = h.node, h.boot
		return nil
	case s.o.Existing:
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
		first, isAside := asideFirst(name)
		if first == c.end && isAside {
			return true, nil
		}
		if !isAside || first > c.end {
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

// asideFirst is the number in the name of a segment that was set aside.
func asideFirst(name string) (first uint64, isAside bool) {
	whole, number, isAside := strings.Cut(name, damagedSuffix)
	first, isSegment := segmentFirst(whole)
	return first, isAside && isSegment && (number == "" || strings.HasPrefix(number, "-"))
}

// SetAside names the files of the folder that were segments and could not be read whole. What could be read of them is
// in other segments.
func (s *Spool) SetAside() ([]string, error) {
	names, err := s.o.FS.List(s.o.Dir)
	return slices.DeleteFunc(names, func(name string) bool {
		_, isAside := asideFirst(name)
		return !isAside
	}), err
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
