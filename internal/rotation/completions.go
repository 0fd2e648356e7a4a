package rotation

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyperiondb/vault/internal/vault"
)

const (
	// batchSize is how many rotations one transaction completes at most. At fifty nearly all of a transaction's own cost
	// is shared.
	batchSize = 50
	// pauseFactor is how many times as long as a batch took the pause after it is. longestPause bounds the pause after a
	// batch that something else held up.
	pauseFactor  = 2
	longestPause = time.Second
)

// completions complete sealed rotations together, as a group commit does: rotations that are ready while a batch is in
// flight queue for the next one. A rotation that finds no batch in flight is sent at once.
//
// After a batch they pause, for twice as long as it took. No client waits for a rotation as it does for a read, and
// the two share PostgreSQL: while one daemon drains a backlog, reads have two thirds of the time to themselves.
//
// Each rotation has its own deadline. If its batch did not complete it, for any reason, it is completed alone.
type completions struct {
	send     func(context.Context, []vault.SealedCandidate) (map[int64]vault.Receipt, error)
	one      func(context.Context, vault.SealedCandidate) (vault.Receipt, error)
	leader   chan struct{} // full while a goroutine leads a batch, and during the pause after it
	inFlight atomic.Bool   // a batch is

	mu    sync.Mutex
	queue []*completion
}

// completion is one rotation of a batch; settled is closed when the batch has ended.
type completion struct {
	ctx     context.Context
	sealed  vault.SealedCandidate
	settled chan struct{}
	receipt vault.Receipt
	done    bool
	err     error // the outcome of the batch is unknown
}

func newCompletions(v *vault.Vault) *completions {
	return &completions{send: v.CompleteRotations, one: v.CompleteRotation, leader: make(chan struct{}, 1)}
}

// complete returns when the rotation is completed, or cannot be.
func (c *completions) complete(ctx context.Context, sealed vault.SealedCandidate) (vault.Receipt, error) {
	one := &completion{ctx: ctx, sealed: sealed, settled: make(chan struct{})}
	c.mu.Lock()
	c.queue = append(c.queue, one)
	c.mu.Unlock()
	for {
		select {
		case <-one.settled:
			if one.done || one.err != nil {
				return one.receipt, one.err
			}
			return c.one(ctx, sealed)
		case c.leader <- struct{}{}:
			c.lead()
		}
	}
}

// lead completes the next batch. A timer ends the pause, since the leader's own rotation may be settled by then.
func (c *completions) lead() {
	began := time.Now()
	c.completeBatch()
	time.AfterFunc(min(pauseFactor*time.Since(began), longestPause), func() { <-c.leader })
}

func (c *completions) completeBatch() {
	batch := c.take()
	if len(batch) == 0 {
		return // earlier batches took the whole queue, or its rotations are out of time
	}
	var receipts map[int64]vault.Receipt
	var err error
	defer func() {
		for _, one := range batch {
			one.receipt, one.done = receipts[one.sealed.Job.ID]
			if errors.Is(err, vault.ErrOutcomeUnknown) {
				one.err = err
			}
			close(one.settled)
		}
	}()
	ctx, cancel := earliestDeadline(batch)
	defer cancel()
	sealed := make([]vault.SealedCandidate, len(batch))
	for i, one := range batch {
		sealed[i] = one.sealed
	}
	c.inFlight.Store(true)
	receipts, err = c.send(ctx, sealed)
	c.inFlight.Store(false)
}

// take removes the next batch from the queue. A rotation that is out of time would end the batch for the others, so it
// is settled without one.
func (c *completions) take() (batch []*completion) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.queue), batchSize)
	for _, one := range c.queue[:n] {
		if one.ctx.Err() != nil {
			close(one.settled)
			continue
		}
		batch = append(batch, one)
	}
	c.queue = c.queue[n:]
	return batch
}

// earliestDeadline is the context of a batch: that of its rotation with the least time left.
func earliestDeadline(batch []*completion) (context.Context, context.CancelFunc) {
	earliest := batch[0].ctx
	for _, one := range batch[1:] {
		if deadline, limited := one.ctx.Deadline(); limited {
			if least, known := earliest.Deadline(); !known || deadline.Before(least) {
				earliest = one.ctx
			}
		}
	}
	return context.WithCancel(earliest)
}
