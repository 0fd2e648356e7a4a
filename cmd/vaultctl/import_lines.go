package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/strictjson"
	"github.com/hyperiondb/vault/internal/target"
	"github.com/hyperiondb/vault/internal/vault"
)

// longestLine holds the longest value with each byte written as a six character escape, and room for the rest.
const longestLine = 6*envelope.MaxValueSize + 8192

// entry is one secret of an import's input.
type entry struct {
	place
	vault.ImportItem
}

// entries reads an import's input one by one. A *lineError is about one entry, and reading goes on; the end is io.EOF.
type entries interface{ next() (entry, error) }

// lineError says what is wrong with an entry. Of the entry it repeats only names of fields: other text may be a value
// in the wrong place.
type lineError struct {
	place
	err error
}

func (e *lineError) Error() string { return e.place.String() + ": " + e.err.Error() }
func (e *lineError) Unwrap() error { return e.err }

// place is where an entry is.
type place struct {
	file string // of a folder; "" = the one input
	line int    // from 1; 0 = the whole file
}

func (p place) String() string {
	switch {
	case p.file == "":
		return fmt.Sprintf("line %d", p.line)
	case p.line == 0:
		return fmt.Sprintf("%q", p.file)
	}
	return fmt.Sprintf("%q, line %d", p.file, p.line)
}

var (
	errLongLine = fmt.Errorf("longer than the %d bytes a line may have", longestLine)
	errNotUTF8  = errors.New("not valid UTF-8")
)

// lines reads line by line into one buffer that never grows, so that no copy of a value stays behind.
type lines struct {
	from       io.Reader
	buffer     []byte
	start, end int          // of the bytes read and not yet returned
	number     int          // of the line returned last, from 1
	ended      error        // the reader's last error
	read       atomic.Int64 // bytes, for the progress bar
}

func newLines(from io.Reader) *lines { return &lines{from: from, buffer: make([]byte, longestLine+1)} }

func (l *lines) wipe() { clear(l.buffer) }

// place is that of the line returned last.
func (l *lines) place() place { return place{line: l.number} }

// next returns a line without its "\n", valid until the next call. After errLongLine reading can go on.
func (l *lines) next() ([]byte, error) {
	l.number++
	for searched := 0; ; {
		if i := bytes.IndexByte(l.buffer[l.start+searched:l.end], '\n'); i >= 0 {
			return l.take(searched+i, 1)
		}
		searched = l.end - l.start
		switch {
		case searched == len(l.buffer):
			return nil, l.skip()
		case l.ended == nil:
			l.fill()
		case errors.Is(l.ended, io.EOF) && searched > 0:
			return l.take(searched, 0)
		default:
			return nil, l.ended
		}
	}
}

func (l *lines) take(n, newline int) ([]byte, error) {
	line := l.buffer[l.start : l.start+n]
	l.start += n + newline
	if l.number > 1 {
		return line, nil
	}
	if isUTF16(line) {
		return nil, errUTF16
	}
	return bytes.TrimPrefix(line, []byte("\xef\xbb\xbf")), nil // a mark that some editors put before UTF-8
}

var errUTF16 = usage("the input is UTF-16; it has to be UTF-8")

// isUTF16 reports whether a text begins as programs of Windows, such as PowerShell, write it.
func isUTF16(text []byte) bool {
	return bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff"))
}

func (l *lines) fill() {
	if l.start > 0 {
		l.end = copy(l.buffer, l.buffer[l.start:l.end])
		l.start = 0
	}
	n, err := l.from.Read(l.buffer[l.end:])
	l.end, l.ended = l.end+n, err
	l.read.Add(int64(n))
}

// skip drops the rest of a line that is too long.
func (l *lines) skip() error {
	for {
		l.start, l.end = 0, 0
		l.fill()
		if i := bytes.IndexByte(l.buffer[:l.end], '\n'); i >= 0 {
			l.start = i + 1
			return errLongLine
		}
		if l.ended != nil {
			l.start = l.end
			return errLongLine
		}
	}
}

// interruptible lets Ctrl-C end a wait for input: a read of standard input may block for ever.
type interruptible struct {
	ctx   context.Context
	from  io.Reader
	chunk []byte
	reads sync.WaitGroup // under way; after an interruption, the one that nothing waits for
}

func newInterruptible(ctx context.Context, from io.Reader) *interruptible {
	return &interruptible{ctx: ctx, from: from, chunk: make([]byte, 64<<10)}
}

