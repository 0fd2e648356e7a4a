package chaos

import (
	"slices"
	"sync"
	"time"
)

// Timeline is what whoever breaks the cluster says about it, so that the oracle knows which reads had to succeed. It is
// safe for concurrent use.
type Timeline struct {
	mu        sync.Mutex
	faults    map[string]int // by kind
	primaries []Failover
	broken    []window
	unsettled []window
}

// Failover is one loss of the primary.
type Failover struct {
	Died     time.Time // its server was ended
	Promoted time.Time // another was told to take over; zero = it came back itself, or nobody has yet
	Back     time.Time // the cluster has a primary again
	Old, New string    // nodes; New is "" without a promotion
}

// window is a span in which a node's own server or vaultd was being broken.
type window struct {
	node     string // "" = every node (the KMS was)
	from, to time.Time
}

func (w window) overlaps(from, to time.Time) bool {
	return !w.from.After(to) && (w.to.IsZero() || !w.to.Before(from))
}

// Fault counts one fault of a kind.
func (t *Timeline) Fault(kind string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.faults == nil {
		t.faults = map[string]int{}
	}
	t.faults[kind]++
}

// Broken says that a node's server or vaultd ("" = every node's) is being broken until the answer is called.
func (t *Timeline) Broken(node string) (mended func()) { return t.BrokenSince(node, time.Now()) }

// BrokenSince is Broken for what turns out afterwards.
func (t *Timeline) BrokenSince(node string, from time.Time) (mended func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := len(t.broken)
	t.broken = append(t.broken, window{node: node, from: from})
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.broken[i].to = time.Now()
	}
}

// Unsettled says that until the answer is called this primary may show what no standby has, because somebody ended a
// wait for one: PostgreSQL makes such a commit visible. What was read from it then proves nothing.
func (t *Timeline) Unsettled(primary string) (settled func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := len(t.unsettled)
	t.unsettled = append(t.unsettled, window{node: primary, from: time.Now()})
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.unsettled[i].to = time.Now()
	}
}

// settledReads leaves out what was read in an unsettled span.
func (t *Timeline) settledReads(all []Read) []Read {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.DeleteFunc(all, func(r Read) bool {
		return slices.ContainsFunc(t.unsettled, func(w window) bool {
			return (r.Node == "" || r.Node == w.node) && w.overlaps(r.Called, r.Returned)
		})
	})
}

// PrimaryDied says that the primary is about to be ended: it may still answer now, and is gone soon.
func (t *Timeline) PrimaryDied(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.primaries = append(t.primaries, Failover{Died: time.Now(), Old: node})
}

// Promoting says that a node is now told to take over.
func (t *Timeline) Promoting(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := &t.primaries[len(t.primaries)-1]
	last.Promoted, last.New = time.Now(), node
}

// PrimaryBack says that writes are taken again.
func (t *Timeline) PrimaryBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.primaries[len(t.primaries)-1].Back = time.Now()
}

// Failovers returns what PrimaryDied and the others said.
func (t *Timeline) Failovers() []Failover {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.primaries)
}

// Faults counts the faults by kind.
func (t *Timeline) Faults() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts := map[string]int{}
	for kind, n := range t.faults {
		counts[kind] = n
	}
	return counts
}

// mustSucceed reports whether a read had to be answered: the primary was dead all along, and its own node was left
// alone. The node that died is not asked about: its vaultd has nothing to read from.
func (t *Timeline) mustSucceed(a Attempt) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	dead := slices.ContainsFunc(t.primaries, func(f Failover) bool {
		return f.Old != a.Node && !a.Called.Before(f.Died) && !f.Back.IsZero() && !a.Returned.After(f.Back)
	})
	return dead && !slices.ContainsFunc(t.broken, func(w window) bool {
		return (w.node == "" || w.node == a.Node) && w.overlaps(a.Called, a.Returned)
	})
}

// restarted reports whether a node's server may have been started anew in a span: a standby that recovers may be behind
// what it has shown before.
func (t *Timeline) restarted(node string, from, to time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.broken, func(w window) bool {
		return w.node == node && w.overlaps(from, to)
	})
}
