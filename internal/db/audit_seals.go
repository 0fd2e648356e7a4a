package db

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// AuditRecord is a row of the audit log with every column that a seal covers.
type AuditRecord struct {
	ID         int64
	SystemID   int64
	Tx         uint64
	At         time.Time
	RecordedAt time.Time
	Actor      string
	DBRole     string
	Client     *netip.Prefix
	Node       *string
	Action     string
	Secret     *string
	Version    *int32
	Outcome    string
	RequestID  *uuid.UUID
	Detail     json.RawMessage
}

const recordColumns = `id, system_id, tx, at, recorded_at, actor, db_role::text, client, node, action,
	secret, version, outcome, request_id, detail::text`

func scanRecord(row pgx.CollectableRow) (AuditRecord, error) {
	var r AuditRecord
	err := row.Scan(&r.ID, &r.SystemID, &r.Tx, &r.At, &r.RecordedAt, &r.Actor, &r.DBRole, &r.Client, &r.Node, &r.Action,
		&r.Secret, &r.Version, &r.Outcome, &r.RequestID, (*verbatim)(&r.Detail))
	return r, err
}

// AuditSeal is a row of vault.audit_seals.
type AuditSeal struct {
	ID           int64
	SystemID     int64
	Month        time.Time // its first day
	FromTx, ToTx uint64
	Rows         int64
	FirstID      int64
	LastID       int64
	Root         []byte
	Previous     []byte
	Hash         []byte
	KeyID        string
	Signature    []byte
	SealedAt     time.Time
	Marks        []byte
	Leaves       []AuditLeaves // of rows that were pruned by action; only PartSeals reads them
}

// AuditLeaves are what one prune kept of a seal's rows: 48 bytes each, tx, id and leaf hash.
type AuditLeaves struct {
	Prune  int64  `json:"prune"`
	Leaves string `json:"leaves"` // in hex
}

const sealColumns = `id, system_id, month, from_tx, to_tx, rows, first_id, last_id, root, previous, hash, key_id,
	signature, sealed_at, `

func scanSeal(row pgx.CollectableRow) (AuditSeal, error) {
	var s AuditSeal
	err := row.Scan(&s.ID, &s.SystemID, &s.Month, &s.FromTx, &s.ToTx, &s.Rows, &s.FirstID, &s.LastID, &s.Root, &s.Previous,
		&s.Hash, &s.KeyID, &s.Signature, &s.SealedAt, &s.Marks)
	return s, err
}

// AuditWindow is a closed window of transaction ids, and the seal before it.
type AuditWindow struct {
	SystemID     int64
	FromTx, ToTx uint64
	LastID       int64 // 0: no seal yet
	LastHash     []byte
	Now          time.Time // of the primary
	Records      []AuditRecord
}

// SealAudit passes the next closed window to seal and stores the returned seals, in one transaction whose commit is the
// commit point: after a lost answer, the window is either sealed or returned again. It returns the number of rows
// sealed.
func (w *Writer) SealAudit(ctx context.Context, limit int, seal func(AuditWindow) ([]AuditSeal, error)) (int, error) {
	sealed := 0
	err := w.InTx(ctx, func(tx pgx.Tx) error {
		windows, err := collect(ctx, tx, func(row pgx.CollectableRow) (AuditWindow, error) {
			var x AuditWindow
			err := row.Scan(&x.SystemID, &x.FromTx, &x.ToTx, &x.LastID, &x.LastHash, &x.Now)
			return x, err
		}, `SELECT system_id, from_tx, to_tx, last_id, last_hash, sealed_at FROM vault.next_audit_window($1)`, limit)
		if err != nil || len(windows) == 0 {
			return err
		}
		window := windows[0]
		window.Records, err = collect(ctx, tx, scanRecord, `SELECT `+recordColumns+` FROM vault.audit_window($1, $2, $3)`,
			window.SystemID, window.FromTx, window.ToTx)
		if err != nil {
			return err
		}
		seals, err := seal(window)
		if err != nil {
			return err
		}
		sealed = len(window.Records)
		return addSeals(ctx, tx, seals)
	})
	if err != nil {
		return 0, err
	}
	return sealed, nil
}

func addSeals(ctx context.Context, tx pgx.Tx, seals []AuditSeal) error {
	batch := &pgx.Batch{}
	// A failover must not lose a seal that a node has seen: the next one would not follow it.
	batch.Queue(`SET LOCAL synchronous_commit = remote_apply`)
	for _, s := range seals {
		batch.Queue(`SELECT vault.add_audit_seal(ROW($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
				$11, $12, $13, $14, $15)::vault.audit_seals)`,
			s.ID, s.SystemID, s.Month, s.FromTx, s.ToTx, s.Rows, s.FirstID, s.LastID, s.Root, s.Previous, s.Hash, s.KeyID,
			s.Signature, s.SealedAt, s.Marks)
	}
	return tx.SendBatch(ctx, batch).Close()
}

// SealQuery selects seals; zero fields select all. Without Marks, their marks are left empty.
type SealQuery struct {
	After int64 // only greater ids
	Limit int
	Marks bool
}

