package db

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// LSN is a position in the write-ahead log. The zero LSN is before everything. Positions of one history compare; a
// failover that lost writes begins another history, in which an old position says nothing.
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

// How far a node has come. On a primary that is what it has flushed: after a failover that lost writes, less than an
// old receipt says. Flushed, not inserted: the insert position can lie behind the header of a page that nothing is on
// yet, where no standby gets before the next record. It is asked behind a COMMIT, outside of the transaction that a
// pooler's session has its settings in, and so names every schema.
const positionQuery = `SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
	ELSE pg_catalog.pg_current_wal_flush_lsn() END::pg_catalog.text`

// Position is how far the node has replayed, or on a primary flushed: whoever asks afterwards sees what was committed
// before it.
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

// Lag is how far behind the node is, by its clock and the heartbeat it has replayed; nil if it has none.
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

// Standby is one that is connected to the primary.
type Standby struct {
	Name     string `json:"name"`
	Replayed bool   `json:"replayed"` // up to the position asked about
}

// Standbys says which of the standbys connected to the primary have replayed up to a position; "" = up to now.
func (w *Writer) Standbys(ctx context.Context, lsn string) ([]Standby, error) {
	return collect(ctx, w.pool, func(row pgx.CollectableRow) (Standby, error) {
		var s Standby
		err := row.Scan(&s.Name, &s.Replayed)
		return s, err
	}, `SELECT name, replayed FROM vault.standbys(coalesce(nullif($1, '')::pg_lsn, pg_current_wal_flush_lsn()))`, lsn)
}
