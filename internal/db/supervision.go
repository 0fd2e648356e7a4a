package db

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Supervision is the result of one round of the supervisor.
type Supervision struct {
	Primary  bool `json:"primary"`  // false: the node is a standby, and nothing was done
	Enqueued int  `json:"enqueued"` // rotations that were due
	Expired  int  `json:"expired"`  // versions whose grace has ended: their bytes were removed
	Purged   int  `json:"purged"`   // deleted secrets that can no longer be restored
	// the most rows of one kind of history that were deleted: requests, ended rotations, removed versions
	Forgotten int `json:"forgotten"`

	Failed map[string]string `json:"failed"` // by part: its error; the other parts were done
}

// supervisionTimeout is for a round with a backlog, which takes longer than other statements.
const supervisionTimeout = time.Minute

// Supervise does one round, with at most limit rows of each part. A lost answer needs no resolving: the next round does
// what is left.
func (w *Writer) Supervise(ctx context.Context, limit int) (Supervision, error) {
	ctx, cancel := context.WithTimeout(ctx, supervisionTimeout)
	defer cancel()
	var s Supervision
	err := w.pool.sessions.QueryRow(ctx, `SELECT vault.supervise($1)`, limit).Scan(&s)
	return s, w.failedOver(classify(err))
}

// RoundFailure is what the rounds still fail on: a part as a whole (Subject ""), or one secret or month of it.
type RoundFailure struct {
	Part    string    `json:"part"`
	Subject string    `json:"subject,omitempty"`
	Since   time.Time `json:"since"`
	LastAt  time.Time `json:"last_at"`
	Times   int64     `json:"times"`
	Error   string    `json:"error"`
}

// RoundFailures lists the first hundred that count and that this role may see, as this node has replayed them.
func (r *Reader) RoundFailures(ctx context.Context) ([]RoundFailure, error) {
	return roundFailures(ctx, r.pool)
}

// RoundFailures lists them as stored on the primary.
func (w *Writer) RoundFailures(ctx context.Context) ([]RoundFailure, error) {
	return roundFailures(ctx, w.pool)
}

// roundFailures filters as vault.health() does: conflicts between two sessions count only if they last.
func roundFailures(ctx context.Context, q Querier) ([]RoundFailure, error) {
	return Collect(ctx, q, func(row pgx.CollectableRow) (RoundFailure, error) {
		var f RoundFailure
		err := row.Scan(&f.Part, &f.Subject, &f.Since, &f.LastAt, &f.Times, &f.Error)
		return f, err
	}, `SELECT part, subject, since, last_at, times, error FROM vault.round_failures
		WHERE code NOT IN ('40001', '40P01', '55P03') OR times > 3 ORDER BY subject <> '', part, subject LIMIT 100`)
}

// ReportRound stores that the rounds of a daemon fail, or (nil) that they work again.
func (w *Writer) ReportRound(ctx context.Context, part string, why *string) error {
	_, err := w.pool.Exec(ctx, `SELECT vault.report_round($1, $2)`, part, why)
	return w.failedOver(classify(err))
}
