package db

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// AuditCounts has the number of events per span of time.
type AuditCounts struct {
	From, To time.Time
	Buckets  []AuditCount
}

// AuditCount is the number of one span.
type AuditCount struct {
	Events      int64
	Approximate bool // too many to count: estimated from the density of samples
}

const (
	samples    = 4   // samples of a bucket
	sampleRows = 128 // rows of a sample; a span with fewer is counted
)

// AuditCounts counts the events of a filter in equal spans between two times; a zero from is the time of the oldest
// event. Its cost depends on the number of buckets only: a sample that is full is taken as the density of its part of
// the bucket.
func (r *Reader) AuditCounts(ctx context.Context, f AuditFilter, from, to time.Time, buckets int) (AuditCounts, error) {
	counts := AuditCounts{From: from, To: to}
	err := r.ReadInOrder(ctx, func(tx pgx.Tx) error {
		if from.IsZero() {
			err := tx.QueryRow(ctx, `SELECT coalesce((SELECT at FROM vault.audit_log ORDER BY at, id LIMIT 1), $1)`,
				to).Scan(&counts.From)
			if err != nil {
				return err
			}
		}
		if !counts.From.Before(to) || buckets < 1 {
			counts.Buckets = make([]AuditCount, max(buckets, 0))
			return nil
		}
		search, err := planAudit(ctx, tx, f)
		if err == nil {
			counts.Buckets, err = search.counts(ctx, tx, counts.From, to, buckets)
		}
		return err
	})
	return counts, err
}

func (a auditSearch) counts(ctx context.Context, tx pgx.Tx, from, to time.Time, buckets int) ([]AuditCount, error) {
	if a.few != nil {
		return a.countFew(ctx, tx, from, to, buckets)
	}
	var s statement
	step := to.Sub(from) / time.Duration(buckets*samples)
	span := `CROSS JOIN LATERAL (SELECT $1::timestamptz + n * $2::interval AS lo,
		$1::timestamptz + (n + 1) * $2::interval AS hi) span`
	s.args = []any{from, step, buckets*samples - 1}
	source := a.source(&s, ` AND at >= lo AND at < hi`+a.filter.between(&s), "at, id", sampleRows)
	rows, err := tx.Query(ctx, `SELECT n, looked, matched, coalesce(extract(epoch FROM reached - lo), 0)::float8
		FROM generate_series(0, $3::int) n `+span+` CROSS JOIN LATERAL (
			SELECT count(*) AS looked, count(*) FILTER (WHERE `+a.check(&s)+`) AS matched,
				max(at) AS reached FROM `+source+`) sample`, s.args...)
	if err != nil {
		return nil, err
	}
	counts := make([]AuditCount, buckets)
	var n, looked, matched int64
	var reached float64 // seconds of the sample's span that were looked at
	_, err = pgx.ForEachRow(rows, []any{&n, &looked, &matched, &reached}, func() error {
		c := &counts[n/samples]
		if looked < sampleRows {
			c.Events += matched
			return nil
		}
		c.Approximate = true
		c.Events += max(matched, int64(float64(matched)*step.Seconds()/max(reached, 1e-6)))
		return nil
	})
	return counts, err
}

func (a auditSearch) countFew(ctx context.Context, tx pgx.Tx, from, to time.Time, buckets int) ([]AuditCount, error) {
	var s statement
	lo, width := s.arg(from), s.arg(to.Sub(from)/time.Duration(buckets))
	source := a.source(&s, ` AND at >= `+lo+` AND at < `+s.arg(to)+a.filter.between(&s), "", 0)
	rows, err := tx.Query(ctx,
		`SELECT least(floor(extract(epoch FROM at - `+lo+`::timestamptz) / extract(epoch FROM `+width+`::interval)), `+
			s.arg(buckets-1)+`)::int, count(*) FROM `+source+` WHERE `+a.check(&s)+` GROUP BY 1`, s.args...)
	if err != nil {
		return nil, err
	}
	counts := make([]AuditCount, buckets)
	var n int
	var events int64
	_, err = pgx.ForEachRow(rows, []any{&n, &events}, func() error {
		counts[n].Events = events
		return nil
	})
	return counts, err
}
