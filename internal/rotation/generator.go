package rotation

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/hyperiondb/vault/internal/envelope"
)

// minEntropyBits is the least entropy a generated value may have. 64 bits keep a value out of
// reach of guessing through any interface that answers; the default has 190.
const minEntropyBits = 64

// The kinds of value, as they begin a spec.
const (
	kindChars  = "chars"
	kindHex    = "hex"
	kindBase64 = "base64"
	kindUUID   = "uuid"
	kindWords  = "words"
)

const defaultCharset = "alnum"

// Generator says how to make a value. It is small and comparable; equal Generators make values
// from the same distribution. Get one from ParseGenerator or NewGenerator: the zero Generator
// stands for "none" and makes nothing.
type Generator struct {
	kind    string
	length  int    // characters, random bytes or words, by kind; 0 for uuid
	charset string // chars only: a name, or "=" and the characters themselves
}

// lengthLimits are the limits of one kind; all zero where the kind takes no length.
type lengthLimits struct {
	unit             string
	least, most, std int
}

func limitsOf(kind string) (limits lengthLimits, known bool) {
	switch kind {
	case kindChars:
		return lengthLimits{"characters", 8, 4096, 32}, true
	case kindHex, kindBase64:
		return lengthLimits{"bytes", 16, 1024, 32}, true
	case kindWords:
		return lengthLimits{"words", 4, 24, 6}, true
	case kindUUID:
		return lengthLimits{}, true
	}
	return lengthLimits{}, false
}

// ParseGenerator reads a generator spec, as stored or as typed:
//
//	chars:LENGTH:CHARSET   8 to 4096 characters of a charset (default 32, alnum)
//	hex:BYTES              16 to 1024 random bytes in lower-case hexadecimal (default 32)
//	base64:BYTES           the same in standard base64 with padding, RFC 4648 section 4 (default 32)
//	uuid                   a random UUID, version 4 of RFC 9562
//	words:COUNT            4 to 24 words of the built-in list joined with "-", 11 bits each (default 6)
//
// Parts may be left out from the right; "" means chars and a bare number is a length of chars.
// CHARSET is alnum, alpha, digits, ascii (printable, without space, quotes of any kind and
// backslash), url (unreserved in RFC 3986: letters, digits and "-._~"), or "=" followed by 2 to
// 94 different printable ASCII characters other than space, which may include ":" and "=".
//
// Anything else is refused, also a length with a sign or leading zero, and a combination
// with less than minEntropyBits bits of entropy. The error is one line that quotes the spec.
func ParseGenerator(spec string) (Generator, error) {
	g, err := parseSpec(spec)
	if err != nil {
		return Generator{}, specError(spec, err)
	}
	return g, nil
}

// NewGenerator is ParseGenerator for parts that come separately, as from command line flags:
// an empty kind means chars, a length of 0 and an empty charset mean the default of the kind.
func NewGenerator(kind string, length int, charset string) (Generator, error) {
	g := Generator{kind, length, charset}.withDefaults()
	if err := g.check(); err != nil {
		return Generator{}, specError(g.spec(), err)
	}
	return g, nil
}

// specError quotes at most 120 characters: the longest valid spec has 106.
func specError(spec string, err error) error {
	return fmt.Errorf("generator %.120q: %w", spec, err)
}

func parseSpec(spec string) (Generator, error) {
	if isDigits(spec) {
		spec = kindChars + ":" + spec
	}
	kind, rest, hasLength := strings.Cut(spec, ":")
	// Cut at the first two colons only: a literal charset may hold more of them.
	lengthText, charset, hasCharset := strings.Cut(rest, ":")
	if _, known := limitsOf(kind); !known && spec != "" {
		return Generator{}, errUnknownKind
	}
	if hasCharset && charset == "" {
		return Generator{}, errors.New("the charset is empty")
	}
	length := 0
	if hasLength {
		var err error
		if length, err = parseLength(lengthText); err != nil {
			return Generator{}, err
		}
	}
	g := Generator{kind, length, charset}.withDefaults()
	return g, g.check()
}

var errUnknownKind = errors.New("unknown kind, want chars, hex, base64, uuid or words")

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func parseLength(s string) (int, error) {
	if !isDigits(s) || s[0] == '0' {
		return 0, errors.New("the length is not a whole number above zero, written without leading zeros")
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		// Too large even for an int: the range check words the refusal.
		return math.MaxInt, nil
	}
	return n, nil
}

func (g Generator) withDefaults() Generator {
	g.kind = cmp.Or(g.kind, kindChars)
	limits, _ := limitsOf(g.kind)
	g.length = cmp.Or(g.length, limits.std)
	if g.kind == kindChars {
		g.charset = cmp.Or(g.charset, defaultCharset)
	}
	return g
}

// check is the one place that decides which Generators exist.
func (g Generator) check() error {
	limits, known := limitsOf(g.kind)
	switch {
	case !known:
		return errUnknownKind
	case limits.most == 0 && g.length != 0:
		return fmt.Errorf("%s takes no length", g.kind)
	case g.length < limits.least || g.length > limits.most:
		return fmt.Errorf("the length is out of range, want %d to %d %s",
			limits.least, limits.most, limits.unit)
	case g.kind != kindChars && g.charset != "":
		return fmt.Errorf("%s takes no charset", g.kind)
	case g.kind == kindChars:
		if err := checkCharset(g.charset); err != nil {
			return err
		}
	}
	return g.checkEntropy()
}

