package httpapi

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/vault"
)

// Apps reads the apps of the local node. Both methods return within a few seconds.
type Apps interface {
	// ReadSnapshot reads all apps and their epoch at one moment.
	ReadSnapshot(ctx context.Context) (access.Snapshot, error)
	// ReadEpoch reads the epoch alone.
	ReadEpoch(ctx context.Context) (uuid.UUID, error)
}

const (
	// askEvery bounds how often the node is asked for its epoch because of requests that would be refused.
	askEvery = 100 * time.Millisecond
	// appsTimeout of one query, which has a context of its own: a caller that leaves does not cancel it for the rest.
	appsTimeout = 5 * time.Second
	// olderEpochs is how many epochs are remembered after a change.
	olderEpochs = 16
)

// apps is the daemon's copy of the apps. It is replaced when a read, or a question before a refusal, shows that the
// node has another epoch. While the node does not answer the copy stays.
type apps struct {
	source  Apps
	current atomic.Pointer[access.Index] // nil until the first snapshot was read

	mu      sync.Mutex
	reading *sharedIndex           // the snapshot that is being read; one at a time: an old one replaces no newer one
	asking  *sharedIndex           // the question for the epoch that is not sent yet
	asked   time.Time              // when the last one was sent
	older   [olderEpochs]uuid.UUID // epochs of copies that were replaced
	next    int                    // in older
}

// sharedIndex is one answer for all requests that wait for it.
type sharedIndex struct {
	done  chan struct{}
	index *access.Index // set, or err, before done is closed
	err   error
	older bool // the copy was in use before the one that it found in use
}

func (s *sharedIndex) wait(ctx context.Context) (*access.Index, error) {
	select {
	case <-s.done:
		return s.index, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func newApps(source Apps) *apps {
	if source == nil {
		source = noApps{}
	}
	return &apps{source: source}
}

// noApps is a node without apps.
type noApps struct{}

var noEpoch = uuid.NewSHA1(uuid.NameSpaceOID, []byte("no apps"))

func (noApps) ReadSnapshot(context.Context) (access.Snapshot, error) {
	return access.Snapshot{Epoch: noEpoch}, nil
}
func (noApps) ReadEpoch(context.Context) (uuid.UUID, error) { return noEpoch, nil }

// any returns the copy there is, or reads the first.
func (a *apps) any(ctx context.Context) (*access.Index, error) {
	if x := a.current.Load(); x != nil {
		return x, nil
	}
	shared, _ := a.read()
	return shared.wait(ctx)
}

// at returns the copy that has the epoch, which a statement has just read. Where the node has moved on since, it
// returns a newer one.
func (a *apps) at(ctx context.Context, epoch uuid.UUID) (*access.Index, error) {
	x, older := a.current.Load(), false
	// A read in progress may have begun before the epoch was made. The one after it has not.
	for range 2 {
		if x != nil && x.Epoch() == epoch {
			return x, nil
		}
		shared, began := a.read()
		var err error
		if x, err = shared.wait(ctx); err != nil {
			return nil, err
		}
		older = shared.older
		if began {
			break
		}
	}
	// A pool whose connections reach several servers could bring back a copy from before a revocation.
	if x.Epoch() != epoch && older {
		return nil, fmt.Errorf("%w: the node's apps are older than its secrets", vault.ErrUnavailable)
	}
	return x, nil
}

// newest returns a copy that is as new as the node at the time of the call. Callers within askEvery share one question.
func (a *apps) newest(ctx context.Context) (*access.Index, error) {
	a.mu.Lock()
	shared := a.asking
	if shared == nil {
		shared = &sharedIndex{done: make(chan struct{})}
		a.asking = shared
		go a.ask(shared, askEvery-time.Since(a.asked))
	}
	a.mu.Unlock()
	return shared.wait(ctx)
}

func (a *apps) ask(shared *sharedIndex, after time.Duration) {
	defer close(shared.done)
	time.Sleep(after)
	a.mu.Lock()
	a.asking, a.asked = nil, time.Now() // the node may answer this question before a later call begins
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), appsTimeout)
	defer cancel()
	epoch, err := a.source.ReadEpoch(ctx)
	if err != nil {
		shared.err = fmt.Errorf("reading the access epoch: %w", err)
		return
	}
	shared.index, shared.err = a.at(ctx, epoch)
}

// read joins the snapshot that is being read, or begins to read one.
func (a *apps) read() (shared *sharedIndex, began bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reading != nil {
		return a.reading, false
	}
	shared = &sharedIndex{done: make(chan struct{})}
	a.reading = shared
	go func() {
		defer close(shared.done)
		ctx, cancel := context.WithTimeout(context.Background(), appsTimeout)
		defer cancel()
		snapshot, err := a.source.ReadSnapshot(ctx)
		if err == nil && snapshot.Epoch == uuid.Nil {
			err = fmt.Errorf("%w: the node has no access epoch", vault.ErrUnavailable)
		}
		if err != nil {
			shared.err = fmt.Errorf("reading the apps: %w", err)
		} else {
			shared.index = access.NewIndex(snapshot)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.reading = nil
		if shared.index != nil {
			shared.older = a.replaced(shared.index.Epoch())
			a.replace(shared.index)
		}
	}()
	return shared, true
}

// replace is called with mu held.
func (a *apps) replace(x *access.Index) {
	before := a.current.Swap(x)
	if before != nil && before.Epoch() != x.Epoch() {
		a.older[a.next] = before.Epoch()
		a.next = (a.next + 1) % olderEpochs
	}
}

// replaced is called with mu held.
func (a *apps) replaced(epoch uuid.UUID) bool {
	for _, e := range a.older {
		if e == epoch {
			return true
		}
	}
	return false
}
