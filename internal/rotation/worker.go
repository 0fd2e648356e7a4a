package rotation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hyperiondb/vault/internal/vault"
)

const (
	jobTimeout   = time.Minute      // for one attempt: KMS and database
	staleClaim   = 3 * jobTimeout   // a claim this old belongs to a worker that is gone
	listenPause  = 5 * time.Second  // before listening again on a primary that went away
	settlingTime = 10 * time.Second // to give a claim back
)

// Worker claims rotations, makes the new values and completes them. Claims are fenced by their attempt inside the
// completing transaction: a worker that stalled past its claim is refused, however late it wakes.
type Worker struct {
	Vault       *vault.Vault
	ID          string        // names this worker in the audit log and in claims
	Concurrency int           // rotations at once
	Poll        time.Duration // polling finds everything; a notification only makes it sooner
	Log         *slog.Logger
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
	slots := make(chan struct{}, w.Concurrency)
	every(ctx, w.Poll, hints, func() {
		free := cap(slots) - len(slots)
		if free == 0 {
			return // a rotation that ends hints again
		}
		jobs, err := w.Vault.ClaimRotations(ctx, w.ID, free, staleClaim)
		if err != nil && ctx.Err() == nil {
			w.Log.Warn("claiming rotations failed", "error", err)
		}
		for _, job := range jobs {
			slots <- struct{}{}
			running.Go(func() {
				defer hint()
				defer func() { <-slots }()
				w.work(context.WithoutCancel(ctx), job)
			})
		}
	})
	running.Wait()
}

// listen passes on the primary's notifications. The connection is its own: it may break at any time, and polling goes on.
func (w *Worker) listen(ctx context.Context, hint func()) {
	every(ctx, listenPause, nil, func() {
		if err := w.Vault.WaitForRotations(ctx, hint); err != nil && ctx.Err() == nil {
			w.Log.Debug("not listening for rotations", "error", err)
		}
	})
}

// work is one attempt. The commit point is CompleteRotation; whatever fails before it gives the claim back.
func (w *Worker) work(ctx context.Context, job vault.Rotation) {
	attempt, cancel := context.WithTimeout(ctx, jobTimeout)
	defer cancel()
	log := w.Log.With("secret", job.Name, "job", job.ID, "attempt", job.Attempt)
	receipt, err := w.rotate(attempt, job)
	switch {
	case err == nil:
		log.Info("rotated", "version", receipt.Version)
	case errors.Is(err, vault.ErrClaimLost):
		log.Info("rotation was settled by somebody else")
	case errors.Is(err, vault.ErrOutcomeUnknown):
		log.Warn("rotation went unanswered; its claim will go stale and tell", "error", err)
	default:
		w.giveBack(ctx, log, job, err)
	}
}

func (w *Worker) rotate(ctx context.Context, job vault.Rotation) (receipt vault.Receipt, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic of type %T", p) // its text may hold anything
		}
	}()
	generator, err := ParseGenerator(job.Generator)
	if err != nil {
		return receipt, fmt.Errorf("reading the generator: %w", err)
	}
	value := generator.Generate()
	defer clear(value)
	return w.Vault.CompleteRotation(ctx, job, value)
}

func (w *Worker) giveBack(ctx context.Context, log *slog.Logger, job vault.Rotation, reason error) {
	ctx, cancel := context.WithTimeout(ctx, settlingTime)
	defer cancel()
	var retryIn *time.Duration
	if job.Attempt < MaxAttempts {
		wait := Backoff(job.Attempt, rand.Float64)
		retryIn = &wait
		log.Warn("rotation failed", "error", reason, "retry_in", wait)
	} else {
		log.Error("rotation failed for good; the old version stays valid", "error", reason)
	}
	if err := w.Vault.FailRotation(ctx, job, reason, retryIn); err != nil {
		log.Warn("giving a claim back failed; it will go stale", "error", err)
	}
}
