package seal

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Keeper keeps seals outside of PostgreSQL, to find out that a primary has lost its newest seals or has made them anew.
// It is a file of one node ([Copies]), or a bucket of all nodes. It only grows, and may begin with any seal.
type Keeper interface {
	// Last is the newest seal that is kept; its ID is 0 if there is none.
	Last(ctx context.Context) (Seal, error)
	// Add keeps seals that follow the last. When it returns without an error they are durable.
	Add(ctx context.Context, seals []Seal) error
}

// Errors of a keeper that do not concern the seals; all others are alarms.
var (
	ErrAway  = errors.New("cannot be reached")
	ErrAdded = errors.New("another daemon has added seals") // or this Add, whose reply was lost: Last has the result
)

// errNodeAway says that the node did not answer, so nothing was compared. Readiness has its own check of the node.
var errNodeAway = errors.New("the node is away")

// Place is a keeper and its state.
type Place struct {
	Keeper Keeper
	Where  string        // such as "here", for texts
	Every  time.Duration // how often new seals are added; 0: after each round of sealing
	Shared bool          // by all nodes: the primary's daemon adds to it, and once more when it stops

	// Guarded by the sealer's lock.
	alarm trouble   // the kept seals do not fit the node's
	away  trouble   // it could not be reached
	whole time.Time // when it last had all seals of the node
}

const (
	copyLimit = 1000 // seals
	takeovers = 3    // repeats of an Add after ErrAdded
	lastTry   = 3 * time.Second
)

func (s *Sealer) runPlace(ctx context.Context, p *Place) {
	every(ctx, p.Every, func(ctx context.Context) { s.visit(ctx, p) })
	if !p.Shared {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTry)
	defer cancel()
	s.visit(ctx, p)
}

// visit adds new seals and keeps the error, for readiness and metrics.
func (s *Sealer) visit(ctx context.Context, p *Place) {
	began := time.Now()
	err := s.copy(ctx, p)
	if ctx.Err() != nil || errors.Is(err, errNodeAway) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.whole.IsZero() {
		p.whole = began
	}
	if errors.Is(err, ErrAway) || errors.Is(err, ErrAdded) { // an alarm stays, since nothing was compared
		p.away.settle(s.Log, "keeping the seals of the audit log failed", err)
		return
	}
	p.away.settle(s.Log, "", nil)
	p.alarm.settle(s.Log, "the seals of the audit log do not fit those seen before", err)
	if err == nil {
		p.whole = began
	}
}

// copy adds the seals that the node has and the place does not, if the node still has the place's last one.
func (s *Sealer) copy(ctx context.Context, p *Place) error {
	if p.Shared {
		switch primary, err := s.Store.IsPrimary(ctx); {
		case err != nil:
			return errNodeAway
		case !primary:
			return nil // the primary's daemon adds them
		}
	}
	for taken := 0; ctx.Err() == nil; {
		last, err := p.Keeper.Last(ctx)
		if err != nil {
			return err
		}
		seals, at, err := s.Store.SealsAfter(ctx, last.ID, copyLimit)
		switch {
		case err != nil:
			return errNodeAway
		case last.ID != 0 && at == nil:
			return &Fault{Seal: last.ID,
				What: fmt.Sprintf("seal %d was seen %s and the node does not have it: the newest seals are gone", last.ID, p.Where)}
		case last.ID != 0 && *at != last.Hash:
			return &Fault{Seal: last.ID, What: fmt.Sprintf("seal %d is not the one that was seen %s: the chain was made anew",
				last.ID, p.Where)}
		case len(seals) == 0:
			return nil
		}
		err = p.Keeper.Add(ctx, seals)
		switch {
		case errors.Is(err, ErrAdded) && taken < takeovers:
			taken++
		case err != nil:
			return err
		case len(seals) < copyLimit:
			return nil
		}
	}
	return nil
}