// AuditSeals reads seals in the order of their ids.
func (r *Reader) AuditSeals(ctx context.Context, q SealQuery) ([]AuditSeal, error) {
	return collect(ctx, r.pool, scanSeal,
		`SELECT `+sealColumns+`CASE WHEN $3 THEN marks ELSE '' END FROM vault.audit_seals WHERE id > $1 ORDER BY id LIMIT $2`,
		q.After, q.Limit, q.Marks)
}

// SealHash reads the hash of one seal; nil if there is no such seal.
func (r *Reader) SealHash(ctx context.Context, id int64) ([]byte, error) {
	hashes, err := collect(ctx, r.pool, pgx.RowTo[[]byte], `SELECT hash FROM vault.audit_seals WHERE id = $1`, id)
	if err != nil || len(hashes) == 0 {
		return nil, err
	}
	return hashes[0], nil
}

// AuditPart is the rows of one month and one system.
type AuditPart struct {
	Month    time.Time
	SystemID int64
}

// AuditParts lists the months and systems that have rows or seals, in order. It reads one row of each, so its cost does
// not depend on the size of the log.
func (r *Reader) AuditParts(ctx context.Context) ([]AuditPart, error) {
	return collect(ctx, r.pool, func(row pgx.CollectableRow) (AuditPart, error) {
		var p AuditPart
		err := row.Scan(&p.Month, &p.SystemID)
		return p, err
	}, `WITH RECURSIVE `+monthsOfLog+`, systems(s) AS (
			SELECT min(system_id) FROM vault.audit_log
			UNION ALL
			SELECT (SELECT min(system_id) FROM vault.audit_log WHERE system_id > s) FROM systems WHERE s IS NOT NULL)
		SELECT m::date, s FROM months, systems WHERE m IS NOT NULL AND s IS NOT NULL
		UNION
		SELECT DISTINCT month, system_id FROM vault.audit_seals
		ORDER BY 1, 2`)
}

// AuditMonths lists the months that have rows and a partition, which can be dropped, oldest first.
func (r *Reader) AuditMonths(ctx context.Context) ([]time.Time, error) {
	return collect(ctx, r.pool, pgx.RowTo[time.Time], `WITH RECURSIVE `+monthsOfLog+` SELECT m::date FROM months
		WHERE m IS NOT NULL AND to_regclass('vault.audit_log_' || to_char(m, 'YYYY_MM')) IS NOT NULL ORDER BY 1`)
}

// monthsOfLog steps from month to month along the index by time, from 0001-01 to 9999-12, as vault._audit_month counts
// them.
const monthsOfLog = `months(m) AS (
	SELECT date_trunc('month', greatest(least(min(at) AT TIME ZONE 'UTC', timestamp '9999-12-31'),
		timestamp '0001-01-01')) FROM vault.audit_log WHERE EXISTS (SELECT FROM vault.audit_log)
	UNION ALL
	SELECT date_trunc('month', (SELECT least(min(at) AT TIME ZONE 'UTC', timestamp '9999-12-31') FROM vault.audit_log
		WHERE at >= (m + interval '1 month') AT TIME ZONE 'UTC'))
	FROM months WHERE m < timestamp '9999-12-01')`

// RecordCursor is the position at which the next page of a part begins.
type RecordCursor struct {
	AuditPart
	Tx uint64 // rows of this transaction with a greater ID, and of later ones
	ID int64
}

// AuditRecords reads the rows of a part in the order of (tx, id).
func (r *Reader) AuditRecords(ctx context.Context, c RecordCursor, limit int) ([]AuditRecord, error) {
	first, last := monthSpan(c.Month)
	return collect(ctx, r.pool, scanRecord, `SELECT `+recordColumns+` FROM vault.audit_log
		WHERE at BETWEEN $1 AND $2 AND system_id = $3 AND (tx, id) > ($4, $5) ORDER BY tx, id LIMIT $6`,
		first, last, c.SystemID, c.Tx, c.ID, limit)
}

// monthSpan is the first and the last moment sealed under a month. The first month includes everything before it, the
// last everything after it.
func monthSpan(month time.Time) (first, last time.Time) {
	first, last = month, month.AddDate(0, 1, 0).Add(-time.Microsecond)
	if month.Year() <= 1 && month.Month() == time.January {
		first = MinusInfinity
	}
	if month.Year() >= 9999 && month.Month() == time.December {
		last = Infinity
	}
	return first, last
}

