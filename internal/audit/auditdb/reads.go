package auditdb

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/db"
)

var _ spool.Primary = (*Log)(nil)

// recordsAtOnce is how many reads one transaction records.
const recordsAtOnce = 1000

// Record writes reads by a client that connects to the database itself, such as vaultctl, to the primary's log. It is
// called before a value is shown. Of an event, it takes what a reader cannot see by itself: the database adds the
// actor, the client and the time.
func (l *Log) Record(ctx context.Context, events ...audit.Event) error {
	primary, err := l.primary()
	if err != nil {
		return err
	}
	type read struct {
		Action  string         `json:"action"`
		Secret  string         `json:"secret"`
		Version int            `json:"version,omitempty"`
		Outcome audit.Outcome  `json:"outcome"`
		Request uuid.UUID      `json:"request_id"`
		Detail  map[string]any `json:"detail"`
	}
	for some := range slices.Chunk(events, recordsAtOnce) {
		reads := make([]read, len(some))
		for i, e := range some {
			reads[i] = read{e.Action, e.Secret, e.Version, e.Outcome, uuid.New(), e.Detail}
			if e.Detail == nil {
				reads[i].Detail = map[string]any{}
			}
		}
		text, err := json.Marshal(reads)
		if err != nil {
			return err
		}
		var recorded bool
		err = primary.Records().Change(ctx, nil, db.Refusal{}, &recorded, `SELECT vault.record_reads($1)`, string(text))
		if err != nil {
			return err
		}
	}
	return nil
}

// Ship adds a batch of a spool to the primary's log, each record once, and returns the spool's position afterwards.
// Without records it only returns the position.
func (l *Log) Ship(ctx context.Context, b spool.Batch) (spool.Position, error) {
	primary, err := l.primary()
	if err != nil {
		return spool.Position{}, err
	}
	const sql = `SELECT vault.ship_reads($1, $2, $3, $4, $5, $6)`
	if len(b.Records) == 0 {
		at, err := db.One[position](ctx, primary, sql, b.Node, b.Boot, 0, false, [][]byte{}, []string{})
		if err != nil {
			renew(primary, err)
			return spool.Position{}, err
		}
		return at.decode()
	}
	previous, events := make([][]byte, len(b.Records)), make([]string, len(b.Records))
	for i, r := range b.Records {
		previous[i], events[i] = b.Records[i].Previous[:], string(r.Event)
	}
	var at position
	err = primary.Records().Change(ctx, nil, db.Refusal{}, &at, sql, b.Node, b.Boot, b.First, b.Lost, previous, events)
	if err != nil {
		renew(primary, err)
		return spool.Position{}, err
	}
	return at.decode()
}

// ShipWindows adds a batch of a spool with rows of several reads.
func (l *Log) ShipWindows(ctx context.Context, w spool.Windows) (spool.Position, error) {
	primary, err := l.primary()
	if err != nil {
		return spool.Position{}, err
	}
	readers, err := jsonArray(w.Readers)
	if err != nil {
		return spool.Position{}, err
	}
	rows, err := jsonArray(w.Rows)
	if err != nil {
		return spool.Position{}, err
	}
	ago, back, requests, reader := db.Int4Array{Elements: w.Ago}, db.Int4Array{Elements: w.Back}, db.UUIDArray(w.Requests),
		db.Int2Array(w.Reader)
	ago.Ahead = back.Size() + requests.Size() + reader.Size()
	var at position
	err = primary.Records().Change(ctx, nil, db.Refusal{}, &at,
		`SELECT vault.ship_windows($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		w.Node, w.Boot, w.First, w.Next, w.Lost, w.Previous[:], w.Last[:], w.Seqs, w.Events, readers, rows, ago, back,
		requests, reader)
	if err != nil {
		renew(primary, err)
		return spool.Position{}, err
	}
	return at.decode()
}

func jsonArray[T any](items []T) (string, error) {
	if items == nil {
		return "[]", nil
	}
	text, err := json.Marshal(items)
	return string(text), err
}

// renew has the next attempt begin another session, where the server refused this one for a reason that may be the
// session's: it keeps the settings that its role had when it began, or those that a pooler's other client left in it.
func renew(primary *db.Writer, err error) {
	var known *db.Error
	if errors.As(err, &known) && known.Code != "" && !strings.HasPrefix(known.Code, "VA") {
		primary.Renew()
	}
}

// position is the JSON of a spool.Position.
type position struct {
	Next uint64 `json:"next_seq"`
	Last string `json:"last_hash"` // hex; "" before the first
	Gaps uint64 `json:"gaps"`
}

func (p position) decode() (spool.Position, error) {
	at := spool.Position{Next: p.Next, Gaps: p.Gaps}
	last, err := hex.DecodeString(p.Last)
	if err != nil || len(last) != len(at.Last) && len(last) > 0 {
		return spool.Position{}, &db.Error{Kind: db.ErrIntegrity, Text: "the primary's position is no hash"}
	}
	copy(at.Last[:], last)
	return at, nil
}

// GraceUse is one reader's use of a version in its grace; without an Actor, the version was not used.
type GraceUse struct {
	Secret    string
	Version   int
	ExpiresAt time.Time
	Actor     string
	Client    string
	Presented int64
	FirstAt   *time.Time
	LastAt    *time.Time
}

// GraceReport lists the versions in grace of one secret, or of those under a prefix, and the readers that have
// presented them since a time. It takes a role in vault_service and vault_auditor.
func (l *Log) GraceReport(ctx context.Context, name string, exact bool, since time.Time) ([]GraceUse, error) {
	return db.Collect(ctx, l.reader, func(row pgx.CollectableRow) (GraceUse, error) {
		var g GraceUse
		err := row.Scan(&g.Secret, &g.Version, &g.ExpiresAt, &g.Actor, &g.Client, &g.Presented, &g.FirstAt, &g.LastAt)
		return g, err
	}, `SELECT secret, version, expires_at, coalesce(actor, ''), coalesce(host(client), ''), coalesce(presented, 0),
			first_at, last_at
		FROM vault.grace_report($1, $2, $3)`, name, exact, since)
}
