package tui

import (
	"context"
	"io"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
)

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
	Next(ctx context.Context) (fresh []audit.Row, more bool, err error)
}

// Source answers the browser. Every call ends with its context, is safe for concurrent use, and only reads. Errors are
// shown as they are.
type Source interface {
	Events(ctx context.Context, q audit.Query) (audit.Page, error)
	// Counts counts in equal spans; a zero from is the time of the oldest event.
	Counts(ctx context.Context, f filter.Filter, from, to time.Time, buckets int) (audit.Counts, error)
	Follow(ctx context.Context, f filter.Filter) (Follower, error)
	// Values returns at most limit values of secret, actor or node that begin with typed.
	Values(ctx context.Context, key filter.Key, typed string, limit int) ([]string, error)
	// SecretUses lists secrets whose names begin with a prefix and come after one, in the order of names.
	SecretUses(ctx context.Context, prefix, after string, limit int) ([]audit.SecretUse, error)
	SealOf(ctx context.Context, e audit.Row) (audit.RowSeal, error)
	Status(ctx context.Context) (Status, error)
	// Export writes all events of a filter, oldest first, as lines of JSON. It calls progress with the number written.
	Export(ctx context.Context, f filter.Filter, w io.Writer, progress func(events int64)) error
}
