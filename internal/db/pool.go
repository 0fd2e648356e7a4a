package db

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// statementTimeout is for one statement outside the write API. A frozen server, or a network that drops packets,
	// accepts connections' bytes and never answers.
	statementTimeout = 10 * time.Second
	// closeTimeout is how long Close waits for servers that do not answer.
	closeTimeout = 2 * time.Second
)

// pool applies a time limit to every statement.
type pool struct {
	sessions
	limit time.Duration // of a statement, including connecting

	siblings *Siblings // nil: a full server is an error at once

	cluster atomic.Pointer[uuid.UUID] // of the last connection; nil: there was none
}

func (p *pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	var tag pgconn.CommandTag
	err := p.retryWhileFull(ctx, func() (err error) {
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
		err = p.retryWhileFull(ctx, func() (err error) {
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

// Close returns when every connection is closed, or after closeTimeout. Connections to a server that does not answer
// are closed when the process ends.
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

// boundedRow sends its query in Scan, because only the answer shows whether the server is full.
type boundedRow struct {
	pool   *pool
	ctx    context.Context
	sql    string
	args   []any
	cancel context.CancelFunc
}

func (r *boundedRow) Scan(dest ...any) error {
	defer r.cancel()
	return r.pool.retryWhileFull(r.ctx, func() error {
		return r.pool.sessions.QueryRow(r.ctx, r.sql, r.args...).Scan(dest...)
	})
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
