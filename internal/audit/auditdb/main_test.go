package auditdb_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
	"github.com/hyperiondb/vault/test/chaos/pgproxy"
)

func TestMain(m *testing.M) {
	if os.Getenv(shipChild) != "" {
		child()
	}
	os.Exit(vaulttest.Main(m))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond) // between two polls
	}
}

func mustReader(t testing.TB, url string) *db.Reader {
	t.Helper()
	r, err := db.NewReader(t.Context(), db.Options{URL: url, ApplicationName: "test"})
	must(t, err)
	t.Cleanup(r.Close)
	return r
}

func mustWriter(t testing.TB, url string) *db.Writer {
	t.Helper()
	w, err := db.NewWriter(t.Context(), db.Options{URL: url, ApplicationName: "test"})
	must(t, err)
	t.Cleanup(w.Close)
	return w
}

// mustLog is the log as a role sees it on the node of the URL, which for writing has to be the primary.
func mustLog(t testing.TB, url string) *auditdb.Log {
	t.Helper()
	return auditdb.New(mustReader(t, url), mustWriter(t, url))
}

func parsed(t testing.TB, text string) filter.Filter {
	t.Helper()
	f, err := filter.Parse(text, time.Now())
	must(t, err)
	return f
}

// newProxy puts a proxy between a client and the store's primary.
func newProxy(t *testing.T, store *vaulttest.Store) *pgproxy.Proxy {
	t.Helper()
	node := store.Cluster.Primary()
	p, err := pgproxy.New("unix", filepath.Join(node.SocketDir(), fmt.Sprintf(".s.PGSQL.%d", node.Port())))
	must(t, err)
	t.Cleanup(p.Close)
	return p
}

func through(p *pgproxy.Proxy, store *vaulttest.Store, role string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", role, p.Port(), store.Database)
}

// lose drops the next COMMIT, or its answer.
func lose(p *pgproxy.Proxy, when pgproxy.When) {
	p.Cut(pgproxy.Cut{SQL: "^commit", When: when, Times: 1})
}
