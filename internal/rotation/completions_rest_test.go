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

// While a backlog drains, two thirds of the time are the readers'.
func TestCompletionsRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type batch struct {
			at   time.Duration
			size int
		}
		took := 20 * time.Millisecond
		var batches []batch
		began := time.Now()
		c := &completions{turn: make(chan struct{}, 1)}
		c.send = func(_ context.Context, sealed []vault.SealedRotation) (map[int64]vault.Receipt, error) {
			if !c.underWay() {
				t.Error("a batch is under way, and not said to be")
			}
			batches = append(batches, batch{time.Since(began), len(sealed)})
			time.Sleep(took)
			receipts := map[int64]vault.Receipt{}
			for _, one := range sealed {
				receipts[one.Job.ID] = vault.Receipt{}
			}
			return receipts, nil
		}
		c.one = func(context.Context, vault.SealedRotation) (vault.Receipt, error) {
			t.Error("a rotation was left out")
			return vault.Receipt{}, nil
		}
		complete := func(n int) (settled *sync.WaitGroup) {
			settled = new(sync.WaitGroup)
			c.turn <- struct{}{} // until all of them wait
			for i := range n {
				settled.Go(func() {
					if _, err := c.complete(t.Context(), vault.SealedRotation{Job: vault.Rotation{ID: int64(i)}}); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			<-c.turn
			return settled
		}

		complete(2*batchSize + 1).Wait()
		want := []batch{{0, batchSize}, {60 * time.Millisecond, batchSize}, {120 * time.Millisecond, 1}}
		if !slices.Equal(batches, want) {
			t.Errorf("got batches %v, want %v", batches, want)
		}
		if got := time.Since(began); got != 140*time.Millisecond || c.underWay() {
			t.Errorf("the last was settled after %v, want 140ms, without the rest behind it", got)
		}

		time.Sleep(time.Second) // the rest is over
		batches, began, took = nil, time.Now(), 30*time.Second
		complete(batchSize + 1).Wait()
		if want = []batch{{0, batchSize}, {31 * time.Second, 1}}; !slices.Equal(batches, want) {
			t.Errorf("got batches %v, want %v: no rest is longer than a second", batches, want)
		}
		time.Sleep(time.Second)
	})
}
