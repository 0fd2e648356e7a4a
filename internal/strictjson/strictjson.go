// Package strictjson reads and writes JSON that holds secret values: the HTTP API's bodies, and the lines of an import.
//
// The standard decoder is not used for them: it compares names without regard to case, takes the last of two equal
// names, replaces broken UTF-8 and half surrogates by U+FFFD, and leaves values in strings, which cannot be
// overwritten.
//
// A value read is in a buffer of its own, which the caller wipes; no other copy of it is left.
package strictjson

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrUTF8 says that the text is not UTF-8, so it is no JSON.
var ErrUTF8 = errors.New("not valid UTF-8")

// ErrUnknownField says that a member has a name that is not among the fields.
var ErrUnknownField = errors.New("unknown field")

// Fields says where the members of an object go, by their exact names: *[]byte takes a string as bytes in a buffer of
// its own, **string a string, **int a whole number from 0 to 2147483647. Absent members stay nil.
type Fields map[string]any

// Decode reads one flat JSON object (RFC 8259), strictly. Its errors name an offset, counted from 0, and never repeat
// the text, since a value can be in the wrong place. After an error too, the fields hold what was read, to be wiped.
func Decode(data []byte, into Fields) error {
	if !utf8.Valid(data) {
		return ErrUTF8
	}
	d := &decoder{data: data}
	if err := d.object(into); err != nil {
		return err
	}
	d.space()
	if d.at < len(d.data) {
		return d.wrong("something follows the object")
	}
	return nil
}

type decoder struct {
	data []byte
	at   int
}

func (d *decoder) wrong(what string) error { return &offsetError{d.at, what} }

// offsetError says what is wrong at an offset of a text.
type offsetError struct {
	at   int
	what string
}

func (e *offsetError) Error() string { return fmt.Sprintf("json at offset %d: %s", e.at, e.what) }

func (d *decoder) space() {
	for d.at < len(d.data) && (d.data[d.at] == ' ' || d.data[d.at] == '\t' || d.data[d.at] == '\n' ||
		d.data[d.at] == '\r') {
		d.at++
	}
}

// skip takes c, after white space.
func (d *decoder) skip(c byte) bool {
	d.space()
	if d.at < len(d.data) && d.data[d.at] == c {
		d.at++
		return true
	}
	return false
}

func (d *decoder) object(into Fields) error {
	if !d.skip('{') {
		return d.wrong("want an object")
	}
	if d.skip('}') {
		return nil
	}
	seen := make(map[string]bool, len(into))
	for {
		if err := d.member(into, seen); err != nil {
			return err
		}
		switch {
		case d.skip(','):
		case d.skip('}'):
			return nil
		default:
			return d.wrong(`want "," or "}"`)
		}
	}
}

func (d *decoder) member(into Fields, seen map[string]bool) error {
	d.space()
	start := d.at
	raw, err := d.text()
	if err != nil {
		return err
	}
	defer wipe(raw)
	target, known := into[string(raw)]
	if !known {
		d.at = start
		return fmt.Errorf("json at offset %d: %w", d.at, ErrUnknownField)
	}
	name := string(raw)
	if seen[name] {
		d.at = start
		return d.wrong(fmt.Sprintf("field %q is given twice", name))
	}
	seen[name] = true
	if !d.skip(':') {
		return d.wrong(`want ":"`)
	}
	d.space()
	return d.value(name, target)
}

func (d *decoder) value(name string, target any) error {
	switch target := target.(type) {
	case *[]byte:
		text, err := d.text()
		if err != nil {
			return fieldError(name, err)
		}
		*target = text
	case **string:
		text, err := d.text()
		if err != nil {
			return fieldError(name, err)
		}
		s := string(text)
		*target = &s
	case **int:
		n, err := d.whole()
		if err != nil {
			return fieldError(name, err)
		}
		*target = &n
	default:
		panic(fmt.Sprintf("strictjson: no way to decode into a %T", target))
	}
	return nil
}

func fieldError(name string, err error) error {
	return fmt.Errorf("field %q: %w", name, err)
}

