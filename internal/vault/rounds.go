package vault

import (
	"context"
	"errors"
	"time"
)

// awayRounds in a row tell a round that never ends in time from a server that was restarted.
const awayRounds = 3

// reportTimeout is how long a report may take: what fails is likely the database.
const reportTimeout = 5 * time.Second

// Rounds reports how the rounds of one kind go. It is for one goroutine.
type Rounds struct {
	Vault *Vault
	Part  string // RoundSupervise, RoundClaim or RoundSeal
	Here  bool   // they are made by the primary's own daemon alone

	working bool      // the last round worked, and is reported as that
	away    int       // rounds since that failed because the database did not answer
	notHere time.Time // when the node was asked last, and was not the primary
}

// Settle reports a failure, and the first success after one or after the start, when an earlier daemon may have left
// one. A report that cannot be made is made by a later round.
func (r *Rounds) Settle(ctx context.Context, err error) {
	if r == nil || ctx.Err() != nil || err == nil && r.working {
		return
	}
	if !errors.Is(err, ErrUnavailable) {
		r.away = 0
	} else if r.away++; r.away < awayRounds {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	if r.Here && !r.primary(ctx) {
		return
	}
	reported := r.Vault.ReportRound(ctx, r.Part, err)
	r.working = err == nil && reported == nil
}

// askAgain is how soon a node that was no primary is asked once more.
const askAgain = time.Minute

func (r *Rounds) primary(ctx context.Context) bool {
	if time.Since(r.notHere) < askAgain {
		return false
	}
	primary, err := r.Vault.IsPrimary(ctx)
	if err == nil && !primary {
		r.notHere = time.Now()
	}
	return err == nil && primary
}
