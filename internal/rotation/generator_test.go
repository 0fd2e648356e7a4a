package rotation

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

func mustParse(t *testing.T, spec string) Generator {
	t.Helper()
	g, err := ParseGenerator(spec)
	if err != nil {
		t.Fatalf("ParseGenerator(%q): %v", spec, err)
	}
	return g
}

// repeating is a randomSource that gives the same bytes over and over.
func repeating(pattern ...byte) randomSource {
	next := 0
	return func(b []byte) {
		for i := range b {
			b[i] = pattern[next%len(pattern)]
			next++
		}
	}
}

// everyByte lists 0 to 255, beginning with first and wrapping around.
func everyByte(first byte) []byte {
	all := make([]byte, 256)
	for i := range all {
		all[i] = first + byte(i)
	}
	return all
}

var allPrintable = func() string {
	var b strings.Builder
	for c := '!'; c <= '~'; c++ {
		b.WriteRune(c)
	}
	return b.String()
}()

func TestParseGenerator(t *testing.T) {
	for spec, canonical := range map[string]string{
		"":                          "chars:32:alnum",
		"chars":                     "chars:32:alnum",
		"32":                        "chars:32:alnum",
		"20":                        "chars:20:alnum",
		"chars:32":                  "chars:32:alnum",
		"chars:11":                  "chars:11:alnum",
		"chars:4096:ascii":          "chars:4096:ascii",
		"chars:12:alpha":            "chars:12:alpha",
		"chars:20:digits":           "chars:20:digits",
		"chars:10:ascii":            "chars:10:ascii",
		"chars:11:url":              "chars:11:url",
		"chars:24:=abcdef0123":      "chars:24:=abcdef0123",
		"chars:64:=01":              "chars:64:=01",
		"chars:64:=:=":              "chars:64:=:=",
		"chars:64:==a:b":            "chars:64:==a:b",
		"chars:10:=" + allPrintable: "chars:10:=" + allPrintable,
		"hex":                       "hex:32",
		"hex:16":                    "hex:16",
		"hex:1024":                  "hex:1024",
		"base64":                    "base64:32",
		"base64:16":                 "base64:16",
		"base64:1024":               "base64:1024",
		"uuid":                      "uuid",
		"words":                     "words:6",
		"words:6":                   "words:6",
		"words:24":                  "words:24",
	} {
		g, err := ParseGenerator(spec)
		if err != nil || g.String() != canonical {
			t.Errorf("ParseGenerator(%q): got %v, %v, want %v", spec, g, err, canonical)
		}
		if again, err := ParseGenerator(g.String()); err != nil || again != g {
			t.Errorf("ParseGenerator(%q): got %v, %v, want the same Generator back", g, again, err)
		}
	}
}

