package vault

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
)

// Rotation is a claimed job. It is a worker's whole authority: it covers one secret and one attempt.
type Rotation = db.Job

// Supervision is what one round of the supervisor did.
type Supervision struct {
	Enqueued int // rotations that were due
	Expired  int // versions whose grace was over: their bytes are gone
	Purged   int // deleted secrets that could no longer be restored
}

// Supervise does one round if the local node is the primary, and nothing on a standby. Two supervisors on one primary do
// no harm.
func (v *Vault) Supervise(ctx context.Context) (Supervision, error) {
	var s Supervision
	primary, err := v.reader.IsPrimary(ctx)
	if err != nil || !primary {
		return s, err
	}
	if s.Enqueued, err = v.writer.EnqueueDueRotations(ctx); err != nil {
		return s, err
	}
	if s.Expired, err = v.writer.ExpireGraceVersions(ctx); err != nil {
		return s, err
	}
	s.Purged, err = v.writer.PurgeDeleted(ctx)
	return s, err
}

// ClaimRotations claims up to limit jobs, and those whose claim is older than stale.
func (v *Vault) ClaimRotations(ctx context.Context, worker string, limit int, stale time.Duration) ([]Rotation, error) {
	return v.writer.ClaimRotations(ctx, worker, limit, stale)
}

// CompleteRotation seals a new value for a claimed job and stores it under the claim's fence: [ErrClaimLost] if somebody
// else has the job, or has put a value, by now.
func (v *Vault) CompleteRotation(ctx context.Context, job Rotation, value []byte) (Receipt, error) {
	if err := checkValueSize(value); err != nil {
		return Receipt{}, err
	}
	sealed, err := v.seal(ctx, job.Name, job.FromVersion+1, value)
	if err != nil {
		return Receipt{}, err
	}
	request := uuid.New()
	result, err := v.writer.CompleteRotation(ctx, request, job.ID, job.Attempt, sealed)
	return receipt(request, result), named("rotate", job.Name, err)
}

// FailRotation gives a claim back, to be tried again after retryIn, or (nil) never.
func (v *Vault) FailRotation(ctx context.Context, job Rotation, reason error, retryIn *time.Duration) error {
	return v.writer.FailRotation(ctx, job.ID, job.Attempt, reason.Error(), retryIn)
}

// WaitForRotations calls hint whenever jobs were enqueued, until the connection to the primary breaks.
func (v *Vault) WaitForRotations(ctx context.Context, hint func()) error {
	return v.writer.WaitForRotations(ctx, hint)
}
