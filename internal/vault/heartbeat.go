package vault

import (
	"context"
	"log/slog"
	"time"
)

// beatTimeout bounds one beat: a beat that hangs must not keep the next one from finding the new primary.
const beatTimeout = 5 * time.Second

// Heartbeat renews the primary's heartbeat row, from which standbys compute how far they are behind. The rounds of the
// supervisor renew it as well. It runs beside every node and acts only where the node is the primary.
type Heartbeat struct {
	Vault    *Vault
	Interval time.Duration // between two beats
	Log      *slog.Logger

	failing bool
}

// Run beats at once and then once an interval, until ctx ends.
func (h *Heartbeat) Run(ctx context.Context) {
	ticks := time.NewTicker(h.Interval)
	defer ticks.Stop()
	for ctx.Err() == nil {
		h.beat(ctx)
		select {
		case <-ctx.Done():
		case <-ticks.C:
		}
	}
}

// beat logs only the first failure and the first success after it.
func (h *Heartbeat) beat(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	primary, err := h.Vault.Beat(limited)
	switch {
	case ctx.Err() != nil:
	case err != nil && !h.failing:
		h.failing = true
		h.Log.Warn("the heartbeat fails", "error", err)
	case err == nil && h.failing:
		h.failing = false
		h.Log.Info("the heartbeat is back", "primary", primary)
	}
}

// Beat renews the heartbeat if the local node is the primary, and reports whether it is.
func (v *Vault) Beat(ctx context.Context) (bool, error) {
	primary, err := v.reader.IsPrimary(ctx)
	if err != nil || !primary {
		return false, err
	}
	return true, v.writer.Beat(ctx)
}
