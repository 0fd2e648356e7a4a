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

	"github.com/hyperiondb/vault/internal/failpoint"
	"github.com/hyperiondb/vault/internal/vault"
)

const (
	// DefaultClaimTimeout is how old a claim is when its worker counts as gone: three whole attempts.
	DefaultClaimTimeout = 3 * attemptTimeout

	attemptTimeout = time.Minute      // for one attempt: KMS, target and database
	listenPause    = 5 * time.Second  // before listening again on a primary that went away
	settlingTime   = 10 * time.Second // to give a claim back
	// claimsPerSlot is how many jobs are claimed for each that runs, so that a claim is one statement for many jobs. Under a cap
	// on rotations it is one.
	claimsPerSlot = 4
)

// errVanished is the reason given for a job whose workers never came back to say what went wrong.
var errVanished = errors.New("its workers vanished in the middle of it")

// Worker claims rotations, makes the new values and completes them. Claims are fenced by their attempt inside the
// completing transaction: a worker that stalled past its claim is refused, however late it wakes.
//
// A secret with a rotator goes the four steps that AWS Secrets Manager names (create, set, test, finish): its candidate is
// sealed in the job before the target hears of it, so whoever takes the job up after a crash applies the same value.
type Worker struct {
	Vault        *vault.Vault
	Target       Target        // nil: secrets with a rotator fail
	ID           string        // names this worker in the audit log and in claims
	Concurrency  int           // rotations at once
	Poll         time.Duration // polling finds everything; a notification only makes it sooner
	ClaimTimeout time.Duration // a claim this old belongs to a worker that is gone; 0 = DefaultClaimTimeout
	Metrics      *Metrics      // nil: not counted
	Log          *slog.Logger
}

