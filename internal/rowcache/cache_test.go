package rowcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperiondb/vault/internal/db"
)

// bubble runs a story on a calm node with the secrets "a" and "b", whose cache follows the feed.
func bubble(t *testing.T, o Options, story func(*testing.T, *simulated, *Cache)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newSimulated()
		n.calm = true
		for _, name := range []string{"a", "b"} {
			n.put(n.begin(), name)
		}
		o.Source = n
		c := newCache(t, o)
		mustRead(t, c, "a")
		time.Sleep(time.Second) // the feed is open, and the polls have ended
		mustRead(t, c, "a")
		story(t, n, c)
	})
}

func mustRead(t *testing.T, c *Cache, name string) (version int) {
	t.Helper()
	answer, err := c.Read(t.Context(), name, Ask{})
	if err != nil {
		t.Fatalf("reading %s: %v", name, err)
	}
	row, err := answer.Current()
	if err != nil {
		t.Fatalf("reading %s: %v", name, err)
	}
	return row.Version
}

// set changes the node under its lock.
func (n *simulated) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

// Polls are made while there are reads, and for a read after a pause one.
func TestWithoutReadsThereAreNoPolls(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, n *simulated, c *Cache) {
		time.Sleep(time.Second)
		polls, loads := c.Stats().Polls, n.loads
		time.Sleep(time.Hour)
		if got := c.Stats().Polls; got != polls {
			t.Errorf("got %d polls in an hour without reads", got-polls)
		}
		mustRead(t, c, "a") // the feed may not reach back an hour: the row is loaded
		time.Sleep(time.Second)
		mustRead(t, c, "a")
		if n.loads > loads+2 {
			t.Errorf("got %d loads of a row after a long pause, want at most 2", n.loads-loads)
		}
		time.Sleep(time.Second)
		polls, loads = c.Stats().Polls, n.loads
		for range 10 {
			mustRead(t, c, "a")
			time.Sleep(200 * time.Millisecond)
		}
		if got := c.Stats().Polls - polls; n.loads != loads || got != 10 {
			t.Errorf("got %d loads and %d polls for ten reads one after the other, want a poll for each", n.loads-loads, got)
		}
		polls = c.Stats().Polls
		for began := time.Now(); time.Since(began) < time.Second; time.Sleep(time.Millisecond) {
			mustRead(t, c, "a")
		}
		if got := c.Stats().Polls - polls; got < 50 || got > 102 {
			t.Errorf("got %d polls in a second of reads, want one every 10 ms, or as fast as they are answered", got)
		}
	})
}

func TestOneReadAfterAPauseTakesOneRoundTrip(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, n *simulated, c *Cache) {
		time.Sleep(time.Second)
		before := c.Stats()
		mustRead(t, c, "a")
		if got := c.Stats(); got.Polls != before.Polls+1 || got.Loads != before.Loads {
			t.Errorf("a kept row: got %d polls and %d loads, want 1 and 0", got.Polls-before.Polls, got.Loads-before.Loads)
		}
		time.Sleep(time.Second)
		before = c.Stats()
		mustRead(t, c, "b")
		if got := c.Stats(); got.Loads != before.Loads+1 {
			t.Errorf("another row: got %d loads, want 1", got.Loads-before.Loads)
		}
	})
}

