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

// IsPrimary reports whether the node of this reader is the primary, and records its history: an old primary that came
// back is refused (ErrFenced).
func (r *Reader) IsPrimary(ctx context.Context) (bool, error) {
	l, err := r.lineage(ctx)
	if err == nil && l.System == "" { // no lineage
		err = classify(r.pool.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&l.recovering))
	}
	return !l.recovering && err == nil, err
}

// Supervision is the result of one round of the supervisor.
type Supervision struct {
	Primary  bool `json:"primary"`  // false: the node is a standby, and nothing was done
	Enqueued int  `json:"enqueued"` // rotations that were due
	Expired  int  `json:"expired"`  // versions whose grace has ended: their bytes were removed
	Purged   int  `json:"purged"`   // deleted secrets that can no longer be restored

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

// roundFailures filters as vault.status() does: conflicts between two sessions count only if they last.
func roundFailures(ctx context.Context, q rowsQuerier) ([]RoundFailure, error) {
	return collect(ctx, q, func(row pgx.CollectableRow) (RoundFailure, error) {
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

// Beat renews the primary's heartbeat. It does not wait for a standby, because the heartbeat shows when one is behind.
func (w *Writer) Beat(ctx context.Context) error {
	_, err := w.pool.Exec(ctx, `SELECT set_config('synchronous_commit', 'local', true), vault.beat()`)
	return w.failedOver(classify(err))
}

// ClaimRotations claims up to limit jobs for this worker, including jobs whose claim is older than stale. A claim whose
// answer is lost becomes stale.
func (w *Writer) ClaimRotations(ctx context.Context, worker string, limit, ahead int,
	stale time.Duration) ([]Job, error) {
	jobs, err := collect(ctx, w.pool, func(row pgx.CollectableRow) (Job, error) {
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
func (w *Writer) Candidate(ctx context.Context, job int64, attempt int) (SealedVersion, error) {
	v, err := candidate(ctx, w.pool, `SELECT `+candidateColumns+` FROM vault.rotation_candidate($1, $2)`, job, attempt)
	return v, w.failedOver(err)
}

// StoreCandidate stores a candidate under the claim's fence, unless the job has one, and returns the stored one, so
// that every attempt sets the same bytes at the target. It is as durable as a version, because a failover must not lose
// a value that the target has. After any error, a lost answer to COMMIT included, the caller must not set the value;
// the next attempt finds out whether there is a candidate.
func (w *Writer) StoreCandidate(ctx context.Context, job int64, attempt int, v SealedVersion) (SealedVersion, error) {
	ctx, cancel := context.WithTimeout(ctx, w.pool.limit+commitTimeout)
	defer cancel()
	pooled, err := w.pool.Acquire(ctx)
	if err != nil {
		return SealedVersion{}, w.failedOver(classify(err))
	}
	defer pooled.Release()
	conn := pooled.Conn()
	defer rollback(ctx, conn)
	if _, err := w.begin(ctx, conn, nil); err != nil {
		return SealedVersion{}, w.failedOver(classify(err))
	}
	stored, err := candidate(ctx, conn,
		`SELECT `+candidateColumns+` FROM vault.store_candidate($1, $2, $3, $4, $5, $6, $7, $8, $9)`, job, attempt, v.Format,
		v.KMSKeyID, v.WrappedDEK, v.Nonce, v.Ciphertext, v.KeyCommit, v.AAD)
	if err == nil {
		_, err = commit(ctx, conn)
	}
	return stored, w.failedOver(classify(err))
}

const candidateColumns = `version, fmt, kms_key_id, wrapped_dek, nonce, ciphertext, key_commit, aad`

func candidate(ctx context.Context, q rowsQuerier, sql string, args ...any) (SealedVersion, error) {
	rows, err := collect(ctx, q, func(row pgx.CollectableRow) (SealedVersion, error) {
		var v SealedVersion
		err := row.Scan(&v.Version, &v.Format, &v.KMSKeyID, &v.WrappedDEK, &v.Nonce, &v.Ciphertext, &v.KeyCommit, &v.AAD)
		return v, err
	}, sql, args...)
	if err != nil {
		return SealedVersion{}, err
	}
	if len(rows) == 0 {
		return SealedVersion{}, ErrNotFound
	}
	return rows[0], nil
}

// FinishRotation makes the stored candidate the new version under the claim's fence.
func (w *Writer) FinishRotation(ctx context.Context, request uuid.UUID, job int64, attempt int) (Result, error) {
	return change[Result](ctx, w, nil, refusal{Request: request}, `SELECT vault.finish_rotation($1, $2, $3)`, job, attempt,
		request)
}

// CompleteRotation stores the new version under the claim's fence: ErrClaimLost if another worker has claimed the job.
func (w *Writer) CompleteRotation(ctx context.Context, request uuid.UUID, job int64, attempt int,
	v SealedVersion) (Result, error) {
	return change[Result](ctx, w, nil, refusal{Request: request},
		`SELECT vault.complete_rotation($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, job, attempt, v.Format, v.KMSKeyID,
		v.WrappedDEK, v.Nonce, v.Ciphertext, v.KeyCommit, v.AAD, request)
}

// Completion is a claimed rotation and its new version. Request identifies a replay, alone or in any batch.
type Completion struct {
	Request uuid.UUID
	Job     int64
	Attempt int
	SealedVersion
}

// completed has the results by request; requests without one were left unchanged.
type completed struct {
	Done map[uuid.UUID]Result `json:"done"`
	Committed
}

// CompleteRotations completes many rotations in one transaction, and returns by request the results of those that it
// has completed, now or before. The others are unchanged; CompleteRotation returns the reason. An error other than
// ErrOutcomeUnknown means that none was completed, also if only one value was invalid.
func (w *Writer) CompleteRotations(ctx context.Context, batch []Completion) (map[uuid.UUID]Result, error) {
	var c struct {
		jobs                                         []int64
		attempts, formats                            []int
		keyIDs, aads                                 []string
		wrappedDEKs, nonces, ciphertexts, keyCommits [][]byte
		requests                                     []uuid.UUID
	}
	for _, b := range batch {
		c.jobs, c.attempts, c.formats = append(c.jobs, b.Job), append(c.attempts, b.Attempt), append(c.formats, b.Format)
		c.keyIDs, c.aads, c.requests = append(c.keyIDs, b.KMSKeyID), append(c.aads, b.AAD), append(c.requests, b.Request)
		c.wrappedDEKs, c.nonces = append(c.wrappedDEKs, b.WrappedDEK), append(c.nonces, b.Nonce)
		c.ciphertexts, c.keyCommits = append(c.ciphertexts, b.Ciphertext), append(c.keyCommits, b.KeyCommit)
	}
	answer, err := change[completed](ctx, w, nil, refusal{Request: batch[0].Request},
		`SELECT vault.complete_rotations($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, c.jobs, c.attempts, c.formats, c.keyIDs,
		c.wrappedDEKs, c.nonces, c.ciphertexts, c.keyCommits, c.aads, c.requests)
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

// failedOver drops every connection if one turned out to be read-only.
func (w *Writer) failedOver(err error) error {
	if e, ok := err.(*Error); ok && e.Code == "25006" {
		w.pool.Reset()
	}
	return err
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
	return change[RequestedRotation](ctx, w, &c, refusal{"rotation.request", name, request},
		`SELECT vault.request_rotation($1, $2)`, name, request)
}

// RetryRotation makes a failed or waiting rotation run now.
func (w *Writer) RetryRotation(ctx context.Context, c Credential, request uuid.UUID,
	name string) (RequestedRotation, error) {
	return change[RequestedRotation](ctx, w, &c, refusal{"rotation.retry", name, request},
		`SELECT vault.retry_rotation($1, $2)`, name, request)
}

// PauseRotation stops (or, with false, resumes) the rotation of one secret.
func (w *Writer) PauseRotation(ctx context.Context, c Credential, request uuid.UUID, name string,
	pause bool) (Result, error) {
	action := "rotation.pause"
	if !pause {
		action = "rotation.resume"
	}
	return change[Result](ctx, w, &c, refusal{action, name, request}, `SELECT vault.pause_rotation($1, $2, $3)`, name,
		request, pause)
}

// SetMaxRotations caps the concurrent rotations of all workers together; nil = no cap.
func (w *Writer) SetMaxRotations(ctx context.Context, c Credential, request uuid.UUID, most *int) error {
	_, err := change[Committed](ctx, w, &c, refusal{"rotation.limit", "", request},
		`SELECT vault.set_max_rotations($1, $2)`, most, request)
	return err
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

func rotations(ctx context.Context, q rowsQuerier, o RotationQuery) ([]RotationRow, error) {
	if o.Limit == 0 {
		o.Limit = 1000
	}
	return collect(ctx, q, scanRotation, `SELECT `+rotationColumns+` FROM vault.rotation_jobs j
		JOIN vault.secrets s ON s.id = j.secret_id
		WHERE j.name ^@ $1 AND ($2 = 0 OR j.id = $2) AND ($4 = 0 OR j.id < $4) AND s.deleted_at IS NULL
		  AND ($3 OR j.state IN ('queued', 'claimed') OR (j.state = 'failed' AND j.from_version = s.current_version))
		ORDER BY j.id DESC LIMIT $5`, o.Prefix, o.Job, o.Settled, o.Before, o.Limit)
}

func scanRotation(row pgx.CollectableRow) (RotationRow, error) {
	var j RotationRow
	err := row.Scan(&j.ID, &j.Name, &j.State, &j.FromVersion, &j.ToVersion, &j.Attempt, &j.Failures, &j.DueAt, &j.RunAfter,
		&j.ClaimedBy, &j.ClaimedAt, &j.FinishedAt, &j.RequestedBy, &j.LastError, &j.Rotator, &j.Window, &j.Paused)
	return j, err
}
