package db_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// roleName is the name of a role of this test only: roles belong to the whole cluster.
func roleName(word string) string { return word + "_" + uuid.NewString()[:8] }

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }

func mustRole(t *testing.T, s *vaulttest.Store, name string) {
	t.Helper()
	s.MustExec(t, `CREATE ROLE `+quoted(name)+` LOGIN`)
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), s.URL(vaulttest.Superuser))
		if err == nil {
			_, err = conn.Exec(context.Background(), `DROP ROLE IF EXISTS `+quoted(name))
			err = errors.Join(err, conn.Close(context.Background()))
		}
		if err != nil {
			t.Error(err)
		}
	})
}

func done[T any](_ T, err error) error { return err }

func grant(role, prefix string) string {
	return fmt.Sprintf(`SELECT vault.grant_service_role('%s', '%s')`, role, prefix)
}

// seenBy is the names that a role sees in each relation that it may read; they must agree.
func seenBy(t *testing.T, s *vaulttest.Store, role string) string {
	t.Helper()
	conn := mustConnect(t, s.URL(vaulttest.Superuser))
	defer conn.Close(t.Context())
	must(t, runStep(t.Context(), conn, `SET ROLE `+quoted(role)))
	var seen string
	for i, relation := range []string{"secrets", "secret_versions", "sealed_versions", "rotation_jobs"} {
		var names string
		must(t, conn.QueryRow(t.Context(),
			`SELECT coalesce(string_agg(name, ' ' ORDER BY name), '') FROM vault.`+relation).Scan(&names))
		if i > 0 && names != seen {
			t.Errorf("%s sees %q in %s, and %q in secrets", role, names, relation, seen)
		}
		seen = names
	}
	return seen
}

func wantSeen(t *testing.T, s *vaulttest.Store, role, want string) {
	t.Helper()
	if got := seenBy(t, s, role); got != want {
		t.Errorf("%s sees %q, want %q", role, got, want)
	}
}

// A prefix belongs to the role: a later role of its name does not get it, and a rename does not lose it. Names that SQL
// would fold to lower case, or parse as a number, are no other role's.
func TestPrefixesBelongToTheRole(t *testing.T) {
	for _, word := range []string{"app", "Mixed Case", "1234", `quo"ted`, "-"} {
		t.Run(word, func(t *testing.T) {
			s := vaulttest.New(t)
			mustPut(t, s, "app1/a", "team/b")
			s.MustExec(t,
				`INSERT INTO vault.rotation_jobs (secret_id, name, from_version, due_at, run_after) SELECT id, name, 1, now(), now()
					FROM vault.secrets`)
			role, other := roleName(word), roleName("other")
			mustRole(t, s, role)
			mustRole(t, s, other)
			mustAdmin(t, s, grant(role, "app1/"))
			wantSeen(t, s, role, "app1/a")

			s.MustExec(t, `ALTER ROLE `+quoted(role)+` RENAME TO `+quoted(role+"2"))
			wantSeen(t, s, role+"2", "app1/a")
			mustRole(t, s, role)
			mustAdmin(t, s, grant(role, "team/")) // of the same name as the first had
			wantSeen(t, s, role, "team/b")
			wantSeen(t, s, role+"2", "app1/a")

			s.MustExec(t, `DROP ROLE `+quoted(role), `DROP ROLE `+quoted(role+"2"), `CREATE ROLE `+quoted(role)+` LOGIN`,
				`GRANT vault_service TO `+quoted(role))
			wantSeen(t, s, role, "")
			mustAdmin(t, s, grant(role, "none/"))
			wantSeen(t, s, role, "")
			if got := s.MustQuery(t, `SELECT string_agg(prefix, ' ') FROM vault.service_scope WHERE role_name = $1`,
				role); got != "none/" {
				t.Errorf("the prefixes %q are stored, want %q", got, "none/")
			}
		})
	}
}

