package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	rowFormat  = "hyperiondb-vault/audit-row/1\x00"
	rowFormat2 = "hyperiondb-vault/audit-row/2\x00" // of a row with several reads
)

// Hash is a SHA-256.
type Hash = [sha256.Size]byte

// Row is a row of the audit log with every column. Its JSON has the fields of `vaultctl audit export` and more.
type Row struct {
	ID         int64           `json:"id"`
	SystemID   int64           `json:"system_id,string"` // beyond the integers of JavaScript
	Tx         uint64          `json:"tx,string"`
	At         Moment          `json:"at"`
	RecordedAt Moment          `json:"recorded_at"`
	Actor      string          `json:"actor"`
	DBRole     string          `json:"db_role"`
	Client     *Client         `json:"client,omitempty"`
	Node       *string         `json:"node,omitempty"`
	Action     string          `json:"action"`
	Secret     *string         `json:"secret,omitempty"`
	Version    *int32          `json:"version,omitempty"`
	Outcome    string          `json:"outcome"`
	RequestID  *uuid.UUID      `json:"request_id,omitempty"`
	Detail     json.RawMessage `json:"detail"`
	Since      *Moment         `json:"since,omitempty"`   // of the first of several reads
	Earlier    json.RawMessage `json:"earlier,omitempty"` // those before the newest, as [Earlier]; null: none
}

// Earlier is the reads of a row before the newest, each of which has an element in the first four arrays, from the
// newer to the older; and their readers.
type Earlier struct {
	Reads    int               `json:"reads"` // with the newest
	Ago      []*int64          `json:"ago"`   // microseconds before the row's time
	Back     []*int64          `json:"back"`  // numbers before the row's
	Requests []*string         `json:"requests"`
	Reader   []*int64          `json:"reader"` // an index into the following, from 1
	Actors   []*string         `json:"actors"`
	Clients  []*string         `json:"clients"`
	Versions []*int64          `json:"versions"`
	Details  []json.RawMessage `json:"details"`
}

// check fails if the arrays do not fit, so that reads cannot be told from them.
func (r *Row) check() error {
	if (r.Since == nil) != (r.Earlier == nil) {
		return errors.New("it has arrays of reads without their beginning, or no reads to its beginning")
	}
	if r.Earlier == nil {
		return nil
	}
	var e Earlier
	if err := json.Unmarshal(r.Earlier, &e); err != nil {
		return fmt.Errorf("its arrays of reads cannot be read: %w", err)
	}
	n := len(e.Ago)
	if n == 0 || e.Reads != n+1 || len(e.Back) != n || len(e.Requests) != n || len(e.Reader) != n {
		return fmt.Errorf("it says that it has %d reads, and its arrays have %d times, %d numbers, %d requests and "+
			"%d readers of those before the newest", e.Reads, n, len(e.Back), len(e.Requests), len(e.Reader))
	}
	readers := len(e.Actors)
	if len(e.Clients) != readers || len(e.Versions) != readers || len(e.Details) != readers {
		return fmt.Errorf("its arrays have %d actors, %d clients, %d versions and %d details", readers, len(e.Clients),
			len(e.Versions), len(e.Details))
	}
	for i, ago := range e.Ago {
		switch {
		case ago == nil || e.Back[i] == nil || e.Reader[i] == nil:
			return fmt.Errorf("read %d before its newest has no time, number or reader", i+1)
		case i > 0 && *ago < *e.Ago[i-1] || *ago < 0:
			return fmt.Errorf("read %d before its newest is not in the order of time", i+1)
		case *e.Reader[i] < 1 || *e.Reader[i] > int64(readers) || e.Actors[*e.Reader[i]-1] == nil:
			return fmt.Errorf("read %d before its newest is of a reader that it does not name", i+1)
		}
	}
	return nil
}

// Client is PostgreSQL's inet: an address that may have a prefix length, written without it for a single address.
type Client struct{ netip.Prefix }

// MarshalText writes 10.0.0.1 or 10.0.0.1/24.
func (c Client) MarshalText() ([]byte, error) {
	if c.IsSingleIP() {
		return c.Addr().MarshalText()
	}
	return c.Prefix.MarshalText()
}

// UnmarshalText reads what MarshalText wrote.
func (c *Client) UnmarshalText(text []byte) (err error) {
	if strings.Contains(string(text), "/") {
		c.Prefix, err = netip.ParsePrefix(string(text))
		return err
	}
	addr, err := netip.ParseAddr(string(text))
	c.Prefix = netip.PrefixFrom(addr, addr.BitLen())
	return err
}

