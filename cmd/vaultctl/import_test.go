package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

// readAll reads entries as "line name=value", refused lines as "line: reason", and an error that ended the reading as
// "ended: reason".
func readAll(t testing.TB, e entries) []string {
	t.Helper()
	var all []string
	for {
		got, err := e.next()
		var ofLine *lineError
		switch {
		case errors.Is(err, io.EOF):
			return all
		case errors.As(err, &ofLine):
			all = append(all, fmt.Sprintf("%d: %s", ofLine.line, ofLine.err))
		case err != nil:
			return append(all, "ended: "+err.Error())
		default:
			all = append(all, fmt.Sprintf("%d %s=%s", got.line, got.Name, got.Value))
		}
	}
}

func wantEntries(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
		return
	}
	for i := range got {
		if got[i] != want[i] && !(strings.HasSuffix(want[i], "...") &&
			strings.HasPrefix(got[i], strings.TrimSuffix(want[i], "..."))) {
			t.Errorf("%s: got %q, want %q", what, got[i], want[i])
		}
	}
}

func dotenvOf(t testing.TB, text string) []string {
	t.Helper()
	return readAll(t, dotenv{newLines(strings.NewReader(text))})
}

func TestDotenv(t *testing.T) {
	for text, want := range map[string][]string{
		"A=1\nB=2":                         {"1 A=1", "2 B=2"},
		"\n# A=1\n  # B\n\t\nexport C=3\n": {"5 C=3"},
		"A=1\r\nB='x'\r\n\r\nC=\"y\"\r\n": {"1: the line ends with CR LF...",
			"2: the line ends with CR LF...", "4: the line ends with CR LF..."},
		"\xef\xbb\xbfA=1\n":      {"1 A=1"},
		"A=a=b==":                {"1 A=a=b=="},
		"A=pa$":                  {"1 A=pa$"},
		"A='$HOME #\"\n`'":       {"1 A=$HOME #\"\n`"},
		`A="it's #x"  # comment`: {"1 A=it's #x"},
		"A='one  \n two\n'\nB=x": {"1 A=one  \n two\n", "4 B=x"},
		"K=\"-----BEGIN\nabc=\n-----END\n\" #end": {"1 K=-----BEGIN\nabc=\n-----END\n"},
		"A=":   {"1 A="},
		"A=''": {"1 A="},

		"hunter2\nB=x":                 {"1: want NAME=VALUE", "2 B=x"},
		"A=\xef\xbb\xbfhunter2":        {"1: white space around..."},
		"A = hunter2  \n":              {"1: blanks beside a name..."},
		"A=hunter2#b":                  {`1: "#" begins a comment...`},
		"A=hunter2 b":                  {"1: the value ends at a blank..."},
		"A=hunter2$$5":                 {`1: "$" and what follows...`},
		"A=hunter2 #b\nB=x":            {`1: "#" begins a comment...`, "2 B=x"},
		"A=hunter2$HOME\nB=x":          {`1: "$" and what follows...`, "2 B=x"},
		"A=hunter2${X}":                {`1: "$" and what follows...`},
		`A="hunter2$(x)"`:              {`1: "$" and what follows...`},
		`A="hunter2\x"`:                {"1: escapes in..."},
		"A=\"hunter2\\\nx\"\nB=x":      {"1: escapes in...", "3 B=x"},
		"A='hunter2\r\nx'\r\nB=x":      {"1: the line ends with CR LF...", "3 B=x"},
		"A='hunter2\\\\x'":             {"1: two backslashes..."},
		"A='hunter2' x\nB=x":           {"1: something follows the closing quote...", "2 B=x"},
		"A='hunter2'x'\nB=x":           {"1: something follows the closing quote...", "2 B=x"},
		"A='hunter2'#\nB=x":            {"1: something follows the closing quote...", "2 B=x"},
		"A='hunter2\nB=x":              {"1: its quote does not end"},
		`A="hunter2\"`:                 {"1: its quote does not end"},
		"A=`hunter2`":                  {"1: what stands in ` is run..."},
		"A=hunter2\xff\nB=x":           {"1: not valid UTF-8", "2 B=x"},
		"A=\"hunter2\xff\"":            {"1: not valid UTF-8"},
		"A=1\nA='\n" + long + "'\nB=x": {"1 A=1", "2: invalid value size...", "5 B=x"},
		"A=" + long[:longestLine] + "\nB=x": {
			fmt.Sprintf("ended: line 1 is longer than the %d bytes a line may have, so...", longestLine)},
		"A=x\nB='" + long[:longestLine] + "'\nC=x": {"1 A=x", "ended: line 2 is longer..."},
		"B='" + long + "\nC=hunter2\n'\nD=x":       {"ended: line 1 is longer..."},
	} {
		got := dotenvOf(t, text)
		wantEntries(t, fmt.Sprintf("%.40q", text), got, want...)
		for _, line := range got {
			if strings.Contains(line, "hunter2") {
				t.Errorf("%.40q: got %q, which repeats what may be a value", text, line)
			}
		}
	}
}

