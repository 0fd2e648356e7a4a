package archive

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/lazyregexp"
)

// name is where a file is, and what it has.
type name struct {
	cluster     uuid.UUID
	boot        uuid.UUID
	first, next uint64
	from, until int64  // of the events, in seconds since 1970: not after the earliest, not before the latest
	hash        string // the first 16 digits of the last hash
}

const (
	root    = "reads/"
	moment  = "20060102T150405Z"
	hashSum = 16 // digits of the last hash in a name
)

var nameForm = lazyregexp.New(`^reads/([0-9a-f-]{36})/([0-9a-f-]{36})/` +
	`([0-9]{20})-([0-9]{20})-([0-9]{8}T[0-9]{6}Z)-([0-9]{8}T[0-9]{6}Z)-([0-9a-f]{16})\.jsonl\.zst$`)

func nameOf(h header, s span) name {
	text, _ := h.Last.MarshalText() // it never fails
	return name{h.Cluster, h.Boot, h.First, h.First + h.Records, s.from, s.until, string(text[:hashSum])}
}

// String is the path below the folder or the prefix.
func (n name) String() string {
	at := func(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(moment) }
	return fmt.Sprintf("%s%s/%s/%020d-%020d-%s-%s-%s.jsonl.zst", root, n.cluster, n.boot, n.first, n.next, at(n.from),
		at(n.until), n.hash)
}

// parseName reports whether a path is one of this package.
func parseName(path string) (n name, ok bool) {
	m := nameForm().FindStringSubmatch(path)
	if m == nil {
		return n, false
	}
	var errs [6]error
	n.cluster, errs[0] = uuid.Parse(m[1])
	n.boot, errs[1] = uuid.Parse(m[2])
	n.first, errs[2] = strconv.ParseUint(m[3], 10, 64)
	n.next, errs[3] = strconv.ParseUint(m[4], 10, 64)
	from, err := time.Parse(moment, m[5])
	errs[4] = err
	until, err := time.Parse(moment, m[6])
	errs[5] = err
	for _, err := range errs {
		if err != nil {
			return n, false
		}
	}
	n.from, n.until, n.hash = from.Unix(), until.Unix(), m[7]
	return n, n.String() == path && n.first > 0 && n.first < n.next
}

// compare orders by vault, spool and numbers.
func (n name) compare(m name) int {
	return cmp.Or(bytes.Compare(n.cluster[:], m.cluster[:]), bytes.Compare(n.boot[:], m.boot[:]),
		cmp.Compare(n.first, m.first), cmp.Compare(n.next, m.next), cmp.Compare(n.hash, m.hash))
}

// span is the times of a file's events.
type span struct {
	from, until int64
	any         bool
}

// Times that a name can hold; an event may claim any.
var (
	earliest = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

func (s *span) add(at time.Time) {
	switch {
	case at.Before(earliest):
		at = earliest
	case at.After(latest):
		at = latest
	}
	from, until := at.Unix(), at.Unix()
	if at.Nanosecond() > 0 {
		until = min(until+1, latest.Unix())
	}
	if !s.any {
		s.from, s.until, s.any = from, until, true
	}
	s.from, s.until = min(s.from, from), max(s.until, until)
}