// Reads ask the node, the log says so once, and rows are kept as soon as there is a feed.
func TestWithoutAFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, log := newSimulated(), &bytes.Buffer{}
		n.calm, n.unusable = true, true
		n.put(n.begin(), "a")
		c := newCache(t, Options{Source: n, Log: slog.New(slog.NewTextHandler(log, nil))})
		for range 200 {
			mustRead(t, c, "a")
			time.Sleep(500 * time.Millisecond)
		}
		s := c.Stats()
		if n.loads != 200 || s.Following || s.Rows != 0 || !strings.Contains(s.Trouble, "there is a pooler") {
			t.Errorf("got %d queries for 200 reads and %+v", n.loads, s)
		}
		if got := strings.Count(log.String(), "reads ask the database"); got != 1 {
			t.Errorf("got %d lines, want one: %s", got, log)
		}
		n.set(func() { n.unusable = false })
		for range 100 {
			mustRead(t, c, "a")
			time.Sleep(500 * time.Millisecond)
		}
		if s := c.Stats(); !s.Following || s.Rows != 1 || s.Trouble != "" ||
			!strings.Contains(log.String(), "answered from memory again") {
			t.Errorf("the feed was not used when there was one: %+v, %s", s, log)
		}
	})
}

func TestTooManyNames(t *testing.T) {
	log := &bytes.Buffer{}
	o := Options{Log: slog.New(slog.NewTextHandler(log, nil))}
	bubble(t, o, func(t *testing.T, n *simulated, c *Cache) {
		n.set(func() { n.overflow = true })
		time.Sleep(time.Second)
		mustRead(t, c, "a")
		time.Sleep(time.Second)
		loads := c.Stats().Loads
		for range 20 {
			mustRead(t, c, "a")
			time.Sleep(50 * time.Millisecond)
		}
		if s := c.Stats(); s.Rows != 0 || s.Following || s.Loads != loads || s.DroppedAll["overflow"] == 0 {
			t.Errorf("rows were kept though not all names are known: %+v", s)
		}
		if got := strings.Count(log.String(), `transaction="a transaction"`); got != 1 {
			t.Errorf("got %d lines that name the transaction, want one: %s", got, log)
		}
		n.set(func() { n.overflow = false })
		for range 20 {
			mustRead(t, c, "a")
			time.Sleep(50 * time.Millisecond)
		}
		if s := c.Stats(); s.Rows != 1 || !s.Following {
			t.Errorf("no row was kept when the names fitted again: %+v", s)
		}
	})
}

func TestAnotherScopeDropsAll(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, n *simulated, c *Cache) {
		mustRead(t, c, "b")
		n.set(func() { n.scope = "b/"; delete(n.secrets, "a") }) // as the policies show it
		time.Sleep(time.Second)
		answer, err := c.Read(t.Context(), "a", Ask{})
		_, absent := answer.Current()
		if s := c.Stats(); err != nil || !errors.Is(absent, db.ErrNotFound) || s.DroppedAll["scope"] != 1 {
			t.Errorf("got %v, %v and %+v", err, absent, s)
		}
	})
}

// A node that does not answer a poll for a second is asked by a query, and nothing is kept until it answers again.
func TestAPollThatHangs(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, n *simulated, c *Cache) {
		time.Sleep(time.Second)
		n.set(func() { n.frozen = true })
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := c.Read(ctx, "a", Ask{})
		if took := time.Since(began); !errors.Is(err, db.ErrUnavailable) || took < 2*time.Second || took > 4*time.Second {
			t.Errorf("got %v after %s, want unavailable at the deadline", err, took)
		}
		if s := c.Stats(); s.Rows != 0 || s.DroppedAll["lost"] != 1 {
			t.Errorf("rows stay after a poll that hung: %+v", s)
		}
		n.set(func() { n.frozen = false })
		for range 5 {
			mustRead(t, c, "a")
			time.Sleep(time.Second)
		}
		if s := c.Stats(); s.Rows != 1 {
			t.Errorf("no row is kept when the node answers again: %+v", s)
		}
	})
}