// long is longer than a line may be, in two lines that each are.
var long = strings.Repeat("x", longestLine) + "y" + "\n" + strings.Repeat("z", 10)

func TestJSONLines(t *testing.T) {
	const missing = `field "value" is missing, or "value_base64"`
	for text, want := range map[string][]string{
		`{"name":"a","value":"1"}` + "\n\n \r\n" + `{"value":"2","name":"b"}`: {"1 a=1", "4 b=2"},
		"\xef\xbb\xbf" + `{"name":"a","value":"\u00e4\n"}` + "\r\n":           {"1 a=ä\n"},
		`{"name":"a","value_base64":"AP8K"}`:                                  {"1 a=\x00\xff\n"},
		`{"name":"a","value":""}`:                                             {"1 a="},

		`{"name":"a"}`:        {"1: " + missing},
		`{"value":"hunter2"}`: {`1: field "name" is missing`},
		`{"name":"a","value":"hunter2","value_base64":"eA=="}`: {
			`1: fields "value" and "value_base64" exclude each other`},
		`{"name":"a","value":"hunter2","value":"x"}`:              {`1: json at offset 30: field "value" is given twice`},
		`{"name":"a","value":"hunter2"} {}`:                       {"1: json at offset 31: something follows the object"},
		`{"hunter2":"a","value":"x"}`:                             {"1: json at offset 1: unknown field"},
		`["hunter2"]` + "\n" + `{"name":"a","value":"x"}`:         {"1: json at offset 0: want an object", "2 a=x"},
		`{"name":"a","value":null}`:                               {`1: field "value": json at offset 20: want a string`},
		`{"name":"a","value":7}`:                                  {`1: field "value": json at offset 20: want a string`},
		`{"name":"a","value":"hunter2` + "\xff" + `"}`:            {"1: not valid UTF-8"},
		`{"name":"a","value_base64":"hunter2"}`:                   {`1: field "value_base64": not base64 with padding...`},
		`{"name":"a","value":"hunter2","grace":"soon"}`:           {`1: field "grace": interval "soon"...`},
		`{"name":"a","value":"hunter2","rotate_every":"1s"}`:      {`1: field "rotate_every" is at least 1m`},
		`{"name":"a","value":"hunter2","generator":"dice"}`:       {`1: field "generator": generator...`},
		`{"name":"a","value":"hunter2","rotator":"smoke-signal"}`: {`1: field "rotator"...`},

		`{"name":"a","value":"` + long[:longestLine] + `"}` + "\n" + `{}`: {
			fmt.Sprintf("1: longer than the %d bytes a line may have", longestLine), `2: field "name" is missing`},
	} {
		got := readAll(t, jsonLines{newLines(strings.NewReader(text))})
		wantEntries(t, fmt.Sprintf("%.60q", text), got, want...)
		for _, line := range got {
			if strings.Contains(line, "hunter2") {
				t.Errorf("%.60q: got %q, which repeats what may be a value", text, line)
			}
		}
	}
}

// What put takes as flags comes in the notation that the database keeps.
func TestImportedSettings(t *testing.T) {
	const text = `{"name":"a","value":"x","generator":"hex:32","rotate_every":"30d","grace":"0",` +
		`"rotator":"postgres-role  role=app via=prod/db/admin","window":"02:00-05:00 Europe/Berlin"}`
	e, err := jsonLines{newLines(strings.NewReader(text))}.next()
	if err != nil {
		t.Fatal(err)
	}
	s := e.Settings
	if *s.Generator != "hex:32" || s.RotateEvery.Hours() != 720 || *s.Grace != 0 ||
		*s.Rotator != "postgres-role role=app via=prod/db/admin" || *s.Window != "02:00-05:00 Europe/Berlin" {
		t.Errorf("got %+v", s)
	}
	e, err = jsonLines{newLines(strings.NewReader(`{"name":"a","value":"x"}`))}.next()
	if err != nil || e.Settings != (vault.Settings{}) {
		t.Errorf("got settings %+v, %v where none were given", e.Settings, err)
	}
}

