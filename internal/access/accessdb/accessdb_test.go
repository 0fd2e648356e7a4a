package accessdb_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/access/accessdb"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// story is a vault, and an operator who changes its apps.
type story struct {
	t      testing.TB
	store  *vaulttest.Store
	reader *db.Reader
	writer *db.Writer
}

func newStory(t testing.TB) *story {
	t.Helper()
	s := &story{t: t, store: vaulttest.New(t)}
	var err error
	s.reader, err = db.NewReader(t.Context(), db.Options{URL: s.store.URL(vaulttest.AppRole)})
	must(t, err)
	s.writer, err = db.NewWriter(t.Context(), db.Options{URL: s.store.URL(vaulttest.Operator)})
	must(t, err)
	t.Cleanup(func() { s.reader.Close(); s.writer.Close() })
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *story) by() accessdb.Author {
	token := vaulttest.AdminToken(s.t)
	return accessdb.Author{Credential: db.Credential{TokenID: token.ID(), Prove: token.Prove}, Request: uuid.New()}
}

func (s *story) snapshot() access.Snapshot {
	s.t.Helper()
	snapshot, err := accessdb.ReadSnapshot(s.t.Context(), s.reader)
	must(s.t, err)
	return snapshot
}

func (s *story) judge(token access.Token, from, name string) access.Reason {
	s.t.Helper()
	return access.NewIndex(s.snapshot()).Judge(access.Identity{Kind: access.ByToken, ID: token.ID(),
		Fingerprint: token.Fingerprint(), Addr: netip.MustParseAddr(from)}, access.Read, name, time.Now()).Reason
}

func credentialOf(token access.Token) accessdb.NewCredential {
	return accessdb.NewCredential{ID: token.ID(), Kind: access.ByToken, Fingerprint: token.Fingerprint()}
}

// What an operator says of an app is what a snapshot judges by, and every change of it is a new epoch.
func TestSnapshotFollowsTheChanges(t *testing.T) {
	s, ctx := newStory(t), t.Context()
	if empty := s.snapshot(); len(empty.Apps) != 0 || empty.Epoch == uuid.Nil {
		t.Fatalf("without apps got %+v, want an epoch and no app", empty)
	}
	token := access.NewToken()
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	limited := credentialOf(token)
	limited.Networks, limited.ExpiresAt = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("2001:db8::/32")}, &end
	rules := []accessdb.Rule{{Pattern: "prod/app/*", Actions: access.DefaultActions}}
	made, err := accessdb.Create(ctx, s.writer, s.by(), "app", rules, []accessdb.NewCredential{limited,
		{ID: uuid.New(), Kind: access.ByCert, Match: "spiffe://example.org/app"}})
	must(t, err)
	if made.Name != "app" || made.CreatedBy != "token:root" || len(made.Credentials) != 2 || made.LSN == "" {
		t.Fatalf("got %+v", made)
	}
	steps := []struct {
		what   string
		change func() error
		want   access.Reason // for prod/app/x from 10.1.2.3
	}{
		{"nothing", func() error { return nil }, access.Allowed},
		{"disabled", func() error { _, err := accessdb.Disable(ctx, s.writer, s.by(), "app"); return err }, access.Disabled},
		{"enabled", func() error { _, err := accessdb.Enable(ctx, s.writer, s.by(), "app"); return err }, access.Allowed},
		{"without its rule", func() error {
			_, err := accessdb.Disallow(ctx, s.writer, s.by(), "app", []string{"prod/app/*"})
			return err
		}, access.Policy},
		{"allowed to list", func() error {
			_, err := accessdb.Allow(ctx, s.writer, s.by(), "app",
				[]accessdb.Rule{{Pattern: "*", Actions: []access.Action{access.List}}})
			return err
		}, access.Policy},
		{"allowed again", func() error {
			_, err := accessdb.Allow(ctx, s.writer, s.by(), "app", rules)
			return err
		}, access.Allowed},
		{"with another token", func() error {
			_, err := accessdb.AddCredential(ctx, s.writer, s.by(), "app", credentialOf(access.NewToken()))
			return err
		}, access.Allowed},
		{"revoked", func() error {
			id := token.ID()
			revoked, err := accessdb.RevokeCredential(ctx, s.writer, s.by(), "app", &id)
			if err == nil && !slices.Equal(revoked.Revoked, []uuid.UUID{id}) {
				t.Errorf("revoked %v, want %s", revoked.Revoked, id)
			}
			return err
		}, access.Revoked},
		{"deleted", func() error { _, err := accessdb.Delete(ctx, s.writer, s.by(), "app"); return err }, access.BadToken},
	}
	for i, step := range steps {
		before := s.snapshot().Epoch
		must(t, step.change())
		if got := s.judge(token, "10.1.2.3", "prod/app/x"); got != step.want {
			t.Errorf("%s: got %q, want %q", step.what, got, step.want)
		}
		epoch, err := accessdb.ReadEpoch(ctx, s.reader)
		must(t, err)
		if changed := epoch != before; changed != (i > 0) || epoch != s.snapshot().Epoch {
			t.Errorf("%s: the epoch changed: %v", step.what, changed)
		}
		if step.what == "nothing" {
			if got := s.judge(token, "192.0.2.1", "prod/app/x"); got != access.Network {
				t.Errorf("from another network: got %q", got)
			}
			for _, name := range []string{"prod/app", "prod/apple/x", "PROD/app/x"} {
				if got := s.judge(token, "2001:db8::1", name); got != access.Policy {
					t.Errorf("%s: got %q, want %q", name, got, access.Policy)
				}
			}
		}
	}
}

