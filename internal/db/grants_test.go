package db_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// mustSettle returns what is lost afterwards.
func mustSettle(t *testing.T, s *vaulttest.Store, restore bool) []db.LostGrant {
	t.Helper()
	grants, err := db.Options{URL: s.URL(vaulttest.Superuser)}.SettleGrants(t.Context(), restore)
	must(t, err)
	return grants.Lost
}

// groupsOf are the groups of which a role is a member, and who granted them.
func groupsOf(t *testing.T, s *vaulttest.Store, role string) string {
	t.Helper()
	return s.MustQuery(t, `SELECT coalesce(string_agg(m.roleid::regrole || ' by ' || g.rolname, ', '
		ORDER BY m.roleid::regrole::text), '') FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.grantor
		WHERE m.member = quote_ident($1)::regrole`, role)
}

// loseGrants does what a restore does that brings the roles without their memberships.
func loseGrants(t *testing.T, s *vaulttest.Store, role string) {
	t.Helper()
	for _, group := range []string{"vault_service", "vault_worker", "vault_auditor"} {
		s.MustExec(t, `SET ROLE vault_owner; REVOKE `+group+` FROM `+quoted(role)+`; RESET ROLE`)
	}
	if got := groupsOf(t, s, role); got != "" {
		t.Fatalf("%s is a member: %s", role, got)
	}
}

// A database knows what its roles were granted, says what they have lost, and grants it again: not to a role that could
// bypass the vault by now, and not what was revoked.
func TestLostGrantsComeBack(t *testing.T) {
	s := vaulttest.New(t)
	role, mighty, revoked := roleName("Mixed Case"), roleName("mighty"), roleName("revoked")
	w := mustWriter(t, db.Options{URL: s.URL(vaulttest.Operator)})
	root := credential(t)
	for _, name := range []string{role, mighty, revoked} {
		mustRole(t, s, name)
		must(t, done(w.GrantServiceRole(t.Context(), root, uuid.New(), name, "app1/")))
		must(t, done(w.GrantAuditorRole(t.Context(), root, uuid.New(), name)))
	}
	must(t, done(w.GrantWorkerRole(t.Context(), root, uuid.New(), role)))
	must(t, done(w.RevokeServiceRole(t.Context(), root, uuid.New(), revoked, nil)))
	if still := mustSettle(t, s, false); len(still) != 0 {
		t.Fatalf("nothing was lost, and got %v", still)
	}
	before := groupsOf(t, s, role)

	loseGrants(t, s, role)
	loseGrants(t, s, mighty)
	s.MustExec(t, `ALTER ROLE `+quoted(mighty)+` BYPASSRLS`)
	ofMighty := []db.LostGrant{lost(mighty, "vault_auditor"), lost(mighty, "vault_service")}
	want := append([]db.LostGrant{lost(role, "vault_auditor"), lost(role, "vault_service"), lost(role, "vault_worker")},
		ofMighty...)
	if still := mustSettle(t, s, false); !slices.Equal(sorted(still), sorted(want)) {
		t.Errorf("got %v, want %v", still, want)
	}
	e, err := db.Examine(t.Context(), db.Options{URL: s.URL(vaulttest.Operator)}, false)
	must(t, err)
	for _, l := range want {
		if !slices.Contains(e.OddRoles, db.OddRole{Role: l.Role, Problem: "lost " + l.Group}) {
			t.Errorf("%v is not among %v", l, e.OddRoles)
		}
	}

	if still := mustSettle(t, s, true); !slices.Equal(sorted(still), sorted(ofMighty)) {
		t.Errorf("after the restore got %v, want %v", still, ofMighty)
	}
	if got := groupsOf(t, s, role); got != before {
		t.Errorf("got %q, want %q", got, before)
	}
	if got := groupsOf(t, s, mighty) + groupsOf(t, s, revoked); got != "" {
		t.Errorf("these came back: %s", got)
	}
	wantRestored := s.MustQuery(t, `SELECT count(*) FROM vault.audit_log WHERE action = 'grant' AND detail ->> 'role' = $1
		AND detail ->> 'restored' = 'true' AND actor LIKE 'owner:%'`, role)
	if wantRestored != "3" {
		t.Errorf("%s restored grants are on record, want 3", wantRestored)
	}
}

func lost(role, group string) db.LostGrant { return db.LostGrant{Role: role, Group: group} }

func absent(role, group string) db.LostGrant {
	return db.LostGrant{Role: role, Group: group, Absent: true}
}

func sorted(grants []db.LostGrant) []db.LostGrant {
	return slices.SortedFunc(slices.Values(grants), func(a, b db.LostGrant) int {
		return strings.Compare(a.Role+" "+a.Group, b.Role+" "+b.Group)
	})
}

