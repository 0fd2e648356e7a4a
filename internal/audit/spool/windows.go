package spool

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
)

// LongestWindow bounds the time between the reads of one row on the primary, which finds a row by its newest read and
// looks this far for older ones (the constraint audit_earlier).
const LongestWindow = time.Minute

// AroundRequest is the most between the time of a read and that in the request id that its daemon made. A read that
// took longer is a row of its own.
const AroundRequest = time.Second

const (
	leastRows = 500   // of a batch of windows, on a primary that is slow
	firstRows = 8192  // of the first one
	mostRows  = 65536 // on a primary that is fast
	rowReads  = 32    // reads for each of these: 262,144 reads of the first batch are about 10 MB
	mostReads = 524288
	maxText   = 32 << 20 // bytes of the events that are held as text; the primary refuses 64 MiB
	maxRow    = 500      // reads of a row, which then stays in a page of the primary's table
)

// Windows is consecutive records as rows for the primary: the reads of one secret within a window are one row, every
// other record is an event of its own.
type Windows struct {
	Node     string
	Boot     uuid.UUID
	First    uint64 // the number of the first record
	Next     uint64 // the number after the last
	Lost     bool   // the records before First that the primary does not have are lost
	Full     bool   // the batch reached its bounds
	Previous Hash   // of the record before First
	Last     Hash   // of the last record

	Seqs   []uint64 // of the events
	Events []string // JSON

	Readers []Reader
	Rows    []Row
	// Of each read that is not the newest of its row, row after row, and in a row from the newer to the older:
	Ago      []int32 // microseconds before the newest
	Back     []int32 // its number, counted back from the newest's
	Requests [][16]byte
	Reader   []int16 // an index into Row.Readers, from 1
}

// Reader is what many reads have in common but their secret.
type Reader struct {
	Actor   string          `json:"actor"`
	Client  string          `json:"client,omitempty"` // an address
	Version int             `json:"version,omitempty"`
	Detail  json.RawMessage `json:"detail"`
	Last    time.Time       `json:"last"` // of its reads
}

// Row is reads of one secret, without those before the newest.
type Row struct {
	At      time.Time `json:"at"` // of the newest read, as the following
	Seq     uint64    `json:"seq"`
	Action  string    `json:"action"`
	Secret  string    `json:"secret"`
	Request uuid.UUID `json:"request"`
	Own     int32     `json:"own"`     // its reader, an index into Windows.Readers, from 1
	Earlier int       `json:"earlier"` // how many reads are before it
	Readers []int32   `json:"readers"` // of those, each once
}

// ReadWindows returns the records that the primary has not acknowledged as rows of at most a window each, and about so
// many rows; Next is First if there are none. The caller is that of [Spool.Read].
func (s *Spool) ReadWindows(window time.Duration, rows int) (Windows, error) {
	g := grouping{rows: rows, window: min(window, LongestWindow), readers: map[string]int32{}, open: map[rowKey]*group{}}
	for g.out.Next == 0 || !g.full() {
		wanted := g.out.Next
		if wanted == 0 {
			s.mu.Lock()
			wanted = s.acknowledged
			s.mu.Unlock()
		}
		b, err := s.readFrom(wanted, shipBatch)
		if err != nil {
			return Windows{}, err
		}
		if g.out.Next == 0 {
			g.out.Node, g.out.Boot, g.out.First, g.out.Next, g.out.Lost = b.Node, b.Boot, b.First, b.First, b.Lost
		}
		// The next batch reports records that are lost behind these.
		if len(b.Records) == 0 || b.First != g.out.Next {
			break
		}
		if b.First == g.out.First {
			g.out.Previous = b.Records[0].Previous
		} else if b.Records[0].Previous != g.out.Last {
			return Windows{}, fmt.Errorf("%w: record %d does not continue the one before", errDamaged, b.First)
		}
		for _, r := range b.Records {
			g.add(r)
		}
		g.out.Next, g.out.Last = b.First+uint64(len(b.Records)), b.Hash()
	}
	g.out.Full = g.full()
	g.finish()
	return g.out, nil
}

// grouping collects records into rows.
type grouping struct {
	rows    int // after which the batch is full
	window  time.Duration
	out     Windows
	readers map[string]int32 // by what makes a reader, as JSON
	open    map[rowKey]*group
	groups  []*group
	reads   int
	text    int    // bytes of events
	key     []byte // of the newest reader, and its buffer
}

// rowKey is what the reads of a row have in common.
type rowKey struct{ action, secret string }

