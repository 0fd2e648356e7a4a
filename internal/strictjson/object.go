package strictjson

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"unicode/utf8"
)

// MaxDepth is how deep objects and arrays nest in a text that IsObject accepts. Common readers accept more.
const MaxDepth = 64

// IsObject reports whether the text is one JSON object (RFC 8259) that all readers understand alike: valid UTF-8, no
// name twice in one object at any depth, no half surrogate pair, at most MaxDepth levels, only white space around it.
// No copy of the text is left.
func IsObject(text []byte) bool {
	if !utf8.Valid(text) {
		return false
	}
	w := &walker{decoder: decoder{data: text}}
	defer func() { wipe(w.decoded[:cap(w.decoded)]) }()
	w.space()
	if w.at >= len(text) || text[w.at] != '{' || !w.value(0) {
		return false
	}
	w.space()
	return w.at == len(text)
}

// walker checks nested values. Where a check fails, wrongAt is set to the innermost place.
type walker struct {
	decoder
	wrongAt   int    // an offset
	wrongWhat string // "" = nothing is wrong; a constant text
	// The names of the objects that are open, and then the string being read. An escape is never shorter than its
	// character, so it is never longer than the text, and the buffer does not grow and leaves no copy.
	decoded []byte
	names   []span // of the open objects, in decoded
}

// span is a name in decoded, and its offset in the text.
type span struct{ from, to, at int }

// Texts of a walker.
const (
	cutShort  = "the text ends inside a value: it was cut short"
	notJSON   = "want a JSON value"
	maybeYAML = `not JSON, perhaps YAML: a document begins with "{" or "["`
	tooDeep   = "objects and arrays are nested deeper than 64 levels"
	twice     = "a name is twice in one object"
)

// fail notes what is wrong at an offset, unless a value inside did so already. It returns false.
func (w *walker) fail(at int, what string) bool {
	if w.wrongWhat == "" {
		w.wrongAt, w.wrongWhat = at, what
		if at >= len(w.data) {
			w.wrongWhat = cutShort
		}
	}
	return false
}

// value checks the value at the offset; depth is how many objects and arrays are open.
func (w *walker) value(depth int) bool {
	w.space()
	if w.at >= len(w.data) {
		return w.fail(w.at, cutShort)
	}
	switch c := w.data[w.at]; c {
	case '{', '[':
		switch {
		case depth >= MaxDepth:
			return w.fail(w.at, tooDeep)
		case c == '{':
			return w.objectAt(depth + 1)
		}
		return w.array(depth + 1)
	case '"':
		before := len(w.decoded)
		ok := w.str()
		w.decoded = w.decoded[:before]
		return ok
	case 't':
		return w.word("true")
	case 'f':
		return w.word("false")
	case 'n':
		return w.word("null")
	}
	return w.number()
}

func (w *walker) objectAt(depth int) bool {
	w.at++
	if w.skip('}') {
		return true
	}
	outer, before := len(w.names), len(w.decoded)
	for w.name() && w.want(':', `want ":"`) && w.value(depth) {
		if w.skip(',') {
			continue
		}
		ok := w.want('}', `want "," or "}"`) && w.allDiffer(w.names[outer:])
		w.names, w.decoded = w.names[:outer], w.decoded[:before]
		return ok
	}
	return false
}

// want takes c, after white space, or fails.
func (w *walker) want(c byte, what string) bool { return w.skip(c) || w.fail(w.at, what) }

func (w *walker) name() bool {
	w.space()
	from, at := len(w.decoded), w.at
	if !w.str() {
		return false
	}
	w.names = append(w.names, span{from, len(w.decoded), at})
	return true
}

// allDiffer sorts the names. For each pair it would take minutes for the largest values. What is wrong is at the first
// name that repeats another.
func (w *walker) allDiffer(names []span) bool {
	compare := func(a, b span) int { return bytes.Compare(w.decoded[a.from:a.to], w.decoded[b.from:b.to]) }
	slices.SortFunc(names, func(a, b span) int { return cmp.Or(compare(a, b), cmp.Compare(a.at, b.at)) })
	repeats := -1
	for i := 1; i < len(names); i++ {
		if compare(names[i-1], names[i]) == 0 && (repeats < 0 || names[i].at < repeats) {
			repeats = names[i].at
		}
	}
	return repeats < 0 || w.fail(repeats, twice)
}

func (w *walker) array(depth int) bool {
	w.at++
	if w.skip(']') {
		return true
	}
	for w.value(depth) {
		if !w.skip(',') {
			return w.want(']', `want "," or "]"`)
		}
	}
	return false
}

// str decodes a string behind what is decoded.
func (w *walker) str() bool {
	if w.at >= len(w.data) || w.data[w.at] != '"' {
		return w.fail(w.at, `want a name in "..."`)
	}
	if w.decoded == nil {
		w.decoded = make([]byte, 0, len(w.data))
	}
	w.at++
	for w.at < len(w.data) {
		if w.data[w.at] == '"' {
			w.at++
			return true
		}
		if w.data[w.at] == '\\' && w.at+1 == len(w.data) {
			return w.fail(w.at+1, cutShort)
		}
		var err error
		if w.decoded, err = w.char(w.decoded); err != nil {
			var in *offsetError
			errors.As(err, &in) // char has no other
			return w.fail(in.at, in.what)
		}
	}
	return w.fail(w.at, cutShort)
}

func (w *walker) word(word string) bool {
	if !bytes.HasPrefix(w.data[w.at:], []byte(word)) {
		if bytes.HasPrefix([]byte(word), w.data[w.at:]) {
			return w.fail(len(w.data), cutShort)
		}
		return w.fail(w.at, notJSON)
	}
	w.at += len(word)
	return true
}

// number checks a number; none is converted, so none loses digits.
func (w *walker) number() bool {
	from := w.at
	negative := w.take('-')
	switch {
	case w.take('0') || w.digits():
	case negative && w.at == len(w.data):
		return w.fail(w.at, cutShort)
	default:
		return w.fail(from, notJSON)
	}
	if w.take('.') && !w.digits() {
		return w.fail(w.at, "want a digit")
	}
	if w.take('e') || w.take('E') {
		if !w.take('+') {
			w.take('-')
		}
		return w.digits() || w.fail(w.at, "want a digit")
	}
	return true
}

// take takes c where it is, without white space before it.
func (w *walker) take(c byte) bool {
	if w.at < len(w.data) && w.data[w.at] == c {
		w.at++
		return true
	}
	return false
}

func (w *walker) digits() bool {
	from := w.at
	for w.at < len(w.data) && '0' <= w.data[w.at] && w.data[w.at] <= '9' {
		w.at++
	}
	return w.at > from
}