// A restore or pg_upgrade makes a superuser the grantor. From 16 on a revocation leaves such a membership: it is
// refused rather than said to be done, until a migration has made vault_owner the grantor.
func TestRevokeOfAnothersGrant(t *testing.T) {
	s := vaulttest.New(t)
	role := roleName("app")
	mustRole(t, s, role)
	w := mustWriter(t, db.Options{URL: s.URL(vaulttest.Operator)})
	root := credential(t)
	must(t, done(w.GrantAuditorRole(t.Context(), root, uuid.New(), role)))
	loseGrants(t, s, role)
	s.MustExec(t, `GRANT vault_auditor TO `+quoted(role))
	revoke := func(ctx context.Context) error { return done(w.RevokeServiceRole(ctx, root, uuid.New(), role, nil)) }

	if s.MustQuery(t, `SELECT current_setting('server_version_num') >= '160000'`) == "true" {
		err := revoke(t.Context())
		if err == nil || !strings.Contains(err.Error(), `would stay a member of "vault_auditor", which role "`) {
			t.Fatalf("got %v", err)
		}
		if got := s.MustQuery(t, `SELECT count(*) FROM vault.group_grants WHERE role_name = $1`, role); got != "1" {
			t.Error("the refused revocation has left something")
		}
		mustSettle(t, s, false)
	}
	if got := groupsOf(t, s, role); !strings.HasPrefix(got, "vault_auditor by ") {
		t.Fatalf("got %q", got)
	}
	must(t, revoke(t.Context()))
	if got := groupsOf(t, s, role); got != "" {
		t.Errorf("it is still a member: %s", got)
	}
}

