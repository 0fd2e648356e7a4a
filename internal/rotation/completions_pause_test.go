package rotation

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperiondb/vault/internal/vault"
)

// While a backlog drains, two thirds of the time are left to reads.
func TestCompletionsPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type batch struct {
			at   time.Duration
			size int
		}
		took := 20 * time.Millisecond
		var batches []batch
		began := time.Now()
		c := &completions{leader: make(chan struct{}, 1)}
		c.send = func(_ context.Context, sealed []vault.SealedCandidate) (map[int64]vault.Receipt, error) {
			if !c.inFlight.Load() {
				t.Error("inFlight is false while a batch is sent")
			}
			batches = append(batches, batch{time.Since(began), len(sealed)})
			time.Sleep(took)
			receipts := map[int64]vault.Receipt{}
			for _, one := range sealed {
				receipts[one.Job.ID] = vault.Receipt{}
			}
			return receipts, nil
		}
		c.one = func(context.Context, vault.SealedCandidate) (vault.Receipt, error) {
			t.Error("a rotation was left out")
			return vault.Receipt{}, nil
		}
		complete := func(n int) (settled *sync.WaitGroup) {
			settled = new(sync.WaitGroup)
			c.leader <- struct{}{} // no batch starts until all of them are queued
			for i := range n {
				settled.Go(func() {
					if _, err := c.complete(t.Context(), vault.SealedCandidate{Job: vault.Rotation{ID: int64(i)}}); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			<-c.leader
			return settled
		}

		complete(2*batchSize + 1).Wait()
		want := []batch{{0, batchSize}, {60 * time.Millisecond, batchSize}, {120 * time.Millisecond, 1}}
		if !slices.Equal(batches, want) {
			t.Errorf("got batches %v, want %v", batches, want)
		}
		if got := time.Since(began); got != 140*time.Millisecond || c.inFlight.Load() {
			t.Errorf("the last was settled after %v, want 140ms, without the pause after it", got)
		}

		time.Sleep(time.Second) // the pause is over
		batches, began, took = nil, time.Now(), 30*time.Second
		complete(batchSize + 1).Wait()
		if want = []batch{{0, batchSize}, {31 * time.Second, 1}}; !slices.Equal(batches, want) {
			t.Errorf("got batches %v, want %v: no pause is longer than a second", batches, want)
		}
		time.Sleep(time.Second)
	})
}
