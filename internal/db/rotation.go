package db

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Job is a claimed rotation. Attempt is its fence.
type Job struct {
	ID          int64
	Name        string
	Attempt     int
	Failures    int // failed or abandoned attempts since it was enqueued or retried by hand
	FromVersion int
	Generator   string
	Rotator     string // "" = the new value is set at no target
	DueAt       time.Time
}

// ClaimRotations claims up to limit jobs for this worker, including jobs whose claim is older than stale. A claim whose
// answer is lost becomes stale.
func (w *Writer) ClaimRotations(ctx context.Context, worker string, limit, ahead int,
	stale time.Duration) ([]Job, error) {
	jobs, err := Collect(ctx, w.pool, func(row pgx.CollectableRow) (Job, error) {
		var j Job
		var generator, rotator *string
		err := row.Scan(&j.ID, &j.Name, &j.Attempt, &j.Failures, &j.FromVersion, &generator, &rotator, &j.DueAt)
		j.Generator, j.Rotator = deref(generator), deref(rotator)
		return j, err
	}, `SELECT job_id, secret, attempt, failures, from_version, generator, rotator, due_at
		FROM vault.claim_rotations($1, $2, $3, $4)`, worker, limit, stale, ahead)
	return jobs, w.failedOver(err)
}

// Candidate reads the sealed candidate of a claimed job. ErrNotFound if it has none, or if the claim is lost.
func (w *Writer) Candidate(ctx context.Context, job int64, attempt int) (SealedValue, error) {
	v, err := candidate(ctx, w.pool, `SELECT `+candidateColumns+` FROM vault.rotation_candidate($1, $2)`, job, attempt)
	return v, w.failedOver(err)
}

// StoreCandidate stores a candidate under the claim's fence, unless the job has one, and returns the stored one, so
// that every attempt sets the same bytes at the target. It is as durable as a version, because a failover must not lose
// a value that the target has. After any error, a lost answer to COMMIT included, the caller must not set the value;
// the next attempt finds out whether there is a candidate.
func (w *Writer) StoreCandidate(ctx context.Context, job int64, attempt int, v SealedValue) (SealedValue, error) {
	ctx, cancel := context.WithTimeout(ctx, w.pool.limit+commitTimeout)
	defer cancel()
	pooled, err := w.pool.Acquire(ctx)
	if err != nil {
		return SealedValue{}, w.failedOver(classify(err))
	}
	defer pooled.Release()
	conn := pooled.Conn()
	defer rollback(ctx, conn)
	if _, err := w.begin(ctx, conn, nil); err != nil {
		return SealedValue{}, w.failedOver(classify(err))
	}
	stored, err := candidate(ctx, conn,
		`SELECT `+candidateColumns+` FROM vault.store_candidate($9, $10, `+sealedRow+`)`, append(v.fields(), job, attempt)...)
	if err == nil {
		_, err = commit(ctx, conn)
	}
	return stored, w.failedOver(classify(err))
}

const candidateColumns = `version, fmt, kms_key_id, wrapped_dek, nonce, ciphertext, key_commit, aad`

func candidate(ctx context.Context, q Querier, sql string, args ...any) (SealedValue, error) {
	rows, err := Collect(ctx, q, func(row pgx.CollectableRow) (SealedValue, error) {
		var v SealedValue
		err := row.Scan(&v.Version, &v.Format, &v.KMSKeyID, &v.WrappedDEK, &v.Nonce, &v.Ciphertext, &v.KeyCommit, &v.AAD)
		return v, err
	}, sql, args...)
	if err != nil {
		return SealedValue{}, err
	}
	if len(rows) == 0 {
		return SealedValue{}, ErrNotFound
	}
	return rows[0], nil
}

// FinishRotation makes the stored candidate the new version under the claim's fence.
func (w *Writer) FinishRotation(ctx context.Context, request uuid.UUID, job int64, attempt int) (Result, error) {
	return change[Result](ctx, w, nil, Refusal{Request: request}, `SELECT vault.finish_rotation($1, $2, $3)`, job, attempt,
		request)
}

// Completion is a claimed rotation and its new version. Request identifies a replay, alone or in any batch.
type Completion struct {
	Request uuid.UUID
	Job     int64
	Attempt int
	SealedValue
}

// completed has the results by request; requests without one were left unchanged.
type completed struct {
	Done map[uuid.UUID]Result `json:"done"`
	Committed
}

// CompleteRotation completes one rotation under the claim's fence: ErrClaimLost if another worker has claimed the job.
// It waits for a transaction that has locked the secret.
func (w *Writer) CompleteRotation(ctx context.Context, c Completion) (Result, error) {
	done, err := w.complete(ctx, []Completion{c}, true)
	return done[c.Request], err
}