// Grants of an earlier schema are known after the migration. The vault may have been restored elsewhere: a prefix whose
// number is another role's is removed.
func TestMigrationKnowsGrants(t *testing.T) {
	s := vaulttest.New(t)
	role, other := roleName("app"), roleName("other")
	mustRole(t, s, role)
	mustRole(t, s, other)
	w := mustWriter(t, db.Options{URL: s.URL(vaulttest.Operator)})
	must(t, done(w.GrantServiceRole(t.Context(), credential(t), uuid.New(), role, "app1/")))
	must(t, done(w.GrantWorkerRole(t.Context(), credential(t), uuid.New(), role)))
	must(t, done(w.GrantServiceRole(t.Context(), credential(t), uuid.New(), other, "app1/")))
	takeBack(t, s, 15)
	s.MustExec(t, `UPDATE vault.service_scope SET role_name = 'gone' WHERE role_id = '`+quoted(other)+`'::regrole`)
	_, err := db.Migrate(t.Context(), s.URL(vaulttest.Superuser), "test", "")
	must(t, err)
	loseGrants(t, s, role)
	loseGrants(t, s, other)
	want := []db.LostGrant{lost(role, "vault_service"), lost(role, "vault_worker")}
	if got := sorted(mustSettle(t, s, false)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	wantPrefixes(t, s, role, "1")
	wantPrefixes(t, s, other, "0")
}

// wantPrefixes counts the prefixes of a role.
func wantPrefixes(t *testing.T, s *vaulttest.Store, role, want string) {
	t.Helper()
	if got := s.MustQuery(t, `SELECT count(*) FROM vault.service_scope WHERE role_id = quote_ident($1)::regrole`,
		role); got != want {
		t.Errorf("role %s has %s prefixes, want %s", role, got, want)
	}
}

// A dump has a number for a role that was dropped, which is another role's in the cluster of the restore: that role
// gets nothing, neither a membership nor a prefix. In the vault's own cluster a renamed role keeps what it has.
func TestARestoreGrantsNothingToAnotherRole(t *testing.T) {
	s := vaulttest.New(t)
	mustPut(t, s, "app1/a")
	s.MustExec(t, `INSERT INTO vault.rotation_jobs (secret_id, name, from_version, due_at, run_after)
		SELECT id, name, 1, now(), now() FROM vault.secrets`)
	role, other := roleName("app"), roleName("other")
	mustRole(t, s, role)
	mustRole(t, s, other)
	w := mustWriter(t, db.Options{URL: s.URL(vaulttest.Operator)})
	must(t, done(w.GrantServiceRole(t.Context(), credential(t), uuid.New(), role, "app1/")))
	mustSettle(t, s, false)
	s.MustExec(t, `ALTER ROLE `+quoted(role)+` RENAME TO `+quoted(role+"2"))
	mustSettle(t, s, false)
	wantSeen(t, s, role+"2", "app1/a")

	gone := roleName("gone")
	for _, table := range []string{"service_scope", "group_grants"} {
		s.MustExec(t, fmt.Sprintf(`UPDATE vault.%s SET role_name = '%s', role_id = quote_ident('%s')::regrole
			WHERE role_name = '%s'`, table, gone, other, role+"2"))
	}
	s.MustExec(t, `UPDATE vault.config SET home = '1.2'`)
	want := []db.LostGrant{absent(gone, "vault_service")}
	for _, restore := range []bool{true, false} {
		if got := mustSettle(t, s, restore); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if got := groupsOf(t, s, other); got != "" {
		t.Errorf("another role is a member of %s", got)
	}
	wantPrefixes(t, s, other, "0")
}

// In a cluster that lacks a role its grants are named and kept, in rounds too, until there is a role of its name or
// they are revoked. Only --restore-grants gives them. In its own cluster a role that is dropped loses them.
func TestGrantsOfAbsentRolesAreKept(t *testing.T) {
	s := vaulttest.New(t)
	role, gone, here := roleName("Late Role"), roleName("gone"), roleName("here")
	w := mustWriter(t, db.Options{URL: s.URL(vaulttest.Operator)})
	for _, name := range []string{role, gone, here} {
		mustRole(t, s, name)
		must(t, done(w.GrantAuditorRole(t.Context(), credential(t), uuid.New(), name)))
	}
	must(t, done(w.GrantServiceRole(t.Context(), credential(t), uuid.New(), role, "app1/")))
	for _, name := range []string{role, gone} {
		s.MustExec(t, `DROP ROLE `+quoted(name))
	}
	s.MustExec(t, `UPDATE vault.config SET home = '1.2'`)
	want := sorted([]db.LostGrant{absent(role, "vault_auditor"), absent(role, "vault_service"),
		absent(gone, "vault_auditor")})
	wantLost := func(when string) {
		t.Helper()
		o := db.Options{URL: s.URL(vaulttest.Operator)}
		got, err := o.LostGrants(t.Context())
		must(t, err)
		if !slices.Equal(sorted(got), want) {
			t.Errorf("%s: got %v, want %v", when, got, want)
		}
	}
	wantLost("after the restore")
	s.MustExec(t, supervise)
	wantLost("after a round")
	mustSettle(t, s, true)
	wantLost("after --restore-grants")

	must(t, done(w.RevokeServiceRole(t.Context(), credential(t), uuid.New(), gone, nil)))
	want = []db.LostGrant{absent(role, "vault_auditor"), absent(role, "vault_service")}
	wantLost("after the revocation")
	s.MustExec(t, `CREATE ROLE `+quoted(role)+` LOGIN`)
	want = []db.LostGrant{lost(role, "vault_auditor"), lost(role, "vault_service")}
	wantLost("with the role")
	s.MustExec(t, supervise)
	if got := groupsOf(t, s, role); got != "" {
		t.Errorf("a round has granted %s", got)
	}
	grants, err := db.Options{URL: s.URL(vaulttest.Superuser)}.SettleGrants(t.Context(), true)
	must(t, err)
	if !slices.Equal(sorted(grants.Restored), want) || len(grants.Lost) > 0 {
		t.Errorf("got %+v, want %v restored", grants, want)
	}
	if !slices.Equal(grants.Unscoped, []string{role}) {
		t.Errorf("without prefixes: got %q, want %q", grants.Unscoped, role)
	}
	want = nil
	wantLost("in the end")

	// A restore into the tables of an extension: the trigger is there before the rows.
	never, number := roleName("never"), s.MustQuery(t, `SELECT quote_ident($1)::regrole::oid`, here)
	s.MustExec(t, `INSERT INTO vault.group_grants VALUES (`+number+`, '`+never+`', 'vault_worker'), (1, '`+here+
		`', 'vault_worker')`)
	want = sorted([]db.LostGrant{absent(never, "vault_worker"), lost(here, "vault_worker")})
	wantLost("of rows that an extension takes")
	want = nil

	s.MustExec(t, `DROP ROLE `+quoted(role))
	s.MustExec(t, supervise)
	s.MustExec(t, `CREATE ROLE `+quoted(role)+` LOGIN`)
	mustSettle(t, s, true)
	if got := groupsOf(t, s, role); got != "" {
		t.Errorf("a new role of a dropped one's name is a member of %s", got)
	}
	if got := groupsOf(t, s, here); got == "" {
		t.Error("a role that was there has lost its grant")
	}
}

// A restore that stopped half way has functions and no policies: it is not current, and a migration completes it.
func TestAHalfRestoreIsNotCurrent(t *testing.T) {
	s := vaulttest.New(t)
	current := func() bool {
		state, err := db.State(t.Context(), s.URL(vaulttest.Superuser), "test")
		must(t, err)
		return state.FunctionsCurrent
	}
	if !current() {
		t.Fatal("a new vault is not current")
	}
	s.MustExec(t, `ALTER TABLE vault.secrets DISABLE ROW LEVEL SECURITY`)
	if current() {
		t.Error("a vault without row level security is current")
	}
	mustMigrate(t, s)
	if !current() {
		t.Error("a migration has not completed it")
	}
}
