package db

import (
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// MinusInfinity and Infinity stand for PostgreSQL's times of these names, wherever a time is read or sent, so that a
// row with one does not fail the rows beside it. PostgreSQL has no other time that equals them, because it counts whole
// microseconds, and encoding/json can write them.
var (
	MinusInfinity = time.Date(0, 1, 1, 0, 0, 0, 1, time.UTC)
	Infinity      = time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
)

// registerInfinity makes a connection read and send them.
func registerInfinity(conn *pgx.Conn) {
	conn.TypeMap().RegisterType(&pgtype.Type{Name: "timestamptz", OID: pgtype.TimestamptzOID,
		Codec: timesCodec{&pgtype.TimestamptzCodec{}}})
}

type timesCodec struct{ *pgtype.TimestamptzCodec }

// PlanScan is for a *time.Time; everything else is the embedded codec's.
func (c timesCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if _, ok := target.(*time.Time); ok {
		return scanTime{c.TimestamptzCodec.PlanScan(m, oid, format, &pgtype.Timestamptz{})}
	}
	return c.TimestamptzCodec.PlanScan(m, oid, format, target)
}

type scanTime struct{ plan pgtype.ScanPlan }

func (s scanTime) Scan(src []byte, dst any) error {
	var read pgtype.Timestamptz
	if src == nil {
		return pgx.ErrNoRows
	}
	if err := s.plan.Scan(src, &read); err != nil {
		return err
	}
	to := dst.(*time.Time)
	switch read.InfinityModifier {
	case pgtype.Infinity:
		*to = Infinity
	case pgtype.NegativeInfinity:
		*to = MinusInfinity
	default:
		*to = read.Time
	}
	return nil
}

// PlanEncode is for a time.Time; everything else is the embedded codec's.
func (c timesCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(time.Time); ok {
		return sendTime{c.TimestamptzCodec.PlanEncode(m, oid, format, pgtype.Timestamptz{})}
	}
	return c.TimestamptzCodec.PlanEncode(m, oid, format, value)
}

type sendTime struct{ plan pgtype.EncodePlan }

func (s sendTime) Encode(value any, to []byte) ([]byte, error) {
	t := value.(time.Time)
	sent := pgtype.Timestamptz{Time: t, Valid: true}
	switch {
	case t.Equal(Infinity):
		sent = pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	case t.Equal(MinusInfinity):
		sent = pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	}
	return s.plan.Encode(sent, to)
}
