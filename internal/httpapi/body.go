package httpapi

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/strictjson"
)

// maxJSON is the longest body that can hold a value within its limit: every byte of it written as a six character
// escape, and room for the other fields.
const maxJSON = 6*envelope.MaxValueSize + 4096

const (
	typeJSON  = "application/json"
	typeBytes = "application/octet-stream"
)

// contentType reads the type of the body, one of the accepted.
func contentType(h http.Header, accepted ...string) (string, error) {
	want := "the body must be " + strings.Join(accepted, " or ")
	if encoding := h.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return "", mediaType(want + ", not compressed")
	}
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || len(h.Values("Content-Type")) != 1 {
		return "", mediaType(want)
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return "", mediaType(want + " in UTF-8")
	}
	for _, a := range accepted {
		if kind == a {
			return kind, nil
		}
	}
	return "", mediaType(want)
}

// readBody reads at most limit bytes into a buffer that the caller wipes.
func readBody(r *http.Request, limit int) ([]byte, error) {
	long := tooLarge("the body is longer than " + strconv.Itoa(limit) + " bytes")
	if r.ContentLength > int64(limit) {
		return nil, long
	}
	// One byte more than is expected, so that the end of the body is read without growing the buffer.
	buf := make([]byte, 0, max(r.ContentLength, 4095)+1)
	for {
		if len(buf) == cap(buf) {
			buf = grow(buf)
		}
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > limit:
			envelope.Wipe(buf)
			return nil, long
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			envelope.Wipe(buf)
			return nil, badRequest("the body ended early")
		}
	}
}

func grow(b []byte) []byte {
	bigger := append(make([]byte, 0, 2*cap(b)), b...)
	envelope.Wipe(b)
	return bigger
}

// readJSON reads a body of strict JSON.
func readJSON(r *http.Request, into fields) error {
	if _, err := contentType(r.Header, typeJSON); err != nil {
		return err
	}
	return readObject(r, into)
}

func readObject(r *http.Request, into fields) error {
	body, err := readBody(r, maxJSON)
	if err != nil {
		return err
	}
	defer envelope.Wipe(body)
	return decodeObject(body, into)
}

// given is a value in a JSON body: as text, as base64, or in the form of an answer to GET, with its encoding.
type given struct {
	text     []byte
	encoded  []byte
	encoding *string // of text: utf8 or base64
}

// into adds the fields of a value to those of a body.
func (g *given) into(others fields) fields {
	others["value"], others["value_base64"], others["encoding"] = &g.text, &g.encoded, &g.encoding
	return others
}

// misplaced refuses an encoding without a "value".
func (g *given) misplaced() error {
	if g.encoding != nil && (g.text == nil || g.encoded != nil) {
		return badRequest(`"encoding" says how "value" is written, and goes with nothing else`)
	}
	return nil
}

func (g *given) wipe() {
	envelope.Wipe(g.text)
	envelope.Wipe(g.encoded)
}

// present counts the forms that were used.
func (g *given) present() int {
	n := 0
	if g.text != nil {
		n++
	}
	if g.encoded != nil {
		n++
	}
	return n
}

// bytes returns the value in a buffer of its own, which the caller wipes.
func (g *given) bytes() ([]byte, error) {
	value, err := g.decode()
	if err != nil {
		return nil, err
	}
	if err := checkValue(value); err != nil {
		envelope.Wipe(value)
		return nil, err
	}
	return value, nil
}

func (g *given) decode() ([]byte, error) {
	switch {
	case g.encoded != nil:
		return decodeBase64("value_base64", g.encoded)
	case g.encoding == nil || *g.encoding == "utf8":
		return append([]byte(nil), g.text...), nil
	case *g.encoding == "base64":
		return decodeBase64("value", g.text)
	}
	return nil, badRequest(`field "encoding": utf8 or base64`)
}

// checkValue refuses a value of an invalid size before the database or the KMS is asked.
func checkValue(value []byte) error {
	switch {
	case len(value) == 0:
		return badRequest("the value is empty")
	case len(value) > envelope.MaxValueSize:
		return tooLarge("the value is longer than " + strconv.Itoa(envelope.MaxValueSize) + " bytes")
	}
	return nil
}

func decodeBase64(field string, encoded []byte) ([]byte, error) {
	value, err := strictjson.Base64(encoded)
	if err != nil {
		return nil, fieldError(field, err)
	}
	return value, nil
}
