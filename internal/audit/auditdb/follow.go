package auditdb

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/db"
)

// Follower returns the events that are committed after it begins, each once, in whichever order their transactions
// end and however late reads are shipped: it compares snapshots, not times or ids. It is not safe for concurrent use.
type Follower struct {
	reader     *db.Reader
	conditions []condition

	since    *snapshot        // every event of a transaction that had ended then was returned
	now      *snapshot        // the snapshot at the beginning of an unfinished scan
	resume   txRow            // the last row of that scan
	returned map[int64]uint64 // rows whose events were returned and whose transactions had not ended at since
}

// txRow is a position in the order in which transactions began.
type txRow struct {
	tx uint64
	id int64
}

// followRows bounds the rows of one statement. A row has up to a thousand reads.
const followRows = 1000

// Follow follows what is committed after it returns. The time range of the filter is ignored.
func (l *Log) Follow(ctx context.Context, f filter.Filter) (*Follower, error) {
	conditions, err := conditionsOf(f)
	if err != nil {
		return nil, err
	}
	follower := &Follower{reader: l.reader, conditions: conditions, returned: map[int64]uint64{}}
	for {
		if _, more, err := follower.Next(ctx); err != nil || !more {
			return follower, err
		}
	}
}

// Next returns new events, oldest first; more says that another call finds more at once. After an error, the next call
// repeats the scan and skips nothing.
func (f *Follower) Next(ctx context.Context) (fresh []audit.Row, more bool, err error) {
	var rows []followedRow
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
		if rows, err = f.notEnded(ctx, tx); err == nil {
			fresh, err = f.readsOf(ctx, tx, rows)
		}
		return err
	})
	if err != nil {
		return nil, false, err
	}
	f.advance(rows)
	return fresh, len(rows) == followRows, nil
}

func (f *Follower) advance(rows []followedRow) {
	for _, r := range rows {
		f.returned[r.id] = r.tx
		f.resume = txRow{r.tx, r.id}
	}
	if len(rows) < followRows {
		f.since, f.now, f.resume = f.now, nil, txRow{}
		maps.DeleteFunc(f.returned, func(_ int64, tx uint64) bool { return f.since.ended(tx) })
	}
}

type followedRow struct {
	txRow
	at time.Time
}

// notEnded finds the visible rows of transactions that had not ended at f.since.
func (f *Follower) notEnded(ctx context.Context, tx pgx.Tx) ([]followedRow, error) {
	begin, open := f.since.notEnded()
	s := statement{args: []any{f.since.system, number(begin), numbers(open), number(f.resume.tx), f.resume.id, followRows}}
	check := "(tx, id) > ($4::text::xid8, $5) AND " + checkRows(&s, f.conditions)
	part := func(of string) string {
		return `(SELECT id, at, tx FROM vault.audit_log WHERE system_id = $1 AND ` + of + ` AND ` + check +
			` ORDER BY system_id, tx, id LIMIT $6)`
	}
	return db.Collect(ctx, tx, func(row pgx.CollectableRow) (r followedRow, err error) {
		var id string
		if err = row.Scan(&r.id, &r.at, &id); err == nil {
			r.tx, err = strconv.ParseUint(id, 10, 64)
		}
		return r, err
	}, `SELECT id, at, tx::text FROM (`+part(`tx >= $2::text::xid8`)+` UNION ALL `+
		part(`tx = ANY ($3::text[]::xid8[])`)+`) s
		ORDER BY tx, id LIMIT $6`, s.args...)
}

// readsOf are the events of rows that were not returned yet, oldest first.
func (f *Follower) readsOf(ctx context.Context, tx pgx.Tx, rows []followedRow) ([]audit.Row, error) {
	var ids []int64
	var ats []time.Time
	for _, r := range rows {
		if _, known := f.returned[r.id]; !known {
			ids, ats = append(ids, r.id), append(ats, r.at)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	var s statement
	found := rowsOf(&s, ids, ats)
	return db.Collect(ctx, tx, scanRow, readsOf(found, search{conditions: f.conditions}.checkReads(&s), "moment, id, nth",
		"ALL"), s.args...)
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