func (g Generator) checkEntropy() error {
	bits := g.EntropyBits()
	if bits >= minEntropyBits {
		return nil
	}
	enough := int(math.Ceil(minEntropyBits / (bits / float64(g.length))))
	return fmt.Errorf("%.1f bits of entropy, want at least %d: use a length of %d or more",
		bits, minEntropyBits, enough)
}

const (
	digitsSet = "0123456789"
	alphaSet  = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	alnumSet  = digitsSet + alphaSet
	// The three quotes and the backslash have a meaning in shells, SQL and configuration files.
	asciiSet = alnumSet + "!#$%&()*+,-./:;<=>?@[]^_{|}~"
	urlSet   = alnumSet + "-._~"
)

// symbols returns the characters of a charset that checkCharset accepts, "" for an unknown name.
func symbols(charset string) string {
	if literal, ok := strings.CutPrefix(charset, "="); ok {
		return literal
	}
	switch charset {
	case "alnum":
		return alnumSet
	case "alpha":
		return alphaSet
	case "digits":
		return digitsSet
	case "ascii":
		return asciiSet
	case "url":
		return urlSet
	}
	return ""
}

func checkCharset(charset string) error {
	set := symbols(charset)
	if !strings.HasPrefix(charset, "=") && set == "" {
		return errors.New("unknown charset, want alnum, alpha, digits, ascii, url or =CHARACTERS")
	}
	var seen [256]bool
	for _, c := range []byte(set) {
		if c <= ' ' || c > '~' {
			return errors.New("a charset holds printable ASCII characters without space only")
		}
		if seen[c] {
			return fmt.Errorf("the charset has %q twice", c)
		}
		seen[c] = true
	}
	// 94 different ones are all there are, so only the lower limit needs a check.
	if len(set) < 2 {
		return errors.New("a charset needs at least 2 characters")
	}
	return nil
}

// String returns the canonical spec, with nothing left out: "chars:32:alnum", "hex:32",
// "base64:32", "uuid", "words:6". It has at most 106 characters of printable ASCII. The zero
// Generator gives "none", which does not parse.
func (g Generator) String() string {
	if g == (Generator{}) {
		return "none"
	}
	return g.spec()
}

// spec joins the parts that are set, whether or not they are valid together.
func (g Generator) spec() string {
	s := g.kind
	if g.length != 0 || g.charset != "" {
		s += ":" + strconv.Itoa(g.length)
	}
	if g.charset != "" {
		s += ":" + g.charset
	}
	return s
}

// EntropyBits returns the entropy of a generated value in bits, 0 for the zero Generator.
func (g Generator) EntropyBits() float64 {
	switch g.kind {
	case kindChars:
		return float64(g.length) * math.Log2(float64(len(symbols(g.charset))))
	case kindHex, kindBase64:
		return float64(g.length) * 8
	case kindUUID:
		return uuidRandomBits
	case kindWords:
		return float64(g.length) * wordBits
	}
	return 0
}

// Generate makes a new value from crypto/rand, which cannot fail: the process ends if the
// system has no randomness to give. The caller owns the returned slice and overwrites it after
// use; nothing else refers to it, and no other copy of the value or of the random bytes behind
// it is left in memory the package controls. It panics on the zero Generator, because a
// rotation to an empty value would be worse. It is safe for concurrent use.
func (g Generator) Generate() []byte {
	return g.generate(func(b []byte) { _, _ = rand.Read(b) })
}

// randomSource fills b with uniformly random bytes. Tests put a known sequence in its place.
type randomSource func(b []byte)

func (g Generator) generate(random randomSource) []byte {
	switch g.kind {
	case kindChars:
		return fillChars(g.length, symbols(g.charset), random)
	case kindHex:
		raw := make([]byte, g.length)
		defer envelope.Wipe(raw)
		random(raw)
		out := make([]byte, hex.EncodedLen(len(raw)))
		hex.Encode(out, raw)
		return out
	case kindBase64:
		raw := make([]byte, g.length)
		defer envelope.Wipe(raw)
		random(raw)
		out := make([]byte, base64.StdEncoding.EncodedLen(len(raw)))
		base64.StdEncoding.Encode(out, raw)
		return out
	case kindUUID:
		return fillUUID(random)
	case kindWords:
		return fillWords(g.length, random)
	}
	panic("rotation: Generate called on the zero Generator")
}

// fillChars draws length symbols of set, which has 2 to 94. A byte is used only when it lies
// below the largest multiple of len(set) that fits in a byte; the rest would make the first
// symbols of the set likelier than the others. At least 67 % of the bytes pass (the worst set has 86).
func fillChars(length int, set string, random randomSource) []byte {
	bound := 256 - 256%len(set)
	out := make([]byte, 0, length)
	raw := make([]byte, 128)
	defer envelope.Wipe(raw)
	for {
		random(raw)
		for _, b := range raw {
			if int(b) >= bound {
				continue
			}
			if out = append(out, set[int(b)%len(set)]); len(out) == length {
				return out
			}
		}
	}
}

// uuidRandomBits: of the 128 bits of a UUID, version (4) and variant (2) are fixed.
const uuidRandomBits = 122

// fillUUID writes a version 4 UUID in the text form of RFC 9562, section 4.
func fillUUID(random randomSource) []byte {
	raw := make([]byte, 16)
	defer envelope.Wipe(raw)
	random(raw)
	raw[6] = raw[6]&0x0f | 0x40 // version 4
	raw[8] = raw[8]&0x3f | 0x80 // variant 10

	out := make([]byte, 0, 36)
	for i, group := range [][]byte{raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:]} {
		if i > 0 {
			out = append(out, '-')
		}
		out = hex.AppendEncode(out, group)
	}
	return out
}