// Run works until ctx ends, and returns when the rotations under way then are settled.
func (w *Worker) Run(ctx context.Context) {
	hints := make(chan struct{}, 1)
	hint := func() {
		select {
		case hints <- struct{}{}:
		default: // one is waiting already
		}
	}
	var running sync.WaitGroup
	running.Go(func() { w.listen(ctx, hint) })
	var pending atomic.Int64 // claimed and not settled
	slots := make(chan struct{}, w.Concurrency)
	completions := newCompletions(w.Vault)
	rounds := &vault.Rounds{Vault: w.Vault, Part: vault.RoundClaim}
	every(ctx, w.Poll, hints, func() {
		held := int(pending.Load())
		free, room := max(w.Concurrency-held, 0), w.Concurrency*claimsPerSlot-held
		if room < w.Concurrency {
			return // a rotation that ends hints again
		}
		if 2*free < w.Concurrency && completions.underWay() {
			return // so does a batch that ends, and then there is more to claim at once
		}
		// Not given up when the worker stops: a claim whose answer nobody heard could not be given back.
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
				if time.Since(claimed) < w.claimTimeout()/2 { // else it is about to go stale: whoever claims it then has the time for it
					w.work(context.WithoutCancel(ctx), job, func(ctx context.Context, sealed vault.SealedRotation) (vault.Receipt, error) {
						freeSlot() // waiting for a transaction is no work
						return completions.complete(ctx, sealed)
					})
				}
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

// listen passes on the primary's notifications. The connection is its own: it may break at any time, and polling goes on.
func (w *Worker) listen(ctx context.Context, hint func()) {
	every(ctx, listenPause, nil, func() {
		if err := w.Vault.WaitForRotations(ctx, hint); err != nil && ctx.Err() == nil {
			w.Log.Debug("not listening for rotations", "error", err)
		}
	})
}

// complete stores what is sealed, with others if there are any.
type complete func(context.Context, vault.SealedRotation) (vault.Receipt, error)

// work is one attempt. The commit point is complete or FinishRotation; whatever fails before it gives the claim back.
func (w *Worker) work(ctx context.Context, job vault.Rotation, complete complete) {
	attempt, cancel := context.WithTimeout(ctx, min(attemptTimeout, w.claimTimeout()/3))
	defer cancel()
	defer w.Metrics.running()()
	log := w.Log.With("secret", job.Name, "job", job.ID, "attempt", job.Attempt)
	failpoint.Hit("rotation.claimed")
	receipt, err := w.rotate(attempt, job, complete)
	switch {
	case err == nil:
		failpoint.Hit("rotation.completed")
		w.Metrics.settled("done")
		log.Info("rotated", "version", receipt.Version)
	case errors.Is(err, vault.ErrClaimLost):
		w.Metrics.settled("claim_lost")
		log.Info("rotation was settled by somebody else")
	case errors.Is(err, vault.ErrOutcomeUnknown):
		w.Metrics.settled("unknown")
		log.Warn("rotation went unanswered; its claim will go stale and tell", "error", err)
	default:
		w.giveBack(ctx, log, job, err)
	}
}

func (w *Worker) rotate(ctx context.Context, job vault.Rotation, complete complete) (receipt vault.Receipt, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic of type %T", p) // its text may hold anything
		}
	}()
	if job.Failures >= MaxAttempts {
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

func (w *Worker) seal(ctx context.Context, job vault.Rotation) (vault.SealedRotation, error) {
	value, err := generate(job)
	if err != nil {
		return vault.SealedRotation{}, err
	}
	defer clear(value)
	return w.Vault.SealRotation(ctx, job, value)
}

func generate(job vault.Rotation) ([]byte, error) {
	generator, err := ParseGenerator(job.Generator)
	if err != nil {
		return nil, fmt.Errorf("reading the generator: %w", err)
	}
	return generator.Generate(), nil
}

// fourSteps runs the same way for a first attempt and for one after a crash at any point: a step that was done before is
// done again with the same candidate.
func (w *Worker) fourSteps(ctx context.Context, job vault.Rotation) (receipt vault.Receipt, err error) {
	if w.Target == nil {
		return receipt, errors.New("this daemon has no rotators")
	}
	current, err := w.Vault.RotatingValue(ctx, job)
	if err != nil {
		return receipt, err
	}
	defer current.Wipe()
	candidate, err := w.candidate(ctx, job, current)
	if err != nil {
		return receipt, err
	}
	defer clear(candidate)
	failpoint.Hit("rotation.candidate_stored")
	change := Change{Secret: job.Name, Version: job.FromVersion + 1, Job: job.ID, Attempt: job.Attempt, Current: current, Candidate: candidate}
	if err := w.Target.Set(ctx, job.Rotator, change); err != nil {
		return receipt, fmt.Errorf("setting the new value at its target: %w", err)
	}
	failpoint.Hit("rotation.target_set")
	if err := w.Target.Test(ctx, job.Rotator, change); err != nil {
		return receipt, fmt.Errorf("testing the new value at its target: %w", err)
	}
	failpoint.Hit("rotation.target_tested")
	return w.Vault.FinishRotation(ctx, job)
}

// candidate is the one an earlier attempt stored, else a new one that is stored before it is returned.
func (w *Worker) candidate(ctx context.Context, job vault.Rotation, current []byte) ([]byte, error) {
	stored, err := w.Vault.Candidate(ctx, job)
	if !errors.Is(err, vault.ErrNotFound) {
		return stored, err
	}
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

func (w *Worker) giveBack(ctx context.Context, log *slog.Logger, job vault.Rotation, reason error) {
	ctx, cancel := context.WithTimeout(ctx, settlingTime)
	defer cancel()
	var retryIn *time.Duration
	if failures := job.Failures + 1; failures < MaxAttempts {
		wait := Backoff(failures, rand.Float64)
		retryIn = &wait
		w.Metrics.settled("failed")
		log.Warn("rotation failed", "error", reason, "retry_in", wait)
	} else {
		w.Metrics.settled("given_up")
		log.Error("rotation failed for good; the old version stays valid", "error", reason)
	}
	if err := w.Vault.FailRotation(ctx, job, reason, retryIn); err != nil {
		log.Warn("giving a claim back failed; it will go stale", "error", err)
	}
}

// release gives back what was claimed and not begun when the worker stops.
func (w *Worker) release(ctx context.Context, job vault.Rotation) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settlingTime)
	defer cancel()
	if err := w.Vault.ReleaseRotation(ctx, job); err != nil {
		w.Log.Warn("giving a claim back failed; it will go stale", "secret", job.Name, "job", job.ID, "error", err)
	}
}