// CompleteRotations completes many rotations in one transaction, and returns by request the results of those that it
// has completed, now or before. The others are unchanged; CompleteRotation returns the reason. An error other than
// ErrOutcomeUnknown means that none was completed, also if only one value was invalid.
func (w *Writer) CompleteRotations(ctx context.Context, batch []Completion) (map[uuid.UUID]Result, error) {
	return w.complete(ctx, batch, false)
}

func (w *Writer) complete(ctx context.Context, batch []Completion, wait bool) (map[uuid.UUID]Result, error) {
	n := len(batch)
	jobs, attempts, sealed, requests := make([]int64, n), make([]int, n), make([]string, n), make([]uuid.UUID, n)
	for i, b := range batch {
		jobs[i], attempts[i], sealed[i], requests[i] = b.Job, b.Attempt, b.literal(), b.Request
	}
	answer, err := change[completed](ctx, w, nil, Refusal{Request: requests[0]},
		`SELECT vault.complete_rotations($1, $2, $3::text[]::vault.sealed_value[], $4, $5)`, jobs, attempts, sealed, requests,
		wait)
	for request, result := range answer.Done {
		result.Committed = answer.Committed
		answer.Done[request] = result
	}
	return answer.Done, err
}

// FailRotation returns a claim after a failure. The job is tried again after retryIn, or (nil) never.
func (w *Writer) FailRotation(ctx context.Context, job int64, attempt int, reason string,
	retryIn *time.Duration) error {
	_, err := w.pool.Exec(ctx, `SELECT vault.fail_rotation($1, $2, $3, $4)`, job, attempt, reason, retryIn)
	return w.failedOver(classify(err))
}

// ReleaseRotation returns a claim that was not begun. That is not a failure, and the job can be claimed again at once.
func (w *Writer) ReleaseRotation(ctx context.Context, job int64, attempt int) error {
	_, err := w.pool.Exec(ctx, `SELECT vault.release_rotation($1, $2)`, job, attempt)
	return w.failedOver(classify(err))
}

const (
	listenCheckInterval = 30 * time.Second // how often an idle listener checks that its node is the primary
	listenTimeout       = 5 * time.Second  // for the answer
)

// WaitForRotations calls hint when the primary reports that jobs were enqueued, on a connection of its own. It returns
// when the connection breaks or its node is no longer the primary. Polling finds what a listener misses.
func (w *Writer) WaitForRotations(ctx context.Context, hint func()) error {
	conn, err := pgx.ConnectConfig(ctx, w.listen)
	if err != nil {
		return classify(err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // nothing is lost with it
	}()
	if err := refusePooled(conn, "listening for rotations"); err != nil {
		return err
	}
	if err := listenOn(ctx, conn); err != nil {
		return classify(err)
	}
	for {
		switch err := waitForNotification(ctx, conn); {
		case err == nil:
			hint()
		case ctx.Err() != nil || !pgconn.Timeout(err):
			return classify(err)
		default:
			if err := stillPrimary(ctx, conn); err != nil {
				return err
			}
		}
	}
}

func listenOn(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	_, err := conn.Exec(ctx, `LISTEN vault_rotation`)
	return err
}

func waitForNotification(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, listenCheckInterval)
	defer cancel()
	_, err := conn.WaitForNotification(ctx)
	return err
}

// stillPrimary queries the server, because one that was frozen, unplugged or demoted sends nothing to a listener.
func stillPrimary(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	var recovering bool
	if err := conn.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&recovering); err != nil {
		return classify(err)
	}
	if recovering {
		return newError(ErrUnavailable, "the node that is listened to has become a standby")
	}
	return nil
}

// RequestedRotation is the result of requesting or retrying a rotation.
type RequestedRotation struct {
	Name    string `json:"name"`
	Version int    `json:"version"` // the current one, which the rotation replaces
	Job     int64  `json:"job"`
	State   string `json:"state"`
	Joined  bool   `json:"joined"` // there was an open job already
	Committed
}

// RequestRotation requests a rotation now, or joins the open job.
func (w *Writer) RequestRotation(ctx context.Context, c Credential, request uuid.UUID,
	name string) (RequestedRotation, error) {
	return change[RequestedRotation](ctx, w, &c, Refusal{"rotation.request", name, request},
		`SELECT vault.request_rotation($1, $2)`, name, request)
}

// RetryRotation makes a failed or waiting rotation run now.
func (w *Writer) RetryRotation(ctx context.Context, c Credential, request uuid.UUID,
	name string) (RequestedRotation, error) {
	return change[RequestedRotation](ctx, w, &c, Refusal{"rotation.retry", name, request},
		`SELECT vault.retry_rotation($1, $2)`, name, request)
}

// PauseRotation stops (or, with false, resumes) the rotation of one secret.
func (w *Writer) PauseRotation(ctx context.Context, c Credential, request uuid.UUID, name string,
	pause bool) (Result, error) {
	action := "rotation.pause"
	if !pause {
		action = "rotation.resume"
	}
	return change[Result](ctx, w, &c, Refusal{action, name, request}, `SELECT vault.pause_rotation($1, $2, $3)`, name,
		request, pause)
}