func TestParseGeneratorRefuses(t *testing.T) {
	const (
		kinds    = "unknown kind, want chars, hex, base64, uuid or words"
		number   = "the length is not a whole number above zero, written without leading zeros"
		chars    = "the length is out of range, want 8 to 4096 characters"
		bytes    = "the length is out of range, want 16 to 1024 bytes"
		words    = "the length is out of range, want 4 to 24 words"
		charsets = "unknown charset, want alnum, alpha, digits, ascii, url or =CHARACTERS"
		ascii    = "a charset holds printable ASCII characters without space only"
	)
	for spec, why := range map[string]string{
		"none":         kinds, // what the zero Generator prints
		"Chars":        kinds,
		"CHARS:32":     kinds,
		" hex":         kinds,
		"hex ":         kinds,
		"pass":         kinds,
		"32:alnum":     kinds,
		"=abc":         kinds,
		":":            kinds,
		":32":          kinds,
		"-32":          kinds,
		"３２":           kinds,
		"hex\n":        kinds,
		"\xff":         kinds,
		"0":            number,
		"00":           number,
		"032":          number,
		"chars:":       number,
		"chars::alnum": number,
		"chars:0":      number,
		"chars:032":    number,
		"chars:+32":    number,
		"chars:-32":    number,
		"chars:3 2":    number,
		"chars:0x20":   number,
		"chars:1e2":    number,
		"hex:32.0":     number,
		"uuid:":        number,
		"words:six":    number,

		"7":                          chars,
		"chars:7":                    chars,
		"chars:4097":                 chars,
		"chars:99999999999999999999": chars,
		"hex:15":                     bytes,
		"hex:1025":                   bytes,
		"base64:15":                  bytes,
		"base64:1025":                bytes,
		"words:3":                    words,
		"words:25":                   words,
		"uuid:36":                    "uuid takes no length",

		"chars:32:":               "the charset is empty",
		"hex:32:":                 "the charset is empty",
		"hex:32:alnum":            "hex takes no charset",
		"base64:32:url":           "base64 takes no charset",
		"words:6:alpha":           "words takes no charset",
		"chars:32:hex":            charsets,
		"chars:32:Alnum":          charsets,
		"chars:32:abc":            charsets,
		"chars:32:alnum:":         charsets,
		"chars:32:alnum:x":        charsets,
		"chars:32: alnum":         charsets,
		"chars:64:=":              "a charset needs at least 2 characters",
		"chars:64:=a":             "a charset needs at least 2 characters",
		"chars:64:=aa":            "the charset has 'a' twice",
		"chars:64:=abcb":          "the charset has 'b' twice",
		"chars:64:=a::":           "the charset has ':' twice",
		"chars:64:=ab c":          ascii,
		"chars:64:=ab\tc":         ascii,
		"chars:64:=ab\x00":        ascii,
		"chars:64:=ab\x7f":        ascii,
		"chars:64:=ab\xff":        ascii,
		"chars:64:=abcé":          ascii,
		"chars:8":                 "47.6 bits of entropy, want at least 64: use a length of 11 or more",
		"10":                      "59.5 bits of entropy, want at least 64: use a length of 11 or more",
		"chars:11:alpha":          "62.7 bits of entropy, want at least 64: use a length of 12 or more",
		"chars:19:digits":         "63.1 bits of entropy, want at least 64: use a length of 20 or more",
		"chars:9:ascii":           "58.4 bits of entropy, want at least 64: use a length of 10 or more",
		"chars:10:url":            "60.4 bits of entropy, want at least 64: use a length of 11 or more",
		"chars:63:=01":            "63.0 bits of entropy, want at least 64: use a length of 64 or more",
		"chars:8:=01":             "8.0 bits of entropy, want at least 64: use a length of 64 or more",
		"chars:17:=ABCDEF0123456": "62.9 bits of entropy, want at least 64: use a length of 18 or more",
		"words:4":                 "44.0 bits of entropy, want at least 64: use a length of 6 or more",
		"words:5":                 "55.0 bits of entropy, want at least 64: use a length of 6 or more",
	} {
		g, err := ParseGenerator(spec)
		want := "generator " + strconv.Quote(spec) + ": " + why
		if err == nil || err.Error() != want {
			t.Errorf("ParseGenerator(%q):\ngot  %v, %v\nwant %v", spec, g, err, want)
		}
		if g != (Generator{}) {
			t.Errorf("ParseGenerator(%q): got %v beside the error, want the zero Generator", spec, g)
		}
	}
}

func TestParseGeneratorQuotesOnlyTheStartOfALongSpec(t *testing.T) {
	_, err := ParseGenerator("chars:64:=" + strings.Repeat("x", 1<<20))
	if err == nil || len(err.Error()) > 300 {
		t.Errorf("got %d bytes of error, want at most 300", len(err.Error()))
	}
}

func TestNewGenerator(t *testing.T) {
	for _, c := range []struct {
		kind    string
		length  int
		charset string
		want    string
	}{
		{"", 0, "", "chars:32:alnum"},
		{"", 20, "", "chars:20:alnum"},
		{"", 0, "url", "chars:32:url"},
		{"chars", 24, "=abcdef0123", "chars:24:=abcdef0123"},
		{"hex", 0, "", "hex:32"},
		{"base64", 48, "", "base64:48"},
		{"uuid", 0, "", "uuid"},
		{"words", 8, "", "words:8"},
	} {
		g, err := NewGenerator(c.kind, c.length, c.charset)
		if err != nil || g != mustParse(t, c.want) {
			t.Errorf("NewGenerator(%q, %d, %q): got %v, %v, want %v", c.kind, c.length, c.charset, g, err, c.want)
		}
	}
}

