package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
)

// Rotation is a claimed job. It is all that authorises a worker, for one secret and one attempt.
type Rotation = db.Job

// Supervision is what one round of the supervisor did.
type Supervision = db.Supervision

// supervisionLimit is how many items of each kind one round handles, so that no transaction grows with the backlog.
const supervisionLimit = 5000

// Supervise does rounds until the backlog is gone, if the local node is the primary, and nothing on a standby. Two
// supervisors may run on one primary.
func (v *Vault) Supervise(ctx context.Context) (Supervision, error) {
	var total Supervision
	primary, err := v.reader.IsPrimary(ctx)
	if err != nil || !primary {
		return total, err
	}
	for {
		s, err := v.writer.Supervise(ctx, supervisionLimit)
		total.Primary = s.Primary
		total.Enqueued += s.Enqueued
		total.Expired += s.Expired
		total.Purged += s.Purged
		total.Forgotten += s.Forgotten
		total.Failed = s.Failed
		if err != nil || max(s.Enqueued, s.Expired, s.Purged, s.Forgotten) < supervisionLimit {
			return total, err
		}
	}
}

// The rounds that daemons report on.
const (
	RoundSupervise = "supervise"
	RoundClaim     = "claim"
	RoundSeal      = "seal"
)

// ReportRound records for vault.status() that rounds fail, or (nil) that they work again.
func (v *Vault) ReportRound(ctx context.Context, part string, why error) error {
	if why == nil {
		return v.writer.ReportRound(ctx, part, nil)
	}
	text := why.Error()
	return v.writer.ReportRound(ctx, part, &text)
}

// ClaimRotations claims up to limit jobs, including those whose claim is older than stale, and up to ahead more while
// the vault has no cap on rotations.
func (v *Vault) ClaimRotations(ctx context.Context, worker string, limit, ahead int,
	stale time.Duration) ([]Rotation, error) {
	return v.writer.ClaimRotations(ctx, worker, limit, ahead, stale)
}

// ReleaseRotation gives a claim back that was not begun.
func (v *Vault) ReleaseRotation(ctx context.Context, job Rotation) error {
	return v.writer.ReleaseRotation(ctx, job.ID, job.Attempt)
}

// RotatingValue opens the value that a claimed job is to replace, as the primary has it.
func (v *Vault) RotatingValue(ctx context.Context, job Rotation) (envelope.Plaintext, error) {
	row, err := v.writer.Current(ctx, job.Name)
	if err != nil {
		return nil, fmt.Errorf("reading secret %q: %w", job.Name, asIntegrity(err))
	}
	if row.Version != job.FromVersion {
		return nil, fmt.Errorf("secret %q is at version %d, not at %d: %w", job.Name, row.Version, job.FromVersion,
			ErrClaimLost)
	}
	return v.open(ctx, noLimit, job.Name, &row)
}

// Candidate opens the candidate of a claimed job. ErrNotFound if it has none yet.
func (v *Vault) Candidate(ctx context.Context, job Rotation) (envelope.Plaintext, error) {
	stored, err := v.writer.Candidate(ctx, job.ID, job.Attempt)
	if err != nil {
		return nil, fmt.Errorf("reading the candidate of %q: %w", job.Name, asIntegrity(err))
	}
	return v.openCandidate(ctx, job, stored)
}

// HoldsRotation is nil while the claim on a job that has a candidate is this attempt's, and [ErrClaimLost] afterwards.
func (v *Vault) HoldsRotation(ctx context.Context, job Rotation) error {
	_, err := v.writer.Candidate(ctx, job.ID, job.Attempt)
	switch {
	case errors.Is(err, db.ErrNotFound):
		return fmt.Errorf("the claim on the rotation of %q is lost: %w", job.Name, ErrClaimLost)
	case err != nil:
		return fmt.Errorf("checking the claim on the rotation of %q: %w", job.Name, err)
	}
	return nil
}

