package vault_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
	"github.com/hyperiondb/vault/test/chaos/pgproxy"
)

const (
	readConfirm = 20 * time.Millisecond
	disturbEach = 5 * readConfirm // so long until the next poll is disturbed
)

// commits of one secret, as a node has them.
type commits struct {
	mu  sync.Mutex
	all []seenCommit // in their order
}

type seenCommit struct {
	version  int
	position vault.LSN
	at       time.Time // it was there by then
}

func (c *commits) add(version int, position vault.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, seenCommit{version, position, time.Now()})
}

// by returns the newest that was there by then.
func (c *commits) by(then time.Time) (newest seenCommit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.all {
		if !one.at.After(then) {
			newest = one
		}
	}
	return newest
}

// remembering is a node that keeps rows in memory.
type remembering struct {
	raced
	own     bool // the changes are made through it
	commits [names]commits
}

// The same as TestSharedReadsAreNeverOld, where rows are kept in memory: on the primary, on a daemon of the primary
// that does not make the changes, and on a standby, while polls are late, hang or end. No reader sees a version older
// than one that its node had readConfirm before it asked, or older than the position that it asks for; the daemon that
// makes a change sees it at once.
func TestMemoryReadsAreNeverOld(t *testing.T) {
	store := vaulttest.Own(t)
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	defer func() { must(t, ring.Close()) }()
	writer, err := db.NewWriter(t.Context(), db.Options{URL: store.URL(vaulttest.Operator), MaxConns: names + 2})
	must(t, err)
	defer writer.Close()
	var proxies []*pgproxy.Proxy
	open := func(name string, node *localpg.Node, own bool) *remembering {
		p, err := pgproxy.New("unix", filepath.Join(node.SocketDir(), ".s.PGSQL."+strconv.Itoa(node.Port())))
		must(t, err)
		t.Cleanup(p.Close)
		proxies = append(proxies, p)
		url := fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", vaulttest.Operator, p.Port(), store.Database)
		reader, err := db.NewReader(t.Context(), db.Options{URL: url, MaxConns: 8, PlanOnce: true})
		must(t, err)
		t.Cleanup(reader.Close)
		v := vault.New(vault.Options{Reader: reader, Writer: writer, Keys: ring, CacheSize: 100, CacheTTL: time.Minute,
			ReadConfirm: readConfirm, KeepBytes: 1 << 20, ReadTimeout: 10 * time.Second})
		t.Cleanup(v.Close)
		return &remembering{raced: raced{Vault: v, name: name}, own: own}
	}
	primary := open("primary", store.Cluster.Primary(), true)
	other := open("another daemon", store.Cluster.Primary(), false)
	standby := open("standby", store.Cluster.Standbys()[0], false)
	nodes := []*remembering{primary, other, standby}
	as := vault.Change{Token: vaulttest.AdminToken(t)}
	primary.putBad(t, store, as)

	done := make(chan struct{})
	var writing, reading sync.WaitGroup
	next := func(i, version int) {
		r := primary.put(t, as, raceName(i), raceValue(i, version))
		position, err := vault.ParseLSN(r.LSN)
		if err != nil {
			t.Error(err)
			return
		}
		primary.commits[i].add(r.Version, position)
		other.commits[i].add(r.Version, position)
		if err := standby.AwaitReplay(t.Context(), position, time.Minute); err != nil {
			t.Error(err)
			return
		}
		standby.commits[i].add(r.Version, position)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // bounds a test that fails
	defer cancel()
	for i := range names {
		next(i, 1)
		writing.Go(func() {
			for version := 2; version <= versions; version++ {
				next(i, version)
			}
			// It goes on until the test has seen what it is to see. Each change waits for answers from memory: where a load
			// takes longer than the time between two changes, no row is kept.
			ticker := time.NewTicker(disturbEach)
			defer ticker.Stop()
			version, before := versions+1, hits(nodes)
			for disturbed(proxies) < 10 || !allProve(nodes) {
				select {
				case <-ticker.C:
				case <-ctx.Done():
					return
				}
				if allHigher(hits(nodes), before) {
					next(i, version)
					version, before = version+1, hits(nodes)
				}
			}
		})
	}
	for _, d := range nodes {
		repeat(&reading, done, readers/2,
			func() { i := rand.IntN(names); d.read(t, i, d.floor(i).version, vault.GetOptions{}) },
			func() {
				i := rand.IntN(names)
				if floor := d.floor(i).version; floor > 0 {
					d.verify(t, i, floor)
				}
			},
			func() { d.readPosition(t) },
			func() { d.leave(t) },
			func() { d.readBad(t) })
	}
	reading.Go(func() { disturbPolls(proxies, done) })
	writing.Wait()
	close(done)
	reading.Wait()
	if n := disturbed(proxies); n < 10 {
		t.Errorf("%d polls were disturbed", n)
	}
	for _, d := range nodes {
		kept, _ := d.KeptRows()
		if !d.proves() {
			t.Errorf("%s: %d reads with %+v prove little", d.name, d.reads.Load(), kept)
		}
		t.Logf("%s: %d reads, %d polls disturbed, %+v", d.name, d.reads.Load(), disturbed(proxies), kept)
	}
}

func disturbed(proxies []*pgproxy.Proxy) (polls int) {
	for _, p := range proxies {
		polls += p.CutsMade()
	}
	return polls
}

// proves reports whether the node has answered enough reads from memory, and has dropped rows that changed.
func (d *remembering) proves() bool {
	kept, _ := d.KeptRows()
	return d.reads.Load() >= versions && kept.Hits >= versions && kept.Dropped["named"]+kept.Dropped["changed_here"] > 0
}

// hits counts the answers from memory of each node.
func hits(nodes []*remembering) (counts []uint64) {
	for _, d := range nodes {
		kept, _ := d.KeptRows()
		counts = append(counts, kept.Hits)
	}
	return counts
}

func allHigher(counts, before []uint64) bool {
	for i, n := range counts {
		if n <= before[i] {
			return false
		}
	}
	return true
}

func allProve(nodes []*remembering) bool {
	return !slices.ContainsFunc(nodes, func(d *remembering) bool { return !d.proves() })
}

// disturbPolls makes one poll at a time late, unanswered or lost, on the way there or back.
func disturbPolls(proxies []*pgproxy.Proxy, done chan struct{}) {
	cuts := []pgproxy.Cut{
		{When: pgproxy.After, How: pgproxy.Late, For: 3 * readConfirm}, {When: pgproxy.After, How: pgproxy.Late,
			For: readConfirm / 2}, {When: pgproxy.After, How: pgproxy.Late, For: readConfirm},
		{When: pgproxy.Before, How: pgproxy.Hang, For: time.Second}, {When: pgproxy.After, How: pgproxy.FIN},
		{When: pgproxy.Before, How: pgproxy.RST},
	}
	ticker := time.NewTicker(disturbEach)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
		}
		// Late answers most of the time: after a lost session, rows are kept again only when another is open.
		which := rand.IntN(3)
		if rand.IntN(8) == 0 {
			which = rand.IntN(len(cuts))
		}
		cut := cuts[which]
		cut.SQL, cut.Times = `vault\.feed_state`, 1
		p := proxies[rand.IntN(len(proxies))]
		p.Clear()
		p.Cut(cut)
	}
}

// floor returns what a read that begins now has to see.
func (d *remembering) floor(i int) seenCommit {
	if d.own {
		return d.commits[i].by(time.Now())
	}
	return d.commits[i].by(time.Now().Add(-readConfirm))
}

// readPosition reads as of a position that the node is known to have.
func (d *remembering) readPosition(t *testing.T) {
	i := rand.IntN(names)
	floor := d.commits[i].by(time.Now())
	if err := d.AwaitReplay(t.Context(), floor.position, time.Minute); err != nil {
		t.Errorf("%s: waiting for a position that it has: %v", d.name, err)
		return
	}
	d.read(t, i, floor.version, vault.GetOptions{MinLSN: floor.position})
}
