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