// The stored hash is not taken for the token: it is no secret part of any.
func TestHashForToken(t *testing.T) {
	s := newStory(t)
	token := access.NewToken()
	_, err := accessdb.Create(t.Context(), s.writer, s.by(), "app", []accessdb.Rule{{Pattern: "*",
		Actions: access.DefaultActions}}, []accessdb.NewCredential{credentialOf(token)})
	must(t, err)
	stored := s.snapshot().Apps[0].Credentials[0].TokenSHA256
	if stored != token.Fingerprint() {
		t.Fatal("the snapshot does not have the fingerprint")
	}
	if got := s.judge(token, "10.0.0.1", "prod/x"); got != access.Allowed {
		t.Fatalf("the token itself: got %q", got)
	}
	// What a thief of the table would send: a token whose secret part is the hash.
	reason := access.NewIndex(s.snapshot()).Judge(access.Identity{Kind: access.ByToken, ID: token.ID(),
		Fingerprint: sha256.Sum256(stored[:])}, access.Read, "prod/x", time.Now()).Reason
	if reason != access.BadToken {
		t.Errorf("the hash for a token: got %q, want %q", reason, access.BadToken)
	}
}

// A name, a token and a match belong to one app, and a refusal changes nothing.
func TestRefusalsOfTheDatabase(t *testing.T) {
	s, ctx := newStory(t), t.Context()
	rules := []accessdb.Rule{{Pattern: "prod/*", Actions: access.DefaultActions}}
	unix := accessdb.NewCredential{ID: uuid.New(), Kind: access.ByUnix, Match: "uid:7"}
	_, err := accessdb.Create(ctx, s.writer, s.by(), "app", rules, []accessdb.NewCredential{unix})
	must(t, err)
	before := s.snapshot().Epoch
	for what, c := range map[string]struct {
		err  error
		want error
	}{
		"the name again": {second(accessdb.Create(ctx, s.writer, s.by(), "app", rules, nil)), db.ErrConflict},
		"the match again": {second(accessdb.Create(ctx, s.writer, s.by(), "b", rules,
			[]accessdb.NewCredential{{ID: uuid.New(), Kind: access.ByUnix, Match: "uid:7"}})), db.ErrConflict},
		"a name that is none": {second(accessdb.Create(ctx, s.writer, s.by(), "B", rules, nil)), db.ErrInvalid},
		"a pattern that is none": {second(accessdb.Allow(ctx, s.writer, s.by(), "app",
			[]accessdb.Rule{{Pattern: "prod*", Actions: access.DefaultActions}})), db.ErrInvalid},
		"no app": {second(accessdb.Disable(ctx, s.writer, s.by(), "none")), db.ErrNotFound},
		"no token": {second(accessdb.Disable(ctx, s.writer, accessdb.Author{Request: uuid.New(),
			Credential: db.Credential{TokenID: uuid.New(), Prove: func([]byte) []byte { return make([]byte, 32) }}},
			"app")), db.ErrRefused},
		"an app that is not there": {second(accessdb.ReadApp(ctx, s.reader, "none")), db.ErrNotFound},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: got %v, want %v", what, c.err, c.want)
		}
	}
	if got := s.snapshot().Epoch; got != before {
		t.Error("a refusal has another epoch")
	}
}