// group is the reads of a row.
type group struct {
	rowKey
	event          string // of the first
	oldest, newest time.Time
	reads          []read
}

type read struct {
	seq     uint64
	at      time.Time
	request uuid.UUID
	reader  int32
}

func (g *grouping) full() bool {
	return g.reads >= min(rowReads*g.rows, mostReads) || len(g.groups)+len(g.out.Seqs) >= g.rows || g.text >= maxText
}

func (g *grouping) add(r Record) {
	g.reads++
	e, ok := parseShared(r.Event)
	if !ok {
		g.text += len(r.Event)
		g.alone(r.Seq, string(r.Event))
		return
	}
	at := g.open[rowKey{string(e.action), string(e.secret)}]
	if at == nil || !at.takes(e.at, g.window) {
		at = &group{rowKey: rowKey{string(e.action), string(e.secret)}, event: string(r.Event)}
		g.text += len(r.Event)
		g.open[at.rowKey] = at
		g.groups = append(g.groups, at)
	}
	at.add(read{r.Seq, e.at, e.request, g.reader(e)})
}

// takes reports whether a read belongs to the group: its reads are within a window, also if a clock was set back, and
// in one month, because the months of the log are pruned one by one.
func (g *group) takes(at time.Time, window time.Duration) bool {
	oldest, newest := g.oldest, g.newest
	if at.Before(oldest) {
		oldest = at
	}
	if at.After(newest) {
		newest = at
	}
	return len(g.reads) < maxRow && newest.Sub(oldest) < window && oldest.Month() == newest.Month()
}

func (g *group) add(r read) {
	if g.oldest.IsZero() || r.at.Before(g.oldest) {
		g.oldest = r.at
	}
	if r.at.After(g.newest) {
		g.newest = r.at
	}
	g.reads = append(g.reads, r)
}

func (g *grouping) alone(seq uint64, event string) {
	g.out.Seqs, g.out.Events = append(g.out.Seqs, seq), append(g.out.Events, event)
}

// reader is the index of the reader of an event, from 1.
func (g *grouping) reader(e sharedEvent) int32 {
	g.key = append(append(append(g.key[:0], e.actor...), 0), e.client...)
	g.key = append(append(append(g.key, 0), e.version...), 0)
	g.key = append(g.key, e.detail...)
	n, known := g.readers[string(g.key)]
	if !known {
		version, _ := strconv.Atoi(string(e.version)) // digits, or none
		detail := json.RawMessage("{}")
		if len(e.detail) > 0 {
			detail = bytes.Clone(e.detail)
		}
		g.out.Readers = append(g.out.Readers, Reader{string(e.actor), string(e.client), version, detail, e.at})
		n = int32(len(g.out.Readers))
		g.readers[string(g.key)] = n
	}
	if last := &g.out.Readers[n-1].Last; e.at.After(*last) {
		*last = e.at
	}
	return n
}

// finish makes rows of the groups. A read that is alone is the event that it was.
func (g *grouping) finish() {
	for _, at := range g.groups {
		if len(at.reads) == 1 {
			g.alone(at.reads[0].seq, at.event)
			continue
		}
		g.row(at)
	}
}

func (g *grouping) row(at *group) {
	slices.SortFunc(at.reads, func(a, b read) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(b.seq, a.seq)) })
	newest, earlier := at.reads[0], at.reads[1:]
	row := Row{At: newest.at, Seq: newest.seq, Action: at.action, Secret: at.secret, Request: newest.request,
		Own: newest.reader, Earlier: len(earlier)}
	for _, r := range earlier {
		n := slices.Index(row.Readers, r.reader)
		if n < 0 {
			n = len(row.Readers)
			row.Readers = append(row.Readers, r.reader)
		}
		g.out.Ago = append(g.out.Ago, int32(newest.at.Sub(r.at)/time.Microsecond))
		g.out.Back = append(g.out.Back, int32(int64(newest.seq)-int64(r.seq)))
		g.out.Requests = append(g.out.Requests, r.request)
		g.out.Reader = append(g.out.Reader, int16(n+1))
	}
	g.out.Rows = append(g.out.Rows, row)
}

// sharedEvent is an event of which several can be one row; its fields are parts of the event's JSON.
type sharedEvent struct {
	at      time.Time // whole microseconds, as the primary keeps them
	request uuid.UUID

	actor, client, action, secret, version, detail []byte
}

