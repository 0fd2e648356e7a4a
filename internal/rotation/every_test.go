package rotation

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Rounds with the same interval and another delay never begin at the same moment after the first.
func TestEveryBeginsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
		defer cancel()
		began := time.Now()
		var at []time.Duration
		hints := make(chan struct{}, 1)
		time.AfterFunc(15*time.Second, func() { hints <- struct{}{} })
		every(ctx, 10*time.Second, 500*time.Millisecond, hints, func() { at = append(at, time.Since(began)) })
		want := []time.Duration{0, 10500 * time.Millisecond, 15 * time.Second, 20500 * time.Millisecond,
			30500 * time.Millisecond, 40500 * time.Millisecond}
		if !slices.Equal(at, want) {
			t.Errorf("got steps at %v, want %v", at, want)
		}
	})
}