// StoreCandidate seals a value as the candidate of a claimed job and stores it, before it is sent to a target. It
// returns the candidate that the job has then, with which the attempt continues: after a lost reply it may be an
// earlier one.
func (v *Vault) StoreCandidate(ctx context.Context, job Rotation, value []byte) (envelope.Plaintext, error) {
	if err := checkValueSize(value); err != nil {
		return nil, err
	}
	sealed, err := v.seal(ctx, job.Name, job.FromVersion+1, value)
	if err != nil {
		return nil, err
	}
	stored, err := v.writer.StoreCandidate(ctx, job.ID, job.Attempt, sealed)
	if err != nil {
		return nil, fmt.Errorf("storing the candidate of %q: %w", job.Name, asIntegrity(err))
	}
	return v.openCandidate(ctx, job, stored)
}

// openCandidate opens a candidate as the version that it will be, and as no other.
func (v *Vault) openCandidate(ctx context.Context, job Rotation, c db.SealedValue) (envelope.Plaintext, error) {
	if c.Version != job.FromVersion+1 {
		return nil, fmt.Errorf("%w: the candidate of %q is for version %d, not %d", ErrIntegrity, job.Name, c.Version,
			job.FromVersion+1)
	}
	return v.open(ctx, noLimit, job.Name, &db.VersionRow{Version: c.Version, Format: c.Format, KMSKeyID: c.KMSKeyID,
		WrappedDEK: c.WrappedDEK, Nonce: c.Nonce, Ciphertext: c.Ciphertext, KeyCommit: c.KeyCommit, AAD: c.AAD})
}

// FinishRotation makes the stored candidate the new version under the claim's fence: [ErrClaimLost] if another worker
// has claimed the job, or a new value was put, by now.
func (v *Vault) FinishRotation(ctx context.Context, job Rotation) (Receipt, error) {
	request := uuid.New()
	defer v.changed(job.Name)
	result, err := v.writer.FinishRotation(ctx, request, job.ID, job.Attempt)
	return receipt(request, result), named("rotate", job.Name, err)
}

// SealedCandidate is a claimed job with its sealed new value, ready to be completed in a transaction.
type SealedCandidate struct {
	Job     Rotation
	request uuid.UUID
	sealed  db.SealedValue
}

// SealCandidate seals a new value for a claimed job, and stores nothing.
func (v *Vault) SealCandidate(ctx context.Context, job Rotation, value []byte) (SealedCandidate, error) {
	if err := checkValueSize(value); err != nil {
		return SealedCandidate{}, err
	}
	sealed, err := v.seal(ctx, job.Name, job.FromVersion+1, value)
	return SealedCandidate{job, uuid.New(), sealed}, err
}

func (r SealedCandidate) completion() db.Completion {
	return db.Completion{Request: r.request, Job: r.Job.ID, Attempt: r.Job.Attempt, SealedValue: r.sealed}
}

// CompleteRotation stores the new value under the claim's fence: [ErrClaimLost] if another worker has claimed the job,
// or a new value was put, by now.
func (v *Vault) CompleteRotation(ctx context.Context, r SealedCandidate) (Receipt, error) {
	defer v.changed(r.Job.Name)
	result, err := v.writer.CompleteRotation(ctx, r.completion())
	return receipt(r.request, result), named("rotate", r.Job.Name, err)
}

// CompleteRotations completes many in one transaction, and returns the receipts of those that are completed, by job.
// The caller completes the others alone, to learn why they failed, unless the error is [ErrOutcomeUnknown].
func (v *Vault) CompleteRotations(ctx context.Context, batch []SealedCandidate) (map[int64]Receipt, error) {
	completions := make([]db.Completion, len(batch))
	for i, r := range batch {
		completions[i] = r.completion()
		defer v.changed(r.Job.Name)
	}
	results, err := v.writer.CompleteRotations(ctx, completions)
	receipts := make(map[int64]Receipt, len(results))
	for _, r := range batch {
		if result, done := results[r.request]; done && err == nil {
			receipts[r.Job.ID] = receipt(r.request, result)
		}
	}
	return receipts, err
}

