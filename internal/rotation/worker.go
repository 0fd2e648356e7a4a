package rotation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/failpoint"
	"github.com/hyperiondb/vault/internal/vault"
)

const (
	// DefaultClaimTimeout is the age at which a claim is stale, so that another worker may take it: three whole attempts.
	DefaultClaimTimeout = 3 * attemptTimeout

	attemptTimeout  = time.Minute      // for one attempt: KMS and database
	targetTimeout   = 90 * time.Second // for one that has a target
	listenPause     = 5 * time.Second  // before listening again after the connection broke
	giveBackTimeout = 10 * time.Second // to give a claim back
	restoreTimeout  = 25 * time.Second // to take back a change that was not confirmed: the longest timeout= of a step
	// claimsPerSlot is how many jobs are claimed for each slot, so that one statement claims many jobs. Under a cap on
	// rotations it is one.
	claimsPerSlot = 4
)

// errVanished is the reason given for a job whose workers reported no outcome.
var errVanished = errors.New("its workers vanished in the middle of it")

// Worker claims rotations, generates the new values and completes them. Claims are fenced by their attempt inside the
// completing transaction: a worker that stalled past its claim is refused, however late it continues.
//
// A secret with a rotator takes the four steps that AWS Secrets Manager names (create, set, test, finish): its
// candidate is sealed in the job before it is sent to the target, so every worker that continues after a crash applies
// the same value.
type Worker struct {
	Vault        *vault.Vault
	Target       Target        // nil: secrets with a rotator fail
	ID           string        // names this worker in the audit log and in claims
	Concurrency  int           // rotations at once
	Poll         time.Duration // polling finds everything; a notification only makes it sooner
	ClaimTimeout time.Duration // the age at which a claim is stale; 0 = DefaultClaimTimeout
	Metrics      Metrics       // nil: not counted
	Log          *slog.Logger
}

// Metrics counts rotations.
type Metrics interface {
	Running(change int)     // 1 when an attempt begins, -1 when it ends
	Settled(outcome string) // how an attempt ended: done, failed (to be tried again), given_up, claim_lost or unknown
}

type uncounted struct{}

func (uncounted) Running(int)    {}
func (uncounted) Settled(string) {}

func (w *Worker) metrics() Metrics {
	if w.Metrics == nil {
		return uncounted{}
	}
	return w.Metrics
}

// Run works until ctx ends. It returns when the rotations in flight are settled.
func (w *Worker) Run(ctx context.Context) {
	hints := make(chan struct{}, 1)
	hint := func() {
		select {
		case hints <- struct{}{}:
		default: // a hint is pending already
		}
	}
	var running sync.WaitGroup
	running.Go(func() { w.listen(ctx, hint) })
	var pending atomic.Int64 // claimed and not settled
	slots := make(chan struct{}, w.Concurrency)
	completions := newCompletions(w.Vault)
	rounds := &vault.Rounds{Vault: w.Vault, Part: vault.RoundClaim}
	every(ctx, w.Poll, w.Poll/40, hints, func() {
		held := int(pending.Load())
		free, room := max(w.Concurrency-held, 0), w.Concurrency*claimsPerSlot-held
		if room < w.Concurrency {
			return // the end of a rotation sends a hint
		}
		if 2*free < w.Concurrency && completions.inFlight.Load() {
			return // the end of the batch sends hints, and more jobs can be claimed at once then
		}
		// The worker's stop does not cancel a claim: one whose answer was lost could not be given back.
		jobs, err := w.Vault.ClaimRotations(context.WithoutCancel(ctx), w.ID, free, room-free, w.claimTimeout())
		rounds.Settle(ctx, err)
		if err != nil && ctx.Err() == nil {
			w.Log.Warn("claiming rotations failed", "error", err)
		}
		claimed := time.Now()
		for _, job := range jobs {
			pending.Add(1)
			running.Go(func() {
				defer hint()
				defer pending.Add(-1)
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					w.release(ctx, job)
					return
				}
				freeSlot := sync.OnceFunc(func() { <-slots })
				defer freeSlot()
				if time.Since(claimed) >= w.claimTimeout()/2 {
					return // too little time is left; when the claim is stale, a worker takes the job
				}
				w.work(context.WithoutCancel(ctx), job,
					func(ctx context.Context, sealed vault.SealedCandidate) (vault.Receipt, error) {
						freeSlot() // a rotation that waits for its batch needs no slot
						return completions.complete(ctx, sealed)
					})
			})
		}
	})
	running.Wait()
}

