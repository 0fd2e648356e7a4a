package db_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// relay is a proxy that counts the answers that end a round trip, and that can give its clients a process id of no
// session, as a pooler does.
type relay struct {
	trips atomic.Int64
	lies  bool
}

// mustRelay returns the relay and the URL through it.
func mustRelay(t *testing.T, store *vaulttest.Store, node *localpg.Node, lies bool) (*relay, string) {
	t.Helper()
	r := &relay{lies: lies}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	socket := filepath.Join(node.SocketDir(), fmt.Sprintf(".s.PGSQL.%d", node.Port()))
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", socket)
			if err != nil {
				client.Close()
				return
			}
			go func() { _, _ = io.Copy(server, client); server.Close() }()
			go func() { r.answers(client, bufio.NewReader(server)); client.Close() }()
		}
	}()
	return r, (&url.URL{Scheme: "postgres", User: url.User(vaulttest.Operator), Host: listener.Addr().String(),
		Path: store.Database, RawQuery: "sslmode=disable"}).String()
}

func (r *relay) answers(client io.Writer, server io.Reader) {
	for {
		header := make([]byte, 5)
		if _, err := io.ReadFull(server, header); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(header[1:])-4)
		if _, err := io.ReadFull(server, body); err != nil {
			return
		}
		switch {
		case header[0] == 'Z': // ReadyForQuery
			r.trips.Add(1)
		case header[0] == 'K' && r.lies: // BackendKeyData
			binary.BigEndian.PutUint32(body, 1)
		}
		if _, err := client.Write(append(header, body...)); err != nil {
			return
		}
	}
}

// A read is one round trip, also if its transaction has its own settings.
func TestSessionTrips(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	_, err := putOne(t.Context(), t, mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)}), "app/x")
	must(t, err)
	for _, pooled := range []bool{false, true} {
		relay, url := mustRelay(t, store, store.Cluster.Primary(), pooled)
		reader := mustReader(t, url)
		for range 3 { // the pooler is noticed, its statement described
			_, err := reader.Current(t.Context(), "app/x")
			must(t, err)
		}
		before := relay.trips.Load()
		for range 10 {
			_, err := reader.Current(t.Context(), "app/x")
			must(t, err)
		}
		if trips := relay.trips.Load() - before; trips != 10 {
			t.Errorf("10 reads (pooled: %t) took %d trips", pooled, trips)
		}
	}
}

// Behind a pooler each transaction has the settings of a session of our own, independent of those of database and role.
func TestSessionSettingsBehindPooler(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	_, err := putOne(t.Context(), t, mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)}), "app/x")
	must(t, err)
	names := db.SessionSettings(store.MustQuery(t, `SELECT current_setting('server_version_num')`))
	want, err := db.ReadSettings(t.Context(), store.URL(vaulttest.Operator), names)
	must(t, err)
	for name, value := range hostile {
		if _, known := want[name]; known {
			must(t, store.Cluster.Primary().Exec(t.Context(), "postgres",
				fmt.Sprintf(`ALTER DATABASE %s SET %s = %s`, store.Database, name, value)))
		}
	}
	defer resetOutside(t, store, `DATABASE `+store.Database)
	store.MustReplay(t)
	for _, node := range store.Cluster.Nodes() {
		_, url := mustRelay(t, store, node, true)
		got, err := db.ReadSettings(t.Context(), url, names)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("settings (-want +got):\n%s", diff)
		}
		reader := mustReader(t, url)
		for range 3 {
			_, err = reader.Current(t.Context(), "app/x")
			must(t, err)
		}
		_, err = auditdb.New(reader, nil).Events(t.Context(), audit.Query{})
		must(t, err)
	}
	_, url := mustRelay(t, store, store.Cluster.Primary(), true)
	writer := mustWriter(t, db.Options{URL: url})
	for range 3 {
		_, err = putOne(t.Context(), t, writer, "app/"+uuid.NewString())
		must(t, err)
	}
}

// A read-only session is refused every change by the server, also behind a pooler, whose own session stays as it was.
func TestReadOnlySessionsChangeNothing(t *testing.T) {
	store := vaulttest.New(t)
	_, pooled := mustRelay(t, store, store.Cluster.Primary(), true)
	for name, u := range map[string]string{"direct": store.URL(vaulttest.Superuser), "pooled": pooled} {
		t.Run(name, func(t *testing.T) {
			reader, err := db.NewReader(t.Context(), db.Options{URL: u, ApplicationName: "test", ReadOnly: true, Brief: true})
			must(t, err)
			defer reader.Close()
			keys, err := reader.StoredKeys(t.Context())
			if err != nil || len(keys) != 0 {
				t.Errorf("got %v, error %v, want nothing of an empty vault", keys, err)
			}
			_, err = db.Collect(t.Context(), reader, pgx.RowTo[int32], `CREATE TABLE public.written AS SELECT 1`)
			var refused *db.Error
			if !errors.As(err, &refused) || refused.Code != "25006" { // read_only_sql_transaction
				t.Errorf("got %v, want that the transaction is read-only", err)
			}
		})
	}
}
