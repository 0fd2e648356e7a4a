package rotation

import (
	"context"
	"log/slog"
	"time"

	"github.com/hyperiondb/vault/internal/vault"
)

// Supervisor enqueues what is due and lets go of what has expired. It runs beside every node and acts only where the node
// is the primary, so a promotion needs nobody to tell it.
type Supervisor struct {
	Vault    *vault.Vault
	Interval time.Duration // between two rounds
	Log      *slog.Logger
}

// Run makes a round at once and then one an interval, until ctx ends.
func (s *Supervisor) Run(ctx context.Context) {
	every(ctx, s.Interval, nil, func() {
		did, err := s.Vault.Supervise(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			s.Log.Warn("supervising failed", "error", err)
		case did != vault.Supervision{}:
			s.Log.Info("supervised", "enqueued", did.Enqueued, "expired", did.Expired, "purged", did.Purged)
		}
	})
}

// every calls step now, after each interval and after each hint, one at a time, until ctx ends.
func every(ctx context.Context, interval time.Duration, hints <-chan struct{}, step func()) {
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for ctx.Err() == nil {
		step()
		select {
		case <-ctx.Done():
		case <-ticks.C:
		case <-hints:
		}
	}
}