// SetMaxRotations caps the concurrent rotations of all workers together; nil = no cap.
func (w *Writer) SetMaxRotations(ctx context.Context, c Credential, request uuid.UUID, most *int) error {
	_, err := change[Committed](ctx, w, &c, Refusal{"rotation.limit", "", request},
		`SELECT vault.set_max_rotations($1, $2)`, most, request)
	return err
}

// Retention is how long history stays that no read and no rotation needs.
type Retention struct {
	JobDays     int `json:"keep_jobs_days"`     // rotations that ended: 1 to 3650
	VersionDays int `json:"keep_versions_days"` // versions whose sealed bytes were removed: 1 to 3650
}

type retained struct {
	Committed
	Retention
}

// SetRetention changes what is not 0 of keep, and returns both settings as they are then.
func (w *Writer) SetRetention(ctx context.Context, c Credential, request uuid.UUID, keep Retention) (Retention, error) {
	given := func(days int) *int {
		if days == 0 {
			return nil
		}
		return &days
	}
	result, err := change[retained](ctx, w, &c, Refusal{"rotation.keep", "", request},
		`SELECT vault.set_retention($1, $2, $3)`, given(keep.JobDays), given(keep.VersionDays), request)
	return result.Retention, err
}

// RotationRow is one rotation job, and what delays it.
type RotationRow struct {
	ID          int64      `json:"id"`
	Name        string     `json:"name"`
	State       string     `json:"state"` // queued, claimed, done, superseded or failed
	FromVersion int        `json:"from_version"`
	ToVersion   int        `json:"to_version,omitempty"`
	Attempt     int        `json:"attempt"`
	Failures    int        `json:"failures"`
	DueAt       time.Time  `json:"due_at"`
	RunAfter    time.Time  `json:"run_after"`
	ClaimedBy   string     `json:"claimed_by,omitempty"`
	ClaimedAt   *time.Time `json:"claimed_at,omitempty"`
	FinishedAt  *time.Time `json:"finished_at,omitempty"`
	RequestedBy string     `json:"requested_by,omitempty"`
	LastError   string     `json:"last_error,omitempty"`
	Rotator     string     `json:"rotator,omitempty"` // of the secret
	Window      string     `json:"window,omitempty"`  // of the secret
	Paused      bool       `json:"paused"`            // the secret is
}

// RotationQuery selects jobs. The next page begins Before the id of the last row; Limit 0 = 1000.
type RotationQuery struct {
	Prefix  string
	Job     int64 // only this one; 0 = any
	Failed  bool  // only those that failed and have no newer version since
	Settled bool  // also those done, superseded, and failed before a newer version
	Before  int64
	Limit   int
}

const rotationColumns = `j.id, j.name, j.state, j.from_version, coalesce(j.to_version, 0), j.attempt, j.failures,
	j.due_at, j.run_after,
	coalesce(j.claimed_by, ''), j.claimed_at, j.finished_at, coalesce(j.requested_by, ''), coalesce(j.last_error, ''),
	coalesce(s.rotator, ''), coalesce(s.rotation_window, ''), s.rotation_paused_at IS NOT NULL`

// Rotations lists rotation jobs, newest first: open ones, and failed ones with no newer version since.
func (r *Reader) Rotations(ctx context.Context, q RotationQuery) ([]RotationRow, error) {
	return rotations(ctx, r.pool, q)
}

// Rotations lists rotation jobs as stored on the primary.
func (w *Writer) Rotations(ctx context.Context, q RotationQuery) ([]RotationRow, error) {
	return rotations(ctx, w.pool, q)
}

func rotations(ctx context.Context, q Querier, o RotationQuery) ([]RotationRow, error) {
	if o.Limit == 0 {
		o.Limit = 1000
	}
	return Collect(ctx, q, scanRotation, `SELECT `+rotationColumns+` FROM vault.rotation_jobs j
		JOIN vault.secrets s ON s.id = j.secret_id
		WHERE j.name ^@ $1 AND ($2 = 0 OR j.id = $2) AND ($4 = 0 OR j.id < $4) AND s.deleted_at IS NULL
		  AND ($3 OR j.state IN ('queued', 'claimed') AND NOT $6
		    OR (j.state = 'failed' AND j.from_version = s.current_version))
		ORDER BY j.id DESC LIMIT $5`, o.Prefix, o.Job, o.Settled, o.Before, o.Limit, o.Failed)
}

func scanRotation(row pgx.CollectableRow) (RotationRow, error) {
	var j RotationRow
	err := row.Scan(&j.ID, &j.Name, &j.State, &j.FromVersion, &j.ToVersion, &j.Attempt, &j.Failures, &j.DueAt, &j.RunAfter,
		&j.ClaimedBy, &j.ClaimedAt, &j.FinishedAt, &j.RequestedBy, &j.LastError, &j.Rotator, &j.Window, &j.Paused)
	return j, err
}