func TestNewGeneratorRefuses(t *testing.T) {
	for _, c := range []struct {
		kind    string
		length  int
		charset string
		want    string
	}{
		{"pass", 0, "", `generator "pass": unknown kind, want chars, hex, base64, uuid or words`},
		{"chars:32", 0, "", `generator "chars:32": unknown kind, want chars, hex, base64, uuid or words`},
		{"", -1, "", `generator "chars:-1:alnum": the length is out of range, want 8 to 4096 characters`},
		{"", math.MaxInt, "", fmt.Sprintf(`generator "chars:%d:alnum": the length is out of range, want 8 to 4096 characters`,
			math.MaxInt)},
		{"", 8, "", `generator "chars:8:alnum": 47.6 bits of entropy, want at least 64: use a length of 11 or more`},
		{"", 0, "abc", `generator "chars:32:abc": unknown charset, want alnum, alpha, digits, ascii, url or =CHARACTERS`},
		{"", 0, "=a", `generator "chars:32:=a": a charset needs at least 2 characters`},
		{"hex", 15, "", `generator "hex:15": the length is out of range, want 16 to 1024 bytes`},
		{"hex", 0, "alnum", `generator "hex:32:alnum": hex takes no charset`},
		{"uuid", 36, "", `generator "uuid:36": uuid takes no length`},
		{"uuid", -1, "", `generator "uuid:-1": uuid takes no length`},
		{"uuid", 0, "alnum", `generator "uuid:0:alnum": uuid takes no charset`},
	} {
		g, err := NewGenerator(c.kind, c.length, c.charset)
		if err == nil || err.Error() != c.want {
			t.Errorf("NewGenerator(%q, %d, %q):\ngot  %v, %v\nwant %v", c.kind, c.length, c.charset, g, err, c.want)
		}
		if g != (Generator{}) {
			t.Errorf("NewGenerator(%q, %d, %q): got %v beside the error, want the zero Generator", c.kind, c.length, c.charset,
				g)
		}
	}
}

func TestCharsets(t *testing.T) {
	for name, pattern := range map[string]string{
		"alnum":  `[0-9A-Za-z]`,
		"alpha":  `[A-Za-z]`,
		"digits": `[0-9]`,
		"ascii":  "[^\"'`\\\\]",
		"url":    `[A-Za-z0-9\-._~]`,
	} {
		member := regexp.MustCompile(pattern)
		want := map[rune]int{}
		for _, c := range allPrintable {
			if member.MatchString(string(c)) {
				want[c] = 1
			}
		}
		got := map[rune]int{}
		for _, c := range symbols(name) {
			got[c]++
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("charset %s (-want +got):\n%s", name, diff)
		}
	}
}

func TestEntropyBits(t *testing.T) {
	for spec, want := range map[string]float64{
		"":                           190.535,
		"chars:20:digits":            66.439,
		"chars:64:=01":               64,
		"chars:16:=ABCDEFGHIJKLMNOP": 64,
		"chars:10:ascii":             64.919,
		"hex:16":                     128,
		"base64:32":                  256,
		"uuid":                       122,
		"words:6":                    66,
	} {
		if got := mustParse(t, spec).EntropyBits(); math.Abs(got-want) > 0.001 {
			t.Errorf("entropy of %q: got %.3f bits, want %.3f", spec, got, want)
		}
	}
	if got := (Generator{}).EntropyBits(); got != 0 {
		t.Errorf("entropy of the zero Generator: got %v bits, want 0", got)
	}
}

func TestGenerateShape(t *testing.T) {
	for spec, shape := range map[string]string{
		"":                     `^[0-9A-Za-z]{32}$`,
		"4096":                 `^[0-9A-Za-z]{1000}[0-9A-Za-z]{1000}[0-9A-Za-z]{1000}[0-9A-Za-z]{1000}[0-9A-Za-z]{96}$`,
		"chars:24:=abcdef0123": `^[abcdef0123]{24}$`,
		"chars:20:digits":      `^[0-9]{20}$`,
		"chars:40:url":         `^[A-Za-z0-9\-._~]{40}$`,
		"hex:16":               `^[0-9a-f]{32}$`,
		"base64:32":            `^[A-Za-z0-9+/]{43}=$`,
		"base64:48":            `^[A-Za-z0-9+/]{64}$`,
		"uuid":                 `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`,
		"words:6":              `^[a-z]{3,7}(-[a-z]{3,7}){5}$`,
	} {
		g := mustParse(t, spec)
		first, second := g.Generate(), g.Generate()
		for _, v := range [][]byte{first, second} {
			if !regexp.MustCompile(shape).Match(v) {
				t.Errorf("value of %q with %d bytes does not match %s", spec, len(v), shape)
			}
		}
		if bytes.Equal(first, second) {
			t.Errorf("generator %q made the same value twice", spec)
		}
	}
}

