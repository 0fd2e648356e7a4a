package seal

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Limits of one seal.
const (
	MaxRows  = 1000        // unless one transaction wrote more
	Interval = time.Second // after which fewer are sealed too
)

// Store is the primary, as the sealer sees it.
type Store interface {
	// SealAudit hands the next window, if one has closed, to make and stores the seals it returns, all in one transaction. It
	// returns how many rows were sealed: 0 on a standby, beside another sealer, or if nothing waits.
	SealAudit(ctx context.Context, limit int, make func(Window) ([]Seal, error)) (int, error)
	// SealsAfter reads seals from the local node, in order; of the one with that id its hash besides.
	SealsAfter(ctx context.Context, id int64, limit int) (seals []Seal, at *Hash, err error)
}

// Window is the rows of one window of transaction ids, in the order of (month, tx, id), and the seal they come after.
type Window struct {
	SystemID     int64
	FromTx, ToTx uint64
	LastID       int64
	LastHash     Hash
	Rows         []Row
	Now          time.Time // of the primary
}

// Seal makes the seals of a window, one a month.
func (w *Window) Seal(key *Key) ([]Seal, error) {
	var seals []Seal
	id, previous := w.LastID, w.LastHash
	for from := 0; from < len(w.Rows); {
		to, month := from, Month(w.Rows[from].At)
		for to < len(w.Rows) && Month(w.Rows[to].At).Equal(month) {
			to++
		}
		s, err := New(w.Rows[from:to])
		if err != nil {
			return nil, err
		}
		id++
		s.ID, s.SystemID, s.Month, s.FromTx, s.ToTx, s.Previous, s.SealedAt = id, w.SystemID, month, w.FromTx, w.ToTx, previous, w.Now
		key.Sign(&s)
		seals, previous, from = append(seals, s), s.Hash, to
	}
	return seals, nil
}

// Sealer seals what has closed, where the node is the primary, and keeps copies of the seals that the local node has. It runs
// beside every node.
type Sealer struct {
	Store  Store
	Key    *Key    // nil: it keeps copies only
	Copies *Copies // nil: it seals only
	Log    *slog.Logger

	mu     sync.Mutex
	alarm  error // the copies do not fit the node's seals
	failed error // the last attempt to seal failed
	sealed int64 // rows, by this daemon
}

// Run goes round once an interval until ctx ends.
func (s *Sealer) Run(ctx context.Context) {
	ticks := time.NewTicker(Interval)
	defer ticks.Stop()
	for ctx.Err() == nil {
		s.round(ctx)
		select {
		case <-ctx.Done():
		case <-ticks.C:
		}
	}
}

func (s *Sealer) round(ctx context.Context) {
	if s.Key != nil {
		s.settle(ctx, &s.failed, "sealing the audit log failed", s.seal(ctx))
	}
	if s.Copies != nil {
		s.settle(ctx, &s.alarm, "the seals of the audit log do not fit those seen before", s.copy(ctx))
	}
}

// settle keeps an error for readiness, and logs it when it is a new one.
func (s *Sealer) settle(ctx context.Context, kept *error, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && (*kept == nil || (*kept).Error() != err.Error()) {
		s.Log.Error(what, "error", err)
	}
	*kept = err
}

// seal goes on while windows are full.
func (s *Sealer) seal(ctx context.Context) error {
	for ctx.Err() == nil {
		n, err := s.Store.SealAudit(ctx, MaxRows, func(w Window) ([]Seal, error) { return w.Seal(s.Key) })
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.sealed += int64(n)
		s.mu.Unlock()
		if n < MaxRows {
			return nil
		}
	}
	return nil
}

const copyLimit = 1000

// copy appends what the node has and the file does not, once the node still has the file's last.
func (s *Sealer) copy(ctx context.Context) error {
	for ctx.Err() == nil {
		last := s.Copies.Last()
		seals, at, err := s.Store.SealsAfter(ctx, last.ID, copyLimit)
		switch {
		case err != nil:
			return nil // the node is away, which readiness says already
		case last.ID != 0 && at == nil:
			return &Fault{Seal: last.ID, What: fmt.Sprintf("seal %d was seen here and the node does not have it: the newest seals are gone", last.ID)}
		case last.ID != 0 && *at != last.Hash:
			return &Fault{Seal: last.ID, What: fmt.Sprintf("seal %d is not the one that was seen here: the chain was made anew", last.ID)}
		}
		if err := s.Copies.Add(seals); err != nil {
			return err
		}
		if len(seals) < copyLimit {
			return nil
		}
	}
	return nil
}

// Check is for readiness: the node's seals go on from those seen before. That sealing fails is for [Sealer.State] alone: no
// node must stop answering because of its primary.
func (s *Sealer) Check(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alarm
}

// State is for metrics: the rows this daemon has sealed, whether the last attempt failed, and whether there is an alarm.
func (s *Sealer) State() (sealed int64, failing, alarm bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealed, s.failed != nil, s.alarm != nil
}
