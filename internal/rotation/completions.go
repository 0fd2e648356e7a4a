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
	// restFactor is how many times as long as a batch took the rest behind it is, and longestRest bounds that where a
	// batch was held up by something else.
	restFactor  = 2
	longestRest = time.Second
)

// completions complete sealed rotations together, as a group commit does: what is ready while a transaction is under
// way waits for its end and goes with the next. Nobody waits for company, so a rotation alone is completed at once.
//
// After a batch they rest, for twice as long as it took. Nobody waits for a rotation as somebody does for a read, and
// the two share PostgreSQL: while one daemon drains a backlog, reads have two thirds of the time to themselves.
//
// Each rotation has its own deadline, and its own attempt alone if the batch did not complete it, whatever the reason.
type completions struct {
	send func(context.Context, []vault.SealedRotation) (map[int64]vault.Receipt, error)
	one  func(context.Context, vault.SealedRotation) (vault.Receipt, error)
	turn chan struct{} // held by whoever completes a batch, and during the rest
	busy atomic.Bool   // a batch is under way

	mu      sync.Mutex
	waiting []*completion
}

// completion is one rotation on its way; settled is closed when the batch that took it is over.
type completion struct {
	ctx     context.Context
	sealed  vault.SealedRotation
	settled chan struct{}
	receipt vault.Receipt
	done    bool
	err     error // the batch went unanswered
}

func newCompletions(v *vault.Vault) *completions {
	return &completions{send: v.CompleteRotations, one: v.CompleteRotation, turn: make(chan struct{}, 1)}
}

// complete returns when the rotation is completed, or cannot be.
func (c *completions) complete(ctx context.Context, sealed vault.SealedRotation) (vault.Receipt, error) {
	one := &completion{ctx: ctx, sealed: sealed, settled: make(chan struct{})}
	c.mu.Lock()
	c.waiting = append(c.waiting, one)
	c.mu.Unlock()
	for {
		select {
		case <-one.settled:
			if one.done || one.err != nil {
				return one.receipt, one.err
			}
			return c.one(ctx, sealed)
		case c.turn <- struct{}{}:
			c.batch()
		}
	}
}

// batch completes what waits. Whoever has the turn does not keep it through the rest: his own may be among them.
func (c *completions) batch() {
	began := time.Now()
	c.settle()
	time.AfterFunc(min(restFactor*time.Since(began), longestRest), func() { <-c.turn })
}

func (c *completions) settle() {
	batch := c.take()
	if len(batch) == 0 {
		return // another batch had taken it along
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
	ctx, cancel := shortest(batch)
	defer cancel()
	sealed := make([]vault.SealedRotation, len(batch))
	for i, one := range batch {
		sealed[i] = one.sealed
	}
	c.busy.Store(true)
	receipts, err = c.send(ctx, sealed)
	c.busy.Store(false)
}

func (c *completions) underWay() bool { return c.busy.Load() }

// take returns the next batch. Who is out of time would end it for the others, and is settled by himself.
func (c *completions) take() (batch []*completion) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.waiting), batchSize)
	for _, one := range c.waiting[:n] {
		if one.ctx.Err() != nil {
			close(one.settled)
			continue
		}
		batch = append(batch, one)
	}
	c.waiting = c.waiting[n:]
	return batch
}

// shortest is the time that all of a batch have.
func shortest(batch []*completion) (context.Context, context.CancelFunc) {
	shortest := batch[0].ctx
	for _, one := range batch[1:] {
		if deadline, limited := one.ctx.Deadline(); limited {
			if least, known := shortest.Deadline(); !known || deadline.Before(least) {
				shortest = one.ctx
			}
		}
	}
	return context.WithCancel(shortest)
}