// PartSeals reads the seals of a part, with their marks, in the order of their windows: those that end after the
// cursor's Tx and have a greater ID.
func (r *Reader) PartSeals(ctx context.Context, c RecordCursor, limit int) ([]AuditSeal, error) {
	return collect(ctx, r.pool, func(row pgx.CollectableRow) (AuditSeal, error) {
		var s AuditSeal
		err := row.Scan(&s.ID, &s.SystemID, &s.Month, &s.FromTx, &s.ToTx, &s.Rows, &s.FirstID, &s.LastID, &s.Root,
			&s.Previous, &s.Hash, &s.KeyID, &s.Signature, &s.SealedAt, &s.Marks, &s.Leaves)
		return s, err
	}, `SELECT `+sealColumns+`marks,
			(SELECT jsonb_agg(jsonb_build_object('prune', l.prune, 'leaves', encode(l.leaves, 'hex')))
				FROM vault.audit_leaves l WHERE l.seal = s.id)
		FROM vault.audit_seals s
		WHERE month = $1 AND system_id = $2 AND to_tx > $3 AND id > $4 ORDER BY id LIMIT $5`,
		c.Month, c.SystemID, c.Tx, c.ID, limit)
}

// AuditPrune is a row of vault.audit_prunes.
type AuditPrune struct {
	ID             int64
	Month          time.Time
	Action         string // "" = every row
	Rows           int64
	LastSeal       int64
	ExportedSHA256 []byte
	PrunedAt       time.Time
	PrunedBy       string
}

// AuditPrunes lists what was pruned.
func (r *Reader) AuditPrunes(ctx context.Context) ([]AuditPrune, error) {
	return collect(ctx, r.pool, func(row pgx.CollectableRow) (AuditPrune, error) {
		var p AuditPrune
		err := row.Scan(&p.ID, &p.Month, &p.Action, &p.Rows, &p.LastSeal, &p.ExportedSHA256, &p.PrunedAt, &p.PrunedBy)
		return p, err
	}, `SELECT id, month, coalesce(action, ''), rows, last_seal, exported_sha256, pruned_at, pruned_by
		FROM vault.audit_prunes ORDER BY id`)
}

// AuditEstimate is the approximate number of rows, by the statistics of the last ANALYZE, for a progress bar.
func (r *Reader) AuditEstimate(ctx context.Context) (int64, error) {
	var n int64
	err := r.pool.QueryRow(ctx, `SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint
		FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'vault.audit_log'::regclass`).Scan(&n)
	return n, classify(err)
}

// SealingLag is how far sealing is behind on a primary, and the transaction that delays it.
type SealingLag struct {
	Seconds float64      `json:"seconds"` // the wait of the oldest row; 0 = none waits
	Held    bool         `json:"held"`    // by a transaction that still runs; false: it waits for a sealer
	Holder  *Transaction `json:"holder"`
	Sealer  *Transaction `json:"sealer"` // holds the lock of sealing
}

// Transaction is a running or prepared transaction.
type Transaction struct {
	PID         int        `json:"pid"`
	Prepared    string     `json:"prepared"` // the name of a prepared one
	Application string     `json:"application"`
	Role        string     `json:"role"`
	Database    string     `json:"database"`
	State       string     `json:"state"` // "" without pg_read_all_stats for vault_owner
	WaitsFor    string     `json:"waits_for"`
	Since       *time.Time `json:"since"` // nil without it
}

// SealingLag queries the node; nil on a standby, and if there is no seal yet.
func (r *Reader) SealingLag(ctx context.Context) (*SealingLag, error) { return sealingLag(ctx, r.pool) }

// SealingLag queries the primary.
func (w *Writer) SealingLag(ctx context.Context) (*SealingLag, error) { return sealingLag(ctx, w.pool) }

func sealingLag(ctx context.Context, p *pool) (*SealingLag, error) {
	var lag *SealingLag
	err := p.QueryRow(ctx, `SELECT vault.sealing_lag()`).Scan(&lag)
	return lag, classify(err)
}

// Pruned is the result of a prune.
type Pruned struct {
	ID       int64  `json:"id"`
	Month    string `json:"month"`
	Action   string `json:"action,omitempty"`
	Rows     int64  `json:"rows"`
	LastSeal int64  `json:"last_seal"`
	SHA256   string `json:"exported_sha256"`
	Committed
}

// AuditPruning is a month, or its rows of one action, to be pruned after an export.
type AuditPruning struct {
	Month    time.Time
	Action   string // "" = every row
	Rows     int64
	LastSeal int64
	SHA256   []byte
	Seals    []int64  // with an action: the seals that had such rows
	Leaves   [][]byte // of each seal 48 bytes a row: tx, id, leaf hash
}

// PruneAudit drops rows that are sealed and exported: ErrConflict if they are not exactly the exported ones.
func (w *Writer) PruneAudit(ctx context.Context, c Credential, request uuid.UUID, p AuditPruning) (Pruned, error) {
	return change[Pruned](ctx, w, &c, refusal{"audit.prune", "", request},
		`SELECT vault.prune_audit($1, nullif($2, ''), $3, $4, $5, $6, $7, $8)`, p.Month, p.Action, p.Rows, p.LastSeal,
		p.SHA256, p.Seals, p.Leaves, request)
}

// PrepareAudit moves rows from the default partition into partitions of their months, so that whole months can be
// pruned.
func (w *Writer) PrepareAudit(ctx context.Context, c Credential, request uuid.UUID) error {
	_, err := change[Committed](ctx, w, &c, refusal{"audit.prune", "", request}, `SELECT vault.prepare_audit_prune()`)
	return err
}
