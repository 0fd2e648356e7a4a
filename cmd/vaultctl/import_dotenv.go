package main

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"unicode/utf8"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

// dotenv reads NAME=VALUE lines. There is no standard for them, and programs differ in what they make of a "#", a "$" or a
// backslash: what they read differently is refused, with a way to write it that all read alike. A wrong password that was
// imported without a word costs more than a quote.
//
//	# a comment                     NAME=value                  export NAME=value
//	NAME='byte for byte'            NAME="with \n \r \t \\ \" and \$"
//
// Values in quotes may have several lines; those without end at the end of the line, without the white space before it.
type dotenv struct{ lines *lines }

func (d dotenv) next() (entry, error) {
	for {
		line, err := d.lines.next()
		start := d.lines.number
		switch {
		case errors.Is(err, errLongLine): // it may have opened a quote, and the next line may be anything
			return entry{}, fmt.Errorf("line %d is %w, so it cannot be told where the next entry begins", start, err)
		case err != nil:
			return entry{}, err
		}
		line = bytes.TrimLeft(line, " \t\r")
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		item, err := d.assignment(line)
		if err != nil {
			clear(item.Value)
			return entry{}, &lineError{start, err}
		}
		return entry{start, item}, nil
	}
}

var (
	beginsComment = regexp.MustCompile(`\s#`)
	expands       = regexp.MustCompile(`\$[A-Za-z_{(]`) // to a variable's value, by some
)

func (d dotenv) assignment(line []byte) (item vault.ImportItem, err error) {
	line = bytes.TrimPrefix(line, []byte("export "))
	name, value, found := bytes.Cut(line, []byte("="))
	if !found {
		return item, errors.New("want NAME=VALUE")
	}
	item.Name = string(bytes.TrimSpace(name))
	value = bytes.TrimLeft(value, " \t\r")
	if len(value) > 0 && (value[0] == '\'' || value[0] == '"') {
		item.Value, err = d.quoted(value[1:], value[0])
	} else {
		item.Value, err = unquoted(bytes.TrimRight(value, " \t\r"))
	}
	if err == nil && !utf8.Valid(item.Value) {
		err = errNotUTF8
	}
	return item, err
}

func unquoted(value []byte) ([]byte, error) {
	switch {
	case len(value) == 0:
		return nil, nil
	case value[0] == '`':
		return nil, errors.New("a value that begins with ` is a quoted one to some programs: write it in '...'")
	case beginsComment.Match(value):
		return nil, errors.New(`" #" begins a comment to some programs: write the value in '...'`)
	case expands.Match(value):
		return nil, errors.New(`"$" and a name are replaced by some programs: write the value in '...'`)
	}
	return bytes.Clone(value), nil
}

// quoted reads up to the closing quote, over as many lines as it takes. Also of a value that is refused it reads all: what
// follows is not taken for entries.
func (d dotenv) quoted(rest []byte, quote byte) (value []byte, err error) {
	raw := newWiped(rest)
	defer raw.wipe()
	end := closing(raw.bytes, quote, 0)
	for end < 0 {
		from := len(raw.bytes)
		line, failure := d.lines.next()
		switch {
		case errors.Is(failure, errLongLine), failure == nil && from+len(line) > longestLine:
			err = fmt.Errorf("%w: more than the %d bytes a value may have", envelope.ErrValueSize, envelope.MaxValueSize)
			raw.wipe()
			from = 0
		case failure != nil:
			return nil, errors.New("its quote does not end")
		default:
			raw.add('\n')
		}
		raw.add(line...)
		end = closing(raw.bytes, quote, from)
	}
	after := bytes.TrimSpace(raw.bytes[end+1:])
	switch {
	case err != nil:
		return nil, err
	case len(after) > 0 && after[0] != '#':
		return nil, errors.New("something follows the closing quote")
	case quote == '\'':
		return bytes.Clone(raw.bytes[:end]), nil
	}
	return unescape(raw.bytes[:end])
}

// closing is where the quote ends that is open at from; -1 if it does not.
func closing(raw []byte, quote byte, from int) int {
	for i := from; i < len(raw); i++ {
		switch {
		case raw[i] == '\\' && quote == '"':
			i++
		case raw[i] == quote:
			return i
		}
	}
	return -1
}

var doubleQuoted = map[byte]byte{'n': '\n', 'r': '\r', 't': '\t', '\\': '\\', '"': '"', '$': '$'}

// unescape reads what stands in double quotes into a buffer that does not grow.
func unescape(raw []byte) ([]byte, error) {
	value := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			if expands.Match(raw[i:min(i+2, len(raw))]) {
				clear(value)
				return nil, errors.New(`"$" and a name are replaced by some programs: write \$, or the value in '...'`)
			}
			value = append(value, raw[i])
			continue
		}
		i++
		plain, known := doubleQuoted[raw[min(i, len(raw)-1)]]
		if !known {
			clear(value)
			return nil, errors.New(`an unknown escape in "...": write the value in '...'`)
		}
		value = append(value, plain)
	}
	return value, nil
}

// wiped is a buffer that leaves nothing behind when it grows.
type wiped struct{ bytes []byte }

func newWiped(begin []byte) *wiped { return &wiped{bytes.Clone(begin)} }

func (w *wiped) add(more ...byte) {
	if need := len(w.bytes) + len(more); need > cap(w.bytes) {
		bigger := append(make([]byte, 0, 2*need), w.bytes...)
		clear(w.bytes)
		w.bytes = bigger
	}
	w.bytes = append(w.bytes, more...)
}

func (w *wiped) wipe() {
	clear(w.bytes)
	w.bytes = w.bytes[:0]
}
