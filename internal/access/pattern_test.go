package access_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/envelope"
)

func pattern(t testing.TB, text string) access.Pattern {
	t.Helper()
	p, err := access.ParsePattern(text)
	if err != nil {
		t.Fatalf("pattern %q: %v", text, err)
	}
	return p
}

func TestPatternCovers(t *testing.T) {
	for _, test := range []struct {
		pattern  string
		yes, not []string
	}{
		{"prod/app/*", []string{"prod/app/x", "prod/app/x/y", "prod/app/x.y"},
			[]string{"prod/app", "prod/apple", "prod/apple/x", "PROD/app/x", "prod/app.x", "prod", "x/prod/app/x", "prod/app/"}},
		{"prod/app.*", []string{"prod/app.x", "prod/app.x/y"}, []string{"prod/app/x", "prod/app", "prod/apple.x"}},
		{"prod/app", []string{"prod/app"}, []string{"prod/app/x", "prod/ap", "prod/App", "prod/app2"}},
		{"*", []string{"a", "prod/app/x"}, []string{""}},
	} {
		p := pattern(t, test.pattern)
		for _, name := range test.yes {
			if !p.Covers(name) {
				t.Errorf("%q does not cover %q", test.pattern, name)
			}
		}
		for _, name := range test.not {
			if p.Covers(name) {
				t.Errorf("%q covers %q", test.pattern, name)
			}
		}
		if p.String() != test.pattern {
			t.Errorf("%q is written %q", test.pattern, p)
		}
	}
	if (access.Pattern{}).Covers("") || (access.Pattern{}).Covers("a") || (access.Pattern{}).Within("") {
		t.Error("the zero pattern covers something")
	}
}

func TestPatternsThatAreRefused(t *testing.T) {
	for _, text := range []string{"", "/", "/*", ".*", "**", "a*", "a/b*", "*/a", "a/*/b", "a//*", "a/.*", "a/**", "a/",
		"a.",
		"-a/*", "a b", " *", "a/* ", "a\x00/*", "a/%2F/*", "ä/*", "a..*", strings.Repeat("a", 256),
		strings.Repeat("a", envelope.MaxNameSize-1) + "/*"} {
		_, err := access.ParsePattern(text)
		if !errors.Is(err, access.ErrPattern) {
			t.Errorf("%q: got %v, want that it is no pattern", text, err)
		}
	}
	if _, err := access.ParsePattern("prod/app*"); err == nil || !strings.Contains(err.Error(), "prod/app/*") {
		t.Errorf("got %v, want a hint of how a prefix is written", err)
	}
	longest := strings.Repeat("a", envelope.MaxNameSize-2) + "/*"
	if p := pattern(t, longest); !p.Covers(longest[:len(longest)-1] + "x") {
		t.Error("the longest prefix does not cover the one name below it")
	}
}

func TestPatternWithinScope(t *testing.T) {
	for _, test := range []struct {
		pattern, scope string
		want           bool
	}{
		{"prod/app/*", "prod/", true}, {"prod/app/*", "prod/app/", true}, {"prod/app/*", "", true},
		{"prod/app/*", "prod/app/x", false}, {"prod/app/*", "prod/app/x/", false}, {"prod/app/*", "stage/", false},
		{"prod/*", "prod/app/", false}, {"prod/app", "prod/app/", false}, {"prod/app", "prod/", true},
		{"prod.*", "prod/", false}, {"*", "", true}, {"*", "a", false},
	} {
		if got := pattern(t, test.pattern).Within(test.scope); got != test.want {
			t.Errorf("%q within %q: got %t, want %t", test.pattern, test.scope, got, test.want)
		}
	}
}

func TestPatternReaches(t *testing.T) {
	for _, test := range []struct {
		pattern, prefix string
		want            bool
	}{
		{"prod/app/*", "", true}, {"prod/app/*", "prod/", true}, {"prod/app/*", "prod/app/x/", true},
		{"prod/app/*", "stage/", false}, {"prod/app", "prod/", true}, {"prod/app", "prod/app/", false}, {"*", "x/", true},
	} {
		if got := pattern(t, test.pattern).Reaches(test.prefix); got != test.want {
			t.Errorf("%q reaches %q: got %t, want %t", test.pattern, test.prefix, got, test.want)
		}
	}
}

// What a pattern covers is a valid name below it, has the text of the pattern before it, and lies in each of its
// scopes.
func FuzzPattern(f *testing.F) {
	f.Add("prod/app/*", "prod/app/x")
	f.Add("prod.*", "prod.a")
	f.Add("*", "a")
	f.Add("a", "a")
	f.Fuzz(func(t *testing.T, text, name string) {
		p, err := access.ParsePattern(text)
		if err != nil {
			if !errors.Is(err, access.ErrPattern) {
				t.Errorf("%v is of another kind", err)
			}
			return
		}
		if p.String() != text {
			t.Errorf("%q is written %q", text, p)
		}
		if envelope.CheckName(name) != nil {
			return
		}
		stem, below := strings.CutSuffix(text, "*")
		want := name == text || below && strings.HasPrefix(name, stem)
		if p.Covers(name) != want {
			t.Errorf("%q covers %q: got %t, want %t", text, name, !want, want)
		}
		if p.Within(name) && p.Covers("zz") && !strings.HasPrefix("zz", name) {
			t.Errorf("%q is within %q, and covers a name that is not", text, name)
		}
	})
}
