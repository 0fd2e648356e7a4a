package db

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// AuditRow is one event.
type AuditRow struct {
	ID         int64           `json:"id"`
	At         time.Time       `json:"at"`          // when it happened
	RecordedAt time.Time       `json:"recorded_at"` // when the primary stored it: reads are shipped later
	Actor      string          `json:"actor"`
	DBRole     string          `json:"db_role"`
	Client     string          `json:"client,omitempty"` // "" over a unix socket
	Node       string          `json:"node,omitempty"`
	Action     string          `json:"action"`
	Secret     string          `json:"secret,omitempty"`
	Version    int             `json:"version,omitempty"`
	Outcome    string          `json:"outcome"`
	RequestID  *uuid.UUID      `json:"request_id,omitempty"`
	Detail     json.RawMessage `json:"detail"`
}

// verbatim scans JSON without parsing it, so that a document nested too deeply for encoding/json does not fail the rows
// beside it.
type verbatim json.RawMessage

func (v *verbatim) ScanText(t pgtype.Text) error {
	*v = verbatim(t.String)
	return nil
}

// MarshalJSON writes every time that PostgreSQL has, also before the year 0 and after 9999. JSON that encoding/json
// cannot read becomes a string.
func (a AuditRow) MarshalJSON() ([]byte, error) {
	type row AuditRow
	if !json.Valid(a.Detail) {
		a.Detail, _ = json.Marshal(string(a.Detail)) // of a string it never fails
	}
	if y := a.At.Year(); y >= 0 && y <= 9999 {
		return json.Marshal(row(a))
	}
	return json.Marshal(struct {
		row
		At string `json:"at"`
	}{row(a), a.At.Format(time.RFC3339Nano)})
}

const auditColumns = `id, at, recorded_at, actor, db_role::text, coalesce(host(client), ''), coalesce(node, ''), action,
	coalesce(secret, ''),
	coalesce(version, 0), outcome, request_id, detail::text`

func scanAudit(row pgx.CollectableRow) (AuditRow, error) {
	var a AuditRow
	err := row.Scan(&a.ID, &a.At, &a.RecordedAt, &a.Actor, &a.DBRole, &a.Client, &a.Node, &a.Action, &a.Secret, &a.Version,
		&a.Outcome, &a.RequestID, (*verbatim)(&a.Detail))
	return a, err
}

// AuditColumn is a column that a condition can name.
type AuditColumn string

const (
	AuditActor   AuditColumn = "actor"
	AuditAction  AuditColumn = "action"
	AuditSecret  AuditColumn = "secret"
	AuditNode    AuditColumn = "node"
	AuditOutcome AuditColumn = "outcome"
	AuditRequest AuditColumn = "request_id"
	AuditVersion AuditColumn = "version"
	AuditClient  AuditColumn = "client"
)

// AuditCondition holds if the column has any of the values, or with Not none of them.
type AuditCondition struct {
	Column   AuditColumn
	Not      bool
	Equal    []string // of every column but version and client
	Prefixes []string // of actor, action, secret and node
	Numbers  []int    // of version
	Networks []netip.Prefix
}

// AuditFilter chooses events: all conditions hold. The zero value chooses all.
type AuditFilter struct {
	Since, Until time.Time // zero = open; Until is not included
	Conditions   []AuditCondition
}

// AuditCursor is a position in the order of (at, id), between two events.
type AuditCursor struct {
	At time.Time
	ID int64
}

// Cursor is the position of an event.
func (a AuditRow) Cursor() AuditCursor { return AuditCursor{a.At, a.ID} }

// AuditQuery selects a page: the events on one side of a cursor, those next to it first.
type AuditQuery struct {
	Filter AuditFilter
	From   *AuditCursor // nil = the newest event of all, or the oldest with Newer
	Newer  bool         // those after the cursor instead of those before
	Limit  int          // 0 = 100
}

// AuditPage is a result, newest first in both directions. A page with fewer events than its Limit and with a Next is an
// unfinished search, which continues at Next.
type AuditPage struct {
	Rows []AuditRow
	Next *AuditCursor // nil = the end of the log
}

const searchFor = 100 * time.Millisecond

// Audit returns a page of events. It takes a role in vault_auditor. Its time does not grow with the log: a search that
// no index answers is done in slices (see auditSearch).
func (r *Reader) Audit(ctx context.Context, q AuditQuery) (AuditPage, error) {
	if q.Limit == 0 {
		q.Limit = 100
	}
	var page AuditPage
	err := r.ReadInOrder(ctx, func(tx pgx.Tx) error {
		search, err := planAudit(ctx, tx, q.Filter)
		if err == nil {
			page, err = search.page(ctx, tx, q)
		}
		return err
	})
	if !q.Newer {
		return page, err
	}
	slices.Reverse(page.Rows)
	return page, err
}
