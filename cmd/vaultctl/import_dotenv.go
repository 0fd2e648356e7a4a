package main

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/lazyregexp"
	"github.com/hyperiondb/vault/internal/vault"
)

// dotenv reads NAME=VALUE lines. There is no standard for them. It refuses what docker compose, Node's --env-file,
// npm's and Python's dotenv and a shell read differently, and names a spelling that all read alike, because a wrong
// password imported silently costs more than a quote. testdata/dotenv.jsonl has how each reads many texts.
//
//	# a comment                     NAME=value                  export NAME=value
//	NAME='byte for byte'            NAME="it's"                 NAME='two
//	                                                            lines'
//
// Differences that change the name of a variable are accepted, because a program that lacks a variable fails at once:
// a byte order mark, blanks before a name or a comment, and names that a shell rejects. An entry that ends with CR LF
// is refused: a shell keeps the CR in the value.
type dotenv struct{ lines *lines }

var errCarriageReturn = errors.New(
	`the line ends with CR LF, and a shell keeps the CR in the value: remove it from the file, sed -i 's/\r$//'`)

func (d dotenv) next() (entry, error) {
	for {
		line, err := d.lines.next()
		start := d.lines.place()
		switch {
		case errors.Is(err, errLongLine): // it may have opened a quote, so the next line may be part of a value
			return entry{}, fmt.Errorf("%s is %w, so it cannot be told where the next entry begins", start, err)
		case err != nil:
			return entry{}, err
		}
		line = bytes.TrimLeft(line, " \t")
		if len(line) == 0 || line[0] == '#' || line[0] == '\r' && len(line) == 1 {
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

// assignment reads the value, which may have several lines, also if the name is refused.
func (d dotenv) assignment(line []byte) (item vault.ImportItem, err error) {
	name, value, found := bytes.Cut(line, []byte("="))
	if !found {
		return item, errors.New("want NAME=VALUE")
	}
	name, spaced := exported(name)
	item.Name = string(name)
	if unspaced := bytes.TrimLeft(value, " \t"); len(unspaced) > 0 && len(unspaced) < len(value) {
		value, spaced = unspaced, true
	}
	if len(value) > 0 && (value[0] == '\'' || value[0] == '"') {
		item.Value, err = d.quoted(value[1:], value[0])
	} else {
		item.Value, err = unquoted(bytes.TrimRight(value, " "))
		if bytes.HasSuffix(value, []byte("\r")) {
			err = errCarriageReturn
		}
	}
	switch {
	case err != nil:
	case spaced:
		err = errors.New(`blanks beside a name are read differently: want NAME=VALUE, or export NAME=VALUE`)
	case !utf8.Valid(item.Value):
		err = errNotUTF8
	}
	return item, err
}

// exported returns the name of "export NAME", and whether there are more blanks than one.
func exported(left []byte) (name []byte, spaced bool) {
	name = bytes.TrimPrefix(left, []byte("export "))
	trimmed := bytes.TrimSpace(name)
	if rest, found := bytes.CutPrefix(trimmed, []byte("export")); found && bytes.IndexAny(rest, " \t") == 0 {
		trimmed = bytes.TrimSpace(rest)
	}
	return trimmed, len(trimmed) < len(name)
}

// Programs read a spelling differently if one of these patterns matches. They match too much rather than too little.
type difference struct {
	where func() *regexp.Regexp
	what  string
}

var (
	expands = difference{lazyregexp.New(`(?s)\$[^%./:= ]`), `"$" and what follows it are replaced by some programs`}
	escapes = difference{lazyregexp.New(`\\`), "a backslash is kept by some programs and removed by others"}
	returns = difference{lazyregexp.New(`\r`), "a carriage return is removed or replaced by some programs"}
	zero    = difference{lazyregexp.New(`\x00`), "a zero byte ends the value to some programs"}
	runs    = difference{lazyregexp.New("`"), "what stands in ` is run by some programs"}

	inNoQuotes = []difference{expands, escapes, returns, zero, runs,
		{lazyregexp.New(`#`), `"#" begins a comment to some programs`},
		{lazyregexp.New(`['"]`), "quotes inside a value are removed by some programs"},
		{lazyregexp.New(`[;&|<>()]`), "; & | < > ( and ) end the value in a shell"},
		{lazyregexp.New(`(^|:)~`), `"~" is the home folder to some programs`},
		{lazyregexp.New(`\{.*(,|\.\.).*\}`), "braces with , or .. in them become several words in some shells"},
		{lazyregexp.New(`^[\pZ\x{85}\v\f\x{feff}]|[\pZ\x{85}\v\f\x{feff}]$`),
			"white space around a value is removed by some programs"},
		{lazyregexp.New(`[ \t]`), "the value ends at a blank in a shell"},
	}
	inSingleQuotes = []difference{returns, zero,
		{lazyregexp.New(`\\\\|\\$`), "two backslashes, or one before the closing quote, are read differently"},
		{lazyregexp.New(`\$\{`), `"${" begins the name of a variable to some programs, also in '...'`},
	}
	inDoubleQuotes = []difference{escapes, expands, returns, zero, runs}
)

// checkSpelling returns nil if all programs read the value as it is written.
func checkSpelling(value []byte, differences []difference) error {
	for _, d := range differences {
		if d.where().Match(value) {
			return fmt.Errorf("%s: %s", d.what, spelling(value))
		}
	}
	return nil
}

// spelling describes how to write a value so that all programs read it alike.
func spelling(value []byte) string {
	fits := func(quote string, differences []difference) bool {
		differs := func(d difference) bool { return d.where().Match(value) }
		return !bytes.Contains(value, []byte(quote)) && !slices.ContainsFunc(differences, differs)
	}
	switch {
	case fits("'", inSingleQuotes):
		return "write the value in '...'"
	case fits(`"`, inDoubleQuotes):
		return `write the value in "..."`
	}
	return "no spelling is read alike: import a line of JSON, or vaultctl put NAME"
}

// escaped refuses a value in "..." that has escapes, and describes another spelling.
func escaped(value []byte) error {
	plain := newWiped(nil)
	defer plain.wipe()
	for i := 0; i < len(value); i++ {
		if value[i] != '\\' || i+1 == len(value) {
			plain.add(value[i])
			continue
		}
		i++
		if at := strings.IndexByte(`nrt`, value[i]); at >= 0 {
			plain.add("\n\r\t"[at])
		} else {
			plain.add(value[i])
		}
	}
	return fmt.Errorf(`escapes in "..." are read differently, so put what they stand for in their place: %s`,
		spelling(plain.bytes))
}

func unquoted(value []byte) ([]byte, error) {
	if len(value) == 0 {
		return nil, nil
	}
	if err := checkSpelling(value, inNoQuotes); err != nil {
		return nil, err
	}
	return bytes.Clone(value), nil
}

// quoted reads up to the closing quote, over several lines if need be. It reads a refused value to its end too, so that
// its lines are not taken for entries.
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
	value, after := raw.bytes[:end], raw.bytes[end+1:]
	comment := bytes.TrimLeft(after, " \t")
	switch {
	case err != nil:
		return nil, err
	case string(comment) == "\r":
		return nil, errCarriageReturn
	case len(comment) > 0 && (comment[0] != '#' || len(comment) == len(after)):
		return nil, errors.New(`something follows the closing quote: a comment takes a blank before "#"`)
	case quote == '\'':
		err = checkSpelling(value, inSingleQuotes)
	case escapes.where().Match(value):
		err = escaped(value)
	default:
		err = checkSpelling(value, inDoubleQuotes)
	}
	if err != nil {
		return nil, err
	}
	return bytes.Clone(value), nil
}

// closing returns where the quote that is open at from ends; -1 if it does not.
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

// wiped is a buffer that wipes the old array when it grows.
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
