package rowcache

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperiondb/vault/internal/db"
)

// Writers commit in another order than they begin, readers come and go, the feed is pruned, the apps change, the node
// restarts or goes away for a while, and polls are slow, hang or fail. No answer is older than the bound, or than the
// position that it was asked for, than the process' own change or than an earlier answer; none has rows newer than its
// access epoch, or a version that has ended. In every second run, reads survive the node: then no answer is older than
// it says. Chance decides what happens, so a run goes on until it has had all that it is to have.
func TestAnswersAreNeverOld(t *testing.T) {
	for run := range 6 {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { neverOld(t, time.Duration(run%2)*3*time.Second) })
		})
	}
}

func neverOld(t *testing.T, survive time.Duration) {
	const names, readers, writers = 5, 8, 3
	const shortest, longest = 40 * time.Second, 10 * time.Minute // of the bubble's time, which costs 3 ms a second
	n := newSimulated()
	c := newCache(t, Options{Source: n, Bytes: 3 * 1000, Survive: survive}) // some do not fit
	name := func() string { return fmt.Sprintf("secret/%d", rand.IntN(names)) }
	for i := range names {
		n.put(n.begin(), fmt.Sprintf("secret/%d", i))
	}
	done := make(chan struct{})
	var running sync.WaitGroup
	loop := func(each func()) {
		running.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					each()
				}
			}
		})
	}
	var reads atomic.Int64
	read := func(a Ask, secret string, least db.LSN) {
		arrived, before := time.Now(), n.shown(secret, 0)
		answer, err := c.Read(t.Context(), secret, a)
		if err != nil {
			t.Errorf("reading: %v", err)
			return
		}
		row, err := answer.Current()
		if n.shown(secret, row.Version); err != nil || row.Version < before && answer.Unconfirmed == 0 {
			t.Errorf("%s: got version %d (%v); %d, which is committed, was shown before", secret, row.Version, err, before)
		}
		reads.Add(1)
		n.check(t, secret, answer, a, max(a.MinLSN, least), arrived, time.Duration(c.confirm))
	}
	for range writers {
		loop(func() {
			pause(40 * time.Millisecond)
			secret, tx := name(), n.begin()
			pause(60 * time.Millisecond)
			n.put(tx, secret)
			if rand.IntN(3) == 0 { // a change of this process
				c.Drop(secret)
				n.mu.Lock()
				least := n.commits
				n.mu.Unlock()
				read(Ask{}, secret, least)
			}
		})
	}
	for range readers {
		loop(func() {
			switch rand.IntN(12) {
			case 0:
				pause(300 * time.Millisecond) // the polls end meanwhile
			case 1:
				read(Ask{Fresh: true}, name(), 0)
			case 2:
				n.mu.Lock()
				position := n.commits
				n.mu.Unlock()
				read(Ask{Live: true, MinLSN: position}, name(), 0)
			default:
				pause(2 * time.Millisecond)
				read(Ask{Live: rand.IntN(2) == 0}, name(), 0)
			}
		})
	}
	loop(func() { pause(500 * time.Millisecond); n.prune() })
	loop(func() { pause(50 * time.Millisecond); n.changeApps() })
	loop(func() {
		pause(5 * time.Second)
		n.mu.Lock()
		n.restart()
		n.down = rand.IntN(2) == 0
		n.mu.Unlock()
		pause(3 * time.Second)
		n.mu.Lock()
		n.down = false
		n.mu.Unlock()
	})
	survived := func() bool { s := c.Stats(); return (s.Survived > 0) == (survive > 0) && s.Waited > 0 }
	proves := func() bool {
		s := c.Stats()
		return s.Hits >= uint64(reads.Load()/4) && s.Dropped["named"] > 0 && s.Dropped["evicted"] > 0 &&
			s.DroppedAll["session"] >= 2
	}
	for began := time.Now(); ; {
		time.Sleep(time.Second)
		if ran := time.Since(began); t.Failed() || ran >= longest || ran >= shortest && survived() && proves() {
			break
		}
	}
	close(done)
	running.Wait()
	if t.Failed() { // at once: what the run has had until then proves nothing more
		return
	}
	if !survived() {
		t.Errorf("reads did not survive as they should: %+v", c.Stats())
	}
	if !proves() {
		t.Errorf("%d reads with %+v prove little", reads.Load(), c.Stats())
	}
}

// check fails if an answer is older than the bound, or does not have what was committed up to a position.
func (n *simulated) check(t *testing.T, secret string, answer Answer, a Ask, least db.LSN, arrived time.Time,
	bound time.Duration) {
	t.Helper()
	switch {
	case answer.Unconfirmed > bound:
		bound = answer.Unconfirmed
	case a.Fresh:
		bound = 0
	}
	rows, err := answer.Live()
	if err != nil {
		t.Errorf("%s: %v", secret, err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	versions, version := n.secrets[secret], rows[0].Version
	epoch := answer.Epoch()
	seen := int(binary.BigEndian.Uint64(epoch[:]))
	if version < len(versions) && versions[version].at.Before(arrived.Add(-bound)) {
		t.Errorf("%s (%+v): got the old version %d; %d was committed %s before the request", secret, a, version, version+1,
			arrived.Sub(versions[version].at))
	}
	if version < len(versions) && least >= versions[version].position {
		t.Errorf("%s: got version %d, which ended at %d, before the position %d", secret, version,
			versions[version].position, least)
	}
	if seen < len(n.epochs) && n.epochs[seen].at.Before(arrived.Add(-bound)) {
		t.Errorf("%s: got an old epoch, which ended %s before the request", secret, arrived.Sub(n.epochs[seen].at))
	}
	if seen < len(n.epochs) && n.epochs[seen].position < versions[version-1].position {
		t.Errorf("%s: got version %d with an epoch that had ended before it was made", secret, version)
	}
	for _, row := range rows {
		if row.ExpiresAt != nil && !row.ExpiresAt.After(arrived.Add(n.ahead)) {
			t.Errorf("%s: got version %d, which had ended", secret, row.Version)
		}
	}
}
