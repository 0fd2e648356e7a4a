package vault_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// raced is one node that is read while its secrets change.
type raced struct {
	*vault.Vault
	name  string
	reads atomic.Int64
}

// node knows what was committed there, which every later read must see.
type node struct {
	raced
	floor [names]atomic.Int64 // the least version that a read which begins now must see
}

const (
	names    = 4
	versions = 25
	readers  = 12 // of each node and kind
)

func raceName(i int) string           { return fmt.Sprintf("race/s%d", i) }
func raceValue(i, version int) []byte { return fmt.Appendf(nil, "value %d of %d", version, i) }

// Readers share queries while versions change, clients cancel in the middle and some rows are bad. No reader sees a
// version older than one committed on that node before it asked, or gets another reader's answer, and a bad row fails
// only its own reader.
func TestSharedReadsAreNeverOld(t *testing.T) {
	store := vaulttest.Own(t)
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	defer func() { must(t, ring.Close()) }()
	writer, err := db.NewWriter(t.Context(), db.Options{URL: store.URL(vaulttest.Operator), MaxConns: names + 2})
	must(t, err)
	defer writer.Close()
	open := func(name, url string) *node {
		reader, err := db.NewReader(t.Context(), db.Options{URL: url, MaxConns: 8, PlanOnce: true})
		must(t, err)
		t.Cleanup(reader.Close)
		v := vault.New(vault.Options{Reader: reader, Writer: writer, Keys: ring, CacheSize: 100, CacheTTL: time.Minute})
		t.Cleanup(v.Close)
		return &node{raced: raced{Vault: v, name: name}}
	}
	primary, standby := open("primary", store.URL(vaulttest.Operator)),
		open("standby", store.StandbyURL(vaulttest.Operator))
	as := vault.Change{Token: vaulttest.AdminToken(t)}
	primary.putBad(t, store, as)

	done := make(chan struct{})
	var writing, reading sync.WaitGroup
	next := func(i, version int) {
		r := primary.put(t, as, raceName(i), raceValue(i, version))
		primary.floor[i].Store(int64(r.Version))
		position, err := vault.ParseLSN(r.LSN)
		if err == nil {
			err = standby.AwaitReplay(t.Context(), position, time.Minute)
		}
		if err != nil {
			t.Error(err)
			return
		}
		standby.floor[i].Store(int64(r.Version))
	}
	for i := range names {
		next(i, 1)
		writing.Go(func() {
			for version := 2; version <= versions; version++ {
				next(i, version)
			}
		})
	}
	for _, d := range []*node{primary, standby} {
		floor := func(i int) int { return int(d.floor[i].Load()) }
		repeat(&reading, done, readers,
			func() { i := rand.IntN(names); d.read(t, i, floor(i), vault.GetOptions{}) },
			func() { i := rand.IntN(names); d.verify(t, i, floor(i)) },
			func() { d.leave(t) },
			func() { d.readBad(t) })
	}
	writing.Wait()
	close(done)
	reading.Wait()
	for _, d := range []*node{primary, standby} {
		if d.reads.Load() < versions {
			t.Errorf("%s: %d reads during %d changes prove little", d.name, d.reads.Load(), versions*names)
		}
		t.Logf("%s: %d reads during %d changes", d.name, d.reads.Load(), versions*names)
	}
}

// repeat makes each act on a number of goroutines, again and again until done is closed.
func repeat(running *sync.WaitGroup, done <-chan struct{}, goroutines int, acts ...func()) {
	for range goroutines {
		for _, act := range acts {
			running.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						act()
					}
				}
			})
		}
	}
}

func (d *raced) put(t *testing.T, as vault.Change, name string, value []byte) vault.Receipt {
	r, err := d.Put(t.Context(), vault.PutRequest{Change: as, Name: name, Value: value})
	if err != nil {
		t.Errorf("put: %v", err)
	}
	return r
}

// putBad makes two secrets that cannot be read: one has a row without its format, the other fails in the server.
func (d *raced) putBad(t *testing.T, store *vaulttest.Store, as vault.Change) {
	for _, name := range []string{"bad/row", "bad/query"} {
		d.put(t, as, name, []byte("canary-value"))
	}
	// With statistics of so few rows the server would scan the table, and fail for every name on the row that it cannot
	// read.
	store.MustExec(t, `ALTER TABLE vault.secret_versions SET (autovacuum_enabled = off)`,
		`ALTER TABLE vault.secret_versions DISABLE TRIGGER versions_are_sealed`,
		`ALTER TABLE vault.secret_versions ALTER COLUMN fmt DROP NOT NULL`,
		`UPDATE vault.secret_versions SET fmt = NULL WHERE name = 'bad/row'`,
		`CREATE POLICY broken ON vault.secret_versions AS RESTRICTIVE FOR SELECT TO vault_service
			USING (CASE WHEN name = 'bad/query' THEN 1 / (version - 1) > 0 ELSE true END)`)
}

// read fails if it gets a version older than floor, or another version's value.
func (d *raced) read(t *testing.T, i, floor int, o vault.GetOptions) {
	s, err := d.Get(t.Context(), raceName(i), o)
	if err != nil {
		t.Errorf("%s: reading: %v", d.name, err)
		return
	}
	defer s.Wipe()
	if s.Version < floor || string(s.Value) != string(raceValue(i, s.Version)) {
		t.Errorf("%s: got version %d of %s with %q, want version %d or later with its own value", d.name, s.Version,
			raceName(i), []byte(s.Value), floor)
	}
	d.reads.Add(1)
}

// verify presents the value of a version that was committed before, and one that no version has.
func (d *raced) verify(t *testing.T, i, version int) {
	v, err := d.Verify(t.Context(), raceName(i), raceValue(i, version), vault.VerifyOptions{})
	if err != nil || !v.Valid || v.Version != version {
		t.Errorf("%s: got %+v and %v for version %d of %s, which was committed before", d.name, v, err, version, raceName(i))
	}
	v, err = d.Verify(t.Context(), raceName(i), []byte("no version has this"), vault.VerifyOptions{})
	if err != nil || v.Valid {
		t.Errorf("%s: got %+v and %v for a value that no version has", d.name, v, err)
	}
	d.reads.Add(2)
}

// leave gives up a read in the middle.
func (d *raced) leave(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(1000))*time.Microsecond)
	defer cancel()
	s, err := d.Get(ctx, raceName(rand.IntN(names)), vault.GetOptions{})
	if deadline, _ := ctx.Deadline(); err != nil && time.Now().Before(deadline) {
		t.Errorf("%s: one with time left got %v", d.name, err)
	}
	s.Wipe()
}

// readBad reads what putBad has made, and a name that is not there.
func (d *raced) readBad(t *testing.T) {
	if _, err := d.Get(t.Context(), "bad/row", vault.GetOptions{}); !errors.Is(err, vault.ErrIntegrity) {
		t.Errorf("%s: a row that does not read got %v", d.name, err)
	}
	if _, err := d.Get(t.Context(), "bad/query", vault.GetOptions{}); !errors.Is(err, vault.ErrIntegrity) {
		t.Errorf("%s: a row that the server cannot read got %v", d.name, err)
	}
	if _, err := d.Get(t.Context(), "race/absent", vault.GetOptions{}); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("%s: a name that is not there got %v", d.name, err)
	}
}
