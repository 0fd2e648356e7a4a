package access_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func rules(t testing.TB, texts ...string) []access.Rule {
	t.Helper()
	var all []access.Rule
	for _, text := range texts {
		all = append(all, access.Rule{Pattern: pattern(t, text), Actions: access.DefaultActions})
	}
	return all
}

func ofToken(token access.Token) access.Credential {
	return access.Credential{ID: token.ID(), Kind: access.ByToken, TokenSHA256: token.Fingerprint()}
}

func by(token access.Token) access.Identity {
	return access.Identity{Kind: access.ByToken, ID: token.ID(), Fingerprint: token.Fingerprint(),
		Addr: netip.MustParseAddr("10.1.2.3")}
}

func byCert(matches ...string) access.Identity {
	return access.Identity{Kind: access.ByCert, Matches: matches}
}

func TestJudgeByRule(t *testing.T) {
	token := access.NewToken()
	x := access.NewIndex(access.Snapshot{Epoch: uuid.New(), Apps: []access.App{
		{Name: "billing", Credentials: []access.Credential{ofToken(token)}, Rules: append(
			rules(t, "prod/app/*", "prod.app.*", "shared/one", "prod/app"),
			access.Rule{Pattern: pattern(t, "lists/*"), Actions: []access.Action{access.List}})},
		{Name: "all", Rules: rules(t, "*")},
	}})
	for name, want := range map[string]access.Reason{
		"prod/app/x": "", "prod/app/x/y.z": "", "prod.app.x": "", "shared/one": "", "prod/app": "",
		"prod/apple/x": access.Policy, "PROD/app/x": access.Policy, "prod.app": access.Policy, "shared/one/x": access.Policy,
		"prod": access.Policy, "lists/x": access.Policy, "": access.Policy,
	} {
		got := x.Judge(by(token), access.Read, name, noon)
		if diff := cmp.Diff(access.Decision{App: "billing", Credential: token.ID(), Reason: want}, got); diff != "" {
			t.Errorf("%q: (-want +got)\n%s", name, diff)
		}
	}
	if d := x.Judge(by(token), access.List, "lists/x", noon); d.Reason != access.Allowed {
		t.Errorf("list: got %q", d.Reason)
	}
	if d := x.Judge(by(token), "delete", "prod/app/x", noon); d.Reason != access.Policy {
		t.Errorf("an unknown action: got %q, want %q", d.Reason, access.Policy)
	}
	if d := x.Judge(by(token), "", "", noon); d.Reason != access.Allowed {
		t.Errorf("a valid credential alone: got %q", d.Reason)
	}
	if got := fmt.Sprint(x.Patterns(by(token), access.List, noon)); got != "[lists/*]" {
		t.Errorf("patterns to list: got %s", got)
	}
}