// text reads a string into a buffer that holds nothing else and is never nil. An escape is never shorter than its
// character, so the buffer does not grow and leaves no copy.
func (d *decoder) text() ([]byte, error) {
	if d.at >= len(d.data) || d.data[d.at] != '"' {
		return nil, d.wrong("want a string")
	}
	end := d.at + 1
	for end < len(d.data) && d.data[end] != '"' {
		if d.data[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(d.data) {
		return nil, d.wrong("the string does not end")
	}
	out := make([]byte, 0, end-d.at-1)
	d.at++
	for d.at < end {
		var err error
		if out, err = d.char(out); err != nil {
			wipe(out[:cap(out)])
			return nil, err
		}
	}
	d.at = end + 1
	return out, nil
}

func (d *decoder) char(out []byte) ([]byte, error) {
	c := d.data[d.at]
	switch {
	case c < ' ':
		return out, d.wrong("a control character in a string, want an escape")
	case c != '\\':
		d.at++
		return append(out, c), nil
	}
	d.at++
	if plain, ok := shortEscape(d.data[d.at]); ok {
		d.at++
		return append(out, plain), nil
	}
	if d.data[d.at] != 'u' {
		return out, d.wrong("unknown escape")
	}
	r, err := d.unicode()
	if err != nil {
		return out, err
	}
	return utf8.AppendRune(out, r), nil
}

func shortEscape(c byte) (byte, bool) {
	switch c {
	case '"', '\\', '/':
		return c, true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	}
	return 0, false
}

// unicode reads from the "u" of an escape; the other half of a surrogate must follow directly.
func (d *decoder) unicode() (rune, error) {
	first, err := d.hex4()
	if err != nil {
		return 0, err
	}
	if !utf16.IsSurrogate(first) {
		return first, nil
	}
	if d.at+1 < len(d.data) && d.data[d.at] == '\\' && d.data[d.at+1] == 'u' {
		d.at++
		second, err := d.hex4()
		if err != nil {
			return 0, err
		}
		if r := utf16.DecodeRune(first, second); r != utf8.RuneError {
			return r, nil
		}
	}
	return 0, d.wrong("half of a surrogate pair")
}

func (d *decoder) hex4() (rune, error) {
	end := d.at + 5
	var r rune
	for _, c := range d.data[d.at+1 : min(end, len(d.data))] {
		n, ok := hexDigit(c)
		if !ok {
			return 0, d.wrong("want four hexadecimal digits")
		}
		r = r<<4 | n
	}
	if end > len(d.data) {
		return 0, d.wrong("the text ends inside an escape")
	}
	d.at = end
	return r, nil
}

func hexDigit(c byte) (rune, bool) {
	switch {
	case '0' <= c && c <= '9':
		return rune(c - '0'), true
	case 'a' <= c && c <= 'f':
		return rune(c-'a') + 10, true
	case 'A' <= c && c <= 'F':
		return rune(c-'A') + 10, true
	}
	return 0, false
}

func (d *decoder) whole() (int, error) {
	start := d.at
	for d.at < len(d.data) && '0' <= d.data[d.at] && d.data[d.at] <= '9' {
		d.at++
	}
	digits := string(d.data[start:d.at])
	more := d.at < len(d.data) && (d.data[d.at] == '.' || d.data[d.at] == 'e' || d.data[d.at] == 'E')
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || more || len(digits) > 1 && digits[0] == '0' {
		d.at = start
		return 0, d.wrong("want a whole number from 0 to 2147483647")
	}
	return int(n), nil
}

// Base64 reads exactly RFC 4648, section 4, with padding: the standard decoder would skip line ends.
func Base64(encoded []byte) ([]byte, error) {
	wrong := errors.New("not base64 with padding (RFC 4648, section 4)")
	if bytes.ContainsAny(encoded, "\r\n") {
		return nil, wrong
	}
	value := make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
	n, err := base64.StdEncoding.Strict().Decode(value, encoded)
	if err != nil {
		wipe(value)
		return nil, wrong
	}
	return value[:n], nil
}

const hexDigits = "0123456789abcdef"

// AppendString writes s, which is valid UTF-8, as a JSON string.
func AppendString(dst, s []byte) []byte {
	dst = append(dst, '"')
	for _, c := range s {
		switch escape := escapeOf(c); {
		case escape == 0:
			dst = append(dst, c)
		case escape == 'u':
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			dst = append(dst, '\\', escape)
		}
	}
	return append(dst, '"')
}

// StringSize is how many bytes AppendString writes.
func StringSize(s []byte) int {
	size := 2
	for _, c := range s {
		switch escapeOf(c) {
		case 0:
			size++
		case 'u':
			size += 6
		default:
			size += 2
		}
	}
	return size
}

// escapeOf is the character after the backslash, 0 for a byte that needs no escape.
func escapeOf(c byte) byte {
	switch c {
	case '"', '\\':
		return c
	case '\n':
		return 'n'
	case '\r':
		return 'r'
	case '\t':
		return 't'
	}
	if c < ' ' {
		return 'u'
	}
	return 0
}

func wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(&b)
}
