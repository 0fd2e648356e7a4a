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
	// mostReads bounds the memory of a batch: a read takes 58 bytes while the rows are made, and up to 170 while they are
	// sent. Further reads are in batches of their own, so of a thousand names that are read all the time each has a row of
	// 120 reads.
	mostReads = 120_000
	maxText   = 8 << 20 // bytes of the events that are held as text; the primary refuses 64 MiB
	maxRow    = 500     // reads of a row, which then stays in a page of the primary's table
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
	g := grouping{rows: rows, window: min(window, LongestWindow), readers: map[string]int32{}, open: map[rowKey]int32{}}
	var records loaded
	for g.out.Next == 0 || !g.full() {
		wanted := g.out.Next
		if wanted == 0 {
			s.mu.Lock()
			wanted = s.acknowledged
			s.mu.Unlock()
		}
		b, err := s.readInto(&records, wanted, shipBatch)
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

// grouping collects records into rows. It has no pointer for each read, and copies none when it grows: a batch has many
// times more reads than anything else that vaultd holds.
type grouping struct {
	rows    int // after which the batch is full
	window  time.Duration
	out     Windows
	readers map[string]int32 // by what makes a reader, as JSON
	open    map[rowKey]int32 // an index into groups
	groups  []group
	parts   []*part // of the reads, all but the last full
	reads   int     // in parts
	records int
	text    int    // bytes of events
	key     []byte // of the newest reader, and its buffer
	order   []int32
}

// rowKey is what the reads of a row have in common.
type rowKey struct{ action, secret string }

// group is the reads of a row.
type group struct {
	rowKey
	event          string // of the first read, until there is a second
	first          time.Time
	oldest, newest time.Time
	last           int32 // the read that was added last, from which the others follow
	count          int
}

// read is one of a group.
type read struct {
	request uuid.UUID
	at      int32 // microseconds after the first read of the group
	number  int32 // counted from the first of the batch
	reader  int32
	before  int32 // the read before it in its group; -1: none
}

// part is a piece of the list of reads, which has none of the slack of one that grows.
type part [4096]read

func (g *grouping) full() bool {
	return g.records >= mostReads || len(g.groups)+len(g.out.Seqs) >= g.rows || g.text >= maxText
}

func (g *grouping) add(r Record) {
	g.records++
	e, ok := parseShared(r.Event)
	if !ok {
		g.text += len(r.Event)
		g.alone(r.Seq, string(r.Event))
		return
	}
	i, known := g.open[rowKey{string(e.action), string(e.secret)}]
	if !known || !g.groups[i].takes(e.at, g.window) {
		i = g.begin(e, r.Event)
	}
	at := &g.groups[i]
	if at.count == 1 {
		g.text -= len(at.event)
		at.event = ""
	}
	at.oldest, at.newest = earliest(at.oldest, e.at), latest(at.newest, e.at)
	at.last = g.keep(read{request: e.request, at: int32(e.at.Sub(at.first) / time.Microsecond),
		number: int32(r.Seq - g.out.First), reader: g.reader(e), before: at.last})
	at.count++
}

// begin makes a group for a read, and returns its index.
func (g *grouping) begin(e sharedEvent, event []byte) int32 {
	at := group{rowKey: rowKey{string(e.action), string(e.secret)}, event: string(event), first: e.at,
		oldest: e.at, newest: e.at, last: -1}
	if n, known := g.open[at.rowKey]; known {
		at.rowKey = g.groups[n].rowKey // the same strings
	}
	g.text += len(event)
	i := int32(len(g.groups))
	g.groups = append(g.groups, at)
	g.open[at.rowKey] = i
	return i
}

// keep adds a read to the list, and returns its index.
func (g *grouping) keep(r read) int32 {
	i := g.reads
	if i%len(part{}) == 0 {
		g.parts = append(g.parts, new(part))
	}
	*g.read(int32(i)) = r
	g.reads++
	return int32(i)
}

func (g *grouping) read(i int32) *read { return &g.parts[i/int32(len(part{}))][i%int32(len(part{}))] }

// takes reports whether a read belongs to the group: its reads are within a window, also if a clock was set back, and
// in one month, because the months of the log are pruned one by one.
func (g *group) takes(at time.Time, window time.Duration) bool {
	oldest, newest := earliest(g.oldest, at), latest(g.newest, at)
	return g.count < maxRow && newest.Sub(oldest) < window && oldest.Month() == newest.Month()
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
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
	rows, earlier := 0, 0
	for i := range g.groups {
		if n := g.groups[i].count; n > 1 {
			rows, earlier = rows+1, earlier+n-1
		}
	}
	if rows > 0 {
		g.out.Rows = make([]Row, 0, rows)
		g.out.Ago, g.out.Back = make([]int32, 0, earlier), make([]int32, 0, earlier)
		g.out.Requests, g.out.Reader = make([][16]byte, 0, earlier), make([]int16, 0, earlier)
	}
	for i := range g.groups {
		if at := &g.groups[i]; at.count == 1 {
			g.alone(g.out.First+uint64(g.read(at.last).number), at.event)
		} else {
			g.row(at)
		}
	}
}

func (g *grouping) row(at *group) {
	g.order = g.order[:0]
	for i := at.last; i >= 0; i = g.read(i).before {
		g.order = append(g.order, i)
	}
	slices.SortFunc(g.order, func(i, j int32) int {
		a, b := g.read(i), g.read(j)
		return cmp.Or(cmp.Compare(b.at, a.at), cmp.Compare(b.number, a.number))
	})
	newest, earlier := g.read(g.order[0]), g.order[1:]
	row := Row{At: at.newest, Seq: g.out.First + uint64(newest.number), Action: at.action, Secret: at.secret,
		Request: newest.request, Own: newest.reader, Earlier: len(earlier)}
	for _, i := range earlier {
		r := g.read(i)
		n := slices.Index(row.Readers, r.reader)
		if n < 0 {
			n = len(row.Readers)
			row.Readers = append(row.Readers, r.reader)
		}
		g.out.Ago = append(g.out.Ago, newest.at-r.at)
		g.out.Back = append(g.out.Back, newest.number-r.number)
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
