package seal

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Keeper keeps seals outside of PostgreSQL: what a primary that lost its newest seals, or made them anew, is held
// against. A file of the node's own ([Copies]), or a bucket of all nodes. It only ever grows, and may begin anywhere.
type Keeper interface {
	// Last is the newest seal that is kept; its ID is 0 if there is none.
	Last(ctx context.Context) (Seal, error)
	// Add keeps seals that follow the last. When it returns without an error they are durable.
	Add(ctx context.Context, seals []Seal) error
}

// Errors of a keeper that say nothing about the seals; all others are alarms.
var (
	ErrAway  = errors.New("cannot be reached")
	ErrAdded = errors.New("somebody else has added seals") // or this very Add, whose answer was lost: Last tells
)

// errNodeAway: nothing can be compared. Readiness has a part for the node.
var errNodeAway = errors.New("the node is away")

// Place is a keeper, and how it goes there.
type Place struct {
	Keeper Keeper
	Where  string        // such as "here", for texts
	Every  time.Duration // how often what is new is added; 0: after each round of sealing
	Shared bool          // by all nodes: the primary's adds to it, and once more at the end

	// Guarded by the sealer's lock.
	alarm trouble   // what is kept does not fit the node's seals
	away  trouble   // it could not be reached
	whole time.Time // when it last had all that the node had
}

const (
	copyLimit = 1000 // seals
	takeovers = 3    // in a row of one Add
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

// visit adds what is new and keeps what went wrong, for readiness and metrics.
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
	if errors.Is(err, ErrAway) || errors.Is(err, ErrAdded) { // an alarm stays: nothing new is known about it
		p.away.settle(s.Log, "keeping the seals of the audit log failed", err)
		return
	}
	p.away.settle(s.Log, "", nil)
	p.alarm.settle(s.Log, "the seals of the audit log do not fit those seen before", err)
	if err == nil {
		p.whole = began
	}
}

// copy adds what the node has and the place does not, once the node still has the place's last.
func (s *Sealer) copy(ctx context.Context, p *Place) error {
	if p.Shared {
		switch primary, err := s.Store.IsPrimary(ctx); {
		case err != nil:
			return errNodeAway
		case !primary:
			return nil // another node's to do
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
