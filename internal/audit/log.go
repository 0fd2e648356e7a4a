package audit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strings"
	"time"

	"github.com/hyperiondb/vault/internal/audit/filter"
)

// Row is an event in the log.
type Row struct {
	ID         int64           `json:"id"`
	Read       int             `json:"read,omitempty"` // of a row with several reads: how many newer ones it has
	At         time.Time       `json:"at"`             // when it happened
	RecordedAt time.Time       `json:"recorded_at"`    // when the primary stored it: reads are shipped later
	Actor      string          `json:"actor"`
	DBRole     string          `json:"db_role"`
	Client     string          `json:"client,omitempty"` // "" over a unix socket
	Node       string          `json:"node,omitempty"`
	Action     string          `json:"action"`
	Secret     string          `json:"secret,omitempty"`
	Version    int             `json:"version,omitempty"`
	Outcome    Outcome         `json:"outcome"`
	RequestID  string          `json:"request_id,omitempty"`
	Detail     json.RawMessage `json:"detail"`
}

// MarshalJSON writes every time that PostgreSQL has, also before the year 0 and after 9999. JSON that encoding/json
// cannot read becomes a string.
func (r Row) MarshalJSON() ([]byte, error) {
	type row Row
	if !json.Valid(r.Detail) {
		r.Detail, _ = json.Marshal(string(r.Detail)) // of a string it never fails
	}
	if y := r.At.Year(); y >= 0 && y <= 9999 {
		return json.Marshal(row(r))
	}
	return json.Marshal(struct {
		row
		At string `json:"at"`
	}{row(r), r.At.Format(time.RFC3339Nano)})
}

// Details are the fields of the detail. A detail that is not an object, so was written by hand, is one field.
func (r Row) Details() (fields map[string]any) {
	decoder := json.NewDecoder(bytes.NewReader(r.Detail))
	decoder.UseNumber()
	if decoder.Decode(&fields) != nil {
		return map[string]any{"detail": string(r.Detail)}
	}
	return fields
}

// IsPlace reports whether a field of the detail is only the event's place in its node's spool, which the database adds
// to events that are shipped. An event about a spool has its boot as a fact.
func (r Row) IsPlace(field string) bool {
	return field == "seq" || field == "boot" && !strings.HasPrefix(r.Action, "audit.")
}

// Cursor is a position in the order of (at, id), and in a row of several reads from the older to the newer, between two
// events.
type Cursor struct {
	At   time.Time
	ID   int64
	Read int
}

// Cursor is the position of the event.
func (r Row) Cursor() Cursor { return Cursor{r.At, r.ID, r.Read} }

// Before reports whether c comes earlier than d.
func (c Cursor) Before(d Cursor) bool {
	return cmp.Or(c.At.Compare(d.At), cmp.Compare(c.ID, d.ID), cmp.Compare(d.Read, c.Read)) < 0
}

// Query selects a page: the events on one side of a cursor, those next to it first.
type Query struct {
	Filter filter.Filter
	From   *Cursor // nil = the newest event of all, or the oldest with Newer
	Newer  bool    // those after the cursor instead of those before
	Limit  int     // 0 = 100
}

// Page is the answer to a Query, newest first in both directions. A page with fewer events than its Limit and with a
// Next is an unfinished search, which continues at Next.
type Page struct {
	Rows []Row
	Next *Cursor // nil = the end of the log
}

// Counts has the number of events per span of time.
type Counts struct {
	From, To time.Time
	Buckets  []Count
}

// Count is the number of one span.
type Count struct {
	Events      int64
	Approximate bool // too many to count: estimated from the density of samples
}

// SecretUse is a secret's state, without any value, and its last read in the log.
type SecretUse struct {
	Name           string
	Version        int
	RotatedAt      *time.Time
	NextRotationAt *time.Time
	Paused         bool
	JobState       string // of the newest rotation, if it is open or failed
	JobError       string
	LastReadAt     *time.Time // nil: no read among its newest events
}

// RowSeal says which seal covers a row.
type RowSeal struct {
	Known    bool  // false: the log has no seals
	ID       int64 // 0 = not sealed yet
	SealedAt time.Time
}
