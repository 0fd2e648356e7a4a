package vault

import (
	"context"
	"errors"
	"time"
)

// awayRounds is how many rounds in a row must fail with ErrUnavailable to be reported: a restart of the server fails
// fewer.
const awayRounds = 3

// reportTimeout bounds a report: when a round fails, the database may not answer either.
const reportTimeout = 5 * time.Second

// Rounds reports failures of the rounds of one kind. It is for one goroutine.
type Rounds struct {
	Vault *Vault
	Part  string // RoundSupervise, RoundClaim or RoundSeal
	Here  bool   // only the daemon beside the primary makes them

	working bool      // the last round worked, and was reported as working
	away    int       // consecutive rounds that failed because the database did not answer
	notHere time.Time // when the node was last found not to be the primary
}

// Settle reports a failure, and the first success after one or after the start, since an earlier daemon may have
// reported a failure. A report that fails is made again by a later round.
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

// askAgain is how long a node that is not the primary is not asked again.
const askAgain = time.Minute

func (r *Rounds) primary(ctx context.Context) bool {
	if time.Since(r.notHere) < askAgain {
		return false
	}
	primary, err := r.Vault.reader.IsPrimary(ctx)
	if err == nil && !primary {
		r.notHere = time.Now()
	}
	return err == nil && primary
}
