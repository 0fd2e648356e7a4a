package db

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// fullTimeout is how long a pool waits for a connection from a server at its limit.
	fullTimeout = 5 * time.Second
	// fullCode is SQLSTATE too_many_connections: the limit of the server, the database or the role.
	fullCode = "53300"
)

// Siblings are the pools of one process, which share the connections that the server grants. If the server refuses one
// to a pool, the others close their idle connections, and the pool tries again. The zero value is ready to use.
type Siblings struct {
	mu    sync.Mutex
	pools []*pgxpool.Pool
}

func (s *Siblings) join(p *pgxpool.Pool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools = append(s.pools, p)
}

// closeIdle closes the idle connections of all pools but one.
func (s *Siblings) closeIdle(except *pgxpool.Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pools {
		if p != except {
			p.Reset()
		}
	}
}

// IsFull reports whether the server had no connection left. Then nothing was sent.
func IsFull(err error) bool {
	var known *Error
	if errors.As(err, &known) && known.Code == fullCode {
		return true
	}
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == fullCode
}

// retryWhileFull calls do, which needs a connection, and repeats it for a while if the server has none.
func (p *pool) retryWhileFull(ctx context.Context, do func() error) error {
	err := do()
	if p.siblings == nil || !IsFull(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fullTimeout)
	defer cancel()
	pause := newBackOff()
	for IsFull(err) {
		p.siblings.closeIdle(p.Pool)
		select {
		case <-time.After(pause.NextBackOff()):
			err = do()
		case <-ctx.Done():
			return err
		}
	}
	return err
}

// Acquire is the pool's.
func (p *pool) Acquire(ctx context.Context) (conn *pgxpool.Conn, err error) {
	err = p.retryWhileFull(ctx, func() (err error) {
		conn, err = p.sessions.Acquire(ctx)
		return err
	})
	return conn, err
}

// inTx runs f in a transaction, as pgx.BeginTxFunc does.
func (p *pool) inTx(ctx context.Context, o pgx.TxOptions, f func(pgx.Tx) error) error {
	conn, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return pgx.BeginTxFunc(ctx, conn, session{conn.Conn()}.beginQuery(o), f)
}
