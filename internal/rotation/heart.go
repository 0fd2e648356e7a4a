package rotation

import (
	"context"
	"log/slog"
	"time"

	"github.com/hyperiondb/vault/internal/vault"
)

// beatTimeout is how long one beat may take: one that is stuck must not keep the next from finding the new primary.
const beatTimeout = 5 * time.Second

// Heart renews the primary's heartbeat, from which standbys tell how far they are behind. Like the [Supervisor], whose
// rounds beat as well, it runs beside every node and acts only where the node is the primary.
type Heart struct {
	Vault    *vault.Vault
	Interval time.Duration // between two beats
	Log      *slog.Logger

	failing bool
}

// Run beats at once and then once an interval, until ctx ends.
func (h *Heart) Run(ctx context.Context) {
	every(ctx, h.Interval, nil, func() { h.beat(ctx) })
}

// beat logs when beats begin to fail and when they are back, not each of them.
func (h *Heart) beat(ctx context.Context) {
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
