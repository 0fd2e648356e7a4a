package db

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Daemon is a vaultd that the primary has heard of. Nothing of it is proven.
type Daemon struct {
	ID      uuid.UUID `json:"-"` // of the process
	Node    string    `json:"node"`
	Version string    `json:"version"`
	Commit  string    `json:"commit,omitempty"`
	Schema  int       `json:"schema_version"` // that it was made for
	Since   time.Time `json:"since"`
	SeenAt  time.Time `json:"seen_at"` // every half a minute
}

// ReportDaemon stores that a daemon runs. The primary's clock gives both times.
func (w *Writer) ReportDaemon(ctx context.Context, d Daemon) error {
	_, err := w.pool.Exec(ctx, `SELECT vault.report_daemon($1, $2, $3, $4, $5)`, d.ID, d.Node, d.Version, d.Commit,
		d.Schema)
	return w.failedOver(classify(err))
}

// ForgetDaemon stores that a daemon has ended.
func (w *Writer) ForgetDaemon(ctx context.Context, id uuid.UUID) error {
	_, err := w.pool.Exec(ctx, `SELECT vault.forget_daemon($1)`, id)
	return w.failedOver(classify(err))
}

// Daemons lists those seen within a day, as this node has replayed it, by node and then by start.
func (r *Reader) Daemons(ctx context.Context) ([]Daemon, error) {
	return Collect(ctx, r.pool, func(row pgx.CollectableRow) (d Daemon, err error) {
		err = row.Scan(&d.ID, &d.Node, &d.Version, &d.Commit, &d.Schema, &d.Since, &d.SeenAt)
		return d, err
	}, `SELECT id, node, version, commit, schema_version, since, seen_at FROM vault.daemons
		WHERE seen_at > now() - interval '1 day' ORDER BY node, since, id LIMIT 1000`)
}
