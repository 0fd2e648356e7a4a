package auditdb

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
)

// Months lists the months that have rows and a partition, which can be dropped, oldest first.
func (l *Log) Months(ctx context.Context) ([]time.Time, error) {
	return db.Collect(ctx, l.reader, pgx.RowTo[time.Time], `WITH RECURSIVE `+monthsOfLog+` SELECT m::date FROM months
		WHERE m IS NOT NULL AND to_regclass('vault.audit_log_' || to_char(m, 'YYYY_MM')) IS NOT NULL ORDER BY 1`)
}

// Pruned is the result of a prune.
type Pruned struct {
	ID       int64  `json:"id"`
	Month    string `json:"month"`
	Action   string `json:"action,omitempty"`
	Rows     int64  `json:"rows"`
	LastSeal int64  `json:"last_seal"`
	SHA256   string `json:"exported_sha256"`
	db.Committed
}

// Pruning is a month, or its rows of one action, to be pruned after an export.
type Pruning struct {
	Month    time.Time
	Action   string // "" = every row
	Rows     int64
	LastSeal int64
	SHA256   []byte
	Seals    []int64  // with an action: the seals that had such rows
	Leaves   [][]byte // of each seal 48 bytes a row: tx, id, leaf hash
}

// PreparePrune moves rows from the default partition into partitions of their months, so that whole months can be
// pruned. It takes an admin token without a scope.
func (l *Log) PreparePrune(ctx context.Context, c db.Credential, request uuid.UUID) error {
	return l.change(ctx, c, request, &db.Committed{}, `SELECT vault.prepare_audit_prune()`)
}

// Prune drops rows of a past month that are sealed and exported: ErrConflict if they are not exactly the exported ones.
// It takes an admin token without a scope.
func (l *Log) Prune(ctx context.Context, c db.Credential, request uuid.UUID, p Pruning) (Pruned, error) {
	var pruned Pruned
	err := l.change(ctx, c, request, &pruned, `SELECT vault.prune_audit($1, nullif($2, ''), $3, $4, $5, $6, $7, $8)`,
		p.Month, p.Action, p.Rows, p.LastSeal, p.SHA256, p.Seals, p.Leaves, request)
	return pruned, err
}

func (l *Log) change(ctx context.Context, c db.Credential, request uuid.UUID, result any, sql string,
	args ...any) error {
	primary, err := l.primary()
	if err != nil {
		return err
	}
	return primary.Change(ctx, &c, db.Refusal{Action: "audit.prune", Request: request}, result, sql, args...)
}
