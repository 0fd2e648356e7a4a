package pgproxy_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/hyperiondb/vault/internal/leaks"
	"github.com/hyperiondb/vault/internal/vaulttest"
	"github.com/hyperiondb/vault/test/chaos/pgproxy"
)

func TestMain(m *testing.M) { os.Exit(vaulttest.Main(m)) }

func mustProxy(t *testing.T, store *vaulttest.Store) *pgproxy.Proxy {
	t.Helper()
	node := store.Cluster.Primary()
	p, err := pgproxy.New("unix", filepath.Join(node.SocketDir(), ".s.PGSQL."+strconv.Itoa(node.Port())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func mustConnect(t *testing.T, store *vaulttest.Store, p *pgproxy.Proxy) *pgx.Conn {
	t.Helper()
	// sslmode=prefer: the client asks for TLS first, and goes on without.
	url := "postgres://" + vaulttest.Superuser + "@127.0.0.1:" + strconv.Itoa(p.Port()) + "/" + store.Database +
		"?sslmode=prefer"
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// insert commits one row, n; the error is that of COMMIT.
func insert(ctx context.Context, conn *pgx.Conn, n int) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return errors.Join(errors.New("before COMMIT"), err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO public.cut VALUES ($1)`, n); err != nil {
		return errors.Join(errors.New("before COMMIT"), err)
	}
	return tx.Commit(ctx)
}

// Each loss of a COMMIT: the client gets an error, and the row exists exactly if the server read the COMMIT.
func TestCommit(t *testing.T) {
	store := vaulttest.New(t)
	store.MustExec(t, `CREATE TABLE public.cut (n int)`)
	p := mustProxy(t, store)
	n := 0
	for _, when := range []pgproxy.When{pgproxy.Before, pgproxy.After} {
		for _, how := range []pgproxy.Ending{pgproxy.FIN, pgproxy.RST, pgproxy.Hang} {
			n++
			t.Run(when.String()+" "+how.String(), func(t *testing.T) {
				conn := mustConnect(t, store, p)
				p.Cut(pgproxy.Cut{SQL: `^commit$`, When: when, How: how, Times: 1})
				ctx := t.Context()
				if how == pgproxy.Hang {
					limited, cancel := context.WithTimeout(ctx, 5*time.Second)
					defer cancel()
					ctx = limited
				}
				err := insert(ctx, conn, n)
				if err == nil {
					t.Fatal("COMMIT was answered")
				}
				if hung := errors.Is(err, context.DeadlineExceeded); hung != (how == pgproxy.Hang) {
					t.Errorf("got %v, want a client that hangs: %v", err, how == pgproxy.Hang)
				}
				conn.Close(t.Context())
				// The row of an uncommitted transaction goes when its connection ends.
				want := strconv.FormatBool(when == pgproxy.After)
				if got := store.MustQuery(t, `EXISTS (SELECT FROM public.cut WHERE n = $1)`, n); got != want {
					t.Errorf("the row is there: %s, want %s", got, want)
				}
				if err := insert(t.Context(), mustConnect(t, store, p), 100+n); err != nil {
					t.Errorf("the next COMMIT was cut as well: %v", err)
				}
			})
		}
	}
	if p.CutsMade() != n {
		t.Errorf("%d losses were made, want %d", p.CutsMade(), n)
	}
}

// A prepared statement is recognised when it is executed, and not when it is prepared.
func TestPreparedStatement(t *testing.T) {
	store := vaulttest.New(t)
	store.MustExec(t, `CREATE TABLE public.cut (n int)`)
	p := mustProxy(t, store)
	conn := mustConnect(t, store, p)
	for n := range 3 {
		if n == 2 {
			p.Cut(pgproxy.Cut{SQL: `insert INTO public.cut`, When: pgproxy.After, How: pgproxy.RST, Times: 1})
		}
		_, err := conn.Exec(t.Context(), `INSERT INTO public.cut VALUES ($1)`, n)
		if cut := err != nil; cut != (n == 2) {
			t.Fatalf("insert %d: %v", n, err)
		}
	}
	if got := store.MustQuery(t, `SELECT count(*) FROM public.cut`); got != "3" {
		t.Errorf("got %s rows, want 3", got)
	}
}

// Cancel requests reach the server.
func TestCancelPasses(t *testing.T) {
	store := vaulttest.New(t)
	conn := mustConnect(t, store, mustProxy(t, store))
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), `SELECT pg_sleep(60)`)
		done <- err
	}()
	deadline := time.After(time.Minute)
	for {
		if err := conn.PgConn().CancelRequest(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			if err == nil {
				t.Error("the statement was not canceled")
			}
			return
		case <-deadline:
			t.Fatal("the statement was not canceled in time")
		case <-time.After(20 * time.Millisecond): // it may not have begun
		}
	}
}

func TestCloseEndsEverything(t *testing.T) {
	store := vaulttest.New(t)
	defer leaks.None(t, goleak.IgnoreCurrent())
	p := mustProxy(t, store)
	conn := mustConnect(t, store, p)
	p.Cut(pgproxy.Cut{SQL: `^select 1$`, How: pgproxy.Hang, Times: 1})
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), `SELECT 1`)
		done <- err
	}()
	for deadline := time.Now().Add(time.Minute); p.CutsMade() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the statement did not reach the proxy")
		}
	}
	p.Close()
	if err := <-done; err == nil {
		t.Error("a statement was answered that nobody had seen")
	}
}

// A late answer is a whole one, of the moment at which the server got the request.
func TestLate(t *testing.T) {
	store := vaulttest.New(t)
	p := mustProxy(t, store)
	conn := mustConnect(t, store, p)
	const by = 10 * time.Second // longer than a prompt answer takes
	p.Cut(pgproxy.Cut{SQL: `clock_timestamp`, When: pgproxy.After, How: pgproxy.Late, For: by})
	for _, late := range []bool{true, false} {
		var then time.Time
		began := time.Now()
		if err := conn.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&then); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); late != (took >= by) || late && time.Since(then) < by {
			t.Errorf("got an answer of %s ago after %s, want late: %v", time.Since(then), took, late)
		}
	}
}
