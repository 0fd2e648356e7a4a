package db

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Job is a claimed rotation. Attempt is its fence.
type Job struct {
	ID          int64
	Name        string
	Attempt     int
	FromVersion int
	Generator   string
	DueAt       time.Time
}

// IsPrimary reports whether the node this reader is connected to takes writes.
func (r *Reader) IsPrimary(ctx context.Context) (bool, error) {
	var recovering bool
	err := r.pool.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&recovering)
	return !recovering, classify(err)
}

// EnqueueDueRotations makes a job for each secret that is due and returns how many.
func (w *Writer) EnqueueDueRotations(ctx context.Context) (int, error) {
	return w.count(ctx, `SELECT vault.enqueue_due_rotations()`)
}

// ExpireGraceVersions removes the sealed bytes of versions whose grace is over and returns how many.
func (w *Writer) ExpireGraceVersions(ctx context.Context) (int, error) {
	return w.count(ctx, `SELECT vault.expire_grace_versions()`)
}

// PurgeDeleted purges what can no longer be restored and returns how many.
func (w *Writer) PurgeDeleted(ctx context.Context) (int, error) {
	return w.count(ctx, `SELECT vault.purge_deleted()`)
}

// count runs a maintenance step. A lost answer needs no resolving: the next step finds what is left to do.
func (w *Writer) count(ctx context.Context, sql string) (int, error) {
	var n int
	err := w.pool.QueryRow(ctx, sql).Scan(&n)
	return n, w.failedOver(classify(err))
}

// ClaimRotations claims up to limit jobs for this worker, and those whose claim is older than stale. A claim whose answer
// is lost goes stale.
func (w *Writer) ClaimRotations(ctx context.Context, worker string, limit int, stale time.Duration) ([]Job, error) {
	jobs, err := collect(ctx, w.pool, func(row pgx.CollectableRow) (Job, error) {
		var j Job
		var generator *string
		err := row.Scan(&j.ID, &j.Name, &j.Attempt, &j.FromVersion, &generator, &j.DueAt)
		j.Generator = deref(generator)
		return j, err
	}, `SELECT job_id, secret, attempt, from_version, generator, due_at FROM vault.claim_rotations($1, $2, $3)`, worker, limit, stale)
	return jobs, w.failedOver(err)
}

// CompleteRotation stores the new version under the claim's fence: ErrClaimLost if somebody else has the job by now.
func (w *Writer) CompleteRotation(ctx context.Context, request uuid.UUID, job int64, attempt int, v SealedVersion) (Result, error) {
	return change[Result](ctx, w, nil, refusal{request: request}, `SELECT vault.complete_rotation($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		job, attempt, v.Format, v.KMSKeyID, v.WrappedDEK, v.Nonce, v.Ciphertext, v.KeyCommit, v.AAD, request)
}

// FailRotation gives a claim back, to be tried again after retryIn, or (nil) never.
func (w *Writer) FailRotation(ctx context.Context, job int64, attempt int, reason string, retryIn *time.Duration) error {
	_, err := w.pool.Exec(ctx, `SELECT vault.fail_rotation($1, $2, $3, $4)`, job, attempt, reason, retryIn)
	return w.failedOver(classify(err))
}

// WaitForRotations blocks until the primary says that jobs were enqueued, on a connection of its own. It is a hint: what
// is missed while nobody listens is found by polling.
func (w *Writer) WaitForRotations(ctx context.Context, hint func()) error {
	conn, err := pgx.ConnectConfig(ctx, w.pool.Config().ConnConfig)
	if err != nil {
		return classify(err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // nothing is lost with it
	}()
	if _, err := conn.Exec(ctx, `LISTEN vault_rotation`); err != nil {
		return classify(err)
	}
	for {
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return classify(err)
		}
		hint()
	}
}

// failedOver drops every connection when one of them turned out to be read-only.
func (w *Writer) failedOver(err error) error {
	if e, ok := err.(*Error); ok && e.Code == "25006" {
		w.pool.Reset()
	}
	return err
}
