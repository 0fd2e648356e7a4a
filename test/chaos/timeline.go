package chaos

import (
	"slices"
	"sync"
	"time"
)

// Timeline is the nemesis's record of its faults, so that the oracle knows which reads had to succeed. It is safe for
// concurrent use.
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
	Promoted time.Time // another node was promoted; zero = the old one came back, or no node leads yet
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

// Broken records that a node's server or vaultd ("" = every node's) is broken until the returned function is called.
func (t *Timeline) Broken(node string) (mended func()) { return t.BrokenSince(node, time.Now()) }

// BrokenSince is Broken from an earlier time on.
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

// Unsettled records that until the returned function is called this primary may show rows that no standby has, because
// a wait for one was ended: PostgreSQL makes such a commit visible. Reads from it then are not judged.
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

// settledReads leaves out reads of an unsettled span.
func (t *Timeline) settledReads(all []Read) []Read {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.DeleteFunc(all, func(r Read) bool {
		return slices.ContainsFunc(t.unsettled, func(w window) bool {
			return (r.Node == "" || r.Node == w.node) && w.overlaps(r.Called, r.Returned)
		})
	})
}

// PrimaryDied records that the primary is about to be ended: it may still answer for a moment.
func (t *Timeline) PrimaryDied(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.primaries = append(t.primaries, Failover{Died: time.Now(), Old: node})
}

// Promoting records that a node is being promoted.
func (t *Timeline) Promoting(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := &t.primaries[len(t.primaries)-1]
	last.Promoted, last.New = time.Now(), node
}

// PrimaryBack records that the cluster takes writes again.
func (t *Timeline) PrimaryBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.primaries[len(t.primaries)-1].Back = time.Now()
}

// Failovers returns the failovers recorded so far.
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

// mustSucceed reports whether a read had to be answered: the primary was dead throughout, and the read's node had no
// fault. Reads of the dead node are left out, since its vaultd has no server to read from.
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

// restarted reports whether a node's server may have restarted in a span: a recovering standby may be behind its
// earlier answers.
func (t *Timeline) restarted(node string, from, to time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.broken, func(w window) bool {
		return w.node == node && w.overlaps(from, to)
	})
}

// disturbed reports whether there may have been no primary in a span, or a fault of a node's server, vaultd or KMS.
func (t *Timeline) disturbed(node string, from, to time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.primaries, func(f Failover) bool {
		return window{from: f.Died, to: f.Back}.overlaps(from, to)
	}) || slices.ContainsFunc(t.broken, func(w window) bool {
		return (w.node == "" || w.node == node) && w.overlaps(from, to)
	})
}
