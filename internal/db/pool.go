package db

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// statementTimeout is for one statement outside the write API. A server that is frozen, or behind a network that
	// swallows packets, takes connections' bytes and never answers.
	statementTimeout = 10 * time.Second
	// closeTimeout is how long closing waits for servers that do not answer the goodbye.
	closeTimeout = 2 * time.Second
)

// pool bounds every statement, so that no caller has to remember to.
type pool struct {
	sessions
	limit time.Duration // of a statement, connecting included

	siblings *Siblings // nil: a server without a connection for us is an error at once
}

func (p *pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	var tag pgconn.CommandTag
	err := p.whileFull(ctx, func() (err error) {
		tag, err = p.sessions.Exec(ctx, sql, args...)
		return err
	})
	return tag, err
}

func (p *pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	return &boundedRow{p, ctx, sql, args, cancel}
}

func (p *pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	rows, err := p.sessions.Query(ctx, sql, args...)
	if p.siblings != nil && IsFull(err) {
		err = p.whileFull(ctx, func() (err error) {
			rows, err = p.sessions.Query(ctx, sql, args...)
			return err
		})
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &boundedRows{rows, cancel}, nil
}

// Close returns when every connection is closed, or those that are left lead to a server that does not answer. Their
// sockets go with the process.
func (p *pool) Close() {
	closed := make(chan struct{})
	go func() {
		p.Pool.Close()
		close(closed)
	}()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	}
}

// boundedRow asks when it is scanned, as only then is it known whether there was a connection.
type boundedRow struct {
	pool   *pool
	ctx    context.Context
	sql    string
	args   []any
	cancel context.CancelFunc
}

func (r *boundedRow) Scan(dest ...any) error {
	defer r.cancel()
	return r.pool.whileFull(r.ctx, func() error { return r.pool.sessions.QueryRow(r.ctx, r.sql, r.args...).Scan(dest...) })
}

// boundedRows must be closed, as pgx.CollectRows does.
type boundedRows struct {
	pgx.Rows
	cancel context.CancelFunc
}

func (r *boundedRows) Close() {
	r.Rows.Close()
	r.cancel()
}
