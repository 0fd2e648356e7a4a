package auditdb

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
)

const (
	samples    = 4   // samples of a bucket
	sampleRows = 128 // rows of a sample; a span with fewer is counted
)

// Counts counts the events of a filter in equal spans between two times; a zero from is the time of the oldest
// event. Its cost depends on the number of buckets only: a sample that is full is taken as the density of its part of
// the bucket. Rows of several reads come in clusters, at the ends of windows: of those, a full sample is taken as the
// share of the rows that its part has by their ids.
func (l *Log) Counts(ctx context.Context, f filter.Filter, from, to time.Time, buckets int) (audit.Counts, error) {
	counts := audit.Counts{From: from, To: to}
	err := l.reader.ReadInOrder(ctx, func(tx pgx.Tx) error {
		if from.IsZero() {
			err := tx.QueryRow(ctx, `SELECT coalesce((SELECT at FROM vault.audit_log ORDER BY at, id LIMIT 1), $1)`,
				to).Scan(&counts.From)
			if err != nil {
				return err
			}
		}
		if !counts.From.Before(to) || buckets < 1 {
			counts.Buckets = make([]audit.Count, max(buckets, 0))
			return nil
		}
		found, err := plan(ctx, tx, f)
		if err == nil {
			counts.Buckets, err = found.counts(ctx, tx, counts.From, to, buckets)
		}
		return err
	})
	return counts, err
}

// counts adds up the parts of the search. A row counts where its newest read is.
func (a search) counts(ctx context.Context, tx pgx.Tx, from, to time.Time, buckets int) ([]audit.Count, error) {
	if a.few != nil {
		return a.countFew(ctx, tx, from, to, buckets)
	}
	counts := make([]audit.Count, buckets)
	if len(a.along) > 0 && a.along[0].isOfRead() {
		// Along the index are the newest reads of their rows. Those of rows with several are counted with the others there.
		err := a.sample(ctx, tx, from, to, counts, true)
		if err != nil {
			return nil, err
		}
	}
	err := a.sample(ctx, tx, from, to, counts, false)
	return counts, err
}

// sample adds the counts of rows of one event along an index, or of all rows.
func (a search) sample(ctx context.Context, tx pgx.Tx, from, to time.Time, counts []audit.Count, single bool) error {
	var s statement
	step := to.Sub(from) / time.Duration(len(counts)*samples)
	span := `CROSS JOIN LATERAL (SELECT $1::timestamptz + n * $2::interval AS lo,
		$1::timestamptz + (n + 1) * $2::interval AS hi) span`
	s.args = []any{from, step, len(counts)*samples - 1}
	check := checkRows(&s, a.conditions)
	reads, guessed := "(since IS NULL)::int", "false"
	if !single {
		reads, guessed = readsOfRow(&s, a.conditions)
	}
	alsoAlong := !single && len(a.along) > 0 && a.along[0].isOfRead()
	if alsoAlong {
		reads = `CASE WHEN since IS NULL THEN 0 ELSE ` + reads + ` END`
	}
	between := "0"
	if !single && (alsoAlong || len(a.along) == 0) {
		between = `CASE WHEN looked = ` + strconv.Itoa(sampleRows) + ` AND several THEN (SELECT abs(a.id - coalesce(
				(SELECT id FROM vault.audit_log WHERE at >= hi AND at < hi + (hi - lo) ORDER BY at, id LIMIT 1),
				(SELECT id + 1 FROM vault.audit_log WHERE at < hi ORDER BY at DESC, id DESC LIMIT 1)))
			FROM (SELECT id FROM vault.audit_log WHERE at >= lo ORDER BY at, id LIMIT 1) a) END`
	}
	source := a.sampleSource(&s, ` AND at >= lo AND at < hi`+a.between(&s)+a.untilRows(&s), single)
	rows, err := tx.Query(ctx, `SELECT n, looked, coalesce(matched, 0)::float8, coalesce(guessed, false),
			coalesce(extract(epoch FROM reached - lo), 0)::float8, coalesce(`+between+`, 0)
		FROM generate_series(0, $3::int) n `+span+` CROSS JOIN LATERAL (
			SELECT count(*) AS looked, sum(`+reads+`) FILTER (WHERE `+check+`) AS matched,
				bool_or(`+guessed+`) FILTER (WHERE `+check+`) AS guessed, max(at) AS reached,
				bool_or(since IS NOT NULL) AS several FROM `+source+`) sample`, s.args...)
	if err != nil {
		return err
	}
	var n, looked, rowsBetween int64
	var matched, reached float64 // seconds of the sample's span that were looked at
	var estimated bool
	_, err = pgx.ForEachRow(rows, []any{&n, &looked, &matched, &estimated, &reached, &rowsBetween}, func() error {
		c := &counts[n/samples]
		if looked < sampleRows {
			c.Events += int64(math.Round(matched))
			c.Approximate = c.Approximate || estimated
			return nil
		}
		c.Approximate = true
		if rowsBetween > 0 {
			c.Events += int64(max(matched, matched/float64(looked)*float64(rowsBetween)))
			return nil
		}
		c.Events += int64(max(matched, matched*step.Seconds()/max(reached, 1e-6)))
		return nil
	})
	return err
}

// sampleSource is a sample's rows as a FROM item; window is further conditions.
func (a search) sampleSource(s *statement, window string, single bool) string {
	const text = `(SELECT * FROM vault.audit_log WHERE %s ORDER BY at, id LIMIT %s)`
	most := s.arg(sampleRows)
	conditions := []string{"true"}
	if len(a.along) > 0 && (single || !a.along[0].isOfRead()) {
		conditions = nil
		for _, c := range a.along {
			conditions = append(conditions, c.sql(s))
		}
	}
	var parts []string
	for _, c := range conditions {
		parts = append(parts, fmt.Sprintf(text, c+window, most))
	}
	return `(SELECT * FROM (` + strings.Join(parts, ` UNION ALL `) + `) one ORDER BY at, id LIMIT ` + most + `) s`
}

func (a search) countFew(ctx context.Context, tx pgx.Tx, from, to time.Time, buckets int) ([]audit.Count, error) {
	var s statement
	lo, width := s.arg(from), s.arg(to.Sub(from)/time.Duration(buckets))
	source := a.fewSource(&s, ` AND at >= `+lo+` AND at < `+s.arg(to)+a.between(&s)+a.untilRows(&s))
	reads, guessed := readsOfRow(&s, a.conditions)
	rows, err := tx.Query(ctx,
		`SELECT least(floor(extract(epoch FROM at - `+lo+`::timestamptz) / extract(epoch FROM `+width+`::interval)), `+
			s.arg(buckets-1)+`)::int, round(sum(`+reads+`))::bigint, bool_or(`+guessed+`) FROM `+source+
			` WHERE `+checkRows(&s, a.conditions)+` GROUP BY 1`, s.args...)
	if err != nil {
		return nil, err
	}
	counts := make([]audit.Count, buckets)
	var n int
	var events int64
	var estimated bool
	_, err = pgx.ForEachRow(rows, []any{&n, &events, &estimated}, func() error {
		counts[n] = audit.Count{Events: events, Approximate: estimated}
		return nil
	})
	return counts, err
}