func (r *interruptible) Read(into []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	read := make(chan result)
	r.reads.Go(func() {
		n, err := r.from.Read(r.chunk[:min(len(r.chunk), len(into))])
		select {
		case read <- result{n, err}:
		case <-r.ctx.Done(): // no caller takes what was read
			clear(r.chunk[:n])
		}
	})
	select {
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	case got := <-read:
		copy(into, r.chunk[:got.n])
		clear(r.chunk[:got.n])
		return got.n, got.err
	}
}

// jsonLines reads a JSON object a line: {"name", "value" or "value_base64", and, where they are to be set, "generator",
// "rotate_every", "grace", "rotator" and "window", in the notation of put's flags}.
type jsonLines struct{ lines *lines }

func (j jsonLines) next() (entry, error) {
	for {
		line, err := j.lines.next()
		switch {
		case errors.Is(err, errLongLine):
			return entry{}, &lineError{j.lines.place(), err}
		case err != nil:
			return entry{}, err
		case len(bytes.TrimSpace(line)) == 0:
			continue
		}
		item, err := decodeItem(line)
		if err != nil {
			return entry{}, &lineError{j.lines.place(), err}
		}
		return entry{j.lines.place(), item}, nil
	}
}

// itemFields are the fields that decodeItem knows.
var itemFields = []string{"name", "value", "value_base64", "generator", "rotate_every", "grace", "rotator", "window"}

func decodeItem(line []byte) (vault.ImportItem, error) {
	var text, encoded []byte
	var name *string
	var s settingsText
	err := strictjson.Decode(line, strictjson.Fields{"name": &name, "value": &text, "value_base64": &encoded,
		"generator": &s.generator, "rotate_every": &s.rotateEvery, "grace": &s.grace, "rotator": &s.rotator,
		"window": &s.window})
	defer clear(encoded)
	item := vault.ImportItem{Value: text}
	switch {
	case err != nil:
	case name == nil:
		err = errors.New(`field "name" is missing`)
	case text == nil && encoded == nil:
		err = errors.New(`field "value" is missing, or "value_base64"`)
	case text != nil && encoded != nil:
		err = errors.New(`fields "value" and "value_base64" exclude each other`)
	case encoded != nil:
		item.Value, err = strictjson.Base64(encoded)
		err = inField("value_base64", err)
	}
	if err == nil {
		item.Name = *name
		item.Settings, err = s.parse()
	}
	if err != nil {
		clear(text)
		clear(item.Value)
	}
	return item, err
}

func inField(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("field %q: %w", name, err)
}

// settingsText is a secret's settings as an import spells them; nil where not given.
type settingsText struct{ generator, rotateEvery, grace, rotator, window *string }

func (t settingsText) parse() (s vault.Settings, err error) {
	s.Rotator, s.Window = t.rotator, t.window // "" removes the setting
	if t.generator != nil {
		generator, failure := rotation.ParseGenerator(*t.generator)
		spec := generator.String()
		s.Generator, err = &spec, inField("generator", failure)
	}
	if t.rotator != nil && err == nil && *t.rotator != "" {
		spec, failure := target.Parse(*t.rotator)
		canonical := spec.String()
		s.Rotator, err = &canonical, inField("rotator", failure)
	}
	if t.grace != nil && err == nil {
		s.Grace, err = parseField("grace", *t.grace)
	}
	if t.rotateEvery != nil && err == nil {
		if s.RotateEvery, err = parseField("rotate_every", *t.rotateEvery); err == nil && *s.RotateEvery < time.Minute {
			err = errors.New(`field "rotate_every" is at least 1m`)
		}
	}
	return s, err
}

func parseField(name, text string) (*time.Duration, error) {
	d, err := rotation.ParseInterval(text)
	return &d, inField(name, err)
}

// seenNames finds a name that comes twice among at least the last rememberedNames names of one input. For an older one
// --on-conflict decides: the first of the two exists in the vault by then.
type seenNames struct {
	seed        maphash.Seed
	now, before map[uint64]place // of a name's hash
}

const rememberedNames = 1 << 18

func newSeenNames() *seenNames { return &seenNames{seed: maphash.MakeSeed(), now: map[uint64]place{}} }

// again returns the place of an earlier occurrence of the name, ignoring case.
func (s *seenNames) again(name string, at place) (first place, seen bool) {
	hash := maphash.String(s.seed, strings.ToLower(name))
	for _, half := range []map[uint64]place{s.now, s.before} {
		if first, seen := half[hash]; seen {
			return first, true
		}
	}
	if len(s.now) == rememberedNames {
		s.now, s.before = map[uint64]place{}, s.now
	}
	s.now[hash] = at
	return place{}, false
}
