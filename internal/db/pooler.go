package db

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// pooler detects a pooler (pgbouncer, a cloud's proxy) that assigns the server's sessions by transaction. A statement
// prepared in one transaction may then be missing in the next, or be another client's. After a detection, statements
// are described, not prepared: that takes the same round trips, but the server parses each every time.
//
// The sign is the process id: the session's pg_backend_pid() is not the one that the connection was opened with.
type pooler struct {
	describe atomic.Bool // set when a pooler is detected
	brief    bool        // statements are sent once: pgx infers the types of their parameters, which saves a round trip
	fixed    bool        // the connection string sets default_query_exec_mode
}

const unfit = "hyperiondb-vault: prepares statements behind a pooler" // in a connection's CustomData

func newPooler(o Options, fixed bool) *pooler {
	return &pooler{brief: o.Brief, fixed: fixed}
}

// beforeConnect, afterConnect and keeps are hooks of one pgxpool. The connection that detects the pooler has the wrong
// mode; keeps makes the pool replace it.
func (p *pooler) beforeConnect(_ context.Context, c *pgx.ConnConfig) error {
	switch {
	case p.fixed:
	case p.brief:
		c.DefaultQueryExecMode = pgx.QueryExecModeExec
	case p.describe.Load():
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

func (p *pooler) stillAdmits(conn *pgx.Conn) bool { return conn.PgConn().CustomData()[unfit] == nil }

// refusePooled is for statements that need a session: LISTEN, SET ROLE, a lock held over several transactions.
func refusePooled(conn *pgx.Conn, what string) error {
	if _, pooled := behindPooler(conn.PgConn()); pooled {
		return newError(ErrInvalid, "%s takes a connection straight to PostgreSQL, and this one goes through a pooler", what)
	}
	return nil
}
