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
	// what it does not know allows nothing, and keeps nothing else from being read
	s.store.MustExec(t, `ALTER TABLE vault.app_rules DROP CONSTRAINT rule_pattern_grammar`,
		`INSERT INTO vault.app_rules VALUES ('app1', 'prod/**', '{read}')`)
	if apps := s.snapshot().Apps; len(apps) != 1000 || slices.ContainsFunc(apps, func(a access.App) bool {
		return slices.ContainsFunc(a.Rules, func(r access.Rule) bool { return strings.Contains(r.Pattern.String(), "**") })
	}) {
		t.Error("a pattern that is none is in the snapshot, or keeps apps out of it")
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