// The longest value there can be fits into a line in its longest spelling.
func TestTheLongestValueFits(t *testing.T) {
	value := bytes.Repeat([]byte{1}, envelope.MaxValueSize)
	secret := vault.Secret{Name: strings.Repeat("n", envelope.MaxNameSize), Value: value}
	line := appendExported(nil, vault.Exported{Secret: secret}, false)
	e, err := jsonLines{newLines(bytes.NewReader(line))}.next()
	if err != nil || !bytes.Equal(e.Value, value) {
		t.Errorf("a line of %d bytes comes back with %d bytes of value, %v", len(line), len(e.Value), err)
	}
}

// The lines are the same in any pieces of input; if it breaks off, the complete lines count.
func TestLinesInPieces(t *testing.T) {
	text := "A=1\n" + "B=" + long[:100_000] + "\nC='" + strings.Repeat("y", longestLine/2) + "\n" +
		strings.Repeat("z", longestLine) + "'\nD=4"
	want := dotenvOf(t, text)
	for name, reader := range map[string]io.Reader{
		"halves":                iotest.HalfReader(strings.NewReader(text)),
		"data and EOF together": iotest.DataErrReader(strings.NewReader(text)),
		"small":                 iotest.OneByteReader(strings.NewReader(text[:200_000])),
	} {
		got := readAll(t, dotenv{newLines(reader)})
		if name == "small" {
			wantEntries(t, name, got, want[0], want[1], "3: its quote does not end")
			continue
		}
		wantEntries(t, name, got, want...)
	}
	broken := errors.New("the cable was pulled")
	e := dotenv{newLines(io.MultiReader(strings.NewReader("A=1\nB=2"), iotest.ErrReader(broken)))}
	if got, err := e.next(); err != nil || got.Name != "A" {
		t.Errorf("got %v, %v", got.Name, err)
	}
	if got, err := e.next(); !errors.Is(err, broken) {
		t.Errorf("got %q, %v of a line that broke off, want the reader's error", got.Name, err)
	}
	for _, mark := range []string{"\xff\xfeA\x00=\x001\x00", "\xfe\xff\x00A"} {
		if _, err := (dotenv{newLines(strings.NewReader(mark))}).next(); !errors.Is(err, errUsage) {
			t.Errorf("UTF-16: got %v, want a usage error", err)
		}
	}
}

func TestNamesSeenAgain(t *testing.T) {
	s := newSeenNames()
	for i := range 3 * rememberedNames {
		if first, seen := s.again(fmt.Sprintf("app/s%d", i), place{"", i + 1}); seen {
			t.Fatalf("name %d is said to be on %s already", i, first)
		}
	}
	last := 3*rememberedNames - 1
	for name, want := range map[string]int{
		fmt.Sprintf("app/s%d", last):                   last + 1,
		fmt.Sprintf("APP/S%d", last-rememberedNames+1): last - rememberedNames + 2,
	} {
		if got, seen := s.again(name, place{"", last + 2}); !seen || got.line != want {
			t.Errorf("%s: got %t, %s, want line %d", name, seen, got, want)
		}
	}
	if n := len(s.now) + len(s.before); n > 2*rememberedNames {
		t.Errorf("%d names are remembered, more than %d", n, 2*rememberedNames)
	}
}

// Nothing makes a reader panic, go on for ever, or lose count.
func FuzzEntries(f *testing.F) {
	for _, s := range []string{"A=1\n", "A='x\ny'\n", `A="\n$x"`, `{"name":"a","value":"x"}`, "\xff\xfe", "A=\"\\",
		"export A=`", "\n\n=\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		for _, e := range []entries{dotenv{newLines(bytes.NewReader(input))}, jsonLines{newLines(bytes.NewReader(input))}} {
			line := 0
			for {
				got, err := e.next()
				var ofLine *lineError
				if errors.As(err, &ofLine) {
					got.line = ofLine.line
				} else if err != nil {
					break
				}
				if got.line <= line || got.line > bytes.Count(input, []byte("\n"))+1 {
					t.Fatalf("%q: line %d after line %d", input, got.line, line)
				}
				line = got.line
			}
		}
	})
}

// A read that ends after the import was interrupted leaves nothing of its input behind.
func TestAnInterruptedReadIsWiped(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	from := &heldReader{begun: make(chan struct{}), release: make(chan struct{})}
	r := newInterruptible(ctx, from)
	failed := make(chan error, 1)
	go func() { _, err := r.Read(make([]byte, 100)); failed <- err }()
	<-from.begun
	stop()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want that the import was interrupted", err)
	}
	close(from.release)
	r.reads.Wait()
	if !bytes.Equal(from.into, make([]byte, len(from.into))) {
		t.Error("the input is still in the buffer")
	}
}

// heldReader reads a value once it is released.
type heldReader struct {
	begun, release chan struct{}
	into           []byte
}

func (h *heldReader) Read(into []byte) (int, error) {
	close(h.begun)
	<-h.release
	h.into = into
	return copy(into, "value"), nil
}
