package db

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// AccessEpoch reads the access epoch of this node: a random value that every change of an app replaces. Zero: it has
// none. Concurrent callers share a query.
func (r *Reader) AccessEpoch(ctx context.Context) (uuid.UUID, error) {
	return r.epoch.get(ctx, "")
}

func queryEpoch(ctx context.Context, q querier) (uuid.UUID, error) {
	var epoch uuid.NullUUID
	err := q.QueryRow(ctx, `SELECT `+accessEpoch).Scan(&epoch)
	return epoch.UUID, classify(err)
}

// sharedEpoch is the query of the epoch that concurrent requests share.
func sharedEpoch(p *pool) *coalescer[uuid.UUID] {
	return &coalescer[uuid.UUID]{limit: p.limit,
		query: func(ctx context.Context, _ []string) (map[string]uuid.UUID, error) {
			epoch, err := queryEpoch(ctx, p.sessions)
			return map[string]uuid.UUID{"": epoch}, err
		}}
}

// Snapshot is a read-only transaction whose statements see one state of the node.
type Snapshot struct{ tx pgx.Tx }

// WithEpoch reads in one snapshot and calls judge with the access epoch in it, which is zero if the node has none.
// The error of judge comes before [ErrNotFound] of read; any other error of read is returned without asking it.
func (r *Reader) WithEpoch(ctx context.Context, judge func(ctx context.Context, epoch uuid.UUID) error,
	read func(Snapshot) error) error {
	var absent error
	var epoch uuid.UUID
	err := r.ReadInOrder(ctx, func(tx pgx.Tx) error {
		err := read(Snapshot{tx})
		if errors.Is(err, ErrNotFound) {
			absent, err = err, nil
		}
		if err == nil {
			epoch, err = queryEpoch(ctx, tx)
		}
		return err
	})
	if err == nil {
		err = judge(ctx, epoch) // after the transaction, so that it may take a connection of the pool
	}
	if err != nil {
		return err
	}
	return absent
}
