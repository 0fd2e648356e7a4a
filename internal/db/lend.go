package db

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// lender lends a Writer the idle connection of a Reader with the same options, if the Writer would have connected to
// that node, too. A command that reads a secret and records the read then makes one session. A second one takes a third
// of what the command costs the server: a process, its caches, and what both sessions ask first.
type lender struct {
	pool  *pgxpool.Pool // of the Reader
	admit pgconn.ValidateConnectFunc
	limit time.Duration // of admit: a node that has frozen leaves the Writer time to connect to another one

	mu sync.Mutex // held while a connection is chosen
}

const loanKey = "hyperiondb-vault: may be lent to a writer" // in a connection's CustomData, once that is known

// lend returns the Reader's idle connection, or nil: if the Reader uses another one, so that one is always left to it,
// if it has none, or if admit refuses the node. Then the Writer connects by itself, and reports what is wrong.
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
