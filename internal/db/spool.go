package db

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ShippedReads are consecutive records of one spool.
type ShippedReads struct {
	Node    string
	Boot    uuid.UUID
	First   uint64
	Lost    bool // the records between the primary's next number and First are lost
	Records []ShippedRead
}

// ShippedRead is an event as JSON, and the hash of the record before.
type ShippedRead struct {
	Previous [32]byte
	Event    []byte
}

// SpoolPosition is the position up to which the primary has a spool's records.
type SpoolPosition struct {
	Committed
	Next uint64 `json:"next_seq"`
	Last string `json:"last_hash"` // hex; "" before the first
	Gaps uint64 `json:"gaps"`
}

// ShipReads adds records to the audit log, each once, and returns the spool's position afterwards. Without records it
// only returns the position.
func (w *Writer) ShipReads(ctx context.Context, s ShippedReads) (SpoolPosition, error) {
	const sql = `SELECT vault.ship_reads($1, $2, $3, $4, $5, $6)`
	if len(s.Records) == 0 {
		var p SpoolPosition
		err := w.pool.QueryRow(ctx, sql, s.Node, s.Boot, 0, false, [][]byte{}, []string{}).Scan(&p)
		return p, classify(err)
	}
	previous, events := make([][]byte, len(s.Records)), make([]string, len(s.Records))
	for i, r := range s.Records {
		previous[i], events[i] = s.Records[i].Previous[:], string(r.Event)
	}
	return change[SpoolPosition](ctx, w.Records(), nil, refusal{}, sql, s.Node, s.Boot, s.First, s.Lost, previous,
		events)
}

// ReadRecord is a read by a client that connects to the database itself, such as vaultctl.
type ReadRecord struct {
	Action  string // read or verify
	Secret  string
	Version int // 0 = none
	Outcome string
	Request uuid.UUID
	Detail  map[string]any
}

// RecordRead adds a read to the audit log.
func (w *Writer) RecordRead(ctx context.Context, r ReadRecord) error {
	detail, err := json.Marshal(r.Detail)
	if err != nil {
		return err
	}
	if r.Detail == nil {
		detail = []byte("{}")
	}
	var version *int
	if r.Version != 0 {
		version = &r.Version
	}
	_, err = change[bool](ctx, w.Records(), nil, refusal{}, `SELECT vault.record_read($1, $2, $3, $4, $5, $6)`,
		r.Action, r.Secret, version, r.Outcome, r.Request, string(detail))
	return err
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
func (r *Reader) GraceReport(ctx context.Context, name string, exact bool, since time.Time) ([]GraceUse, error) {
	return collect(ctx, r.pool, func(row pgx.CollectableRow) (GraceUse, error) {
		var g GraceUse
		err := row.Scan(&g.Secret, &g.Version, &g.ExpiresAt, &g.Actor, &g.Client, &g.Presented, &g.FirstAt, &g.LastAt)
		return g, err
	}, `SELECT secret, version, expires_at, coalesce(actor, ''), coalesce(host(client), ''), coalesce(presented, 0),
			first_at, last_at
		FROM vault.grace_report($1, $2, $3)`, name, exact, since)
}

// NodeName is the node's cluster_name; "" if it has none.
func (r *Reader) NodeName(ctx context.Context) (string, error) {
	var name string
	err := r.pool.QueryRow(ctx, `SELECT current_setting('cluster_name')`).Scan(&name)
	return name, classify(err)
}
