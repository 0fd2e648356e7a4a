package strictjson

import (
	"bytes"
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

// walker checks nested values.
type walker struct {
	decoder
	// The names of the objects that are open, and then the string being read. An escape is never shorter than its
	// character, so it is never longer than the text, and the buffer does not grow and leaves no copy.
	decoded []byte
	names   []span // of the open objects, in decoded
}

type span struct{ from, to int }

// value checks the value at the offset; depth is how many objects and arrays are open.
func (w *walker) value(depth int) bool {
	w.space()
	if w.at >= len(w.data) {
		return false
	}
	switch w.data[w.at] {
	case '{':
		return depth < MaxDepth && w.objectAt(depth+1)
	case '[':
		return depth < MaxDepth && w.array(depth+1)
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
	for w.name() && w.skip(':') && w.value(depth) {
		if w.skip(',') {
			continue
		}
		ok := w.skip('}') && w.allDiffer(w.names[outer:])
		w.names, w.decoded = w.names[:outer], w.decoded[:before]
		return ok
	}
	return false
}

func (w *walker) name() bool {
	w.space()
	from := len(w.decoded)
	if !w.str() {
		return false
	}
	w.names = append(w.names, span{from, len(w.decoded)})
	return true
}

// allDiffer sorts the names. For each pair it would take minutes for the largest values.
func (w *walker) allDiffer(names []span) bool {
	compare := func(a, b span) int { return bytes.Compare(w.decoded[a.from:a.to], w.decoded[b.from:b.to]) }
	slices.SortFunc(names, compare)
	for i := 1; i < len(names); i++ {
		if compare(names[i-1], names[i]) == 0 {
			return false
		}
	}
	return true
}

func (w *walker) array(depth int) bool {
	w.at++
	if w.skip(']') {
		return true
	}
	for w.value(depth) {
		if !w.skip(',') {
			return w.skip(']')
		}
	}
	return false
}

// str decodes a string behind what is decoded.
func (w *walker) str() bool {
	if w.at >= len(w.data) || w.data[w.at] != '"' {
		return false
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
			return false
		}
		var err error
		if w.decoded, err = w.char(w.decoded); err != nil {
			return false
		}
	}
	return false
}

func (w *walker) word(word string) bool {
	if !bytes.HasPrefix(w.data[w.at:], []byte(word)) {
		return false
	}
	w.at += len(word)
	return true
}

// number checks a number; none is converted, so none loses digits.
func (w *walker) number() bool {
	w.take('-')
	if !w.take('0') && !w.digits() {
		return false
	}
	if w.take('.') && !w.digits() {
		return false
	}
	if w.take('e') || w.take('E') {
		if !w.take('+') {
			w.take('-')
		}
		return w.digits()
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
