package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	compose "github.com/compose-spec/compose-go/v2/dotenv"
)

// takenAnyway are texts of which a program reads something else, and that are taken: the name gets lost there, not
// the value.
var takenAnyway = map[string]string{
	"a.b=x\n": "no name to a shell", "a-b=x\n": "no name to a shell", "1A=x\n": "no name to a shell",
	"\tA=x\n":           "node takes the tab for a part of the name",
	"A=x\n  # c\nB=y\n": "node takes the comment for a part of the name",
	"\t\nA=x\n":         "node takes the blanks for a part of the name",
	"A=x\n\n  \nB=y\n":  "node takes the blanks for a part of the name",
	"\ufeffA=x\n":       "a byte order mark",
}

// refusedAnyway are texts that all programs read alike and that are refused: the rule is simpler, or what was meant
// is open.
var refusedAnyway = map[string]string{
	"A=x #y\n": "a comment, or a part of the value", "A=x # it's\nB='y'\n": "the same",
	"A=x$~y\n": "a list of what may follow $", "A=x$^y\n": "the same", "A=x$}y\n": "the same", "A=x$,y\n": "the same",
	"A=x$+y\n":     "the same",
	"A=\"x$,y\"\n": "the same", "A=\"x$+y\"\n": "the same", "A=x$äy\n": "the same", "A=\"x$'y\"\n": "the same",
	"A=\"a\\xb\"\n": "no escapes", "A={x,y}\n": "bash expands it after export", "A=x{y,z}\n": "the same",
	"A={1..3}\n": "the same",
	"A='${'\n":   "no ${ in '...'", "A='x${'\n": "the same", "A=~x\n": "a user's home folder",
}

// TestDotenvTable: what vaultctl takes from a .env file is what every program reads there. tools/dotenv made the table.
func TestDotenvTable(t *testing.T) {
	table, err := os.ReadFile("testdata/dotenv.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		var row struct {
			Text string
			Read map[string]map[string]string
		}
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		known[row.Text] = true
		alike := row.Read["all"] != nil && len(row.Read) == 1
		got, err := readDotenv(row.Text)
		switch {
		case err == nil && alike && !maps.Equal(got, row.Read["all"]):
			t.Errorf("%q: got %q, all programs read %q", row.Text, got, row.Read["all"])
		case err == nil && !alike && takenAnyway[row.Text] == "":
			t.Errorf("%q: taken as %q, programs read %q", row.Text, got, row.Read)
		case err != nil && alike && refusedAnyway[row.Text] == "":
			t.Errorf("%q: refused (%s), all programs read %q", row.Text, err, row.Read["all"])
		case err == nil && refusedAnyway[row.Text] != "", err != nil && takenAnyway[row.Text] != "":
			t.Errorf("%q: got %q, %v: the list of exceptions says otherwise", row.Text, got, err)
		}
	}
	for _, exceptions := range []map[string]string{takenAnyway, refusedAnyway} {
		for text := range exceptions {
			if !known[text] {
				t.Errorf("the table does not have the exception %q", text)
			}
		}
	}
}

// readDotenv ends at the first line that is refused.
func readDotenv(text string) (map[string]string, error) {
	read := map[string]string{}
	for e := (dotenv{newLines(strings.NewReader(text))}); ; {
		got, err := e.next()
		if errors.Is(err, io.EOF) {
			return read, nil
		}
		if err != nil {
			return nil, err
		}
		read[got.Name] = string(got.Value)
	}
}

// TestDotenvSpelling checks that a refused value comes with an accepted spelling.
func TestDotenvSpelling(t *testing.T) {
	for text, want := range map[string]string{
		"A=x#y":          "write the value in '...'",
		"A=it's":         `write the value in "..."`,
		`A="x$@y"`:       "write the value in '...'",
		`A="a\nb"`:       "write the value in '...'",
		`A="say \"it\""`: "write the value in '...'",
		`A="it's \"x\""`: "no spelling is read alike",
		`A=it's$HOME`:    "no spelling is read alike",
		`A=x\`:           "no spelling is read alike",
		`A=x\y`:          "write the value in '...'",
		`A='x\'`:         "no spelling is read alike",
		`A='${x}'`:       "no spelling is read alike",
		"A='x\ry'":       "no spelling is read alike",
		`A="a\rb"`:       "no spelling is read alike",
	} {
		if _, err := readDotenv(text); err == nil || !strings.Contains(err.Error(), ": "+want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// FuzzDotenv: a text that vaultctl takes as a whole, docker compose's reader takes too, and reads the same.
func FuzzDotenv(f *testing.F) {
	table, err := os.ReadFile("testdata/dotenv.jsonl")
	if err != nil {
		f.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(table)); lines.Scan(); {
		var row struct{ Text string }
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			f.Fatal(err)
		}
		f.Add(row.Text)
	}
	name := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := readDotenv(text)
		if err != nil {
			return
		}
		for variable, value := range got {
			if !name.MatchString(variable) {
				return // it is refused later, or no name to a shell
			}
			if strings.ContainsAny(value, "\r\x00") {
				t.Fatalf("%q: got %q", text, got)
			}
		}
		want, err := compose.UnmarshalWithLookup(strings.TrimPrefix(text, "\ufeff"), nil)
		if err != nil || !maps.Equal(got, want) {
			t.Fatalf("%q: got %q, docker compose reads %q, %v", text, got, want, err)
		}
	})
}