func TestGenerateEncodesTheRandomBytes(t *testing.T) {
	counting := repeating(everyByte(0)...)
	if got, want := string(mustParse(t, "hex:16").generate(counting)), "000102030405060708090a0b0c0d0e0f"; got != want {
		t.Errorf("hex: got %q, want %q", got, want)
	}
	got, err := base64.StdEncoding.DecodeString(string(mustParse(t, "base64:16").generate(repeating(everyByte(240)...))))
	if err != nil || !bytes.Equal(got, everyByte(240)[:16]) {
		t.Errorf("base64: got %x, %v, want %x", got, err, everyByte(240)[:16])
	}
}

// The fixed bits of a UUID do not depend on the random bytes; all others come from them.
func TestGenerateUUID(t *testing.T) {
	for b, want := range map[byte]string{
		0x00: "00000000-0000-4000-8000-000000000000",
		0xff: "ffffffff-ffff-4fff-bfff-ffffffffffff",
	} {
		if got := string(mustParse(t, "uuid").generate(repeating(b))); got != want {
			t.Errorf("uuid from bytes %#x: got %q, want %q", b, got, want)
		}
	}
	id, err := uuid.ParseBytes(mustParse(t, "uuid").Generate())
	if err != nil || id.Version() != 4 || id.Variant() != uuid.RFC4122 {
		t.Errorf("got version %v, variant %v, %v, want 4, %v", id.Version(), id.Variant(), err, uuid.RFC4122)
	}
}

func TestZeroGeneratorMakesNothing(t *testing.T) {
	if got := (Generator{}).String(); got != "none" {
		t.Errorf("got %q, want %q", got, "none")
	}
	defer func() {
		if recover() == nil {
			t.Errorf("Generate on the zero Generator returned, want a panic")
		}
	}()
	(Generator{}).Generate()
}

// When the source runs through all 256 bytes, an unbiased draw gives every symbol exactly as
// often as every other, for every size of the set and every byte at which the source begins.
func TestCharsAreUnbiasedForEverySetSize(t *testing.T) {
	for size := 2; size <= 94; size++ {
		set := allPrintable[:size]
		each := 256 / size
		for _, first := range []byte{0, 1, 100, 255} {
			counts := map[byte]int{}
			for _, c := range fillChars(each*size, set, repeating(everyByte(first)...)) {
				counts[c]++
			}
			for _, c := range []byte(set) {
				if counts[c] != each {
					t.Fatalf("set of %d, source from %d: symbol %q came %d times, want %d", size, first, c, counts[c], each)
				}
			}
		}
	}
}

