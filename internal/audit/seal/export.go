package seal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"
)

const (
	exportFormat = "hyperiondb-vault/audit-export/1"
	longestLine  = 64 << 20
)

// ErrExport says that a file is no export, or only a part of one.
var ErrExport = errors.New("not a whole export of an audit log")

// Header is the first line of an export.
type Header struct {
	Format  string    `json:"format"`
	Cluster uuid.UUID `json:"cluster_id"`
	Partial bool      `json:"partial"` // not the whole log, for example one month
	Prunes  []Prune   `json:"prunes"`
}

// trailer is the last line: without it the file was cut off.
type trailer struct {
	Seals int64 `json:"seals"`
	Rows  int64 `json:"rows"`
}

type leafJSON struct {
	Prune    int64  `json:"prune"`
	SystemID int64  `json:"system_id,string"`
	Month    string `json:"month"`
	Tx       uint64 `json:"tx,string"`
	ID       int64  `json:"id"`
	Hash     string `json:"hash"`
}

// Writer writes an export: JSON lines, first a header, then each seal before the rows it covers, last the counts. A row
// of several reads is one line, unlike in `vaultctl audit export`.
type Writer struct {
	out   *bufio.Writer
	lines *json.Encoder
	wrote trailer
}

// NewWriter begins an export.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	out := bufio.NewWriterSize(w, 1<<16)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	h.Format = exportFormat
	if h.Prunes == nil {
		h.Prunes = []Prune{}
	}
	return &Writer{out: out, lines: lines}, lines.Encode(h)
}

// Write adds an entry of [Source.Entries].
func (w *Writer) Write(e Entry) error {
	switch {
	case e.Seal != nil:
		w.wrote.Seals++
		return w.lines.Encode(map[string]*Seal{"seal": e.Seal})
	case e.Leaf != nil:
		l := e.Leaf
		return w.lines.Encode(map[string]leafJSON{"leaf": {l.Prune, l.SystemID, l.Month.Format(monthFormat), l.Tx, l.ID,
			hex.EncodeToString(l.Hash[:])}})
	default:
		w.wrote.Rows++
		return w.lines.Encode(e.Row)
	}
}

// Rows is how many rows were written.
func (w *Writer) Rows() int64 { return w.wrote.Rows }

// Close writes the last line. It does not close the writer below.
func (w *Writer) Close() error {
	return errors.Join(w.lines.Encode(map[string]trailer{"end": w.wrote}), w.out.Flush())
}

// File is an export on disk, as a [Source].
type File struct {
	path   string
	header Header
}

var _ Source = (*File)(nil)

// OpenFile reads the header of an export.
func OpenFile(path string) (*File, error) {
	f := &File{path: path}
	for line, err := range f.scan(context.Background()) {
		if err != nil {
			return nil, err
		}
		if err := decodeStrictly(line.text, &f.header); err != nil || f.header.Format != exportFormat {
			return nil, line.broken("it does not begin with a header")
		}
		return f, nil
	}
	return nil, fmt.Errorf("%q: %w", path, ErrExport)
}

// Partial reports whether the file has only a part of a log.
func (f *File) Partial() bool { return f.header.Partial }

// Cluster is the id of the exported vault.
func (f *File) Cluster(context.Context) (uuid.UUID, error) { return f.header.Cluster, nil }

// Prunes are those known at the time of the export.
func (f *File) Prunes(context.Context) ([]Prune, error) { return f.header.Prunes, nil }

// Seals reads the file once and keeps all seals in memory, without marks: 300 bytes each.
func (f *File) Seals(ctx context.Context) iter.Seq2[Seal, error] {
	return func(yield func(Seal, error) bool) {
		var all []Seal
		for e, err := range f.Entries(ctx, nil) {
			if err != nil {
				yield(Seal{}, err)
				return
			}
			if e.Seal != nil {
				e.Seal.Marks = nil
				all = append(all, *e.Seal)
			}
		}
		slices.SortStableFunc(all, func(a, b Seal) int { return int(a.ID - b.ID) })
		for _, s := range all {
			if !yield(s, nil) {
				return
			}
		}
	}
}

