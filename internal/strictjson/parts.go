package strictjson

import (
	"bytes"
	"fmt"
	"unicode/utf8"
)

// Value is one JSON value inside a text. It holds no copy of the text, which the caller wipes.
type Value struct {
	text     []byte
	from, to int
}

// Member is a member of an object.
type Member struct {
	Name  string
	Value Value
}

// PlaceError says where a text is not JSON that all readers understand alike. It does not repeat the text, since a
// value can be in the wrong place.
type PlaceError struct {
	Line, Column int // from 1; the column in characters
	What         string
}

func (e *PlaceError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.What)
}

func placeError(text []byte, offset int, what string) *PlaceError {
	before := text[:min(offset, len(text))]
	line := before[bytes.LastIndexByte(before, '\n')+1:]
	return &PlaceError{1 + bytes.Count(before, []byte{'\n'}), 1 + utf8.RuneCount(line), what}
}

// invalidAt is the offset of the first byte that is not UTF-8.
func invalidAt(text []byte) int {
	at := 0
	for at < len(text) {
		r, size := utf8.DecodeRune(text[at:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		at += size
	}
	return at
}

// Documents finds the JSON values of a text that has one after the other. All of them are as strict as [IsObject] is.
// Its error is a *PlaceError.
func Documents(text []byte) ([]Value, error) {
	if !utf8.Valid(text) {
		return nil, placeError(text, invalidAt(text), ErrUTF8.Error())
	}
	w := &walker{decoder: decoder{data: text}}
	defer func() { wipe(w.decoded[:cap(w.decoded)]) }()
	var found []Value
	for w.space(); w.at < len(text); w.space() {
		from := w.at
		if !w.value(0) {
			what := w.wrongWhat
			if w.wrongAt == from && what == notJSON {
				what = maybeYAML
			}
			return nil, placeError(text, w.wrongAt, what)
		}
		found = append(found, Value{text, from, w.at})
	}
	return found, nil
}

// Line is the line of the text that the value begins in, from 1.
func (v Value) Line() int { return 1 + bytes.Count(v.text[:v.from], []byte{'\n'}) }

// Raw is the value as it stands in the text, and is wiped with it.
func (v Value) Raw() []byte { return v.text[v.from:v.to] }

// IsNull reports whether it is null.
func (v Value) IsNull() bool { return string(v.Raw()) == "null" }

// Text returns a string's text in a buffer of its own. It is false for another value, and for a string that no UTF-8
// can hold.
func (v Value) Text() ([]byte, bool) {
	d := &decoder{data: v.text[:v.to], at: v.from}
	text, err := d.text()
	return text, err == nil
}

// Members returns the members of an object in their order. It is false for another value.
func (v Value) Members() ([]Member, bool) {
	var found []Member
	w := v.inside('{')
	if w == nil {
		return nil, false
	}
	defer func() { wipe(w.decoded[:cap(w.decoded)]) }()
	for !w.skip('}') {
		w.skip(',')
		w.space()
		name, err := w.text()
		if err != nil || !w.skip(':') {
			return nil, false
		}
		value, ok := v.next(w)
		if !ok {
			return nil, false
		}
		found = append(found, Member{string(name), value})
	}
	return found, true
}

// Elements returns the elements of an array. It is false for another value.
func (v Value) Elements() ([]Value, bool) {
	var found []Value
	w := v.inside('[')
	if w == nil {
		return nil, false
	}
	defer func() { wipe(w.decoded[:cap(w.decoded)]) }()
	for !w.skip(']') {
		w.skip(',')
		value, ok := v.next(w)
		if !ok {
			return nil, false
		}
		found = append(found, value)
	}
	return found, true
}

// inside is behind the opening bracket; nil if the value begins otherwise.
func (v Value) inside(bracket byte) *walker {
	w := &walker{decoder: decoder{data: v.text[:v.to], at: v.from}}
	if !w.skip(bracket) {
		return nil
	}
	return w
}

func (v Value) next(w *walker) (Value, bool) {
	w.space()
	from := w.at
	ok := w.value(0)
	return Value{v.text, from, w.at}, ok
}