func second[T any](_ T, err error) error { return err }

// A snapshot of 1,000 apps with 10 credentials each is read whole.
func TestSnapshotOfManyApps(t *testing.T) {
	s := newStory(t)
	s.store.MustExec(t, `INSERT INTO vault.apps (name, created_by)
			SELECT 'app' || n, 'test' FROM generate_series(1, 1000) n`,
		`INSERT INTO vault.app_rules
			SELECT 'app' || n, 'prod/app' || n || '/*', '{read,verify}' FROM generate_series(1, 1000) n`,
		`INSERT INTO vault.app_credentials (id, app, kind, token_sha256, created_by)
			SELECT gen_random_uuid(), 'app' || n, 'token', sha256((n || ':' || c)::bytea), 'test'
			FROM generate_series(1, 1000) n, generate_series(1, 10) c`)
	begin := time.Now()
	snapshot := s.snapshot()
	t.Logf("read in %s", time.Since(begin))
	count := 0
	for _, a := range snapshot.Apps {
		if want := fmt.Sprintf("prod/%s/*", a.Name); len(a.Rules) != 1 || a.Rules[0].Pattern.String() != want {
			t.Fatalf("app %s has the rules %v, want %s", a.Name, a.Rules, want)
		}
		count += len(a.Credentials)
	}
	if len(snapshot.Apps) != 1000 || count != 10000 {
		t.Errorf("got %d apps with %d credentials, want 1000 and 10000", len(snapshot.Apps), count)
	}
}