// Moment is any time that PostgreSQL has. Its JSON is that of [time.Time] for the years 0 to 9999, else "@" and the
// microseconds since 1970.
type Moment struct{ time.Time }

// MinusInfinity and Infinity stand for PostgreSQL's times of these names. No other time of PostgreSQL equals them,
// since it has whole microseconds only.
var (
	MinusInfinity = time.Date(0, 1, 1, 0, 0, 0, 1, time.UTC)
	Infinity      = time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
)

// MarshalJSON writes a time as [Moment] describes.
func (m Moment) MarshalJSON() ([]byte, error) {
	if y := m.Year(); y < 0 || y > 9999 {
		return fmt.Appendf(nil, `"@%d"`, m.UnixMicro()), nil
	}
	return m.Time.MarshalJSON()
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (m *Moment) UnmarshalJSON(text []byte) error {
	if number, ok := bytes.CutPrefix(text, []byte(`"@`)); ok {
		micro, err := strconv.ParseInt(string(bytes.TrimSuffix(number, []byte(`"`))), 10, 64)
		m.Time = time.UnixMicro(micro).UTC()
		return err
	}
	return m.Time.UnmarshalJSON(text)
}

// micro is the number that is hashed: for the infinite times PostgreSQL's own.
func (m Moment) micro() uint64 {
	switch {
	case m.Equal(Infinity):
		return math.MaxInt64
	case m.Equal(MinusInfinity):
		return 1 << 63 // the least
	}
	return uint64(m.UnixMicro())
}

// Month is the first day of the month that a time is sealed under, in UTC. 0001-01 also has earlier times, and 9999-12
// later ones.
func Month(t time.Time) time.Time {
	y, m, _ := t.UTC().Date()
	switch {
	case y < 1:
		y, m = 1, time.January
	case y > 9999:
		y, m = 9999, time.December
	}
	return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
}

// Leaf is the hash of the row as a leaf of the tree.
func (r *Row) Leaf() (Hash, error) {
	detail, err := canonical(r.Detail)
	// If it is nested too deep for encoding/json, PostgreSQL's text is hashed, so that one row does not stop the sealing.
	if err != nil {
		detail = r.Detail
	}
	b := make([]byte, 1, 512) // 0x00: a leaf
	if r.Since == nil && r.Earlier == nil {
		b = append(b, rowFormat...)
	} else {
		b = append(b, rowFormat2...)
	}
	b = number(b, uint64(r.ID))
	b = number(b, uint64(r.SystemID))
	b = number(b, r.Tx)
	b = number(b, r.At.micro())
	b = number(b, r.RecordedAt.micro())
	b = text(b, &r.Actor)
	b = text(b, &r.DBRole)
	b = address(b, r.Client)
	b = text(b, r.Node)
	b = text(b, &r.Action)
	b = text(b, r.Secret)
	if r.Version == nil {
		b = append(b, 0)
	} else {
		b = number(b, uint64(int64(*r.Version)))
	}
	b = text(b, &r.Outcome)
	if r.RequestID == nil {
		b = append(b, 0)
	} else {
		b = value(b, r.RequestID[:])
	}
	b = value(b, detail)
	if r.Since == nil && r.Earlier == nil {
		return sha256.Sum256(b), nil
	}
	if r.Since == nil {
		b = append(b, 0)
	} else {
		b = number(b, r.Since.micro())
	}
	if r.Earlier == nil {
		return sha256.Sum256(append(b, 0)), nil
	}
	earlier, err := canonical(r.Earlier)
	if err != nil {
		earlier = r.Earlier
	}
	return sha256.Sum256(value(b, earlier)), nil
}

func value(b, v []byte) []byte {
	b = append(b, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
	return append(b, v...)
}

func number(b []byte, n uint64) []byte {
	return value(b, binary.BigEndian.AppendUint64(nil, n))
}

func text(b []byte, s *string) []byte {
	if s == nil {
		return append(b, 0)
	}
	b = append(b, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(len(*s)))
	return append(b, *s...)
}

func address(b []byte, c *Client) []byte {
	if c == nil {
		return append(b, 0)
	}
	return value(b, append(c.Addr().AsSlice(), byte(c.Bits())))
}

// canonical writes JSON in the form that is hashed: the texts of PostgreSQL, Go and jq for one document have the same.
func canonical(doc json.RawMessage) ([]byte, error) {
	if string(doc) == "{}" {
		return doc, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(doc))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil { // sorts keys
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}
