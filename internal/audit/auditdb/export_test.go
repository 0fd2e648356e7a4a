package auditdb

import (
	"context"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/db"
)

// Plan is the EXPLAIN output of one statement.
type Plan struct {
	Text string
	Rows int // that left a scan or were removed there by a filter
}

// Explain runs the statements of a page under EXPLAIN ANALYZE.
func Explain(ctx context.Context, r *db.Reader, q audit.Query) ([]Plan, error) {
	var plans []Plan
	err := r.ReadInOrder(ctx, func(tx pgx.Tx) error {
		recorder := &recorder{Tx: tx}
		if _, err := events(ctx, recorder, q); err != nil {
			return err
		}
		for _, s := range recorder.statements {
			lines, err := db.Collect(ctx, tx, pgx.RowTo[string], `EXPLAIN (ANALYZE, TIMING OFF) `+s.sql, s.args...)
			if err != nil {
				return err
			}
			plans = append(plans, planOf(s.sql, lines))
		}
		return nil
	})
	return plans, err
}

// recorder keeps the queries of a transaction.
type recorder struct {
	pgx.Tx
	statements []query
}

type query struct {
	sql  string
	args []any
}

func (r *recorder) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	r.statements = append(r.statements, query{sql, args})
	return r.Tx.Query(ctx, sql, args...)
}

func (r *recorder) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	r.statements = append(r.statements, query{sql, args})
	return r.Tx.QueryRow(ctx, sql, args...)
}

var planNumbers = regexp.MustCompile(`Scan.* \(actual rows=([0-9]+)(?:\.[0-9]+)? loops=([0-9]+)\)|` +
	`Rows Removed by Filter: ([0-9]+)`)

func planOf(sql string, lines []string) Plan {
	p := Plan{Text: sql + "\n" + strings.Join(lines, "\n")}
	for _, line := range lines {
		if m := planNumbers.FindStringSubmatch(line); m != nil {
			number := func(i int) int { n, _ := strconv.Atoi(m[i]); return n }
			p.Rows += number(1)*number(2) + number(3)
		}
	}
	return p
}
