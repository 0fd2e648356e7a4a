package db_test

import (
	"testing"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// lending returns a Reader and a Writer as a command has them, and counts their sessions on the primary.
func lending(t *testing.T, store *vaulttest.Store, o db.Options) (*db.Reader, *db.Writer, func() string) {
	t.Helper()
	o.ApplicationName, o.MaxConns, o.Brief = "lending", 2, true
	r, err := db.NewReader(t.Context(), o)
	must(t, err)
	t.Cleanup(r.Close)
	o.Reader, o.ReadOnly = r, false
	return r, mustWriter(t, o), func() string {
		return store.MustQuery(t, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'lending'`)
	}
}

func TestAReaderLendsItsConnection(t *testing.T) {
	store := vaulttest.New(t)
	r, w, sessions := lending(t, store, db.Options{URL: store.URL(vaulttest.Operator)})
	must(t, r.Ping(t.Context()))
	for range 2 {
		must(t, w.Ping(t.Context()))
		if n := sessions(); n != "1" {
			t.Fatalf("reading and writing made %s sessions, want 1", n)
		}
	}

	release, err := r.Hold(t.Context())
	must(t, err)
	must(t, w.Ping(t.Context()))
	if n := sessions(); n != "2" {
		t.Errorf("there are %s sessions, want the one that the reader uses and one of the writer's own", n)
	}
	release()
	w.Renew()
	must(t, w.Ping(t.Context()))
	if n := sessions(); n != "1" {
		t.Errorf("there are %s sessions after those of before were dropped, want 1", n)
	}
}

// What the Writer would not have connected to it is not lent: it changes something through its own, or fails as it does
// without a Reader.
func TestAReaderLendsNothingUnfit(t *testing.T) {
	store := vaulttest.New(t)
	r, w, sessions := lending(t, store, db.Options{URL: store.URL(vaulttest.Operator), ReadOnly: true})
	must(t, r.Ping(t.Context()))
	must(t, w.Ping(t.Context()))
	if n := sessions(); n != "2" {
		t.Errorf("there are %s sessions, want that of the reader, which may change nothing, and the writer's", n)
	}

	standby := store.StandbyURL(vaulttest.Operator)
	r, w, _ = lending(t, store, db.Options{URL: standby})
	store.MustReplay(t)
	must(t, r.Ping(t.Context()))
	got := w.Ping(t.Context())
	want := mustWriter(t, db.Options{URL: standby}).Ping(t.Context())
	if got == nil || want == nil || got.Error() != want.Error() {
		t.Errorf("a writer with a reader of a standby: got %v, want %v as without one", got, want)
	}
}

// The Reader's node freezes after it has answered: the Writer goes on to the primary.
func TestAFrozenNodeLendsNothing(t *testing.T) {
	t.Parallel()
	store := vaulttest.Own(t)
	standby := store.Cluster.Standbys()[0]
	store.MustReplay(t)
	r, w, _ := lending(t, store, db.Options{
		URL: bothHosts(store, standby, store.Cluster.Primary(), vaulttest.Operator) + " connect_timeout=1"})
	must(t, r.Ping(t.Context()))
	must(t, standby.Freeze())
	t.Cleanup(func() { must(t, standby.Thaw()) })
	must(t, w.Ping(t.Context()))
}