// Membership is not a prefix: a role that became a service role in another way, or that is a member of one, sees
// nothing.
func TestMembershipIsNoPrefix(t *testing.T) {
	s := vaulttest.New(t)
	mustPut(t, s, "app1/a")
	for _, through := range []string{"vault_service", vaulttest.AppRole, vaulttest.Operator} {
		role := roleName("member")
		mustRole(t, s, role)
		s.MustExec(t, `GRANT `+quoted(through)+` TO `+quoted(role))
		conn := mustConnect(t, s.URL(role))
		var names string
		must(t, conn.QueryRow(t.Context(),
			`SELECT coalesce(string_agg(name, ' '), '') FROM vault.sealed_versions`).Scan(&names))
		if names != "" {
			t.Errorf("a member of %s sees %q as itself", through, names)
		}
	}
}

// The statistics of ANALYZE have names under all prefixes; PostgreSQL hides them from roles that a policy restricts.
func TestStatisticsShowNoNames(t *testing.T) {
	s := vaulttest.New(t)
	mustPut(t, s, "app1/a", "team/b")
	s.MustExec(t, `ANALYZE vault.secrets, vault.secret_versions`)
	if got := s.MustQuery(t,
		`SELECT count(*) FROM pg_stats WHERE schemaname = 'vault' AND tablename = 'secrets'
			AND attname = 'name'`); got != "1" {
		t.Fatal("there are no statistics to hide")
	}
	var n int
	must(t, mustConnect(t, s.URL(vaulttest.Developer)).QueryRow(t.Context(), `SELECT count(*) FROM pg_stats
		WHERE schemaname = 'vault' AND tablename IN ('secrets', 'secret_versions', 'rotation_jobs',
		'service_scope')`).Scan(&n))
	if n != 0 {
		t.Errorf("a service role sees the statistics of %d columns", n)
	}
}

// Grant and revoke return all prefixes that the role has, and those of a dropped role can be removed by its name.
func TestGrantAnswersAllPrefixes(t *testing.T) {
	s := vaulttest.New(t)
	role, gone := roleName("app"), roleName("gone")
	mustRole(t, s, role)
	mustRole(t, s, gone)
	w := mustWriter(t, db.Options{URL: s.URL(vaulttest.Operator)})
	root := credential(t)
	must(t, done(w.GrantServiceRole(t.Context(), root, uuid.New(), role, "b/")))
	g, err := w.GrantServiceRole(t.Context(), root, uuid.New(), role, "a/")
	must(t, err)
	if got := strings.Join(g.Prefixes, " "); got != "a/ b/" {
		t.Errorf("granted: got prefixes %q", got)
	}
	prefix := "b/"
	g, err = w.RevokeServiceRole(t.Context(), root, uuid.New(), role, &prefix)
	must(t, err)
	if got := strings.Join(g.Prefixes, " "); got != "a/" {
		t.Errorf("revoked: got prefixes %q", got)
	}
	must(t, done(w.GrantServiceRole(t.Context(), root, uuid.New(), gone, "a/")))
	s.MustExec(t, `DROP ROLE `+quoted(gone))
	must(t, done(w.RevokeServiceRole(t.Context(), root, uuid.New(), gone, nil)))
	wantCode(t, runSession(t, s.URL(vaulttest.Operator),
		[]string{"BEGIN", "AUTHORISE", fmt.Sprintf(`SELECT vault.revoke_service_role('%s')`, gone)}), "VA004")
}

