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

func TestAADRoundTrip(t *testing.T) {
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
		name, version, err := ParseAAD(want)
		if err != nil || name != tc.name || version != tc.version {
			t.Errorf("parsing %q: got %q, %d, %v", want, name, version, err)
		}
	}
}

var longName = strings.Repeat("n", MaxNameSize)

func TestParseAADRefuses(t *testing.T) {
	for _, aad := range []string{
		"", ":", "a", "a:", ":1", "a:0", "a:00", "a:01", "a:+1", "a:-1", "a:-0", "a: 1", "a:1 ", "a:1\n", "\na:1", "a:1:1",
		"a::1",
		"a:1.0", "a:1e3", "a:0x1", "a:1_000", "a:2147483648", "a:4294967297", "a:99999999999999999999", "a:\u0661",
		"a b:1", "a/:1", "-a:1", longName + "n:1",
	} {
		name, version, err := ParseAAD(aad)
		if !errors.Is(err, ErrIntegrity) || errors.Is(err, ErrName) {
			t.Errorf("%q: got %v, want %v alone", aad, err, ErrIntegrity)
		}
		if name != "" || version != 0 {
			t.Errorf("%q: got %q, %d beside the error", aad, name, version)
		}
	}
}

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

func FuzzParseAAD(f *testing.F) {
	for _, aad := range []string{"a:1", "a/b:2147483647", "a:2147483648", "a:01", "a:+1", "a:1:1", ":", longName + ":9"} {
		f.Add(aad)
	}
	f.Fuzz(func(t *testing.T, aad string) {
		name, version, err := ParseAAD(aad)
		if err != nil {
			if !errors.Is(err, ErrIntegrity) {
				t.Errorf("%q: got %v, want %v", aad, err, ErrIntegrity)
			}
			// Refused for a reason: no name and version have it as their AAD.
			cut := strings.LastIndexByte(aad, ':')
			if n, err := strconv.ParseUint(aad[cut+1:], 10, 31); cut > 0 && err == nil && n > 0 &&
				aad[cut+1] != '0' && inGrammar(aad[:cut]) {
				t.Errorf("%q: refused, and it is well formed", aad)
			}
			return
		}
		if got := AAD(name, version); got != aad {
			t.Errorf("%q parsed to %q, %d, which is %q", aad, name, version, got)
		}
		if !inGrammar(name) || version < 1 || version > 2147483647 {
			t.Errorf("%q parsed to %q, %d", aad, name, version)
		}
	})
}
