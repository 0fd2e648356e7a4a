package db

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// LSN is a position in the write-ahead log. The zero LSN is before everything. Positions of one history can be
// compared; after a failover that lost writes, old positions have no meaning.
type LSN uint64

// ParseLSN reads PostgreSQL's spelling, two hexadecimal numbers of up to 32 bits: 0/16B3748.
func ParseLSN(text string) (LSN, error) {
	high, low, found := strings.Cut(text, "/")
	h, err := strconv.ParseUint(high, 16, 32)
	l, err2 := strconv.ParseUint(low, 16, 32)
	if !found || err != nil || err2 != nil || len(high) > 8 || len(low) > 8 {
		return 0, newError(ErrInvalid, "a position in the log looks like 0/16B3748")
	}
	return LSN(h<<32 | l), nil
}

func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint64(l)&0xffffffff) }

// positionQuery is the position that a node has reached. On a primary that is the flush position: after a failover that
// lost writes, it is below that of an old receipt. The insert position would not do: it can be past a page header with
// no record after it, which no standby reaches before the next record. The query runs after a COMMIT, outside of the
// transaction that a pooler's session has its settings in, so it qualifies every name.
const positionQuery = `SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
	ELSE pg_catalog.pg_current_wal_flush_lsn() END::pg_catalog.text`

// Position is the position that the node has replayed, or on a primary flushed: later reads see everything that was
// committed before it.
func (r *Reader) Position(ctx context.Context) (LSN, error) {
	var text *string
	if err := r.pool.QueryRow(ctx, positionQuery).Scan(&text); err != nil {
		return 0, classify(err)
	}
	if text == nil { // a standby that has not replayed anything since it started
		return 0, nil
	}
	return ParseLSN(*text)
}

// IsPrimary reports whether the node of this reader is the primary, and records its history: an old primary that came
// back is refused (ErrFenced).
func (r *Reader) IsPrimary(ctx context.Context) (bool, error) {
	l, err := r.lineage(ctx)
	if err == nil && l.System == "" { // no lineage
		err = classify(r.pool.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&l.recovering))
	}
	return !l.recovering && err == nil, err
}

// Beat renews the primary's heartbeat. It does not wait for a standby, because the heartbeat shows when one is behind.
func (w *Writer) Beat(ctx context.Context) error {
	// QueryRow prepares the statement. Exec would not, without an argument, and it would be planned at every beat.
	err := w.pool.QueryRow(ctx, `SELECT set_config('synchronous_commit', 'local', true), vault.beat()`).Scan(nil, nil)
	return w.failedOver(classify(err))
}

// Lag is the time by which the node is behind, by its clock and the heartbeat that it has replayed; nil if it has none.
func (r *Reader) Lag(ctx context.Context) (*time.Duration, error) {
	var seconds *float64
	if err := r.pool.QueryRow(ctx, `SELECT vault.replication_lag()`).Scan(&seconds); err != nil {
		return nil, classify(err)
	}
	if seconds == nil {
		return nil, nil
	}
	lag := time.Duration(*seconds * float64(time.Second))
	return &lag, nil
}

// Standby is a standby that is connected to the primary.
type Standby struct {
	Name     string `json:"name"`
	Replayed bool   `json:"replayed"` // up to the given position
}

// Standbys lists the standbys connected to the primary, and whether each has replayed up to a position; "" = up to now.
func (w *Writer) Standbys(ctx context.Context, lsn string) ([]Standby, error) {
	return Collect(ctx, w.pool, func(row pgx.CollectableRow) (Standby, error) {
		var s Standby
		err := row.Scan(&s.Name, &s.Replayed)
		return s, err
	}, `SELECT name, replayed FROM vault.standbys(coalesce(nullif($1, '')::pg_lsn, pg_current_wal_flush_lsn()))`, lsn)
}