// What a superuser stored past the checks of the database allows nothing and proves nothing, keeps nothing else from
// being read, and is named.
func TestRowsThatCannotBeRead(t *testing.T) {
	s, ctx := newStory(t), t.Context()
	rules := []accessdb.Rule{{Pattern: "prod/*", Actions: access.DefaultActions}}
	good, edited := access.NewToken(), map[string]access.Token{}
	_, err := accessdb.Create(ctx, s.writer, s.by(), "good", rules, []accessdb.NewCredential{credentialOf(good)})
	must(t, err)
	for _, name := range []string{"off", "expires", "created", "revoked", "hash", "networks"} {
		edited[name] = access.NewToken()
		_, err := accessdb.Create(ctx, s.writer, s.by(), name, rules, []accessdb.NewCredential{credentialOf(edited[name])})
		must(t, err)
	}
	for i, name := range []string{"shared1", "shared2"} {
		_, err := accessdb.Create(ctx, s.writer, s.by(), name, rules, []accessdb.NewCredential{
			{ID: uuid.New(), Kind: access.ByUnix, Match: fmt.Sprintf("uid:%d", i+1)}})
		must(t, err)
	}
	s.store.MustExec(t, `ALTER TABLE vault.apps DROP CONSTRAINT app_name_grammar`,
		`ALTER TABLE vault.app_rules DROP CONSTRAINT rule_pattern_grammar, DROP CONSTRAINT rule_actions,
			ALTER actions DROP NOT NULL`,
		`ALTER TABLE vault.app_credentials DROP CONSTRAINT credential_expires, DROP CONSTRAINT credential_networks,
			DROP CONSTRAINT credential_fingerprint_length, DROP CONSTRAINT credential_match_grammar,
			DROP CONSTRAINT credential_kind, DROP CONSTRAINT token_or_match, DISABLE TRIGGER credential_stays`,
		`DROP INDEX vault.app_credentials_live_match`,
		`UPDATE vault.apps SET disabled_at = 'infinity' WHERE name = 'off'`,
		`INSERT INTO vault.apps (name, created_by) VALUES (E'\n<b>', 'test')`,
		`INSERT INTO vault.app_rules VALUES ('good', 'prod/**', '{read}'), ('good', 'a*', '{read}'), ('good', '', '{read}'),
			('good', 'deep/*', '{{read},{list}}'), ('good', 'null/*', '{NULL}'), ('good', 'write/*', '{read,write}')`,
		`UPDATE vault.app_credentials SET expires_at = 'infinity' WHERE app = 'expires'`,
		`UPDATE vault.app_credentials SET created_at = '-infinity' WHERE app = 'created'`,
		`UPDATE vault.app_credentials SET revoked_at = 'infinity' WHERE app = 'revoked'`,
		`UPDATE vault.app_credentials SET token_sha256 = 'short' WHERE app = 'hash'`,
		`UPDATE vault.app_credentials SET networks = '{{10.0.0.0/8},{11.0.0.0/8}}' WHERE app = 'networks'`,
		`UPDATE vault.app_credentials SET match = 'uid:1' WHERE app = 'shared2'`,
		`INSERT INTO vault.app_credentials (id, app, kind, match, created_by)
			VALUES ('00000000-0000-4000-8000-000000000001', 'good', 'cert', 'dns:*', 'test'),
				('00000000-0000-4000-8000-000000000002', 'good', 'jwt', 'dns:a', 'test')`)
	if got := s.judge(good, "10.0.0.1", "prod/x"); got != access.Allowed {
		t.Errorf("the app beside them: got %q", got)
	}
	for _, name := range []string{"a", "ab", "deep/x", "null/x", "write/x"} {
		if got := s.judge(good, "10.0.0.1", name); got != access.Policy {
			t.Errorf("%s: got %q, want %q", name, got, access.Policy)
		}
	}
	for name, token := range edited {
		if got := s.judge(token, "10.0.0.1", "prod/x"); got != access.BadToken && (name != "off" || got != access.Disabled) {
			t.Errorf("app %s: got %q, want a refusal", name, got)
		}
	}
	snapshot := s.snapshot()
	user := access.Identity{Kind: access.ByUnix, Matches: []string{"uid:1"}}
	if got := access.NewIndex(snapshot).Judge(user, access.Read, "prod/x", time.Now()); got.Reason != access.NoIdentity {
		t.Errorf("a user of two apps: got %+v", got)
	}
	faults, err := accessdb.Faults(ctx, s.reader)
	must(t, err)
	var named []string
	for _, f := range faults {
		part, _, _ := strings.Cut(f.Part, " ")
		if part == "rule" {
			part = f.Part
		}
		named = append(named, f.App+" "+part)
	}
	want := []string{"\n<b> ", "created credential", "expires credential", "good credential", "good credential",
		`good rule ""`, `good rule "a*"`, `good rule "deep/*"`, `good rule "null/*"`, `good rule "prod/**"`,
		`good rule "write/*"`, "hash credential", "networks credential", "revoked credential", "shared1 credential",
		"shared2 credential"}
	if !slices.Equal(named, want) {
		t.Errorf("got faults %q, want %q", named, want)
	}
}

// Without an epoch there is no snapshot.
func TestNoEpochNoSnapshot(t *testing.T) {
	s := newStory(t)
	s.store.MustExec(t, `ALTER TABLE vault.access_epoch DISABLE TRIGGER epoch_stays`, `DELETE FROM vault.access_epoch`)
	if _, err := accessdb.ReadSnapshot(t.Context(), s.reader); !errors.Is(err, db.ErrUnavailable) {
		t.Errorf("got %v, want that it is unavailable", err)
	}
	if epoch, err := accessdb.ReadEpoch(t.Context(), s.reader); err != nil || epoch != uuid.Nil {
		t.Errorf("got epoch %s and %v, want none", epoch, err)
	}
}