// A restore takes a dump's rows only for roles that still agree. A number, which regrole prints for a dropped role, is
// another role's oid on another cluster.
func TestRestoredPrefixesAgree(t *testing.T) {
	s := vaulttest.New(t)
	role := roleName("app")
	mustRole(t, s, role)
	s.MustExec(t, `DELETE FROM vault.service_scope`)
	for _, c := range []struct{ name, columns, values, want string }{
		{"as it was", "role_name, prefix, role_id", "'" + role + "', 'a/', '" + role + "'", role},
		{"of a schema that had names", "role_name, prefix", "'" + role + "', 'b/'", role},
		{"a number that is another's now", "role_name, prefix, role_id",
			"'gone', 'c/', '" + role + "'::regrole::oid::text::regrole", ""},
		{"a number that is no role's", "role_name, prefix, role_id", "'gone', 'c/', '4000000000'", ""},
		{"renamed since", "role_name, prefix, role_id", "'before', 'c/', '" + role + "'", ""},
		{"a name that is not there", "role_name, prefix", "'gone', 'c/'", ""},
	} {
		s.MustExec(t,
			`SET session_replication_role = replica; INSERT INTO vault.service_scope (`+c.columns+`) VALUES (`+c.values+`)`)
		if got := s.MustQuery(t,
			`SELECT coalesce(string_agg(role_id::text, ' '), '') FROM vault.service_scope`); got != c.want {
			t.Errorf("%s: got rows of %q, want %q", c.name, got, c.want)
		}
		s.MustExec(t, `DELETE FROM vault.service_scope`)
	}
}