// parseShared parses an event as [audit.Event.AppendJSON] writes it. It takes only what a row of several reads can hold
// without loss: plain text, a read that succeeded, no match in grace (those are counted by themselves), and a request
// id that the daemon made, because the primary finds such an id by the time in it.
func parseShared(event []byte) (e sharedEvent, ok bool) {
	for _, c := range event {
		if c < ' ' || c > '~' || c == '\\' {
			return e, false
		}
	}
	p := parser{rest: event, ok: true}
	at := p.text(`{"at":"`)
	e.actor = p.text(`","actor":"`)
	if p.has(`","client":"`) {
		e.client = p.text(`","client":"`)
	}
	if p.has(`","node":"`) {
		p.text(`","node":"`)
	}
	e.action = p.text(`","action":"`)
	if e.secret = p.text(`","secret":"`); len(e.secret) == 0 {
		return e, false
	}
	p.skip(`"`)
	if p.has(`,"version":`) {
		p.skip(`,"version":`)
		e.version = p.digits()
	}
	p.skip(`,"outcome":"ok"`)
	request := p.text(`,"request_id":"`)
	p.skip(`"`)
	if p.has(`,"detail":`) {
		p.skip(`,"detail":`)
		e.detail = bytes.TrimSuffix(p.rest, []byte("}"))
		p.rest = p.rest[len(e.detail):]
	}
	if !p.ok || string(p.rest) != "}" || !isShared(e.action) || !isFlat(e.detail) || len(e.actor) > 255 ||
		len(e.secret) > 255 {
		return e, false
	}
	var err error
	if e.at, err = time.Parse(time.RFC3339Nano, string(at)); err != nil {
		return e, false
	}
	e.at = e.at.Round(time.Microsecond).UTC()
	if len(e.client) > 0 {
		if addr, err := netip.ParseAddr(string(e.client)); err != nil || addr.Zone() != "" {
			return e, false
		}
	}
	if e.request, err = uuid.ParseBytes(request); err != nil || len(request) != 36 {
		return e, false
	}
	return e, isOfTime(e.request, e.at)
}

// isShared reports whether a row can have several events of an action.
func isShared(action []byte) bool {
	switch string(action) {
	case audit.Read, audit.Verify, audit.Describe:
		return true
	}
	return false
}

// isFlat reports whether a detail is none, or an object of plain values that are not about a grace.
func isFlat(detail []byte) bool {
	if len(detail) == 0 {
		return true
	}
	return len(detail) <= 1024 && detail[0] == '{' && !bytes.ContainsAny(detail[1:], "{[") &&
		!bytes.Contains(detail, []byte(`"match":"grace"`)) && json.Valid(detail)
}

// TimeOf is the time in a request id of version 7 of RFC 9562, in whole milliseconds; not ok: it is of another version.
func TimeOf(id uuid.UUID) (at time.Time, ok bool) {
	milli := int64(id[0])<<40 | int64(id[1])<<32 | int64(id[2])<<24 | int64(id[3])<<16 | int64(id[4])<<8 | int64(id[5])
	return time.UnixMilli(milli), id.Version() == 7 && id.Variant() == uuid.RFC4122
}

// isOfTime reports whether a request id has about the time of its read. The primary looks for it among the reads of
// that time.
func isOfTime(id uuid.UUID, at time.Time) bool {
	made, ok := TimeOf(id)
	return ok && at.Sub(made).Abs() < AroundRequest
}

// isUrgent reports whether an event is shipped at once instead of at the end of its window: it has a row of its own,
// and an operator looks for it.
func isUrgent(e audit.Event) bool {
	switch e.Action {
	case audit.Read, audit.Verify, audit.Describe, audit.List:
		return e.Outcome != audit.OK || e.Detail["match"] == "grace"
	}
	return true
}

// parser goes through an event without escapes.
type parser struct {
	rest []byte
	ok   bool
}

func (p *parser) has(prefix string) bool { return bytes.HasPrefix(p.rest, []byte(prefix)) }

func (p *parser) skip(prefix string) {
	if p.ok = p.ok && p.has(prefix); p.ok {
		p.rest = p.rest[len(prefix):]
	}
}

// text is what follows the prefix, up to a quote that stays.
func (p *parser) text(prefix string) []byte {
	p.skip(prefix)
	end := bytes.IndexByte(p.rest, '"')
	if p.ok = p.ok && end >= 0; !p.ok {
		return nil
	}
	text := p.rest[:end]
	p.rest = p.rest[end:]
	return text
}

func (p *parser) digits() []byte {
	n := 0
	for n < len(p.rest) && p.rest[n] >= '0' && p.rest[n] <= '9' {
		n++
	}
	p.ok = p.ok && n > 0 && n < 10
	digits := p.rest[:n]
	p.rest = p.rest[n:]
	return digits
}