// FailRotation gives a claim back, to be tried again after retryIn, or (nil) never.
func (v *Vault) FailRotation(ctx context.Context, job Rotation, reason error, retryIn *time.Duration) error {
	return v.writer.FailRotation(ctx, job.ID, job.Attempt, reason.Error(), retryIn)
}

// WaitForRotations calls hint whenever jobs were enqueued, until the connection to the primary breaks.
func (v *Vault) WaitForRotations(ctx context.Context, hint func()) error {
	return v.writer.WaitForRotations(ctx, hint)
}

// RequestRotation asks for a rotation by the workers now, also if the secret is paused or outside its window. If a job
// is open, the request is for that job.
func (v *Vault) RequestRotation(ctx context.Context, c Change, name string) (db.RequestedRotation, error) {
	if err := v.canWrite(c, envelope.CheckName(name)); err != nil {
		return db.RequestedRotation{}, err
	}
	r, err := v.writer.RequestRotation(ctx, c.credential(), c.requestID(), name)
	return r, named("rotate", name, err)
}

// RetryRotation has a rotation that failed, or waits for its next attempt, tried now, with the candidate it has.
func (v *Vault) RetryRotation(ctx context.Context, c Change, name string) (db.RequestedRotation, error) {
	if err := v.canWrite(c, envelope.CheckName(name)); err != nil {
		return db.RequestedRotation{}, err
	}
	r, err := v.writer.RetryRotation(ctx, c.credential(), c.requestID(), name)
	return r, named("retry the rotation of", name, err)
}

// PauseRotation stops the rotation of a secret, or resumes it. ErrConflict if it is so already.
func (v *Vault) PauseRotation(ctx context.Context, c Change, name string, pause bool) (Receipt, error) {
	return v.change(c, name, "pause", func(request uuid.UUID) (db.Result, error) {
		return v.writer.PauseRotation(ctx, c.credential(), request, name, pause)
	})
}

// SetMaxRotations caps the rotations that all workers together have in flight; nil = no cap, 0 = none.
func (v *Vault) SetMaxRotations(ctx context.Context, c Change, most *int) error {
	if err := v.canWrite(c); err != nil {
		return err
	}
	return v.writer.SetMaxRotations(ctx, c.credential(), c.requestID(), most)
}

// Retention is how long history stays, in days: 1 to 3650.
type Retention = db.Retention

// SetRetention sets how long ended rotations and removed versions stay; 0 leaves a setting as it is. It returns both as
// they are then.
func (v *Vault) SetRetention(ctx context.Context, c Change, keep Retention) (Retention, error) {
	if err := v.canWrite(c); err != nil {
		return Retention{}, err
	}
	return v.writer.SetRetention(ctx, c.credential(), c.requestID(), keep)
}

// Rotations lists rotation jobs, newest first.
func (v *Vault) Rotations(ctx context.Context, q db.RotationQuery) ([]db.RotationRow, error) {
	return v.reader.Rotations(ctx, q)
}

// Rotation reads one job, as the primary has it. ErrNotFound if it, or its secret, is gone.
func (v *Vault) Rotation(ctx context.Context, job int64) (db.RotationRow, error) {
	jobs, err := v.writer.Rotations(ctx, db.RotationQuery{Job: job, Settled: true})
	if err == nil && len(jobs) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return db.RotationRow{}, err
	}
	return jobs[0], nil
}

// EndGrace ends the grace of one superseded version, or (0) of all, now. ErrNotFound if there is none.
func (v *Vault) EndGrace(ctx context.Context, c Change, name string, version int) (Receipt, error) {
	return v.change(c, name, "end the grace of", func(request uuid.UUID) (db.Result, error) {
		return v.writer.EndGrace(ctx, c.credential(), request, name, version)
	})
}
