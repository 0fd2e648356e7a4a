package db

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// pooler finds out whether something between us and the server (pgbouncer, a cloud's proxy) hands out its sessions by
// transaction. There, a prepared statement may be gone, or be somebody else's, in the next transaction. So once a
// pooler is noticed, statements are described, not prepared: the same round trips, parsed by the server every time.
//
// It is noticed by the process id: the one the server gave its session is not the one this connection was opened with.
type pooler struct {
	describe atomic.Bool // set once a pooler is noticed, or from the start
	fixed    bool        // the connection string chooses default_query_exec_mode, and is obeyed
}

const unfit = "hyperiondb-vault: prepares statements behind a pooler" // in a connection's CustomData

func newPooler(o Options, fixed bool) *pooler {
	p := &pooler{fixed: fixed}
	p.describe.Store(o.Brief)
	return p
}

// beforeConnect, afterConnect and keeps are hooks of one pgxpool. The connection that notices the pooler has the wrong
// mode for good; keeps has the pool throw it away and make another.
func (p *pooler) beforeConnect(_ context.Context, c *pgx.ConnConfig) error {
	if p.describe.Load() && !p.fixed {
		c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	return nil
}

func (p *pooler) afterConnect(conn *pgx.Conn) {
	_, pooled := behindPooler(conn.PgConn())
	if p.fixed || !pooled || conn.Config().DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
		return
	}
	p.describe.Store(true)
	conn.PgConn().CustomData()[unfit] = true
}

func (p *pooler) keeps(conn *pgx.Conn) bool { return conn.PgConn().CustomData()[unfit] == nil }

// refusePooled is for what needs a session: LISTEN, SET ROLE, a lock held over several transactions.
func refusePooled(conn *pgx.Conn, what string) error {
	if _, pooled := behindPooler(conn.PgConn()); pooled {
		return newError(ErrInvalid, "%s takes a connection straight to PostgreSQL, and this one goes through a pooler", what)
	}
	return nil
}