// The database takes what the programs take, so that no credential is stored that proves nothing, and no rule that
// allows nothing.
func TestOneGrammarOfMatchesAndPatterns(t *testing.T) {
	s, ctx := newStory(t), t.Context()
	longDNS := strings.Repeat(strings.Repeat("a", 62)+".", 4) // 252
	matches := map[access.Kind][]string{
		access.ByCert: {"", "a.example.org", "uid:1", "dns:", "dns:a", "dns:A", "dns:*.example.org", "dns:a..b", "dns:a.",
			"dns:.a", "dns:a_b-c.1", "dns:" + longDNS + "b", "dns:" + longDNS + "bc", "dns:" + strings.Repeat("a", 64),
			"dns:\u00e9", "dns:a\n", "cn:", "cn:a", "cn:Some App", "cn: a", "cn:a ", "cn: ", "cn:~!", "cn:\u00e9", "cn:a\nb",
			"cn:" + strings.Repeat("a", 64), "cn:" + strings.Repeat("a", 65), "cn:" + strings.Repeat("\u00e9", 33),
			"cn:a\u202eb", "cn:a\u2028", "spiffe://", "spiffe://example.org", "spiffe://example.org/", "spiffe://example.org/a",
			"spiffe://example.org/a/", "spiffe://example.org//a", "spiffe://example.org/.", "spiffe://example.org/..",
			"spiffe://example.org/a/./b", "spiffe://example.org/a/../b", "spiffe://example.org/...", "spiffe://example.org/.a",
			"spiffe://example.org/..a/b..", "spiffe://Example.org/a", "spiffe://e:80/a", "spiffe://e/a?b", "spiffe://e/a%2Fb",
			"spiffe:///a", "SPIFFE://e/a", "spiffe://" + strings.Repeat("d", 255) + "/a",
			"spiffe://" + strings.Repeat("d", 256) + "/a", "spiffe://e/" + strings.Repeat("a", 2037),
			"spiffe://e/" + strings.Repeat("a", 2038)},
		access.ByUnix: {"", "1001", "uid:", "uid:0", "uid:00", "uid:01", "uid:-1", "uid:+1", "uid:1001", "uid:4294967295",
			"uid:4294967296", "uid:9999999999", "uid:99999999999", "uid:1\n", "uid:\u0661", "dns:a", "spiffe://e/a"},
		access.ByToken: {"uid:1", "cn:a"},
	}
	add := func(kind access.Kind, match string) error {
		return second(accessdb.Create(ctx, s.writer, s.by(), "a"+uuid.NewString(), nil,
			[]accessdb.NewCredential{{ID: uuid.New(), Kind: kind, Match: match}}))
	}
	for kind, texts := range matches {
		for _, text := range texts {
			spelled, refused := access.ParseMatch(kind, text)
			want := refused == nil && spelled == text
			if err := add(kind, text); (err == nil) != want || err != nil && !errors.Is(err, db.ErrInvalid) {
				t.Errorf("%s %q: the programs take it: %v; the database: %v", kind, text, want, err)
			}
		}
	}
	// The kind of a unit is unix. The database has their grammar alone until a program makes them.
	for text, want := range map[string]bool{"unit:billing.service": true, `unit:a\x2db@1:2.service`: true, "unit:": false,
		"unit:billing": false, "unit:.service": false, "unit:web@.service": false, "unit:@1.service": false,
		"unit:a b.service": false, "unit:a/b.service": false, "unit:a.timer": false, "unit:x.socket": true,
		"unit:" + strings.Repeat("a", 247) + ".service": true, "unit:" + strings.Repeat("a", 248) + ".service": false} {
		if err := add(access.ByUnix, text); (err == nil) != want || err != nil && !errors.Is(err, db.ErrInvalid) {
			t.Errorf("%q: got %v, taken should be %v", text, err, want)
		}
	}
	for _, text := range []string{"", "*", "a", "a/*", "a.*", "a*", "**", "/*", ".*", "*/a", "a/*/b", "a//*", "a/.*",
		"a/**", "a/", "a.", "-a/*", "_-/*", "a-/*", "a b", "a/* ", "a\n", "a/*\n", "\u00e9/*", "a..*", "a/b.c/*",
		strings.Repeat("a", 255), strings.Repeat("a", 256), strings.Repeat("a", 253) + "/*",
		strings.Repeat("a", 254) + "/*", `a\`, "a%2Fb"} {
		_, refused := access.ParsePattern(text)
		err := second(accessdb.Create(ctx, s.writer, s.by(), "a"+uuid.NewString(),
			[]accessdb.Rule{{Pattern: text, Actions: access.DefaultActions}}, nil))
		if (err == nil) != (refused == nil) || err != nil && !errors.Is(err, db.ErrInvalid) {
			t.Errorf("pattern %q: the programs say %v, the database %v", text, refused, err)
		}
	}
}
