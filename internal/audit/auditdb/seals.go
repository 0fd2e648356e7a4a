package auditdb

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/db"
)

var _ seal.Store = (*Log)(nil)

const sealedColumns = `id, system_id, tx, at, recorded_at, actor, db_role::text, client, node, action,
	secret, version, outcome, request_id, detail::text, since,
	CASE WHEN num_nulls(reads, ago, back, requests, reader, actors, clients, versions, details) < 9 THEN
		json_build_object('reads', reads, 'ago', ago, 'back', back, 'requests', requests, 'reader', reader, 'actors', actors,
			'clients', clients, 'versions', versions, 'details', details)::text END`

// scanSealed scans a row with every column that a seal covers.
func scanSealed(row pgx.CollectableRow) (seal.Row, error) {
	var r seal.Row
	var client *netip.Prefix
	var since *time.Time
	var earlier *string
	err := row.Scan(&r.ID, &r.SystemID, &r.Tx, &r.At.Time, &r.RecordedAt.Time, &r.Actor, &r.DBRole, &client, &r.Node,
		&r.Action, &r.Secret, &r.Version, &r.Outcome, &r.RequestID, (*verbatim)(&r.Detail), &since, &earlier)
	r.At.Time, r.RecordedAt.Time = r.At.UTC(), r.RecordedAt.UTC()
	if since != nil {
		r.Since = &seal.Moment{Time: since.UTC()}
	}
	if earlier != nil {
		r.Earlier = json.RawMessage(*earlier)
	}
	if client != nil {
		r.Client = &seal.Client{Prefix: *client}
	}
	return r, err
}

const sealColumns = `id, system_id, month, from_tx, to_tx, rows, first_id, last_id, root, previous, hash, key_id,
	signature, sealed_at, `

// scanSeal scans sealColumns, the marks, and further columns.
func scanSeal(row pgx.CollectableRow, further ...any) (seal.Seal, error) {
	var s seal.Seal
	err := row.Scan(append([]any{&s.ID, &s.SystemID, &s.Month, &s.FromTx, &s.ToTx, &s.Rows, &s.FirstID, &s.LastID,
		(*hash)(&s.Root), (*hash)(&s.Previous), (*hash)(&s.Hash), &s.KeyID, &s.Signature, &s.SealedAt, &s.Marks},
		further...)...)
	s.Month = s.Month.UTC()
	return s, err
}

// hash scans a bytea. The tables check lengths; one that is too short fits no seal.
type hash seal.Hash

func (h *hash) ScanBytes(bytes []byte) error {
	copy(h[:], bytes)
	return nil
}

// SealAudit passes the next closed window to make and stores the returned seals, in one transaction whose commit is the
// commit point: after a lost answer, the window is either sealed or returned again. It returns the number of rows
// sealed, and does nothing unless the local node is the primary.
func (l *Log) SealAudit(ctx context.Context, limit int, make func(seal.Window) ([]seal.Seal, error)) (int, error) {
	primary, err := l.reader.IsPrimary(ctx)
	if err != nil || !primary {
		return 0, err
	}
	sealed := 0
	err = l.writer.InTx(ctx, func(tx pgx.Tx) error {
		windows, err := db.Collect(ctx, tx, func(row pgx.CollectableRow) (seal.Window, error) {
			var w seal.Window
			err := row.Scan(&w.SystemID, &w.FromTx, &w.ToTx, &w.LastID, (*hash)(&w.LastHash), &w.Now)
			return w, err
		}, `SELECT system_id, from_tx, to_tx, last_id, last_hash, sealed_at FROM vault.next_audit_window($1)`, limit)
		if err != nil || len(windows) == 0 {
			return err
		}
		window := windows[0]
		window.Rows, err = db.Collect(ctx, tx, scanSealed, `SELECT `+sealedColumns+` FROM vault.audit_window($1, $2, $3)`,
			window.SystemID, window.FromTx, window.ToTx)
		if err != nil {
			return err
		}
		seals, err := make(window)
		if err != nil {
			return err
		}
		sealed = len(window.Rows)
		return addSeals(ctx, tx, seals)
	})
	if err != nil {
		return 0, err
	}
	return sealed, nil
}

func addSeals(ctx context.Context, tx pgx.Tx, seals []seal.Seal) error {
	batch := &pgx.Batch{}
	// A failover must not lose a seal that a node has seen: the next one would not follow it.
	batch.Queue(`SET LOCAL synchronous_commit = remote_apply`)
	for _, s := range seals {
		batch.Queue(`SELECT vault.add_audit_seal(ROW($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
				$11, $12, $13, $14, $15)::vault.audit_seals)`,
			s.ID, s.SystemID, s.Month, s.FromTx, s.ToTx, s.Rows, s.FirstID, s.LastID, s.Root[:], s.Previous[:], s.Hash[:],
			s.KeyID,
			s.Signature, s.SealedAt, s.Marks)
	}
	return tx.SendBatch(ctx, batch).Close()
}

// SealsAfter reads seals after an id from the local node, without their marks, and the hash of the seal with that id;
// nil if there is none.
func (l *Log) SealsAfter(ctx context.Context, id int64, limit int) (seals []seal.Seal, at *seal.Hash, err error) {
	if id != 0 {
		hashes, err := db.Collect(ctx, l.reader, pgx.RowTo[[]byte], `SELECT hash FROM vault.audit_seals WHERE id = $1`, id)
		if err != nil {
			return nil, nil, err
		}
		if len(hashes) > 0 && len(hashes[0]) == len(seal.Hash{}) {
			at = (*seal.Hash)(hashes[0])
		}
	}
	seals, err = db.Collect(ctx, l.reader, func(row pgx.CollectableRow) (seal.Seal, error) { return scanSeal(row) },
		`SELECT `+sealColumns+`''::bytea FROM vault.audit_seals WHERE id > $1 ORDER BY id LIMIT $2`, id, limit)
	return seals, at, err
}

// Lag is how far sealing is behind on a primary, and the transaction that delays it.
type Lag struct {
	Seconds float64         `json:"seconds"` // the wait of the oldest row; 0 = none waits
	Held    bool            `json:"held"`    // by a transaction that still runs; false: it waits for a sealer
	Holder  *db.Transaction `json:"holder"`
	Sealer  *db.Transaction `json:"sealer"` // holds the lock of sealing
}

// SealingLag is how far sealing is behind on the local node; nil on a standby, and if there is no seal yet.
func (l *Log) SealingLag(ctx context.Context) (*Lag, error) { return sealingLag(ctx, l.reader) }

// PrimarySealingLag is SealingLag on the primary.
func (l *Log) PrimarySealingLag(ctx context.Context) (*Lag, error) { return sealingLag(ctx, l.writer) }

func sealingLag(ctx context.Context, q db.Querier) (*Lag, error) {
	return db.One[*Lag](ctx, q, `SELECT vault.sealing_lag()`)
}