func TestCharsSkipBytesThatWouldFavourTheFirstSymbols(t *testing.T) {
	// 250 is the largest multiple of ten in a byte, so 250 to 255 must not become digits.
	got := string(fillChars(8, digitsSet, repeating(250, 251, 249, 252, 253, 0, 254, 255, 13)))
	if want := "90390390"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// chiSquareBound is what the statistic of a uniform source with that many cells exceeds with
// a probability below 1e-10 (Wilson and Hilferty's approximation at 6.5 standard deviations).
func chiSquareBound(cells int) float64 {
	df := float64(cells - 1)
	spread := 2 / (9 * df)
	return df * math.Pow(1-spread+6.5*math.Sqrt(spread), 3)
}

func chiSquare[K comparable](counts map[K]int, cells []K) float64 {
	total := 0
	for _, n := range counts {
		total += n
	}
	want := float64(total) / float64(len(cells))
	sum := 0.0
	for _, c := range cells {
		sum += (float64(counts[c]) - want) * (float64(counts[c]) - want) / want
	}
	return sum
}

func TestCharsAreUniform(t *testing.T) {
	for _, name := range []string{"alnum", "alpha", "digits", "ascii", "url", "=abcdef0123", "=ab"} {
		g := mustParse(t, "chars:4096:"+name)
		counts := map[byte]int{}
		for range 64 {
			for _, c := range g.Generate() {
				counts[c]++
			}
		}
		set := []byte(symbols(name))
		if len(counts) != len(set) {
			t.Errorf("charset %s: got %d different symbols, want %d", name, len(counts), len(set))
		}
		if got, bound := chiSquare(counts, set), chiSquareBound(len(set)); got > bound {
			t.Errorf("charset %s: chi-square %.1f, want at most %.1f", name, got, bound)
		}
	}
}

func TestWordsAreUniform(t *testing.T) {
	g := mustParse(t, "words:24")
	counts := map[string]int{}
	for range 2000 {
		for w := range strings.SplitSeq(string(g.Generate()), "-") {
			counts[w]++
		}
	}
	words := wordList()
	if got, bound := chiSquare(counts, words), chiSquareBound(len(words)); got > bound {
		t.Errorf("chi-square %.1f, want at most %.1f", got, bound)
	}
}

// The bound above is only worth something if the commonest mistake exceeds it.
func TestChiSquareCatchesPlainModulo(t *testing.T) {
	raw := make([]byte, 64*4096)
	rand.Read(raw)
	counts := map[byte]int{}
	for _, b := range raw {
		counts[alnumSet[int(b)%len(alnumSet)]]++
	}
	if got, bound := chiSquare(counts, []byte(alnumSet)), chiSquareBound(len(alnumSet)); got <= bound {
		t.Errorf("chi-square of a biased draw %.1f, want more than %.1f", got, bound)
	}
}

func TestGenerateLeavesNoRandomBytesBehind(t *testing.T) {
	for _, spec := range []string{"", "hex", "base64", "uuid", "words"} {
		var lent [][]byte
		v := mustParse(t, spec).generate(func(b []byte) {
			rand.Read(b)
			lent = append(lent, b)
		})
		if len(lent) == 0 || len(v) == 0 {
			t.Fatalf("generator %q asked %d times for random bytes and made %d bytes", spec, len(lent), len(v))
		}
		for _, b := range lent {
			if !bytes.Equal(b, make([]byte, len(b))) {
				t.Errorf("generator %q left its random bytes in memory", spec)
			}
		}
		if bytes.IndexByte(v, 0) >= 0 {
			t.Errorf("generator %q returned a value that was wiped", spec)
		}
	}
}

// One buffer for the random bytes and one for the value: a third would be a copy of a secret
// that is never overwritten.
func TestGenerateCopiesNothing(t *testing.T) {
	for _, spec := range []string{"", "4096", "hex:1024", "base64:1024", "uuid", "words:24"} {
		g := mustParse(t, spec)
		fill := randomSource(func(b []byte) { rand.Read(b) })
		if got := testing.AllocsPerRun(20, func() { clear(g.generate(fill)) }); got > 2 {
			t.Errorf("generator %q: got %v allocations, want at most 2", spec, got)
		}
	}
}

func FuzzParseGenerator(f *testing.F) {
	for _, spec := range []string{
		"", "chars", "32", "chars:20", "chars:24:=abcdef0123", "chars:64:==:", "chars:10:ascii", "hex",
		"hex:16", "base64:1024", "uuid", "words", "words:24", "none", "uuid:1", "chars:8", "chars:032",
		"chars:32:", "words:6:alpha", "chars:64:=aa", "chars:99999999999999999999", "hex\n", "\xff",
	} {
		f.Add(spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		g, err := ParseGenerator(spec)
		if err != nil {
			if !strings.HasPrefix(err.Error(), `generator "`) || strings.Contains(err.Error(), "\n") {
				t.Errorf("ParseGenerator(%q): error %q is not one line that quotes the spec", spec, err)
			}
			return
		}
		if again, err := ParseGenerator(g.String()); err != nil || again != g {
			t.Errorf("%q is %v, which parses as %v, %v", spec, g, again, err)
		}
		if len(g.String()) > 106 {
			t.Errorf("%q is %v with %d bytes, want at most 106", spec, g, len(g.String()))
		}
		if g.EntropyBits() < minEntropyBits {
			t.Errorf("%q was accepted with %.1f bits of entropy", spec, g.EntropyBits())
		}
		if len(g.Generate()) < 8 {
			t.Errorf("%q makes values shorter than 8 bytes", spec)
		}
	})
}
