package seal

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Limits of one seal.
const (
	MaxRows  = 1000        // unless one transaction wrote more
	Interval = time.Second // after which fewer are sealed too

	// SignLimit bounds the signatures of a window of up to a year, since its transaction is open meanwhile. Only rows of
	// one transaction make a window of more.
	SignLimit = 4 * time.Second
)

// Store is the part of the vault that the sealer uses.
type Store interface {
	// SealAudit calls make with the next window, if one has closed, and stores the seals it returns, all in one
	// transaction. It returns how many rows were sealed: 0 on a standby, while another sealer works, or if there are none.
	SealAudit(ctx context.Context, limit int, make func(Window) ([]Seal, error)) (int, error)
	// SealsAfter reads seals after an id from the local node, in order, and the hash of the seal with that id.
	SealsAfter(ctx context.Context, id int64, limit int) (seals []Seal, at *Hash, err error)
	// IsPrimary reports whether the local node is the primary.
	IsPrimary(ctx context.Context) (bool, error)
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

// signLimit grows with the years of a window, since a slow key service could never seal a transaction with rows of
// many.
func (w *Window) signLimit() time.Duration {
	months := 0
	for i := range w.Rows {
		if i == 0 || !Month(w.Rows[i].At.Time).Equal(Month(w.Rows[i-1].At.Time)) {
			months++
		}
	}
	return SignLimit * time.Duration(1+months/13)
}

// Seal makes the seals of a window, one a month.
func (w *Window) Seal(ctx context.Context, by Signer) ([]Seal, error) {
	var seals []Seal
	id, previous := w.LastID, w.LastHash
	for from := 0; from < len(w.Rows); {
		to, month := from, Month(w.Rows[from].At.Time)
		for to < len(w.Rows) && Month(w.Rows[to].At.Time).Equal(month) {
			to++
		}
		s, err := New(w.Rows[from:to])
		if err != nil {
			return nil, err
		}
		id++
		s.ID, s.SystemID, s.Month, s.FromTx, s.ToTx, s.Previous, s.SealedAt = id, w.SystemID, month, w.FromTx, w.ToTx,
			previous, w.Now
		if err := s.Sign(ctx, by); err != nil {
			return nil, err
		}
		seals, previous, from = append(seals, s), s.Hash, to
	}
	return seals, nil
}

// Sealer seals closed windows if the node is the primary, and keeps copies of the seals of the local node. It runs
// beside every node.
type Sealer struct {
	Store  Store
	Key    Signer // nil: it keeps copies only
	Places []*Place
	Log    *slog.Logger
	Report func(context.Context, error) // after each attempt to seal; nil: none is reported

	mu     sync.Mutex // guards the rest, and the state of the places
	sealed int64      // rows, by this daemon
	failed trouble    // the last attempt to seal failed
	key    string     // the last one used
}

// Run seals and keeps seals until ctx ends. A place with its own interval has its own goroutine, so a slow one does not
// delay the rest.
func (s *Sealer) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { every(ctx, Interval, s.round) })
	for _, p := range s.Places {
		if p.Every > 0 {
			running.Go(func() { s.runPlace(ctx, p) })
		}
	}
	running.Wait()
}

// every calls round at once and then once an interval.
func every(ctx context.Context, interval time.Duration, round func(context.Context)) {
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for ctx.Err() == nil {
		round(ctx)
		select {
		case <-ctx.Done():
		case <-ticks.C:
		}
	}
}

func (s *Sealer) round(ctx context.Context) {
	if s.Key != nil {
		s.settleSealing(ctx, s.seal(ctx))
	}
	for _, p := range s.Places {
		if p.Every == 0 {
			s.visit(ctx, p)
		}
	}
}

func (s *Sealer) settleSealing(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if s.Report != nil {
		s.Report(ctx, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed.settle(s.Log, "sealing the audit log failed", err)
}

// seal continues while windows are full. It gets the public key from the key service before it opens a transaction.
func (s *Sealer) seal(ctx context.Context) error {
	if err := s.logKey(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		n, err := s.Store.SealAudit(ctx, MaxRows, func(w Window) ([]Seal, error) {
			ctx, cancel := context.WithTimeout(ctx, w.signLimit())
			defer cancel()
			return w.Seal(ctx, s.Key)
		})
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

// logKey logs the key that seals: at the start, and when the key service has another one under the same name.
func (s *Sealer) logKey(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, SignLimit)
	defer cancel()
	public, err := s.Key.Public(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if key := public.String(); key != s.key {
		s.key = key
		s.Log.Info("sealing the audit log", "key", key)
	}
	return nil
}

// Check is for readiness: it fails if the node's seals do not continue those seen before. Failures of sealing or of a
// bucket are in [Sealer.State] and [Sealer.Sealing] only: a node must not stop answering because of its primary, or of
// a copy.
func (s *Sealer) Check(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.Places {
		if p.alarm.err != nil {
			return p.alarm.err
		}
	}
	return nil
}

// Sealing is the error of the last attempt to seal; nil if it succeeded.
func (s *Sealer) Sealing(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed.err
}

// State is for metrics.
type State struct {
	Sealed  int64         // rows, by this daemon
	Failing bool          // the last attempt to seal failed
	Alarm   bool          // the seals of a place do not fit the node's
	Away    bool          // a place could not be reached
	Behind  time.Duration // since when a place does not have all seals of the node; 0 while all do
}

// State returns the state of sealing and of the places.
func (s *Sealer) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := State{Sealed: s.sealed, Failing: s.failed.err != nil}
	for _, p := range s.Places {
		state.Alarm = state.Alarm || p.alarm.err != nil
		state.Away = state.Away || p.away.err != nil
		if p.alarm.err != nil || p.away.err != nil {
			state.Behind = max(state.Behind, time.Since(p.whole))
		}
	}
	return state
}

// trouble is an error that may last.
type trouble struct {
	err    error
	logged time.Time
}

// settle keeps an error, and logs it when it begins, or is another fault. Other errors that differ are the same trouble
// with another text (a request id, a port): they are logged once a minute.
func (t *trouble) settle(log *slog.Logger, what string, err error) {
	before := t.err
	t.err = err
	if err == nil || before != nil && (before.Error() == err.Error() || !errors.Is(err, ErrTampered) &&
		time.Since(t.logged) < time.Minute) {
		return
	}
	t.logged = time.Now()
	log.Error(what, "error", err)
}