// A prefix granted to a name belongs to the role that has it at the migration, and the next role of that name gets
// nothing.
func TestMigrationBindsPrefixes(t *testing.T) {
	s := vaulttest.New(t)
	mustPut(t, s, "app1/a", "team/b")
	role, gone := roleName("Mixed Case"), roleName("gone")
	mustRole(t, s, role)
	takeBack(t, s, 10)
	s.MustExec(t,
		`INSERT INTO vault.service_scope (role_name, prefix) VALUES ('`+role+`', 'app1/'), ('`+gone+`', 'app1/'),
			('`+gone+`2', 'app1/')`,
		`GRANT vault_service TO `+quoted(role))
	_, err := db.Migrate(t.Context(), s.URL(vaulttest.Superuser), "test", "")
	must(t, err)
	mustRole(t, s, gone)
	s.MustExec(t,
		`INSERT INTO vault.rotation_jobs (secret_id, name, from_version, due_at, run_after) SELECT id, name, 1, now(), now()
			FROM vault.secrets`)
	mustAdmin(t, s, grant(gone, "team/"))
	wantSeen(t, s, gone, "team/b")
	wantSeen(t, s, role, "app1/a")
	wantSeen(t, s, vaulttest.AppRole, "app1/a")
	must(t, runSession(t, s.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE", anyPut(), "COMMIT"}))
}

// What doctor reports about other roles.
func TestOddRoles(t *testing.T) {
	s := vaulttest.New(t)
	gone, renamed, mighty := roleName("gone"), roleName("renamed"), roleName("mighty")
	for _, role := range []string{gone, renamed, mighty} {
		mustRole(t, s, role)
		mustAdmin(t, s, grant(role, "app1/"))
	}
	mustRole(t, s, renamed+"2")
	s.MustExec(t, `DROP ROLE `+quoted(renamed+"2"), `DROP ROLE `+quoted(gone),
		`ALTER ROLE `+quoted(renamed)+` RENAME TO `+quoted(renamed+"2"), `ALTER ROLE `+quoted(mighty)+` BYPASSRLS`)
	want := map[string]string{gone: "gone", renamed + "2": "renamed", mighty: "BYPASSRLS"}
	if s.MustQuery(t, `SELECT count(*) FROM pg_roles WHERE rolname = 'pg_maintain'`) == "1" {
		keeper := roleName("keeper")
		mustRole(t, s, keeper)
		s.MustExec(t, `GRANT pg_maintain TO `+quoted(keeper))
		want[keeper] = "maintains"
		wantCode(t, runSession(t, s.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE", grant(keeper, "")}), denied)
	}
	e, err := db.Examine(t.Context(), db.Options{URL: s.URL(vaulttest.Operator)}, false)
	must(t, err)
	for _, odd := range e.OddRoles {
		if want[odd.Role] == odd.Problem {
			delete(want, odd.Role)
		}
	}
	if len(want) > 0 {
		t.Errorf("not found: %v in %v", want, e.OddRoles)
	}
	// A round of the supervisor corrects what a dump would not carry.
	must(t, runSession(t, s.URL(vaulttest.Daemon), []string{`SELECT vault.supervise()`}))
	got := s.MustQuery(t,
		`SELECT string_agg(role_name, ' ' ORDER BY role_name) FROM vault.service_scope WHERE role_name = ANY ($1)`,
		[]string{gone, renamed, renamed + "2"})
	if got != renamed+"2" {
		t.Errorf("after a round there are prefixes of %q, want %q", got, renamed+"2")
	}
	if got := s.MustQuery(t, `SELECT count(*) FROM vault.audit_log WHERE action = 'grant.gone'`); got != "1" {
		t.Errorf("%s audit rows tell of what went", got)
	}
}

// ---------- a stolen token ----------

// stolen is a second token without a scope, and a session that may be opened with it.
func stolen(t *testing.T, s *vaulttest.Store) vault.Token {
	t.Helper()
	token := vault.NewToken()
	fingerprint := token.Fingerprint()
	mustAdmin(t, s, fmt.Sprintf(`SELECT vault.create_token('%s', 'stolen', '\x%x', '', NULL, gen_random_uuid())`,
		token.ID(), fingerprint))
	return token
}

// A revocation does not wait, in any state of a transaction that the token has authorised, and afterwards that
// transaction does not commit.
func TestRevokedTokenCommitsNothing(t *testing.T) {
	late := put("app1/late", 1, 24, 32, uuid.NewString())
	for _, c := range []struct {
		name  string
		steps []string // of the holder, before the revocation
	}{
		{"nothing done yet", nil},
		{"a change", []string{late}},
		{"a change, and another challenge", []string{late, `SELECT vault.challenge()`}},
		{"a change, and a function that leaves its own context",
			[]string{late, `SET LOCAL ROLE vaultd`, `SELECT vault.beat()`, `RESET ROLE`}},
		{"a change, and the context left behind by a savepoint",
			[]string{late, `SAVEPOINT s`, `SELECT vault.challenge()`, `ROLLBACK TO s`}},
		{"a change in a savepoint", []string{`SAVEPOINT s`, late, `RELEASE s`}},
		{"its own revocation", []string{late, `SELECT vault.revoke_token('stolen', gen_random_uuid())`}},
		{"another token's revocation", []string{late, `SELECT vault.revoke_token('root', gen_random_uuid())`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := vaulttest.New(t)
			s.MustExec(t, `GRANT vaultd TO operator`)
			t.Cleanup(func() { // roles are the whole cluster's
				must(t, s.Cluster.Primary().Exec(context.Background(), s.Database, `REVOKE vaultd FROM operator`))
			})
			token := stolen(t, s)
			holder := mustConnect(t, s.URL(vaulttest.Operator))
			must(t, runStep(t.Context(), holder, "BEGIN"))
			must(t, authorise(t.Context(), holder, token.Reveal()))
			for _, step := range c.steps {
				must(t, runStep(t.Context(), holder, step))
			}
			must(t, runSession(t, s.URL(vaulttest.Operator), []string{"BEGIN", `SET LOCAL lock_timeout = '5s'`, "AUTHORISE",
				`SELECT vault.revoke_token('stolen', gen_random_uuid())`, "COMMIT"}))
			wantCode(t, runStep(t.Context(), holder, "COMMIT"), badToken)
			if got := s.MustQuery(t, `SELECT count(*) FROM vault.secrets`); got != "0" {
				t.Errorf("%s secrets were stored", got)
			}
			must(t, runStep(t.Context(), holder, "BEGIN"))
			wantCode(t, authorise(t.Context(), holder, token.Reveal()), badToken)
		})
	}
}

// A token that ends in another way is checked at COMMIT as well.
func TestEndedTokenCommitsNothing(t *testing.T) {
	for name, end := range map[string]string{
		"expired": `UPDATE vault.admin_tokens SET expires_at = now() WHERE name = 'stolen'`,
		"by hand": `UPDATE vault.admin_tokens SET revoked_at = now() WHERE name = 'stolen'`,
		"deleted": `DELETE FROM vault.admin_token_use; DELETE FROM vault.admin_tokens WHERE name = 'stolen'`,
	} {
		t.Run(name, func(t *testing.T) {
			s := vaulttest.New(t)
			token := stolen(t, s)
			// so that last_used_at is not updated, and locked, again
			s.MustExec(t, `UPDATE vault.admin_token_use SET last_used_at = now()`)
			holder := mustConnect(t, s.URL(vaulttest.Operator))
			must(t, runStep(t.Context(), holder, "BEGIN"))
			must(t, authorise(t.Context(), holder, token.Reveal()))
			must(t, runStep(t.Context(), holder, put("app1/late", 1, 24, 32, uuid.NewString())))
			s.MustExec(t, `SET lock_timeout = '5s'; `+end)
			wantCode(t, runStep(t.Context(), holder, "COMMIT"), badToken)
		})
	}
}

// The only token can revoke itself, together with the rest of its transaction.
func TestTokenRevokesItself(t *testing.T) {
	s := vaulttest.New(t)
	mustAdmin(t, s, `SELECT vault.revoke_token('root', gen_random_uuid())`)
	wantCode(t, runSession(t, s.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE"}), badToken)
	if got := s.MustQuery(t, `SELECT vault.status() ->> 'tokens'`); got != "0" {
		t.Errorf("status counts %s tokens", got)
	}
}

// While the standby that changes wait for is away, a revocation takes effect on the primary.
func TestRevocationWaitsForNoStandby(t *testing.T) {
	s := vaulttest.OwnWith(t, map[string]string{"synchronous_standby_names": "*"})
	token := stolen(t, s)
	for _, standby := range s.Cluster.Standbys() {
		must(t, standby.Stop(t.Context(), localpg.Fast))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it would wait for ever
	defer cancel()
	conn := mustConnect(t, s.URL(vaulttest.Operator))
	for _, step := range []string{"BEGIN", `SET LOCAL synchronous_commit = remote_apply`, "AUTHORISE",
		`SELECT vault.revoke_token('stolen', gen_random_uuid())`, "COMMIT"} {
		must(t, runStep(ctx, conn, step))
	}
	must(t, runStep(ctx, conn, "BEGIN"))
	wantCode(t, authorise(ctx, conn, token.Reveal()), badToken)
}

// A session that ran its deferred checks early keeps its earlier changes; it is listed, and has no authority
// afterwards.
func TestOpenChangeIsNamed(t *testing.T) {
	s := vaulttest.New(t)
	token := stolen(t, s)
	holder := mustConnect(t, s.URL(vaulttest.Operator))
	must(t, runStep(t.Context(), holder, "BEGIN"))
	must(t, authorise(t.Context(), holder, token.Reveal()))
	must(t, runStep(t.Context(), holder, `SET CONSTRAINTS ALL IMMEDIATE`))
	holds := `SELECT jsonb_array_length(vault.revocation_holds(now() + interval '1 hour') -> 'open')`
	if got := s.MustQuery(t, holds); got != "0" {
		t.Errorf("%s sessions are named without a revocation", got)
	}
	w := mustWriter(t, db.Options{URL: s.URL(vaulttest.Operator)})
	row, err := w.RevokeToken(t.Context(), credential(t), uuid.New(), "stolen")
	must(t, err)
	if len(row.OpenChanges) != 1 || row.OpenChanges[0].PID != int(holder.PgConn().PID()) ||
		row.OpenChanges[0].Role != vaulttest.Operator {
		text, _ := json.Marshal(row.OpenChanges)
		t.Errorf("got open changes %s, want the session %d", text, holder.PgConn().PID())
	}
	wantCode(t, runStep(t.Context(), holder, anyPut()), denied)
}

// If the server allows prepared transactions, a transaction with a token cannot be prepared: it could be committed at
// any time.
func TestAuthorisedTransactionIsNotPrepared(t *testing.T) {
	s := vaulttest.OwnWith(t, map[string]string{"max_prepared_transactions": "5"})
	operator := s.URL(vaulttest.Operator)
	for _, c := range []struct {
		name  string
		steps []string
		code  string
	}{
		{"prepared", []string{"BEGIN", "AUTHORISE", anyPut(), "PREPARE TRANSACTION 'kept'"}, "0A000"},
		{"its checks before", []string{"BEGIN", "AUTHORISE", anyPut(), "SET CONSTRAINTS ALL IMMEDIATE",
			"PREPARE TRANSACTION 'kept'"}, "0A000"},
		{"authorised in a savepoint", []string{"BEGIN", "SAVEPOINT s", "AUTHORISE"}, "25001"},
	} {
		t.Run(c.name, func(t *testing.T) { wantCode(t, runSession(t, operator, c.steps), c.code) })
	}
	must(t, runSession(t, operator, []string{"BEGIN", "AUTHORISE", anyPut(), "COMMIT"}))
}

// ---------- guesses ----------

func guess(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	must(t, runStep(t.Context(), conn, "BEGIN"))
	must(t, runStep(t.Context(), conn, `SELECT vault.challenge()`))
	_, err := conn.Exec(t.Context(), `SELECT vault.authorize_proof($1, $2)`, vaulttest.AdminToken(t).ID(),
		make([]byte, 32))
	wantCode(t, err, badToken)
	must(t, runStep(t.Context(), conn, "ROLLBACK"))
}

// Wrong proofs are counted although their transactions roll back, and reports of them write few rows.
func TestGuessesAreCounted(t *testing.T) {
	s := vaulttest.New(t)
	conn := mustConnect(t, s.URL(vaulttest.Developer))
	for range 5 {
		guess(t, conn)
	}
	if got := s.MustQuery(t, `SELECT vault.status() ->> 'wrong_proofs'`); got != "5" {
		t.Errorf("status counts %s wrong proofs, want 5", got)
	}
	before := s.MustQuery(t, `SELECT count(*) FROM vault.audit_log`)
	must(t, runStep(t.Context(), conn,
		`DO $$ BEGIN FOR i IN 1..1500 LOOP PERFORM vault.record_refusal('put', 'app1/' || i,
			'admin token refused: unknown token', gen_random_uuid(), NULL); END LOOP; END $$`))
	rows := s.MustQuery(t, `SELECT count(*) - $1::int FROM vault.audit_log`, before)
	minutes := s.MustQuery(t, `SELECT count(*) FROM vault.refusals`)
	if minutes == "1" && rows != "62" || minutes != "1" && minutes != "2" {
		t.Errorf("1500 refusals in %s minutes made %s audit rows, want 62", minutes, rows)
	}
	if got := s.MustQuery(t,
		`SELECT count(*) FROM vault.audit_log WHERE detail ->> 'refused_this_minute' = '1000'`); minutes == "1" &&
		got != "1" {
		t.Errorf("%s audit rows tell of 1000 refusals", got)
	}
	if got := s.MustQuery(t, `SELECT vault.status() ->> 'refused_last_hour' <> '0'`); got != "true" && got != "t" {
		t.Error("status counts no refusals")
	}
}

// A role that guesses is blocked for a minute; the holder of the token can use any other role.
func TestGuessingRoleIsHeldBack(t *testing.T) {
	s := vaulttest.New(t)
	conn := mustConnect(t, s.URL(vaulttest.Developer))
	s.MustExec(t,
		`INSERT INTO vault.refusals SELECT date_trunc('minute', now()) + i * interval '1 minute', 'developer', '', 600, 600
			FROM generate_series(0, 2) i`,
		`SELECT setval('vault.wrong_proofs_minute', extract(epoch FROM now())::bigint / 60 * 1000000 + 600)`)
	client := s.MustQuery(t, `SELECT coalesce(host(inet_client_addr()), '')`)
	s.MustExec(t, `UPDATE vault.refusals SET client = '`+client+`'`)
	must(t, runStep(t.Context(), conn, "BEGIN"))
	wantCode(t, runStep(t.Context(), conn, `SELECT vault.challenge()`), "53400")
	must(t, runSession(t, s.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE", anyPut(), "COMMIT"}))
}
