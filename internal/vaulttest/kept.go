package vaulttest

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

// kept keeps sessions for later statements on the same database, one of each role: a new session takes ten times the
// processor time of a short statement. While a session is in use, or if its server has ended it, the next statement
// gets a new one.
type kept struct {
	database string

	mu    sync.Mutex
	conns map[string]*pgx.Conn // by URL; without those in use
}

// use calls f with a session, and keeps the session unless f fails or leaves a transaction open. A nil kept keeps none.
func (k *kept) use(ctx context.Context, url string, f func(*pgx.Conn) error) error {
	conn := k.take(ctx, url)
	if conn == nil {
		config, err := pgx.ParseConfig(url)
		if err != nil {
			return err
		}
		config.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec // DISCARD ALL drops prepared statements
		if conn, err = pgx.ConnectConfig(ctx, config); err != nil {
			return err
		}
	}
	err := f(conn)
	if err != nil || conn.IsClosed() || conn.PgConn().TxStatus() != 'I' || !k.put(url, conn) {
		conn.Close(context.WithoutCancel(ctx))
	}
	return err
}

func (k *kept) take(ctx context.Context, url string) *pgx.Conn {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	conn := k.conns[url]
	delete(k.conns, url)
	k.mu.Unlock()
	if conn == nil || conn.Ping(ctx) == nil {
		return conn
	}
	conn.Close(context.WithoutCancel(ctx))
	return nil
}

func (k *kept) put(url string, conn *pgx.Conn) bool {
	if k == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conns[url] != nil {
		return false
	}
	if k.conns == nil {
		k.conns = map[string]*pgx.Conn{}
	}
	k.conns[url] = conn
	return true
}

func (k *kept) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, conn := range k.conns {
		conn.Close(context.Background())
	}
	k.conns = nil
}

// keep keeps sessions of the store until the test ends.
func (s *Store) keep(t testing.TB) {
	s.kept = &kept{database: s.Database}
	t.Cleanup(s.kept.close)
}

// Session calls f with a session of a role on the primary. A later call may get the same session, unless f fails: f
// leaves nothing in it.
func (s *Store) Session(ctx context.Context, role string, f func(*pgx.Conn) error) error {
	k := s.kept
	if k != nil && k.database != s.Database { // of a copy of the store; a test may drop its database
		k = nil
	}
	return k.use(ctx, s.URL(role), f)
}

// superuser is Session for one that may leave anything.
func (s *Store) superuser(ctx context.Context, f func(*pgx.Conn) error) error {
	return s.Session(ctx, Superuser, func(conn *pgx.Conn) error {
		if err := f(conn); err != nil || conn.PgConn().TxStatus() != 'I' {
			return err
		}
		if _, err := conn.PgConn().Exec(ctx, `DISCARD ALL`).ReadAll(); err != nil {
			conn.Close(ctx) // f may have ended it
		}
		return nil
	})
}
