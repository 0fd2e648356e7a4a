package rotation

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hyperiondb/vault/internal/vault"
)

// Supervisor enqueues rotations that are due and purges what has expired. It runs beside every node and acts only where
// the node is the primary, so a promotion needs no reconfiguration.
type Supervisor struct {
	Vault    *vault.Vault
	Interval time.Duration // between two rounds
	Log      *slog.Logger

	failed string // the failures that were logged last
}

// Run makes a round at once and then one an interval, until ctx ends.
func (s *Supervisor) Run(ctx context.Context) {
	rounds := &vault.Rounds{Vault: s.Vault, Part: vault.RoundSupervise, Here: true}
	every(ctx, s.Interval, s.Interval/20, nil, func() {
		did, err := s.Vault.Supervise(ctx)
		rounds.Settle(ctx, err)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			s.Log.Warn("supervising failed", "error", err)
		default:
			s.report(did)
		}
	})
}

// report logs what a round did, and which parts failed if those are not the ones logged last.
func (s *Supervisor) report(did vault.Supervision) {
	if did.Enqueued+did.Expired+did.Purged > 0 {
		s.Log.Info("supervised", "enqueued", did.Enqueued, "expired", did.Expired, "purged", did.Purged)
	}
	failed := ""
	for _, part := range slices.Sorted(maps.Keys(did.Failed)) {
		failed += fmt.Sprintf("%s: %s; ", part, did.Failed[part])
	}
	if failed != s.failed && failed != "" {
		s.Log.Error("parts of the supervisor's round fail; the others were done", "failed", strings.TrimSuffix(failed, "; "))
	}
	s.failed = failed
}

// every calls step now, after each interval and after each hint, one at a time, until ctx ends. The second step comes
// later by so much, and those after it with it: rounds that begin at the same moment each need a session of their own,
// and a session plans a statement when it first has it, which costs as much as all its rounds of an hour. Rounds that
// begin one after the other are sent in the same session.
func every(ctx context.Context, interval, later time.Duration, hints <-chan struct{}, step func()) {
	ticks := time.NewTicker(interval + later)
	defer ticks.Stop()
	for ctx.Err() == nil {
		step()
		select {
		case <-ctx.Done():
		case <-ticks.C:
			if later > 0 {
				later = 0
				ticks.Reset(interval)
			}
		case <-hints:
		}
	}
}
