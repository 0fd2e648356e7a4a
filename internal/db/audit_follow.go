package db

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// AuditFollower returns the events that are committed after it begins, each once, in whichever order their transactions
// end and however late reads are shipped: it compares snapshots, not times or ids. It is not safe for concurrent use.
type AuditFollower struct {
	reader *Reader
	filter AuditFilter

	since    *snapshot        // every event of a transaction that had ended then was returned
	now      *snapshot        // the snapshot at the beginning of an unfinished scan
	resume   txRow            // the last row of that scan
	returned map[int64]uint64 // events returned whose transactions had not ended at since
}

// txRow is a position in the order in which transactions began.
type txRow struct {
	tx uint64
	id int64
}

// followRows bounds the rows of one statement.
const followRows = 5000

// FollowAudit follows what is committed after it returns. The time range of the filter is ignored.
func (r *Reader) FollowAudit(ctx context.Context, f AuditFilter) (*AuditFollower, error) {
	for _, c := range f.Conditions {
		if err := c.check(); err != nil {
			return nil, err
		}
	}
	follower := &AuditFollower{reader: r, filter: f, returned: map[int64]uint64{}}
	for {
		if _, more, err := follower.Next(ctx); err != nil || !more {
			return follower, err
		}
	}
}

// Next returns new events, oldest first; more says that another call finds more at once. After an error, the next call
// repeats the scan and skips nothing.
func (f *AuditFollower) Next(ctx context.Context) (fresh []AuditRow, more bool, err error) {
	var rows []followed
	err = f.reader.ReadInOrder(ctx, func(tx pgx.Tx) error {
		now, err := takeSnapshot(ctx, tx)
		if err != nil {
			return err
		}
		// the first call, or a restored cluster, whose ids begin anew
		if f.since == nil || f.since.system != now.system {
			f.since, f.now, f.resume = &now, nil, txRow{}
			clear(f.returned)
		}
		if f.now == nil {
			f.now = &now
		}
		rows, err = f.notEnded(ctx, tx)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return f.advance(rows), len(rows) == followRows, nil
}

func (f *AuditFollower) advance(rows []followed) (fresh []AuditRow) {
	for _, r := range rows {
		if _, known := f.returned[r.ID]; !known {
			fresh = append(fresh, r.AuditRow)
			f.returned[r.ID] = r.tx
		}
		f.resume = txRow{r.tx, r.ID}
	}
	if len(rows) < followRows {
		f.since, f.now, f.resume = f.now, nil, txRow{}
		maps.DeleteFunc(f.returned, func(_ int64, tx uint64) bool { return f.since.ended(tx) })
	}
	slices.SortFunc(fresh, func(a, b AuditRow) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID)) })
	return fresh
}

type followed struct {
	AuditRow
	tx uint64
}

// notEnded reads the visible events of transactions that had not ended at f.since.
func (f *AuditFollower) notEnded(ctx context.Context, tx pgx.Tx) ([]followed, error) {
	begin, open := f.since.notEnded()
	s := statement{args: []any{f.since.system, number(begin), numbers(open), number(f.resume.tx), f.resume.id, followRows}}
	check := "(tx, id) > ($4::text::xid8, $5)"
	for _, c := range f.filter.Conditions {
		check += " AND " + c.sql(&s)
	}
	part := func(of string) string {
		return `(SELECT * FROM vault.audit_log WHERE system_id = $1 AND ` + of + ` AND ` + check +
			` ORDER BY system_id, tx, id LIMIT $6)`
	}
	return collect(ctx, tx, func(row pgx.CollectableRow) (followed, error) {
		var r followed
		var id string
		a := &r.AuditRow
		err := row.Scan(&a.ID, &a.At, &a.RecordedAt, &a.Actor, &a.DBRole, &a.Client, &a.Node, &a.Action, &a.Secret,
			&a.Version, &a.Outcome, &a.RequestID, (*verbatim)(&a.Detail), &id)
		if err == nil {
			r.tx, err = strconv.ParseUint(id, 10, 64)
		}
		return r, err
	}, `SELECT `+auditColumns+`, tx::text FROM (`+part(`tx >= $2::text::xid8`)+` UNION ALL `+
		part(`tx = ANY ($3::text[]::xid8[])`)+`) s
		ORDER BY tx, id LIMIT $6`, s.args...)
}

// snapshot holds which transactions had ended, as pg_snapshot does.
type snapshot struct {
	system    int64 // the system that assigned the transaction ids
	standby   bool  // its snapshots do not list open transactions
	low, high uint64
	open      []uint64 // between low and high
}

func takeSnapshot(ctx context.Context, tx pgx.Tx) (snapshot, error) {
	var s snapshot
	var low, high string
	var open []string
	err := tx.QueryRow(ctx, `SELECT (SELECT system_identifier FROM pg_control_system()), pg_is_in_recovery(),
			pg_snapshot_xmin(seen)::text,
			pg_snapshot_xmax(seen)::text, ARRAY(SELECT pg_snapshot_xip(seen)::text)
		FROM pg_current_snapshot() seen`).Scan(&s.system, &s.standby, &low, &high, &open)
	if err != nil {
		return s, err
	}
	for _, text := range append([]string{low, high}, open...) {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return s, err
		}
		s.open = append(s.open, n)
	}
	s.low, s.high, s.open = s.open[0], s.open[1], s.open[2:]
	return s, nil
}

// notEnded returns the transactions that had not ended, or may not have: all from begin on, and the open ones.
func (s *snapshot) notEnded() (begin uint64, open []uint64) {
	if s.standby {
		return s.low, nil
	}
	return s.high, s.open
}

func (s *snapshot) ended(tx uint64) bool {
	begin, open := s.notEnded()
	return tx < begin && !slices.Contains(open, tx)
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func numbers(ns []uint64) []string {
	texts := make([]string, len(ns))
	for i, n := range ns {
		texts[i] = number(n)
	}
	return texts
}
