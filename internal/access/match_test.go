package access

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func uris(t testing.TB, texts ...string) []*url.URL {
	t.Helper()
	var all []*url.URL
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, u)
	}
	return all
}

func TestNamesOfCertificates(t *testing.T) {
	for _, test := range []struct {
		about  string
		uris   []string
		dns    []string
		cn     string
		hasSAN bool
		want   []string
		refuse bool
	}{
		{about: "one SPIFFE id", uris: []string{"spiffe://example.org/ns/app"}, dns: []string{"a.example.org"}, cn: "app",
			hasSAN: true, want: []string{"spiffe://example.org/ns/app"}},
		{about: "two SPIFFE ids", uris: []string{"spiffe://example.org/a", "spiffe://example.org/b"}, hasSAN: true,
			refuse: true},
		{about: "a SPIFFE id and another URI", uris: []string{"spiffe://example.org/a", "https://a.example.org"},
			hasSAN: true, refuse: true},
		{about: "a SPIFFE id that escapes", uris: []string{"spiffe://example.org/a%2Fb"}, dns: []string{"a.example.org"},
			hasSAN: true, refuse: true},
		{about: "SPIFFE in capitals", uris: []string{"SPIFFE://Example.org/a"}, hasSAN: true, refuse: true},
		{about: "no path", uris: []string{"spiffe://example.org"}, hasSAN: true, refuse: true},
		{about: "another URI", uris: []string{"https://a.example.org"}, dns: []string{"A.example.org"}, cn: "app",
			hasSAN: true, want: []string{"dns:a.example.org"}},
		{about: "DNS names", dns: []string{"a.example.org", "*.example.org", "b.example.org."}, cn: "app", hasSAN: true,
			want: []string{"dns:a.example.org"}},
		{about: "alternative names of other kinds only", cn: "app", hasSAN: true},
		{about: "a common name", cn: "app one", want: []string{"cn:app one"}},
		{about: "no name at all"},
		{about: "a common name that hides", cn: "app\u202e"},
	} {
		got, err := matchesOf(uris(t, test.uris...), test.dns, test.cn, test.hasSAN)
		if errors.Is(err, ErrMatch) != test.refuse || !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, %v, want %q", test.about, got, err, test.want)
		}
	}
}

func TestParseMatch(t *testing.T) {
	for text, want := range map[string]string{
		"spiffe://example.org/a": "spiffe://example.org/a", "dns:A.Example.org": "dns:a.example.org",
		"cn:Some App": "cn:Some App",
	} {
		if got, err := ParseMatch(ByCert, text); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
	if got, err := ParseMatch(ByUnix, UnixMatch(1001)); err != nil || got != "uid:1001" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, unit := range []string{"billing.service", `a\x2db@1:2.service`, "x.socket",
		strings.Repeat("a", 247) + ".service"} {
		if got, err := ParseMatch(ByUnix, UnitMatch(unit)); err != nil || got != "unit:"+unit {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for _, bad := range []struct {
		kind Kind
		text string
	}{
		{ByUnix, "unit:"}, {ByUnix, "unit:billing"}, {ByUnix, "unit:.service"}, {ByUnix, "unit:web@.service"},
		{ByUnix, "unit:@1.service"}, {ByUnix, "unit:a b.service"}, {ByUnix, "unit:a/b.service"}, {ByUnix, "unit:a.timer"},
		{ByUnix, "unit:" + strings.Repeat("a", 248) + ".service"}, {ByUnix, "unit:a.service\x00"},
		{ByUnix, "unit:\u00e9.service"}, {ByCert, "unit:a.service"},
		{ByCert, ""}, {ByCert, "a.example.org"}, {ByCert, "uid:1"}, {ByCert, "dns:*.example.org"}, {ByCert, "dns:"},
		{ByCert, "dns:a..b"}, {ByCert, "cn:"}, {ByCert, "cn: a"}, {ByCert, "cn:" + strings.Repeat("a", 65)},
		{ByCert, "spiffe://example.org/"}, {ByCert, "spiffe://example.org/a/../b"}, {ByCert, "spiffe://e:80/a"},
		{ByCert, "spiffe://example.org/a?b"}, {ByCert, "spiffe://" + strings.Repeat("a", 2048) + "/b"},
		{ByUnix, "1001"}, {ByUnix, "uid:01"}, {ByUnix, "uid:-1"}, {ByUnix, "uid:4294967296"}, {ByUnix, "dns:a"},
		{ByToken, "uid:1"},
	} {
		if got, err := ParseMatch(bad.kind, bad.text); !errors.Is(err, ErrMatch) {
			t.Errorf("%s %q: got %q, %v, want a refusal", bad.kind, bad.text, got, err)
		}
	}
}

// Each name that a certificate leads to is one that a credential can have, in the spelling of the credential.
func FuzzCertificateNames(f *testing.F) {
	f.Add("spiffe://example.org/a", "", "a.example.org", "app", true)
	f.Add("spiffe://example.org/a%2Fb", "", "", "", true)
	f.Add("https://x/", "spiffe://a/b", "*.a", "a", true)
	f.Add("", "", "", "app", false)
	f.Fuzz(func(t *testing.T, uri, other, dns, cn string, hasSAN bool) {
		var all []*url.URL
		for _, text := range []string{uri, other} {
			if u, err := url.Parse(text); err == nil && text != "" {
				all = append(all, u)
			}
		}
		matches, err := matchesOf(all, []string{dns}, cn, hasSAN)
		if err != nil && (!errors.Is(err, ErrMatch) || len(matches) > 0) {
			t.Errorf("got %q with error %v", matches, err)
		}
		if len(all) > 1 && err == nil {
			t.Error("a certificate with several URIs has a name")
		}
		for _, match := range matches {
			if again, err := ParseMatch(ByCert, match); err != nil || again != match {
				t.Errorf("%q: a credential would have %q, %v", match, again, err)
			}
			if strings.HasPrefix(match, matchCN) && hasSAN {
				t.Error("the common name counts beside alternative names")
			}
		}
	})
}