// Entries reads the file from its beginning.
func (f *File) Entries(ctx context.Context, since map[int64]uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		var read trailer
		var last fileLine
		for line, err := range f.scan(ctx) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if line.number == 1 {
				continue
			}
			if last.text != nil {
				yield(Entry{}, last.broken("there are lines after its end"))
				return
			}
			if bytes.HasPrefix(line.text, []byte(`{"end":`)) {
				last = line
				last.text = bytes.Clone(line.text) // the next line overwrites it
				continue
			}
			e, err := line.entry()
			if err != nil {
				yield(Entry{}, err)
				return
			}
			read.count(e)
			if !before(e, since) && !yield(e, nil) {
				return
			}
		}
		if err := read.is(last); err != nil {
			yield(Entry{}, fmt.Errorf("%q: %w", f.path, err))
		}
	}
}

func (t *trailer) count(e Entry) {
	switch {
	case e.Seal != nil:
		t.Seals++
	case e.Row != nil:
		t.Rows++
	}
}

func (t trailer) is(last fileLine) error {
	var end map[string]trailer
	if last.text == nil || decodeStrictly(last.text, &end) != nil {
		return fmt.Errorf("%w: its last line is missing", ErrExport)
	}
	if end["end"] != t {
		return fmt.Errorf("%w: it has %d seals and %d rows, not %d and %d", ErrExport, t.Seals, t.Rows, end["end"].Seals,
			end["end"].Rows)
	}
	return nil
}

func before(e Entry, since map[int64]uint64) bool {
	switch {
	case e.Seal != nil:
		return e.Seal.ToTx <= since[e.Seal.SystemID]
	case e.Leaf != nil:
		return e.Leaf.Tx < since[e.Leaf.SystemID]
	}
	return e.Row.Tx < since[e.Row.SystemID]
}

type fileLine struct {
	path   string
	number int
	text   []byte
}

func (l fileLine) broken(why string) error {
	return fmt.Errorf("%q line %d: %w: %s", l.path, l.number, ErrExport, why)
}

func (l fileLine) entry() (Entry, error) {
	e, err := decodeEntry(l.text)
	if err != nil {
		return e, l.broken(err.Error())
	}
	return e, nil
}

func decodeEntry(text []byte) (Entry, error) {
	switch {
	case bytes.HasPrefix(text, []byte(`{"seal":`)):
		var line struct {
			Seal *Seal `json:"seal"`
		}
		err := decodeStrictly(text, &line)
		if err == nil && line.Seal == nil {
			err = errors.New("a seal is null")
		}
		return Entry{Seal: line.Seal}, err
	case bytes.HasPrefix(text, []byte(`{"leaf":`)):
		leaf, err := decodeLeaf(text)
		return Entry{Leaf: leaf}, err
	}
	row := new(Row)
	if err := decodeStrictly(text, row); err != nil {
		return Entry{}, err
	}
	if row.ID == 0 || row.Detail == nil || row.Client != nil && !row.Client.IsValid() {
		return Entry{}, errors.New("neither a seal nor a row with its system_id, tx and recorded_at")
	}
	return Entry{Row: row}, nil
}

func decodeLeaf(text []byte) (*Leaf, error) {
	var line struct {
		Leaf leafJSON `json:"leaf"`
	}
	if err := decodeStrictly(text, &line); err != nil {
		return nil, err
	}
	month, err := time.Parse(monthFormat, line.Leaf.Month)
	hash, hexErr := hex.DecodeString(line.Leaf.Hash)
	if err != nil || hexErr != nil || len(hash) != len(Hash{}) {
		return nil, errors.New("a leaf without its month or hash")
	}
	return &Leaf{Prune: line.Leaf.Prune, SystemID: line.Leaf.SystemID, Month: month, Tx: line.Leaf.Tx, ID: line.Leaf.ID,
		Hash: Hash(hash)}, nil
}

// decodeStrictly refuses unknown fields and text after the document.
func decodeStrictly(text []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return err
	}
	if decoder.More() {
		return errors.New("more than one document on a line")
	}
	return nil
}

// scan reads lines; each is valid until the next.
func (f *File) scan(ctx context.Context) iter.Seq2[fileLine, error] {
	return func(yield func(fileLine, error) bool) {
		file, err := os.Open(f.path)
		if err != nil {
			yield(fileLine{}, fmt.Errorf("opening the export: %w", err))
			return
		}
		defer file.Close()
		lines := bufio.NewScanner(bufio.NewReaderSize(file, 1<<16))
		lines.Buffer(nil, longestLine)
		for number := 1; lines.Scan(); number++ {
			if ctx.Err() != nil {
				yield(fileLine{}, ctx.Err())
				return
			}
			if !yield(fileLine{f.path, number, lines.Bytes()}, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(fileLine{}, fmt.Errorf("reading %q: %w", f.path, err))
		}
	}
}
