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

// node is one node under load, and what was committed there, which every later read must see.
type node struct {
	*vault.Vault
	name  string
	floor [names]atomic.Int64 // the least version that a read which begins now must see
	reads atomic.Int64
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
		return &node{Vault: v, name: name}
	}
	primary, standby := open("primary", store.URL(vaulttest.Operator)),
		open("standby", store.StandbyURL(vaulttest.Operator))
	as := vault.Change{Token: vaulttest.AdminToken(t)}

	put := func(name string, value []byte) vault.Receipt {
		r, err := primary.Put(t.Context(), vault.PutRequest{Change: as, Name: name, Value: value})
		if err != nil {
			t.Errorf("put: %v", err)
		}
		return r
	}
	for _, name := range []string{"bad/row", "bad/query"} {
		put(name, []byte("canary-value"))
	}
	store.MustExec(t, `ALTER TABLE vault.secret_versions DISABLE TRIGGER versions_are_sealed`,
		`ALTER TABLE vault.secret_versions ALTER COLUMN fmt DROP NOT NULL`,
		`UPDATE vault.secret_versions SET fmt = NULL WHERE name = 'bad/row'`,
		`CREATE POLICY broken ON vault.secret_versions AS RESTRICTIVE FOR SELECT TO vault_service
			USING (CASE WHEN name = 'bad/query' THEN 1 / (version - 1) > 0 ELSE true END)`)

	done := make(chan struct{})
	var writing, reading sync.WaitGroup
	next := func(i, version int) {
		r := put(raceName(i), raceValue(i, version))
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
		for range readers {
			for _, act := range []func(*testing.T, *node){oneRead, oneVerify, oneThatLeaves, oneBad} {
				reading.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
							act(t, d)
						}
					}
				})
			}
		}
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

func oneRead(t *testing.T, d *node) {
	i := rand.IntN(names)
	floor := d.floor[i].Load()
	s, err := d.Get(t.Context(), raceName(i), vault.GetOptions{})
	if err != nil {
		t.Errorf("%s: reading: %v", d.name, err)
		return
	}
	defer s.Wipe()
	if int64(s.Version) < floor || string(s.Value) != string(raceValue(i, s.Version)) {
		t.Errorf("%s: got version %d of %s with %q, want version %d or later with its own value", d.name, s.Version,
			raceName(i), []byte(s.Value), floor)
	}
	d.reads.Add(1)
}

func oneVerify(t *testing.T, d *node) {
	i := rand.IntN(names)
	floor := int(d.floor[i].Load())
	v, err := d.Verify(t.Context(), raceName(i), raceValue(i, floor), vault.VerifyOptions{})
	if err != nil || !v.Valid || v.Version != floor {
		t.Errorf("%s: got %+v and %v for version %d of %s, which was committed before", d.name, v, err, floor, raceName(i))
	}
	v, err = d.Verify(t.Context(), raceName(i), []byte("no version has this"), vault.VerifyOptions{})
	if err != nil || v.Valid {
		t.Errorf("%s: got %+v and %v for a value that no version has", d.name, v, err)
	}
	d.reads.Add(2)
}

func oneThatLeaves(t *testing.T, d *node) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(1000))*time.Microsecond)
	defer cancel()
	s, err := d.Get(ctx, raceName(rand.IntN(names)), vault.GetOptions{})
	if deadline, _ := ctx.Deadline(); err != nil && time.Now().Before(deadline) {
		t.Errorf("%s: one with time left got %v", d.name, err)
	}
	s.Wipe()
}

func oneBad(t *testing.T, d *node) {
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