// A read waits for a node that is away for two seconds, and not for one that has been away for long.
func TestReadsWaitForTheNode(t *testing.T) {
	bubble(t, Options{Limit: 10 * time.Second}, func(t *testing.T, n *simulated, c *Cache) {
		n.set(func() { n.down = true })
		time.AfterFunc(2*time.Second, func() { n.set(func() { n.down = false; n.restart() }) })
		began := time.Now()
		for _, name := range []string{"a", "b"} {
			mustRead(t, c, name)
		}
		if took := time.Since(began); took < 2*time.Second || took > 2300*time.Millisecond {
			t.Errorf("the reads took %s, want a little more than two seconds", took)
		}
		n.set(func() { n.down = true })
		for _, want := range []time.Duration{patience, 0} {
			began = time.Now()
			_, err := c.Read(t.Context(), "a", Ask{})
			took := time.Since(began)
			if !errors.Is(err, db.ErrUnavailable) || took < want || took > want+300*time.Millisecond {
				t.Errorf("got %v after %s, want unavailable after %s", err, took, want)
			}
		}
		if s := c.Stats(); s.Waited < 2 {
			t.Errorf("got %d waits", s.Waited)
		}
	})
}

func TestKeptRowsSurviveTheNodeForTheTimeSet(t *testing.T) {
	for name, freeze := range map[string]bool{"down": false, "frozen": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, Options{Survive: 10 * time.Second}, func(t *testing.T, n *simulated, c *Cache) {
				left := time.Now()
				n.set(func() { n.down, n.frozen = !freeze, freeze })
				marked := 0
				for time.Since(left) < 9*time.Second {
					began := time.Now()
					answer, err := c.Read(t.Context(), "a", Ask{Live: true})
					if took := time.Since(began); err != nil || took > 3*time.Second {
						t.Fatalf("got %v after %s", err, took)
					}
					if answer.Unconfirmed > 0 {
						marked++
					}
					if age := time.Since(left); answer.Unconfirmed < age-time.Second && age > time.Second {
						t.Errorf("got an answer of %s ago that says %s", age, answer.Unconfirmed)
					}
					time.Sleep(300 * time.Millisecond)
				}
				if s := c.Stats(); marked < 15 || s.Survived < uint64(marked) {
					t.Errorf("got %d answers that are marked, and %+v", marked, s)
				}
				time.Sleep(2 * time.Second)
				if _, err := c.Read(t.Context(), "a", Ask{}); !errors.Is(err, db.ErrUnavailable) {
					t.Errorf("got %v after the time that reads may survive", err)
				}
				n.put(n.begin(), "a")
				n.set(func() { n.down, n.frozen = false, false; n.restart() })
				if got := mustRead(t, c, "a"); got != 2 {
					t.Errorf("got version %d when the node was back, want 2", got)
				}
			})
		})
	}
}

// The bytes are bounded, and the row that is always read stays.
func TestBytesAreBounded(t *testing.T) {
	const most = 100_000
	bubble(t, Options{Bytes: most}, func(t *testing.T, n *simulated, c *Cache) {
		name := func(i int) string { return fmt.Sprintf("many/%d", i) }
		for i := range 1000 {
			n.put(n.begin(), name(i))
		}
		time.Sleep(time.Second)
		for i := range 1000 {
			mustRead(t, c, name(i))
			mustRead(t, c, "a")
			if got := c.Stats().Bytes; got > most {
				t.Fatalf("got %d bytes, want at most %d", got, most)
			}
		}
		var counted int64
		for i := range c.shards {
			for _, e := range c.shards[i].entries {
				counted += e.bytes
			}
		}
		if s := c.Stats(); s.Bytes != counted || s.Bytes < most/2 || s.Dropped["evicted"] < 800 {
			t.Errorf("got %+v, and %d bytes by counting", s, counted)
		}
		loads := n.loads
		if mustRead(t, c, "a"); n.loads != loads {
			t.Error("the row that is always read was evicted")
		}
	})
}

func TestAHitAllocatesNothing(t *testing.T) {
	bubble(t, Options{Confirm: time.Hour}, func(t *testing.T, _ *simulated, c *Cache) {
		if got := testing.AllocsPerRun(1000, func() { mustRead(t, c, "a") }); got != 0 {
			t.Errorf("got %v allocations", got)
		}
	})
}
