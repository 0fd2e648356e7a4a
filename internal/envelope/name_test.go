package envelope

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// nameGrammar is the grammar as the design gives it. \z and not $: no newline slips in.
var nameGrammar = regexp.MustCompile(`\A[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_][A-Za-z0-9_-]*)*\z`)

func inGrammar(name string) bool {
	return len(name) >= 1 && len(name) <= 255 && nameGrammar.MatchString(name)
}

func TestNamesAccepted(t *testing.T) {
	for _, name := range []string{
		"a", "Z", "0", "_", "a-", "a--b", "_-", "prod/db", "prod/db.main/app_user", "a-/b", "a.b.c", "1/2.3",
		strings.Repeat("n", MaxNameSize), strings.Repeat("n/", MaxNameSize/2) + "n",
	} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: got %v, want no error", name, err)
		}
		if !inGrammar(name) {
			t.Errorf("%q is outside the grammar: the test is wrong", name)
		}
	}
}

func TestNamesRefused(t *testing.T) {
	for _, tc := range []struct{ name, says string }{
		{"", "0 bytes, want 1 to 255"},
		{strings.Repeat("n", MaxNameSize+1), "256 bytes, want 1 to 255"},
		{"-a", `"-" at offset 0, want a letter, a digit or "_"`},
		{"a/-b", `"-" at offset 2, want a letter, a digit or "_"`},
		{".a", `"." at offset 0, want a letter, a digit or "_"`},
		{"/a", `"/" at offset 0, want a letter, a digit or "_"`},
		{"a//b", `"/" at offset 2, want a letter, a digit or "_"`},
		{"a/../b", `"." at offset 2, want a letter, a digit or "_"`},
		{"a/", `ends with "/" at offset 1, want a letter, a digit or "_" after it`},
		{"a.", `ends with "." at offset 1, want a letter, a digit or "_" after it`},
		{"my secret", `" " at offset 2, want a letter, a digit, "_", "-", "." or "/"`},
		{"a:1", `":" at offset 1`},
		{"a\n", `"\n" at offset 1`},
		{"\na", `"\n" at offset 0`},
		{"a\x00", `"\x00" at offset 1`},
		{"caf\u00e9", `"\xc3" at offset 3`},
		{"a\\b", `"\\" at offset 1`},
		{"a%2Fb", `"%" at offset 1`},
		{"\uff41", `"\xef" at offset 0`}, // a full-width a
	} {
		err := CheckName(tc.name)
		if !errors.Is(err, ErrName) {
			t.Errorf("%q: got %v, want %v", tc.name, err, ErrName)
			continue
		}
		if want := "invalid name: " + tc.says; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %q, want %q", tc.name, err, want)
		}
		if inGrammar(tc.name) {
			t.Errorf("%q is in the grammar: the test is wrong", tc.name)
		}
	}
}

// An operator pastes a password in place of the name: the error may show one byte of it.
func TestNameErrorDoesNotRepeatTheName(t *testing.T) {
	err := CheckName("Tr0ub4dor&3")
	if err == nil || strings.Contains(err.Error(), "Tr0") || strings.Contains(err.Error(), "dor") {
		t.Errorf("got %v, want the offending byte and nothing else of the name", err)
	}
}

func TestAAD(t *testing.T) {
	for want, tc := range map[string]struct {
		name    string
		version int
	}{
		"a:1":                    {"a", 1},
		"prod/db.main:10":        {"prod/db.main", 10},
		"a-1:2147483647":         {"a-1", 2147483647},
		longName + ":1000000000": {longName, 1000000000},
	} {
		if got := AAD(tc.name, tc.version); got != want {
			t.Errorf("got aad %q, want %q", got, want)
		}
	}
}

var longName = strings.Repeat("n", MaxNameSize)

func FuzzCheckName(f *testing.F) {
	for _, name := range []string{"", "a", "a/b.c", "a/-", "a//b", "a\n", "\u00e9", longName, longName + "n"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		err := CheckName(name)
		if want := inGrammar(name); (err == nil) != want {
			t.Errorf("%q: got %v, in the grammar: %t", name, err, want)
		}
		if err != nil && !errors.Is(err, ErrName) {
			t.Errorf("%q: got %v, want %v", name, err, ErrName)
		}
	})
}

// FuzzAAD shows that no two versions have one AAD: it divides into the name and the number it was made of.
func FuzzAAD(f *testing.F) {
	f.Add("a", 1)
	f.Add("a/b", 2147483647)
	f.Add("a:1", 1)
	f.Add(longName, 9)
	f.Fuzz(func(t *testing.T, name string, version int) {
		if CheckName(name) != nil || !validVersion(version) {
			return
		}
		before, after, _ := strings.Cut(AAD(name, version), ":")
		if number, err := strconv.Atoi(after); before != name || number != version || err != nil {
			t.Errorf("the aad of %q and %d divides into %q and %q", name, version, before, after)
		}
	})
}