func TestJudgeByCredential(t *testing.T) {
	past, future := noon.Add(-time.Second), noon.Add(time.Second)
	good, expired, revoked, disabled, bound := access.NewToken(), access.NewToken(), access.NewToken(), access.NewToken(),
		access.NewToken()
	with := func(token access.Token, change func(*access.Credential)) access.Credential {
		c := ofToken(token)
		change(&c)
		return c
	}
	x := access.NewIndex(access.Snapshot{Apps: []access.App{
		{Name: "app", Rules: rules(t, "*"), Credentials: []access.Credential{
			with(good, func(c *access.Credential) { c.ExpiresAt = &future }),
			with(expired, func(c *access.Credential) { c.ExpiresAt = &noon }),
			with(revoked, func(c *access.Credential) { c.RevokedAt = &past }),
			with(bound, func(c *access.Credential) { c.Networks = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")} }),
			{ID: uuid.New(), Kind: access.ByCert, Match: "dns:a.example.org"},
			{ID: uuid.New(), Kind: access.ByCert, Match: "dns:old.example.org", RevokedAt: &past},
			{ID: uuid.New(), Kind: access.ByUnix, Match: "uid:1001"},
			{ID: uuid.New(), Kind: access.ByUnix, Match: "unit:app.service"},
		}},
		{Name: "off", DisabledAt: &past, Rules: rules(t, "*"), Credentials: []access.Credential{ofToken(disabled)}},
		{Name: "other", Rules: rules(t, "*"), Credentials: []access.Credential{
			{ID: uuid.New(), Kind: access.ByCert, Match: "dns:b.example.org"},
			{ID: uuid.New(), Kind: access.ByCert, Match: "dns:old.example.org"},
		}},
	}})
	forged := by(good)
	forged.Fingerprint[31] ^= 1
	elsewhere := by(bound)
	inside, unix := elsewhere, elsewhere
	inside.Addr, unix.Addr = netip.MustParseAddr("10.9.0.1"), netip.Addr{}
	for _, test := range []struct {
		about string
		who   access.Identity
		app   string
		want  access.Reason
	}{
		{"good", by(good), "app", ""},
		{"unknown", by(access.NewToken()), "", access.BadToken},
		{"wrong secret under a known id", forged, "", access.BadToken},
		{"expired at this moment", by(expired), "app", access.Expired},
		{"revoked", by(revoked), "app", access.Revoked},
		{"of a disabled app", by(disabled), "off", access.Disabled},
		{"from elsewhere", elsewhere, "app", access.Network},
		{"from its network", inside, "app", ""},
		{"over a unix socket", unix, "app", access.Network},
		{"none, and no anonymous app", access.Identity{}, "", access.NoIdentity},
		{"certificate", byCert("dns:a.example.org"), "app", ""},
		{"certificate with an unknown name too", byCert("dns:x.example.org", "dns:a.example.org"), "app", ""},
		{"certificate of two apps", byCert("dns:a.example.org", "dns:b.example.org"), "", access.NoIdentity},
		{"certificate of no app", byCert("dns:x.example.org"), "", access.NoIdentity},
		{"certificate without a name", byCert(), "", access.NoIdentity},
		{"a name revoked for one app, live for another", byCert("dns:old.example.org"), "other", ""},
		{"certificate that names a user", byCert("uid:1001"), "", access.NoIdentity},
		{"user", access.Identity{Kind: access.ByUnix, Matches: []string{"uid:1001"}}, "app", ""},
		{"unit", access.Identity{Kind: access.ByUnix, Matches: []string{"unit:app.service"}}, "app", ""},
		{"another unit", access.Identity{Kind: access.ByUnix, Matches: []string{"unit:other.service"}}, "",
			access.NoIdentity},
		{"a unit as a certificate", access.Identity{Kind: access.ByCert, Matches: []string{"unit:app.service"}}, "",
			access.NoIdentity},
		{"another user", access.Identity{Kind: access.ByUnix, Matches: []string{"uid:1002"}}, "", access.NoIdentity},
		{"a kind that this build does not know", access.Identity{Kind: "jwt"}, "", access.NoIdentity},
	} {
		got := x.Judge(test.who, access.Read, "a", noon)
		if got.Reason != test.want || got.App != test.app {
			t.Errorf("%s: got app %q, reason %q, want %q, %q", test.about, got.App, got.Reason, test.app, test.want)
		}
	}
}

func TestAnonymous(t *testing.T) {
	app := access.App{Name: access.Anonymous, Rules: rules(t, "public/*")}
	x := access.NewIndex(access.Snapshot{Apps: []access.App{app}})
	if d := x.Judge(access.Identity{}, access.Read, "public/a", noon); d != (access.Decision{App: access.Anonymous}) {
		t.Errorf("got %+v", d)
	}
	if d := x.Judge(access.Identity{}, access.Read, "a", noon); d.Reason != access.Policy {
		t.Errorf("got %q", d.Reason)
	}
	if d := x.Judge(by(access.NewToken()), access.Read, "public/a", noon); d.Reason != access.BadToken {
		t.Errorf("a bad token fell back to the anonymous app: %q", d.Reason)
	}
	app.DisabledAt = &noon
	x = access.NewIndex(access.Snapshot{Apps: []access.App{app}})
	if d := x.Judge(access.Identity{}, access.Read, "public/a", noon); d.Reason != access.Disabled {
		t.Errorf("got %q", d.Reason)
	}
}

func TestAppToken(t *testing.T) {
	token := access.NewToken()
	text := token.Reveal()
	parsed, err := access.ParseToken(text)
	if err != nil || parsed != token {
		t.Fatalf("the token did not survive its text: %v", err)
	}
	hash := token.Fingerprint()
	for _, bad := range []string{"", text[:50], text + "a", " " + text, text + "\n", "hva_" + text[4:],
		strings.ToUpper(text),
		text[:20] + "1" + text[21:], text[:60] + "\n" + text[61:], fmt.Sprintf("hvr_%x", hash), string(hash[:])} {
		if _, err := access.ParseToken(bad); err == nil || len(bad) > 20 && strings.Contains(err.Error(), bad[8:20]) {
			t.Errorf("got %v, want a refusal that does not show the text", err)
		}
	}
	encoded, _ := token.MarshalText()
	shown := fmt.Sprintf("%v %+v %#v %x %s %s %s", token, &token, token, token, []access.Token{token}, encoded,
		token.LogValue())
	if strings.Contains(shown, text[10:30]) {
		t.Error("a token shows itself when printed")
	}
}

func TestAppNames(t *testing.T) {
	for _, name := range []string{"a", "0", "billing-2", "a.b_c", strings.Repeat("a", 64)} {
		if err := access.CheckAppName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "-a", ".a", "_a", "A", "aB", "a b", "a:b", "ä", "a\n", strings.Repeat("a", 65)} {
		if access.CheckAppName(name) == nil {
			t.Errorf("%q is taken as the name of an app", name)
		}
	}
}

// manyApps are 1,000 apps with ten rules and ten tokens each, and one of the tokens.
func manyApps(t testing.TB) (access.Snapshot, access.Token) {
	t.Helper()
	var s access.Snapshot
	var last access.Token
	for i := range 1000 {
		app := access.App{Name: fmt.Sprintf("app-%d", i)}
		for j := range 10 {
			app.Rules = append(app.Rules, rules(t, fmt.Sprintf("prod/app-%d/part-%d/*", i, j))...)
			last = access.NewToken()
			app.Credentials = append(app.Credentials, ofToken(last))
		}
		s.Apps = append(s.Apps, app)
	}
	return s, last
}

// An index of 10,000 credentials takes less than 4 MB, so that the old one and the new one fit into 8 MB.
func TestMemoryOfAnIndex(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	s, last := manyApps(t)
	x := access.NewIndex(s)
	s = access.Snapshot{}
	took := int64(heap()) - int64(before)
	if took > 4<<20 {
		t.Errorf("got %d bytes, want 4 MiB at most", took)
	}
	if d := x.Judge(by(last), access.Read, "prod/app-999/part-3/db", noon); d.Reason != access.Allowed {
		t.Error(d.Reason)
	}
	t.Logf("%d KiB", took>>10)
}

// BenchmarkJudge is a token among 10,000 credentials of 1,000 apps with ten rules each.
func BenchmarkJudge(b *testing.B) {
	s, last := manyApps(b)
	x := access.NewIndex(s)
	text := last.Reveal()
	b.ReportAllocs()
	for b.Loop() {
		token, err := access.ParseToken(text)
		if err != nil {
			b.Fatal(err)
		}
		if d := x.Judge(by(token), access.Read, "prod/app-999/part-3/db", noon); d.Reason != access.Allowed {
			b.Fatal(d.Reason)
		}
	}
}
