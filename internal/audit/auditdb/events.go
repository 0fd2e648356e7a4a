package auditdb

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/hyperiondb/vault/internal/audit"
)

// verbatim scans JSON without parsing it, so that a document nested too deeply for encoding/json does not fail the rows
// beside it.
type verbatim json.RawMessage

func (v *verbatim) ScanText(t pgtype.Text) error {
	*v = verbatim(t.String)
	return nil
}

func scanRow(row pgx.CollectableRow) (audit.Row, error) {
	var r audit.Row
	err := row.Scan(targets(&r)...)
	return r, err
}

// targets are the columns of readsOf.
func targets(r *audit.Row) []any {
	return []any{&r.ID, &r.Read, &r.At, &r.RecordedAt, &r.Actor, &r.DBRole, &r.Client, &r.Node, &r.Action, &r.Secret,
		&r.Version, (*string)(&r.Outcome), &r.RequestID, (*verbatim)(&r.Detail)}
}

// Events returns a page of events. It takes a role in vault_auditor. Its time does not grow with the log: a search that
// no index answers is done in slices (see search).
func (l *Log) Events(ctx context.Context, q audit.Query) (page audit.Page, err error) {
	err = l.reader.ReadInOrder(ctx, func(tx pgx.Tx) error {
		page, err = events(ctx, tx, q)
		return err
	})
	return page, err
}

func events(ctx context.Context, tx pgx.Tx, q audit.Query) (audit.Page, error) {
	if q.Limit == 0 {
		q.Limit = 100
	}
	search, err := plan(ctx, tx, q.Filter)
	if err != nil {
		return audit.Page{}, err
	}
	page, err := search.page(ctx, tx, q)
	if q.Newer {
		slices.Reverse(page.Rows)
	}
	return page, err
}
