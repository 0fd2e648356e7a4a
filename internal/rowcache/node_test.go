package rowcache

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
)

// simulated is a node with transactions, snapshots and a change feed, whose every answer takes a while. It runs in a
// bubble of package synctest, so the time is that of the test.
type simulated struct {
	calm bool // nothing fails or hangs

	mu       sync.Mutex
	instance db.Instance
	ahead    time.Duration // its clock, of ours
	nextTx   uint64
	running  map[uint64]bool // transactions with an id, not committed
	secrets  map[string][]commit
	epochs   []commit // of access
	feed     []change
	floor    uint64
	commits  db.LSN // so many, as a position in the log
	session  *simulatedFeed
	newest   map[string]int // versions that were shown
	down     bool
	frozen   bool // it answers nothing
	overflow bool // there are too many names
	unusable bool // it has no feed
	scope    string
	loads    int
}

// commit is one version of a secret, or of the apps.
type commit struct {
	position db.LSN
	at       time.Time
	ends     *time.Time // of a secret's version: the end of its grace, by the node's clock
}

type change struct {
	tx   uint64
	name string
}

const grace = 40 * time.Millisecond

func newSimulated() *simulated {
	n := &simulated{running: map[uint64]bool{}, secrets: map[string][]commit{}, newest: map[string]int{},
		nextTx: 100, ahead: -3 * time.Second}
	n.restart()
	n.changeApps()
	return n
}

func (n *simulated) restart() {
	n.instance = db.Instance{System: "1", Started: time.Now()}
}

func (n *simulated) now() time.Time { return time.Now().Add(n.ahead) }

// begin gives a transaction its id, which says nothing about when it commits.
func (n *simulated) begin() (tx uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nextTx++
	n.running[n.nextTx] = true
	return n.nextTx
}

// put commits a new version of a secret, and ends the transaction.
func (n *simulated) put(tx uint64, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.running, tx)
	n.commits++
	versions := n.secrets[name]
	if len(versions) > 0 {
		ends := n.now().Add(grace)
		versions[len(versions)-1].ends = &ends
	}
	n.secrets[name] = append(versions, commit{position: n.commits, at: time.Now()})
	n.feed = append(n.feed, change{tx, name})
}

// shown notes that a read has shown a version, and returns the newest that was.
func (n *simulated) shown(name string, version int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.newest[name] = max(n.newest[name], version)
	return n.newest[name]
}

func (n *simulated) changeApps() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.commits++
	n.epochs = append(n.epochs, commit{position: n.commits, at: time.Now()})
}

// prune forgets changes that the newest snapshot needs no more, as the supervisor does.
func (n *simulated) prune() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.floor = n.xmin()
	n.feed = slices.DeleteFunc(n.feed, func(c change) bool { return c.tx < n.floor })
}

func (n *simulated) xmin() uint64 {
	least := n.nextTx + 1
	for tx := range n.running {
		least = min(least, tx)
	}
	return least
}

func pause(most time.Duration) { time.Sleep(rand.N(most)) }

// epochOf numbers epochs from 1, as the zero epoch is none.
func epochOf(n int) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:], uint64(n))
	return id
}

func (n *simulated) LoadLive(ctx context.Context, name string) (db.Reading, db.Instance, error) {
	pause(4 * time.Millisecond)
	n.mu.Lock()
	n.loads++
	if n.frozen {
		n.mu.Unlock()
		return db.Reading{}, db.Instance{}, hang(ctx)
	}
	if n.down {
		n.mu.Unlock()
		return db.Reading{}, db.Instance{}, fmt.Errorf("%w: it is down", db.ErrUnavailable)
	}
	var rows []db.VersionRow
	all := n.secrets[name]
	for i := len(all) - 1; i >= 0; i-- {
		if ends := all[i].ends; ends == nil || ends.After(n.now()) {
			rows = append(rows, db.VersionRow{Version: i + 1, AAD: name, ExpiresAt: ends})
		}
	}
	r, instance := db.ReadingOf(epochOf(len(n.epochs)), rows...), n.instance
	n.mu.Unlock()
	pause(30 * time.Millisecond)
	return r, instance, nil
}

func (n *simulated) ReadLive(ctx context.Context, name string) (db.Reading, error) {
	r, _, err := n.LoadLive(ctx, name)
	return r, err
}

func (n *simulated) ReadCurrent(ctx context.Context, name string) (db.Reading, error) {
	return n.ReadLive(ctx, name)
}

func (n *simulated) XMinHolder(context.Context) (string, error) { return "a transaction", nil }

func (n *simulated) OpenFeed(context.Context) (Feed, error) {
	pause(5 * time.Millisecond)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.unusable {
		return nil, fmt.Errorf("%w: there is a pooler", db.ErrFeedUnusable)
	}
	if n.down {
		return nil, fmt.Errorf("%w: it is down", db.ErrUnavailable)
	}
	n.session = &simulatedFeed{node: n, instance: n.instance}
	return n.session, nil
}

type simulatedFeed struct {
	node     *simulated
	instance db.Instance
	closed   bool
}

func (f *simulatedFeed) Close() { f.closed = true }

// Poll takes its snapshot, and reads the position after that, as functions of a statement run.
func (f *simulatedFeed) Poll(ctx context.Context, since uint64) (db.Poll, error) {
	n := f.node
	pause(3 * time.Millisecond)
	n.mu.Lock()
	if n.down || f.instance != n.instance {
		n.mu.Unlock()
		return db.Poll{}, fmt.Errorf("%w: the session is gone", db.ErrUnavailable)
	}
	if n.frozen {
		n.mu.Unlock()
		return db.Poll{}, hang(ctx)
	}
	p := db.Poll{XMin: n.xmin(), Floor: n.floor, Scope: n.scope, Overflow: n.overflow, All: n.overflow,
		Epoch: epochOf(len(n.epochs)), Instance: n.instance, Now: n.now()}
	for _, c := range n.feed {
		if since != 0 && c.tx >= since {
			p.Names = append(p.Names, c.name)
		}
	}
	n.mu.Unlock()
	pause(4 * time.Millisecond)
	n.mu.Lock()
	p.Position = n.commits
	n.mu.Unlock()
	pause(4 * time.Millisecond)
	switch odds := rand.IntN(400); {
	case n.calm:
	case odds == 0:
		return db.Poll{}, fmt.Errorf("%w: the answer was lost", db.ErrUnavailable)
	case odds == 1: // no answer
		return db.Poll{}, hang(ctx)
	case odds < 10:
		pause(60 * time.Millisecond)
	}
	return p, nil
}

// hang is a query without an answer: the source has limits of its own.
func hang(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
	}
	return fmt.Errorf("%w: no answer in time", db.ErrUnavailable)
}

// newCache makes a cache by the clock of the bubble.
func newCache(t *testing.T, o Options) *Cache {
	t.Helper()
	if o.Confirm == 0 {
		o.Confirm = 20 * time.Millisecond
	}
	if o.Bytes == 0 {
		o.Bytes = 1 << 20
	}
	c := New(o)
	c.now = func() int64 { return time.Now().UnixNano() }
	t.Cleanup(c.Close)
	return c
}