func (w *Worker) claimTimeout() time.Duration {
	if w.ClaimTimeout == 0 {
		return DefaultClaimTimeout
	}
	return w.ClaimTimeout
}

// attemptTimeout is longer for a rotator, which has three steps of up to 25 s at the target. The fence refuses an
// attempt that outlives its claim, and such an attempt checks its claim before it takes a change back.
func (w *Worker) attemptTimeout(job vault.Rotation) time.Duration {
	if job.Rotator != "" {
		return min(targetTimeout, w.claimTimeout()/2)
	}
	return min(attemptTimeout, w.claimTimeout()/3)
}

// listen turns the primary's notifications into hints. It has its own connection; while that is broken, polling finds
// the jobs.
func (w *Worker) listen(ctx context.Context, hint func()) {
	every(ctx, listenPause, 0, nil, func() {
		if err := w.Vault.WaitForRotations(ctx, hint); err != nil && ctx.Err() == nil {
			w.Log.Debug("not listening for rotations", "error", err)
		}
	})
}

// complete stores a sealed candidate as the new version.
type complete func(context.Context, vault.SealedCandidate) (vault.Receipt, error)

// work is one attempt. The commit point is complete or FinishRotation; a failure before it gives the claim back.
func (w *Worker) work(ctx context.Context, job vault.Rotation, complete complete) {
	attempt, cancel := context.WithTimeout(ctx, w.attemptTimeout(job))
	defer cancel()
	w.metrics().Running(1)
	defer w.metrics().Running(-1)
	log := w.Log.With("secret", job.Name, "job", job.ID, "attempt", job.Attempt)
	failpoint.Hit("rotation.claimed")
	receipt, err := w.rotate(attempt, job, complete)
	switch {
	case err == nil:
		failpoint.Hit("rotation.completed")
		w.metrics().Settled("done")
		log.Info("rotated", "version", receipt.Version)
	case errors.Is(err, vault.ErrClaimLost):
		w.metrics().Settled("claim_lost")
		log.Info("rotation was settled by another worker or a put")
	case errors.Is(err, vault.ErrOutcomeUnknown):
		w.metrics().Settled("unknown")
		log.Warn("outcome of the rotation is unknown; a worker settles it when the claim is stale", "error", err)
	default:
		w.giveBack(ctx, log, job, err)
	}
}

func (w *Worker) rotate(ctx context.Context, job vault.Rotation, complete complete) (receipt vault.Receipt, err error) {
	err = recovered(func() (err error) {
		receipt, err = w.attempt(ctx, job, complete)
		return err
	})
	return receipt, err
}

func (w *Worker) attempt(ctx context.Context, job vault.Rotation, complete complete) (receipt vault.Receipt,
	err error) {
	if job.Failures >= maxAttempts {
		return receipt, errVanished
	}
	if job.Rotator != "" {
		return w.fourSteps(ctx, job)
	}
	sealed, err := w.seal(ctx, job)
	if err != nil {
		return receipt, err
	}
	return complete(ctx, sealed)
}

func (w *Worker) seal(ctx context.Context, job vault.Rotation) (vault.SealedCandidate, error) {
	value, err := generate(job)
	if err != nil {
		return vault.SealedCandidate{}, err
	}
	defer clear(value)
	return w.Vault.SealCandidate(ctx, job, value)
}

func generate(job vault.Rotation) ([]byte, error) {
	generator, err := ParseGenerator(job.Generator)
	if err != nil {
		return nil, fmt.Errorf("reading the generator: %w", err)
	}
	return generator.Generate(), nil
}

// fourSteps runs the same way for a first attempt and for one after a crash at any point: a step that was done before
// is done again with the same candidate. Check first tries the value in force, in the way that Test will try the
// candidate: otherwise a test that cannot pass would leave readers with a value that no longer works.
func (w *Worker) fourSteps(ctx context.Context, job vault.Rotation) (receipt vault.Receipt, err error) {
	if w.Target == nil {
		return receipt, fmt.Errorf("this daemon has no rotators (%w)", ErrNever)
	}
	current, err := w.Vault.RotatingValue(ctx, job)
	if err != nil {
		return receipt, err
	}
	defer current.Wipe()
	candidate, err := w.Vault.Candidate(ctx, job)
	if err != nil && !errors.Is(err, vault.ErrNotFound) {
		return receipt, err
	}
	defer func() { candidate.Wipe() }()
	change := Change{
		Secret: job.Name, Version: job.FromVersion + 1, Job: job.ID, Attempt: job.Attempt,
		Current: current, Candidate: candidate,
		Held: func(ctx context.Context) error { return w.Vault.HoldsRotation(ctx, job) },
	}
	if change.Found, err = w.Target.Check(ctx, job.Rotator, change); err != nil {
		err = fmt.Errorf("checking the target, before any change: %w", err)
		if errors.Is(err, ErrCandidateInPlace) && change.Current != nil {
			return receipt, w.restore(ctx, job, change, err) // of an attempt that crashed
		}
		return receipt, err
	}
	if candidate == nil { // after Check: a job that has a candidate no longer waits for its window
		if candidate, err = w.create(ctx, job, current); err != nil {
			return receipt, err
		}
		change.Candidate = candidate
	}
	failpoint.Hit("rotation.candidate_stored")
	if err := w.apply(ctx, job, change); err != nil {
		return receipt, err
	}
	failpoint.Hit("rotation.target_tested")
	return w.Vault.FinishRotation(ctx, job)
}

