package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"

	"github.com/hyperiondb/vault/internal/audit/spool"
)

const (
	format = "hyperiondb-vault-reads/1"

	// A segment of the spool has 4 MiB and one batch more. The bounds keep a file that was not written here from taking
	// all memory.
	maxFile   = 32 << 20 // bytes of a file
	maxText   = 64 << 20 // of its text
	maxHeader = 4 << 10
)

// ErrDamaged is a file that does not have the form of this package, or not the records that its first line says.
var ErrDamaged = errors.New("damaged file of the archive")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// header is the first line of a file.
type header struct {
	Format  string    `json:"format"`
	Cluster uuid.UUID `json:"cluster"`
	Node    string    `json:"node"`
	Boot    uuid.UUID `json:"boot"`
	First   uint64    `json:"first"`
	Records uint64    `json:"records"`
	Link    hash      `json:"link"`
	Last    hash      `json:"last"`
}

type hash spool.Hash

func (h hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

func (h *hash) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err == nil && len(b) != len(h) {
		err = errors.New("a hash has 64 hexadecimal digits")
	}
	copy(h[:], b)
	return err
}

// codec compresses and expands. It is safe for concurrent use.
type codec struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}

func newCodec() (*codec, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(true),
		zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxText))
	return &codec{encoder, decoder}, err
}

func (c *codec) close() {
	_ = c.encoder.Close() // it has no stream
	c.decoder.Close()
}

// encode returns the name and the content of a segment's file.
func (c *codec) encode(cluster uuid.UUID, s spool.Segment) (name, []byte, error) {
	if len(s.Records) == 0 {
		return name{}, nil, errors.New("a segment without records")
	}
	last := s.Records[len(s.Records)-1]
	h := header{Format: format, Cluster: cluster, Node: s.Node, Boot: s.Boot, First: s.Records[0].Seq,
		Records: uint64(len(s.Records)), Link: hash(s.Link), Last: hash(last.Hash())}
	text, err := json.Marshal(h)
	if err != nil {
		return name{}, nil, err
	}
	size := len(text) + 1
	for _, r := range s.Records {
		size += len(r.Event) + 1
	}
	text = append(append(make([]byte, 0, size), text...), '\n')
	var span span
	for _, r := range s.Records {
		if bytes.IndexByte(r.Event, '\n') >= 0 {
			return name{}, nil, fmt.Errorf("record %d has a line break, which no event of vaultd has", r.Seq)
		}
		span.add(timeOf(r.Event))
		text = append(append(text, r.Event...), '\n')
	}
	return nameOf(h, span), c.encoder.EncodeAll(text, make([]byte, 0, size/5)), nil
}

// file is the content of a file whose records are those that its first line says.
type file struct {
	header
	events [][]byte
	text   int // bytes
}

// decode is strict: any writer of the archive may have put anything there.
func (c *codec) decode(n name, content []byte) (file, error) {
	if len(content) > maxFile {
		return file{}, damaged("it has more than %d bytes", maxFile)
	}
	text, err := c.decoder.DecodeAll(content, nil)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) || err == nil && len(content) == 0:
		return file{}, damaged("it is cut short")
	case err != nil:
		return file{}, damaged("it cannot be expanded: %s", err)
	}
	line, rest, whole := bytes.Cut(text, []byte{'\n'})
	if !whole || len(line) > maxHeader {
		return file{}, damaged("it has no first line")
	}
	f := file{text: len(text)}
	if err := json.Unmarshal(line, &f.header); err != nil || f.Format != format {
		return file{}, damaged("its first line is not one of %s", format)
	}
	if canonical, err := json.Marshal(f.header); err != nil || !bytes.Equal(canonical, line) {
		return file{}, damaged("its first line was changed")
	}
	if f.Records == 0 || f.Records > uint64(len(rest)) {
		return file{}, damaged("its first line says %d records", f.Records)
	}
	f.events = make([][]byte, 0, f.Records)
	for len(rest) > 0 {
		event, after, whole := bytes.Cut(rest, []byte{'\n'})
		if !whole {
			return file{}, damaged("its last line is not whole")
		}
		f.events, rest = append(f.events, event), after
	}
	if uint64(len(f.events)) != f.Records {
		return file{}, damaged("it has %d records, and its first line says %d", len(f.events), f.Records)
	}
	if last := f.hashes(nil); last != spool.Hash(f.Last) {
		return file{}, damaged("a record from %d to %d was changed: their hashes do not lead to that of the last", f.First,
			f.First+f.Records-1)
	}
	return f, f.checkName(n)
}

// hashes computes the chain and returns the last hash; each gets the hash of every record.
func (f file) hashes(each func(seq uint64, h spool.Hash)) spool.Hash {
	link := spool.Hash(f.Link)
	var payload []byte
	for i, event := range f.events {
		seq := f.First + uint64(i)
		payload = binary.BigEndian.AppendUint64(payload[:0], seq)
		payload = append(append(payload, link[:]...), event...)
		link = sha256.Sum256(payload)
		if each != nil {
			each(seq, link)
		}
	}
	return link
}

// checkName compares the name with the content. The times are what a search leaves files out by.
func (f file) checkName(n name) error {
	var span span
	for _, event := range f.events {
		span.add(timeOf(event))
	}
	if want := nameOf(f.header, span); want != n {
		return damaged("its name does not fit its records, which would be %q", want)
	}
	return nil
}

// timeOf is when an event happened; zero if it does not say.
func timeOf(event []byte) time.Time {
	const begin = `{"at":"`
	if rest, ok := bytes.CutPrefix(event, []byte(begin)); ok { // as vaultd writes it
		if text, _, ok := bytes.Cut(rest, []byte{'"'}); ok {
			if at, err := time.Parse(time.RFC3339Nano, string(text)); err == nil {
				return at.UTC()
			}
		}
	}
	var e struct {
		At time.Time `json:"at"`
	}
	_ = json.Unmarshal(event, &e) // an event that cannot be read has no time
	return e.At.UTC()
}
