package vault

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A node is fresh while its last sample is; a node that stops answering, or has no sample, becomes stale.
func TestFreshness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		lag, down, asked := time.Duration(0), error(nil), 0
		known := true
		f := &Freshness{changed: make(chan struct{}, 1), lag: func(context.Context) (*time.Duration, error) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			if !known {
				return nil, down
			}
			behind := lag
			return &behind, down
		}}
		is := func(what string, want error) {
			t.Helper()
			synctest.Wait()
			if err := f.Check(); !errors.Is(err, want) {
				t.Errorf("%s: got %v, want %v", what, err, want)
			}
		}
		set := func(change func()) { mu.Lock(); change(); mu.Unlock() }

		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { f.Run(ctx) })
		time.Sleep(time.Hour)
		is("no limit", nil)
		if asked != 0 {
			t.Errorf("without a limit the node was asked %d times", asked)
		}

		f.SetLimit(2 * time.Second)
		is("a limit takes effect at once", nil)
		time.Sleep(10 * time.Second)
		is("as fresh as a primary", nil)
		if asked != 21 { // every half second: a quarter of the limit
			t.Errorf("in 10 seconds the node was asked %d times, want 21", asked)
		}
		set(func() { lag = 1900 * time.Millisecond })
		time.Sleep(500 * time.Millisecond)
		is("within the limit", nil)
		time.Sleep(101 * time.Millisecond)
		is("within it when last seen, and by now perhaps not", ErrStale)

		set(func() { lag = 0 })
		time.Sleep(500 * time.Millisecond)
		is("caught up", nil)
		set(func() { down = errors.New("away") })
		time.Sleep(1600 * time.Millisecond)
		is("away, and last seen within the limit", nil)
		time.Sleep(time.Second)
		is("away for longer than the limit", ErrStale)
		set(func() { down, known = nil, false })
		time.Sleep(time.Second)
		is("no heartbeat", ErrStale)
		f.SetLimit(0)
		is("the limit is gone", nil)
		stop()
		running.Wait()
	})
}

func TestFreshnessBeforeTheFirstSample(t *testing.T) {
	f := &Freshness{changed: make(chan struct{}, 1)}
	f.limit.Store(int64(time.Second))
	if err := f.Check(); !errors.Is(err, ErrStale) {
		t.Errorf("got %v, want %v", err, ErrStale)
	}
}
