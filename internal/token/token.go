// Package token is the text form of the vault's tokens: a kind ("hva_" of an operator, "hvr_" of an app), then the
// unpadded lower-case base32 (RFC 4648) of 16 bytes of id, 32 random bytes and 4 bytes of CRC-32C over both. A
// truncated or mistyped token is found before anything is sent, the kind tells one sort from the other, and scanners
// can find a leaked one.
package token

import (
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/google/uuid"
)

// SecretSize is the length of the secret part in bytes.
const SecretSize = 32

const (
	rawSize  = 16 + SecretSize + 4
	textSize = (rawSize*8 + 4) / 5 // without the kind
)

// ErrText says that a text is no token of the kind: wrong prefix, length, alphabet or checksum.
var ErrText = errors.New("not a token")

var (
	encoding   = base32.NewEncoding(alphabet).WithPadding(base32.NoPadding)
	values     = valuesOf(alphabet)
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

const (
	alphabet      = "abcdefghijklmnopqrstuvwxyz234567"
	notInAlphabet = 0xff
)

// valuesOf is the five bits that each character stands for.
func valuesOf(alphabet string) (values [256]byte) {
	for c := range values {
		values[c] = notInAlphabet
	}
	for value := range len(alphabet) {
		values[alphabet[value]] = byte(value)
	}
	return values
}

// Kind is what a token begins with.
type Kind string

const (
	Admin Kind = "hva_"
	App   Kind = "hvr_"
)

// Of reports whether a text claims to be a token of the kind. It says nothing about the rest of the text.
func (k Kind) Of(text string) bool { return strings.HasPrefix(text, string(k)) }

// Parse reads a token without white space around it. Each token has exactly one text. The error matches ErrText and
// quotes nothing of the text.
func (k Kind) Parse(text string) (id uuid.UUID, secret [SecretSize]byte, err error) {
	if !k.Of(text) {
		return id, secret, fmt.Errorf("%w: it does not begin with %q", ErrText, string(k))
	}
	if want := len(k) + textSize; len(text) != want {
		return id, secret, fmt.Errorf("%w: it has %d characters, not %d: truncated or pasted wrong", ErrText, len(text), want)
	}
	var raw [rawSize]byte
	defer clear(raw[:])
	if !decode(&raw, text[len(k):]) {
		return id, secret, fmt.Errorf("%w: it has a character that no token has", ErrText)
	}
	payload, sum := raw[:rawSize-4], raw[rawSize-4:]
	if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(sum) {
		return id, secret, fmt.Errorf("%w: its checksum is wrong: mistyped or cut", ErrText)
	}
	copy(id[:], payload)
	copy(secret[:], payload[len(id):])
	return id, secret, nil
}

// decode is the inverse of the encoder, and takes no other text for the same bytes. Every read of an app passes here:
// the decoder of encoding/base32 takes an allocation that keeps the text, skips line ends, and ignores the last bits.
func decode(raw *[rawSize]byte, text string) bool {
	var bits uint64
	have, n := 0, 0
	for i := range len(text) {
		value := values[text[i]]
		if value == notInAlphabet {
			return false
		}
		bits, have = bits<<5|uint64(value), have+5
		if have >= 8 {
			have -= 8
			raw[n] = byte(bits >> have)
			n++
		}
	}
	return n == rawSize && bits&(1<<have-1) == 0
}

// Text is the inverse of Parse.
func (k Kind) Text(id uuid.UUID, secret [SecretSize]byte) string {
	raw := make([]byte, 0, rawSize)
	raw = append(raw, id[:]...)
	raw = append(raw, secret[:]...)
	raw = binary.BigEndian.AppendUint32(raw, crc32.Checksum(raw, castagnoli))
	defer clear(raw)
	return string(k) + encoding.EncodeToString(raw)
}
