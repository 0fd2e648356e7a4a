package db

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ForgetCookie leaves the session as a pooler would: without what the feed has set in it.
func (f *Feed) ForgetCookie(ctx context.Context) error {
	_, err := f.conn.Exec(ctx, `RESET hyperion_vault.feed`)
	return err
}

// Explain is the plan of a poll in the feed's session.
func (f *Feed) Explain(ctx context.Context) (string, error) {
	_, err := f.conn.Exec(ctx, `PREPARE explained (xid8) AS `+feedQuery, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return "", err
	}
	rows, err := f.conn.Query(ctx, `EXPLAIN EXECUTE explained ('9000000000000000000')`, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return "", err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(lines, "\n"), err
}

// Changed is what a follower with another rule would poll.
type Changed struct {
	XMin, XMax, MaxTx uint64
	Snapshot          string
	Names             []string
}

// Changed reads the feed in its own session, under a condition of its rows.
func (f *Feed) Changed(ctx context.Context, where string, args ...any) (c Changed, err error) {
	err = f.conn.QueryRow(ctx, `SELECT pg_snapshot_xmin(s), pg_snapshot_xmax(s), s::text,
		coalesce((SELECT tx FROM vault.changed_names ORDER BY tx DESC LIMIT 1), '0'),
		ARRAY(SELECT name FROM vault.changed_names WHERE `+where+`) FROM pg_current_snapshot() AS s`, args...).
		Scan(&c.XMin, &c.XMax, &c.Snapshot, &c.MaxTx, &c.Names)
	return c, err
}
