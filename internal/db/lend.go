package db

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// lender lends a Writer the idle connection of a Reader with the same connection string, if it leads to a node that the
// Writer would have connected to. For a command that reads a secret and puts that on record, a session of the Writer's
// own would cost the server a third of the command: a process, its caches, and what both ask at first.
type lender struct {
	pool  *pgxpool.Pool // of the Reader
	admit pgconn.ValidateConnectFunc
	limit time.Duration // of admit: a node that has frozen leaves the Writer time to connect to another one

	mu sync.Mutex // held while a connection is chosen
}

const loanKey = "hyperiondb-vault: may be lent to a writer" // in a connection's CustomData, once that is known

// lend returns nil if the Reader is using a connection, so that it always has one left, if it has none yet, or if the
// one that it has will not do. Then the Writer makes its own, and reports what is wrong with the node.
func (l *lender) lend(ctx context.Context) *pgxpool.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if stat := l.pool.Stat(); stat.AcquiredConns() > 0 || stat.IdleConns() == 0 {
		return nil
	}
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return nil
	}
	raw := conn.Conn().PgConn()
	fit, known := raw.CustomData()[loanKey].(bool)
	if !known {
		_, pooled := behindPooler(raw)
		ctx, cancel := context.WithTimeout(ctx, l.limit)
		fit = !pooled && l.admit(ctx, raw) == nil
		cancel()
		raw.CustomData()[loanKey] = fit
	}
	if !fit {
		conn.Release()
		return nil
	}
	return conn
}