// create generates a candidate and stores it before it is returned.
func (w *Worker) create(ctx context.Context, job vault.Rotation, current []byte) (envelope.Plaintext, error) {
	generated, err := generate(job)
	if err != nil {
		return nil, err
	}
	defer clear(generated)
	shaped, err := w.Target.Shape(job.Rotator, current, generated)
	if err != nil {
		return nil, fmt.Errorf("shaping the new value: %w", err)
	}
	defer clear(shaped)
	return w.Vault.StoreCandidate(ctx, job, shaped)
}

// apply sets and tests the candidate. It takes back a change that it cannot confirm.
func (w *Worker) apply(ctx context.Context, job vault.Rotation, c Change) error {
	err := recovered(func() error { return w.Target.Set(ctx, job.Rotator, c) })
	untouched := errors.Is(err, ErrUntouched)
	switch {
	case untouched && c.Found != FoundCandidate:
		return fmt.Errorf("setting the new value at its target: %w", err)
	case err != nil && !untouched:
		return w.restore(ctx, job, c, fmt.Errorf("setting the new value at its target: %w", err))
	}
	// If err is ErrUntouched, Check found that the target has the candidate from an earlier attempt, so it can be tested.
	failpoint.Hit("rotation.target_set")
	if err := recovered(func() error { return w.Target.Test(ctx, job.Rotator, c) }); err != nil {
		return w.restore(ctx, job, c, fmt.Errorf("testing the new value at its target: %w", err))
	}
	return nil
}

// restore sets the value in force again, so that readers' logins work until the next attempt. Its error includes why.
// It has its own deadline, since the attempt's may have passed, and ends before the claim can be stale.
func (w *Worker) restore(ctx context.Context, job vault.Rotation, c Change, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(restoreTimeout, w.claimTimeout()/4))
	defer cancel()
	err := c.Held(ctx)
	if errors.Is(err, vault.ErrClaimLost) {
		return err // another attempt, or another value, decides what the target has
	}
	if err == nil {
		err = recovered(func() error { return w.Target.Restore(ctx, job.Rotator, c) })
	}
	if err != nil {
		return fmt.Errorf("the target may have the new value, which readers get only when a rotation succeeds "+
			"(vaultctl rotation retry %s): "+
			"%w; putting the value in force back: %w", job.Name, why, err)
	}
	return fmt.Errorf("%w; the value in force is in place", why)
}

func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic of type %T", p) // its text may hold anything
		}
	}()
	return f()
}

func (w *Worker) giveBack(ctx context.Context, log *slog.Logger, job vault.Rotation, reason error) {
	ctx, cancel := context.WithTimeout(ctx, giveBackTimeout)
	defer cancel()
	var retryIn *time.Duration
	if failures := job.Failures + 1; failures < maxAttempts && !errors.Is(reason, ErrNever) {
		wait := backoff(failures, rand.Float64)
		retryIn = &wait
		w.metrics().Settled("failed")
		log.Warn("rotation failed", "error", reason, "retry_in", wait)
	} else {
		w.metrics().Settled("given_up")
		log.Error("rotation failed for good; the old version stays valid", "error", reason)
	}
	if err := w.Vault.FailRotation(ctx, job, reason, retryIn); err != nil {
		log.Warn("giving a claim back failed; it will go stale", "error", err)
	}
}

// release gives back a job that was claimed and not begun when the worker stopped.
func (w *Worker) release(ctx context.Context, job vault.Rotation) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
	defer cancel()
	if err := w.Vault.ReleaseRotation(ctx, job); err != nil {
		w.Log.Warn("giving a claim back failed; it will go stale", "secret", job.Name, "job", job.ID, "error", err)
	}
}
