package tui

import (
	"context"
	"io"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
)

// Event is an event with the other columns of its row in the log.
type Event struct {
	audit.Event
	ID         int64
	RecordedAt time.Time // when it arrived; reads of another node arrive later than they happened
	DBRole     string
	JSON       []byte // all of it, as `vaultctl audit list -o json` shows it
}

// Cursor is the place of an event in the order of (At, ID).
type Cursor struct {
	At time.Time
	ID int64
}

// Cursor is the place of the event.
func (e Event) Cursor() Cursor { return Cursor{e.At, e.ID} }

// before reports whether c comes earlier than d.
func (c Cursor) before(d Cursor) bool { return c.At.Before(d.At) || c.At.Equal(d.At) && c.ID < d.ID }

// Query selects the events on one side of a cursor, nearest first.
type Query struct {
	Filter filter.Filter
	From   *Cursor // nil = the newest of all, or the oldest with Newer
	Newer  bool
	Limit  int
}

// Page is the answer, always newest first. If it has fewer events than the limit and a Next, the search has come as far
// as Next and can go on there.
type Page struct {
	Events []Event
	Next   *Cursor // nil = there is nothing further
}

// Counts is how many events there are per span of time.
type Counts struct {
	From, To time.Time
	Buckets  []Count
}

// Count is the number of events in one span.
type Count struct {
	Events      int64
	Approximate bool
}

// Secret is a secret's state, without any value.
type Secret struct {
	Name           string
	Version        int
	RotatedAt      *time.Time
	NextRotationAt *time.Time
	Paused         bool
	LastReadAt     *time.Time // nil = never, or longer ago than is looked for
	JobState       string     // of the newest rotation, if it is open or failed
	JobError       string
}

// Seal says which seal covers an event.
type Seal struct {
	Known    bool // false: the log is not sealed, or the seal could not be read
	ID       int64
	SealedAt time.Time // ID 0 = not sealed yet
}

// Status is the node that answers.
type Status struct {
	Node          string
	Standby       bool
	ReplayedUntil *time.Time // of a standby
}

// Follower waits for new events. It is used by one caller at a time.
type Follower interface {
	// Next returns the events recorded since the last call, oldest first; with more, the next call has further ones at
	// once.
	Next(ctx context.Context) (fresh []Event, more bool, err error)
}

// Source answers the browser. Every call ends with its context, is safe for concurrent use, and only reads. Errors are
// shown as they are.
type Source interface {
	Events(ctx context.Context, q Query) (Page, error)
	// Counts counts in equal spans; a zero from is the time of the oldest event.
	Counts(ctx context.Context, f filter.Filter, from, to time.Time, buckets int) (Counts, error)
	Follow(ctx context.Context, f filter.Filter) (Follower, error)
	// Values returns values of secret, actor or node that begin with typed.
	Values(ctx context.Context, key filter.Key, typed string) ([]string, error)
	// Secrets lists secrets whose names begin with a prefix and come after one, in the order of names.
	Secrets(ctx context.Context, prefix, after string, limit int) ([]Secret, error)
	Seal(ctx context.Context, e Event) (Seal, error)
	Status(ctx context.Context) (Status, error)
	// Export writes all events of a filter, oldest first, as lines of JSON. It calls progress with the number written.
	Export(ctx context.Context, f filter.Filter, w io.Writer, progress func(events int64)) error
}
