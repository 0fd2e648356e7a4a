package db

import (
	"encoding/binary"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Arrays of many elements, as parameters. pgx would allocate each element, and copy what it has encoded again and again
// as it grows; these are encoded in one step.
type (
	// Int4Array is a parameter of type int[].
	Int4Array struct {
		Elements []int32
		// Ahead is the number of bytes of the parameters after it, so that they are encoded into the same memory. 0 = they
		// are short.
		Ahead int
	}
	// Int2Array is a parameter of type smallint[].
	Int2Array []int16
	// UUIDArray is a parameter of type uuid[].
	UUIDArray [][16]byte
)

// registerArrays makes a connection send them.
func registerArrays(conn *pgx.Conn) {
	m := conn.TypeMap()
	for name, of := range map[string]any{"_int2": Int2Array{}, "_int4": Int4Array{}, "_uuid": UUIDArray{}} {
		t, _ := m.TypeForName(name) // pgx has all of PostgreSQL's own
		m.RegisterType(&pgtype.Type{Name: name, OID: t.OID, Codec: arrayCodec{t.Codec}})
		m.RegisterDefaultPgType(of, name) // for sessions that do not describe their statements
	}
}

// array is one of these types.
type array interface {
	Size() int // bytes of the encoded parameter
	append(buf []byte) []byte
	room() int // bytes to make room for
	plain() any
}

type arrayCodec struct{ pgtype.Codec }

// PlanEncode is for an array; everything else is the embedded codec's.
func (c arrayCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	a, ok := value.(array)
	switch {
	case !ok:
		return c.Codec.PlanEncode(m, oid, format, value)
	case format == pgtype.BinaryFormatCode:
		return sendArray{}
	}
	return sendPlain{m.PlanEncode(oid, format, a.plain())}
}

type sendArray struct{}

func (sendArray) Encode(value any, to []byte) ([]byte, error) {
	a := value.(array)
	if need := len(to) + a.room(); cap(to) < need {
		to = append(make([]byte, 0, need), to...)
	}
	return a.append(to), nil
}

// sendPlain sends an array as text, to a session that does not describe its statements.
type sendPlain struct{ plan pgtype.EncodePlan }

func (s sendPlain) Encode(value any, to []byte) ([]byte, error) {
	return s.plan.Encode(value.(array).plain(), to)
}

const arrayHeader = 20 // bytes

// appendHeader begins an array: dimensions, whether there is a NULL, the type of the elements, their number, and the
// index of the first.
func appendHeader(to []byte, oid uint32, elements int) []byte {
	for _, word := range [...]uint32{1, 0, oid, uint32(elements), 1} {
		to = binary.BigEndian.AppendUint32(to, word)
	}
	return to
}

// Size is the number of bytes that it takes as a parameter.
func (a Int4Array) Size() int  { return arrayHeader + (4+4)*len(a.Elements) }
func (a Int4Array) room() int  { return a.Size() + a.Ahead }
func (a Int4Array) plain() any { return a.Elements }

func (a Int4Array) append(to []byte) []byte {
	to = appendHeader(to, pgtype.Int4OID, len(a.Elements))
	for _, n := range a.Elements {
		to = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(to, 4), uint32(n))
	}
	return to
}

// Size is the number of bytes that it takes as a parameter.
func (a Int2Array) Size() int  { return arrayHeader + (4+2)*len(a) }
func (a Int2Array) room() int  { return a.Size() }
func (a Int2Array) plain() any { return []int16(a) }

func (a Int2Array) append(to []byte) []byte {
	to = appendHeader(to, pgtype.Int2OID, len(a))
	for _, n := range a {
		to = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(to, 2), uint16(n))
	}
	return to
}

// Size is the number of bytes that it takes as a parameter.
func (a UUIDArray) Size() int  { return arrayHeader + (4+16)*len(a) }
func (a UUIDArray) room() int  { return a.Size() }
func (a UUIDArray) plain() any { return [][16]byte(a) }

func (a UUIDArray) append(to []byte) []byte {
	to = appendHeader(to, pgtype.UUIDOID, len(a))
	for _, id := range a {
		to = append(binary.BigEndian.AppendUint32(to, 16), id[:]...)
	}
	return to
}
