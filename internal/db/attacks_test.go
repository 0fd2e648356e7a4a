package db_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// Attacks by a database login that may create schemas and functions, knows the fingerprints or holds an old token, and
// tries to read or change what it may not. Each must fail with the given SQLSTATE, and afterwards the vault must be
// unchanged ([snapshot]).

const (
	denied   = "42501"
	badToken = "28000"
)

// put is a complete call with placeholder bytes; attacks vary its arguments.
func put(name string, version int, nonceBytes, ciphertextBytes int, request string) string {
	return fmt.Sprintf(`SELECT vault.put_version('put', '%s', %s, '%s')`, name,
		sealedRow(name, version, nonceBytes, ciphertextBytes), request)
}

// sealedRow is a sealed value of placeholder bytes, in SQL.
func sealedRow(name string, version, nonceBytes, ciphertextBytes int) string {
	return fmt.Sprintf(`ROW(%[2]d, 1, 'k', '\x01', decode(repeat('00', %[3]d), 'hex'), decode(repeat('11', %[4]d), 'hex'),
		decode(repeat('22', 32), 'hex'), '%[1]s:%[2]d')::vault.sealed_value`, name, version, nonceBytes, ciphertextBytes)
}

// rewrap rewraps what put has stored.
func rewrap(name string, version int) string {
	return fmt.Sprintf(`SELECT vault.rewrap('%s', %d, NULL, '\x01', 'new', '\x03', gen_random_uuid())`, name, version)
}

func putMany(names ...string) string {
	var puts []string
	for _, name := range names {
		puts = append(puts,
			fmt.Sprintf(`{"name":"%[1]s","request_id":"%[4]s","sealed":{"version":1,"fmt":1,"kms_key_id":"k",`+
				`"wrapped_dek":"\\x01","nonce":"\\x%[2]x","ciphertext":"\\x%[3]x","key_commit":"\\x%[3]x","aad":"%[1]s:1"}}`,
				name, make([]byte, 24), make([]byte, 32), uuid.NewString()))
	}
	return `SELECT vault.put_versions('[` + strings.Join(puts, ",") + `]')`
}

func anyPut() string { return put("app1/new", 1, 24, 32, uuid.NewString()) }

// attack is a session of statements. "AUTHORISE" proves the admin token as vaultctl does; the last statement must fail.
type attack struct {
	name  string
	role  string
	steps []string
	code  string // SQLSTATE of the last step
}

func attacks() []attack {
	dev, stranger := vaulttest.Developer, vaulttest.Stranger
	one := func(name, role, code, sql string) attack { return attack{name, role, []string{sql}, code} }
	tx := func(name, code string, steps ...string) attack {
		return attack{name, dev, append([]string{"BEGIN"}, steps...), code}
	}
	id := `'00000000-0000-4000-8000-00000000ca0a'`
	zeros := func(n int) string { return fmt.Sprintf(`decode(repeat('00', %d), 'hex')`, n) }

	list := []attack{
		// tables
		one("insert a secret", dev, denied, `INSERT INTO vault.secrets (name) VALUES ('x')`),
		one("update secrets", dev, denied, `UPDATE vault.secrets SET deleted_at = now(), restore_until = now()`),
		one("delete versions", dev, denied, `DELETE FROM vault.secret_versions`),
		one("truncate the audit log", dev, denied, `TRUNCATE vault.audit_log`),
		one("edit the audit log", dev, denied, `UPDATE vault.audit_log SET secret = 'z'`),
		one("forge an audit row", dev, denied, `INSERT INTO vault.audit_log (actor, action) VALUES ('token:root', 'forged')`),
		one("read the audit log without being an auditor", dev, denied, `SELECT * FROM vault.audit_log`),
		one("read token fingerprints", dev, denied, `SELECT * FROM vault.admin_tokens`),
		one("read the context table", dev, denied, `SELECT * FROM vault.tx_context`),
		one("read the requests", dev, denied, `SELECT * FROM vault.requests`),
		one("forge a context row", dev, denied, `INSERT INTO vault.tx_context (xid, pid, kind, token_id, actor)
			VALUES (pg_current_xact_id(), pg_backend_pid(), 'admin', gen_random_uuid(), 'token:root')`),
		one("widen one's own scope", dev, denied, `INSERT INTO vault.service_scope VALUES ('developer', '')`),
		one("move a scope to oneself", dev, denied, `UPDATE vault.service_scope SET role_id = 'developer'::regrole`),
		one("see which tokens have ended", dev, denied, `SELECT * FROM vault.token_revocations`),
		one("end another's token by hand", dev, denied, `INSERT INTO vault.token_revocations VALUES (`+id+`)`),
		one("undo a revocation", dev, denied, `DELETE FROM vault.token_revocations`),
		one("forget what was refused", dev, denied, `DELETE FROM vault.refusals`),
		one("lock another out", dev, denied,
			`INSERT INTO vault.refusals VALUES (date_trunc('minute', now()), 'operator', '', 1000, 1000)`),
		one("count wrong proofs anew", dev, denied, `SELECT setval('vault.wrong_proofs', 1)`),
		one("lose count of wrong proofs", dev, denied, `SELECT nextval('vault.wrong_proofs_minute')`),
		one("internal: count a wrong proof", dev, denied, `SELECT vault._count_wrong_proof()`),
		one("internal: forget scopes", dev, denied, `SELECT vault._settle_scopes()`),
		one("internal: ask for another's prefixes", dev, denied, `SELECT vault._prefixes_of('operator')`),
		one("point the vault at another KMS key", dev, denied,
			`UPDATE vault.config SET default_kms_key = 'local:///tmp/mine'`),
		one("lock a token row for ever", dev, denied, `SELECT * FROM vault.admin_tokens FOR UPDATE`),

		// the API without authorisation
		one("put without a token", dev, denied, anyPut()),
		one("delete without a token", dev, denied, `SELECT vault.delete_secret('app1/a', gen_random_uuid(), '1 day')`),
		one("purge without a token", dev, denied, `SELECT vault.purge_secret('app1/a', gen_random_uuid())`),
		one("make a token without a token", dev, denied,
			`SELECT vault.create_token(gen_random_uuid(), 'mine', sha256('x'), '', NULL, gen_random_uuid())`),
		one("grant without a token", dev, denied, `SELECT vault.grant_service_role('stranger')`),
		one("list tokens without a token", dev, denied, `SELECT * FROM vault.list_tokens()`),
		one("the owner's way to a token", dev, denied,
			`SELECT vault.create_token_as_owner(gen_random_uuid(), 'mine', sha256('x'), NULL, gen_random_uuid())`),
		tx("a forged setting", denied, `SELECT set_config('vault.token_id', `+id+`, true)`, anyPut()),
		one("internal: enter a context", dev, denied, `SELECT vault._enter('maintenance', 'me')`),
		one("internal: add a token", dev, denied,
			`SELECT vault._add_token(gen_random_uuid(), 'mine', sha256('x'), '', NULL, gen_random_uuid())`),
		one("internal: write audit", dev, denied, `SELECT vault._audit('forged', NULL, NULL, NULL)`),
		one("internal: replay", dev, denied, `SELECT vault._replay(gen_random_uuid(), 'put', 'x', '')`),
		one("internal: grant", dev, denied, `SELECT vault._grant_group('developer', 'vault_owner', NULL, gen_random_uuid())`),
		one("the worker's API", dev, denied, `SELECT * FROM vault.claim_rotations('me', 1, '1s')`),
		one("read a candidate", dev, denied, `SELECT * FROM vault.rotation_candidates`),
		one("the worker's way to a candidate", dev, denied, `SELECT vault.rotation_candidate(1, 1)`),
		one("the worker's way to many versions", dev, denied,
			`SELECT vault.complete_rotations('{1}', '{1}', ARRAY[`+sealedRow("app1/a", 2, 24, 32)+`],
				ARRAY[gen_random_uuid()])`),
		one("a column of the sealed values' type", dev, denied, `CREATE TEMP TABLE mine (v vault.sealed_value)`),
		one("a claim given back", dev, denied, `SELECT vault.release_rotation(1, 1)`),
		one("a heartbeat", dev, denied, `SELECT vault.beat()`),
		one("a round of the supervisor", dev, denied, `SELECT vault.supervise()`),
		one("ask for a rotation without a token", dev, denied, `SELECT vault.request_rotation('app1/a', gen_random_uuid())`),
		one("retry without a token", dev, denied, `SELECT vault.retry_rotation('app1/a', gen_random_uuid())`),
		one("pause without a token", dev, denied, `SELECT vault.pause_rotation('app1/a', gen_random_uuid(), true)`),
		one("lift the cap without a token", dev, denied, `SELECT vault.set_max_rotations(NULL, gen_random_uuid())`),
		one("shorten the history without a token", dev, denied, `SELECT vault.set_retention(1, 1, gen_random_uuid())`),
		one("forget history without a round", dev, denied, `SELECT vault._forget_history(1000)`),
		one("end a grace without a token", dev, denied, `SELECT vault.end_grace('app1/a', NULL, gen_random_uuid())`),
		one("list wrapped keys without a token", dev, denied, `SELECT vault.wrapped_keys('app1/', false, 'k', '', 10)`),
		one("put many without a token", dev, denied, putMany("app1/new")),
		one("put many as a worker", vaulttest.Daemon, denied, putMany("app1/new")),
		tx("put many, one over a name that exists", "VA001", "AUTHORISE", putMany("app1/new", "app1/a")),
		tx("put nothing of many", "22023", "AUTHORISE", `SELECT vault.put_versions('[]')`),
		tx("put what is no list", "22023", "AUTHORISE", `SELECT vault.put_versions('{}')`),
		tx("put null of many", "22023", "AUTHORISE",
			`SELECT vault.put_versions('[{"name":"app1/new","version":1,"fmt":1}]')`),
		one("record many reads as a stranger", stranger, denied, `SELECT vault.record_reads('[]')`),
		one("record many changes as reads", dev, "22023",
			`SELECT vault.record_reads('[{"action":"purge","secret":"app1/a","outcome":"ok"}]')`),
		one("rewrap without a token", dev, denied, rewrap("app1/a", 1)),
		one("rewrap as a worker", vaulttest.Daemon, denied, rewrap("app1/a", 1)),
		one("rewrap as a stranger", stranger, denied, rewrap("app1/a", 1)),
		tx("rewrap what has another data key", "VA001", "AUTHORISE",
			strings.Replace(rewrap("app1/a", 1), `'\x01'`, `'\x02'`, 1)),
		tx("rewrap a version that is not there", "VA001", "AUTHORISE", rewrap("app1/a", 2)),
		tx("rewrap a secret that is not there", "VA004", "AUTHORISE", rewrap("app1/none", 1)),
		tx("rewrap another secret's version through a job", "VA001", "AUTHORISE",
			strings.Replace(rewrap("app1/a", 1), "NULL", "1", 1)),
		tx("rewrap to nothing", "23514", "AUTHORISE", strings.Replace(rewrap("app1/a", 1), `'\x03'`, `''`, 1)),
		tx("rewrap to null", "23502", "AUTHORISE", strings.Replace(rewrap("app1/a", 1), `'new'`, `NULL`, 1)),
		tx("rewrap under a request id used for something else", "VA003", "AUTHORISE",
			put("app1/r2", 1, 24, 32, "00000000-0000-4000-8000-000000000002"),
			strings.Replace(rewrap("app1/r2", 1), "gen_random_uuid()", "'00000000-0000-4000-8000-000000000002'", 1)),
		one("the supervisor's API", dev, denied, `SELECT vault.expire_grace_versions()`),
		one("a stranger sees nothing", stranger, denied, `SELECT * FROM vault.secrets`),
		one("a stranger calls nothing", stranger, denied, `SELECT vault.challenge()`),

		// the seals
		one("seal one's own rows", dev, denied, `SELECT vault.add_audit_seal(NULL)`),
		one("look at what is to be sealed", dev, denied, `SELECT * FROM vault.next_audit_window(1000)`),
		one("read the log as if to seal it", dev, denied, `SELECT * FROM vault.audit_window(0, '0', '1000000')`),
		one("write a seal", dev, denied, `INSERT INTO vault.audit_seals SELECT * FROM vault.audit_seals`),
		one("drop the newest seals", dev, denied, `DELETE FROM vault.audit_seals`),
		one("truncate the seals", dev, denied, `TRUNCATE vault.audit_seals CASCADE`),
		one("see what was pruned", dev, denied, `SELECT * FROM vault.audit_prunes`),
		one("prune without a token", dev, denied,
			`SELECT vault.prune_audit('2020-01-01', NULL, 1, 1, sha256(''), NULL, NULL, gen_random_uuid())`),
		one("move partitions without a token", dev, denied, `SELECT vault.prepare_audit_prune()`),
		one("forge a prune", dev, denied, `INSERT INTO vault.audit_prunes VALUES (1, '2020-01-01', NULL, 1, 1, sha256(''))`),
		one("a partition behind the log's back", dev, denied, `SELECT * FROM vault.audit_log_default`),
		one("a row into a partition", dev, denied,
			`INSERT INTO vault.audit_log_default (actor, action) VALUES ('token:root', 'forged')`),
		one("internal: make a partition", dev, denied, `SELECT vault._audit_partition('2020-01-01')`),
		one("internal: empty the default partition", dev, denied,
			`SELECT vault._audit_empty_default('-infinity', 'infinity')`),
		one("internal: do as the owner", dev, denied,
			`SELECT vault._do_each('enqueue', '{1}', '{x}', 'DELETE FROM vault.secrets WHERE id = ANY ($1::bigint[])')`),
		one("internal: note a failure", dev, denied, `SELECT vault._note_round('enqueue', '', '', 'x')`),
		one("internal: forget a failure", dev, denied, `DELETE FROM vault.round_failures`),
		one("report on rounds without being a worker", dev, denied, `SELECT vault.report_round('seal', NULL)`),
		one("a worker forges a seal", vaulttest.Daemon, "VA001", `SELECT vault.add_audit_seal(ROW(99, 0, '2026-01-01', '0',
			'1', 1, 1, 1, sha256(''), sha256(''), sha256('x'),
			'k', '\x00', now(), '\x00000000')::vault.audit_seals)`),
		one("a worker seals over transactions to come", vaulttest.Daemon, "VA001", `SELECT vault.add_audit_seal(ROW(1,
			audit_log.system_id, '2026-01-01', '0', '99999999999', 1, 1, 1, sha256(''),
			sha256(convert_to('hyperiondb-vault/audit-chain/1', 'UTF8') || '\x00'::bytea ||
			uuid_send((SELECT cluster_id FROM vault.config))), sha256('x'), 'k', '\x00', now(), '\x00000000')::vault.audit_seals)
			FROM (SELECT (SELECT system_identifier FROM pg_control_system()) AS system_id) AS audit_log`),
		tx("prune this month", "22023", "AUTHORISE",
			`SELECT vault.prune_audit(date_trunc('month', now())::date, NULL, 1, 1, sha256(''), NULL, NULL, gen_random_uuid())`),
		tx("prune what the log says of itself", "22023", "AUTHORISE",
			`SELECT vault.prune_audit('2020-01-01', 'audit.prune', 1, 1, sha256(''), NULL, NULL, gen_random_uuid())`),
		tx("prune a month that is not there", "VA004", "AUTHORISE",
			`SELECT vault.prune_audit('2020-01-01', NULL, 1, 1, sha256(''), NULL, NULL, gen_random_uuid())`),

		// challenge and proof
		one("proof without a challenge", dev, badToken, `SELECT vault.authorize_proof(`+id+`, `+zeros(32)+`)`),
		tx("proof of zeros", badToken, `SELECT vault.challenge()`, `SELECT vault.authorize_proof(`+id+`, `+zeros(32)+`)`),
		tx("over-long proof", badToken, `SELECT vault.challenge()`, `SELECT vault.authorize_proof(`+id+`, `+zeros(4000)+`)`),
		tx("short proof", badToken, `SELECT vault.challenge()`, `SELECT vault.authorize_proof(`+id+`, '\x00')`),
		tx("null proof", badToken, `SELECT vault.challenge()`, `SELECT vault.authorize_proof(`+id+`, NULL)`),
		tx("null token id", badToken, `SELECT vault.challenge()`, `SELECT vault.authorize_proof(NULL, `+zeros(32)+`)`),
		tx("unknown token id", badToken, `SELECT vault.challenge()`,
			`SELECT vault.authorize_proof(gen_random_uuid(), `+zeros(32)+`)`),

		// the limits of an authorisation
		tx("not over transactions", denied, "AUTHORISE", "COMMIT", anyPut()),
		tx("not over a savepoint's rollback", denied, "SAVEPOINT s", "AUTHORISE", "ROLLBACK TO s", anyPut()),
		tx("not after SET CONSTRAINTS IMMEDIATE", denied, "AUTHORISE", "SET CONSTRAINTS ALL IMMEDIATE", anyPut()),
		tx("not after another challenge", denied, "AUTHORISE", "SELECT vault.challenge()", anyPut()),
		tx("no direct writes even when authorised", denied, "AUTHORISE", `INSERT INTO vault.secrets (name) VALUES ('x')`),
		tx("no other function gains by it", denied, "AUTHORISE", `SELECT vault._leave()`),

		// the session
		one("become the owner", dev, denied, `SET ROLE vault_owner`),
		one("become the superuser", dev, denied, `SET SESSION AUTHORIZATION postgres`),
		one("switch triggers off", dev, denied, `SET session_replication_role = replica`),
		one("disable a trigger", dev, denied, `ALTER TABLE vault.audit_log DISABLE TRIGGER ALL`),
		one("disable row level security", dev, denied, `ALTER TABLE vault.secrets DISABLE ROW LEVEL SECURITY`),
		tx("row_security = off is an error, not a bypass", denied, `SET row_security = off`,
			`SELECT count(*) FROM vault.secrets`),
		one("replace a function", dev, denied,
			`CREATE OR REPLACE FUNCTION vault.tx_kind() RETURNS text LANGUAGE sql AS $$ SELECT 'admin' $$`),
		one("put a function before pg_catalog's", dev, denied,
			`CREATE FUNCTION pg_catalog.sha256(text) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$`),
		tx("shadow the token table", badToken,
			`CREATE TEMP TABLE admin_tokens (id uuid, token_sha256 bytea, revoked_at timestamptz, expires_at timestamptz)`,
			`INSERT INTO admin_tokens VALUES (`+id+`, sha256('mine'))`, `SET LOCAL search_path = pg_temp, vault`,
			`SELECT vault.challenge()`, `SELECT vault.authorize_proof(`+id+`, `+zeros(32)+`)`),
		tx("shadow sha256 in a schema of one's own", badToken, `CREATE SCHEMA mine`,
			`CREATE FUNCTION mine.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT '\x00'::bytea $$`,
			`SET LOCAL search_path = mine, pg_catalog`,
			`SELECT vault.challenge()`, `SELECT vault.authorize_proof(`+id+`, `+zeros(32)+`)`),

		one("lock the tokens for ever", dev, denied, `BEGIN; LOCK TABLE vault.admin_tokens IN ROW SHARE MODE`),

		// an authorised writer and bad input
		tx("a version that skips", "VA001", "AUTHORISE", put("app1/a", 9, 24, 32, uuid.NewString())),
		tx("a version that repeats", "VA001", "AUTHORISE", put("app1/a", 1, 24, 32, uuid.NewString())),
		tx("a nonce of 12 bytes", "23514", "AUTHORISE", put("app1/n", 1, 12, 32, uuid.NewString())),
		tx("a ciphertext shorter than its tag", "23514", "AUTHORISE", put("app1/n", 1, 24, 16, uuid.NewString())),
		tx("a ciphertext that is too long", "23514", "AUTHORISE", put("app1/n", 1, 24, 65536+17, uuid.NewString())),
		tx("a name with dots that climb", "23514", "AUTHORISE", put("app1/../n", 1, 24, 32, uuid.NewString())),
		tx("a name that ends in a newline", "23514", "AUTHORISE", put("app1/n\n", 1, 24, 32, uuid.NewString())),
		tx("a name that differs by case alone", "VA001", "AUTHORISE", put("APP1/A", 1, 24, 32, uuid.NewString())),
		tx("an AAD of another name", "23514", "AUTHORISE", strings.Replace(anyPut(), "'app1/new:1'", "'app1/other:1'", 1)),
		tx("an action that is no put", "22023", "AUTHORISE", strings.Replace(anyPut(), "'put'", "'token.create'", 1)),
		tx("a request id used for something else", "VA003", "AUTHORISE",
			put("app1/r", 1, 24, 32, "00000000-0000-4000-8000-000000000001"), "AUTHORISE",
			put("app1/r", 1, 24, 33, "00000000-0000-4000-8000-000000000001")),
		tx("a role name with SQL in it", "VA004", "AUTHORISE",
			`SELECT vault.grant_service_role('app1; DROP TABLE vault.secrets; --')`),
		tx("a rotation interval without a generator", "22023", "AUTHORISE", `SELECT vault.put_version('put', 'app1/i',
			`+sealedRow("app1/i", 1, 24, 32)+`, gen_random_uuid(), false, NULL, '1 day')`),
	}
	list = append(list, attacksOnApps()...)
	for _, level := range []string{"REPEATABLE READ", "SERIALIZABLE"} {
		list = append(list, attack{"a token in a transaction that would not see its end: " + level, dev,
			[]string{"BEGIN ISOLATION LEVEL " + level, "AUTHORISE"}, "25001"})
	}
	for _, role := range []string{"vault_service", "vault_worker", "vault_auditor", "vault_owner"} {
		list = append(list, tx("grant to the vault's own "+role, denied, "AUTHORISE",
			fmt.Sprintf(`SELECT vault.grant_service_role('%s')`, role)))
	}
	for _, role := range []string{"creator", "replicator", "bypasser", "writes_all", "reads_all", "runs_programs",
		"owner_member", "indirect", "super2"} {
		list = append(list, tx("grant to "+role, denied, "AUTHORISE",
			fmt.Sprintf(`SELECT vault.grant_service_role('%s')`, role)))
	}
	return list
}

// powerfulRoles could bypass the vault; grant_service_role must refuse each. Roles belong to the cluster, so they are
// created once.
const powerfulRoles = `
	CREATE ROLE creator CREATEROLE; CREATE ROLE replicator REPLICATION; CREATE ROLE bypasser BYPASSRLS;
	CREATE ROLE super2 SUPERUSER;
	CREATE ROLE writes_all LOGIN; GRANT pg_write_all_data, pg_read_all_data TO writes_all; CREATE ROLE reads_all;
	GRANT pg_read_all_data TO reads_all;
	CREATE ROLE runs_programs; GRANT pg_execute_server_program TO runs_programs; CREATE ROLE owner_member;
	GRANT vault_owner TO owner_member;
	CREATE ROLE indirect; GRANT writes_all TO indirect`

func TestAttacks(t *testing.T) {
	store := vaulttest.New(t)
	store.MustExec(t, powerfulRoles, `GRANT CREATE ON DATABASE `+store.Database+` TO developer`)
	mustPut(t, store, "app1/a", "app2/b")
	mustAdmin(t, store, createApp("victim", "prod/*", appCredential("token", "")))
	before := snapshot(t, store)
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			err := runSession(t, store.URL(a.role), a.steps)
			var server *pgconn.PgError
			if !errors.As(err, &server) {
				t.Fatalf("got %v, want SQLSTATE %s", err, a.code)
			}
			if server.Code != a.code {
				t.Fatalf("got %s %s, want SQLSTATE %s", server.Code, server.Message, a.code)
			}
		})
	}
	if after := snapshot(t, store); after != before {
		t.Errorf("the vault changed under attack:\nbefore %s\nafter  %s", before, after)
	}
}

// runSession runs the steps on one connection and returns the error of the last; an earlier one fails the test.
func runSession(t *testing.T, url string, steps []string) error {
	t.Helper()
	conn := mustConnect(t, url)
	for i, step := range steps {
		err := runStep(t.Context(), conn, step)
		if i == len(steps)-1 {
			return err
		}
		if err != nil {
			t.Fatalf("step %d %q: %v", i, step, err)
		}
	}
	return nil
}

func runStep(ctx context.Context, conn *pgx.Conn, step string) error {
	if step == "AUTHORISE" {
		return authorise(ctx, conn, vaulttest.Token)
	}
	_, err := conn.PgConn().Exec(ctx, step).ReadAll()
	return err
}

func authorise(ctx context.Context, conn *pgx.Conn, text string) error {
	token, err := vault.ParseToken(text)
	if err != nil {
		return err
	}
	var nonce []byte
	if err := conn.QueryRow(ctx, `SELECT vault.challenge()`).Scan(&nonce); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `SELECT vault.authorize_proof($1, $2)`, token.ID(), token.Prove(nonce))
	return err
}

func mustConnect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// mustPut stores placeholder versions through the API.
func mustPut(t *testing.T, store *vaulttest.Store, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := admin(t, store, put(name, 1, 24, 32, uuid.NewString())); err != nil {
			t.Fatalf("putting %s: %v", name, err)
		}
	}
}

// snapshot is everything an attack could have changed.
func snapshot(t *testing.T, store *vaulttest.Store) string {
	t.Helper()
	return store.MustQuery(t, `SELECT jsonb_build_object(
		'secrets', (SELECT jsonb_agg(s ORDER BY id) FROM vault.secrets s),
		'versions', (SELECT jsonb_agg(v ORDER BY secret_id, version) FROM vault.secret_versions v),
		'tokens', (SELECT jsonb_agg(t ORDER BY id) FROM vault.admin_tokens t),
		'scope', (SELECT jsonb_agg(s ORDER BY s) FROM vault.service_scope s),
		'audit', (SELECT count(*) FROM vault.audit_log),
		'seals', (SELECT count(*) FROM vault.audit_seals),
		'prunes', (SELECT count(*) FROM vault.audit_prunes),
		'context', (SELECT count(*) FROM vault.tx_context),
		'apps', (SELECT jsonb_agg(a ORDER BY name) FROM vault.apps a),
		'rules', (SELECT jsonb_agg(r ORDER BY app, pattern) FROM vault.app_rules r),
		'credentials', (SELECT jsonb_agg(c ORDER BY id) FROM vault.app_credentials c),
		'use', (SELECT jsonb_agg(u ORDER BY credential_id) FROM vault.app_use u),
		'epoch', (SELECT jsonb_agg(e) FROM vault.access_epoch e),
		'config', (SELECT jsonb_agg(c) FROM vault.config c))`)
}

// Not even the fingerprint, which every backup holds, proves a token.
func TestFingerprintIsNotTheToken(t *testing.T) {
	store := vaulttest.New(t)
	token := vaulttest.AdminToken(t)
	fingerprint := token.Fingerprint()
	conn := mustConnect(t, store.URL(vaulttest.Operator))
	must(t, runStep(t.Context(), conn, "BEGIN"))
	var nonce []byte
	must(t, conn.QueryRow(t.Context(), `SELECT vault.challenge()`).Scan(&nonce))
	// What a client would send if the fingerprint were the secret.
	proof := token.Prove(nonce)
	for i := range proof {
		proof[i] ^= []byte(vaulttest.TokenSecret)[i] ^ fingerprint[i]
	}
	_, err := conn.Exec(t.Context(), `SELECT vault.authorize_proof($1, $2)`, token.ID(), proof)
	wantCode(t, err, badToken)
}

func TestProofIsGoodForOneTransaction(t *testing.T) {
	store := vaulttest.New(t)
	token := vaulttest.AdminToken(t)
	conn := mustConnect(t, store.URL(vaulttest.Operator))
	must(t, runStep(t.Context(), conn, "BEGIN"))
	var nonce []byte
	must(t, conn.QueryRow(t.Context(), `SELECT vault.challenge()`).Scan(&nonce))
	proof := token.Prove(nonce)
	if bytes.Contains(proof, []byte(vaulttest.TokenSecret)) || bytes.Equal(nonce, make([]byte, len(nonce))) {
		t.Fatal("the proof shows the token")
	}
	_, err := conn.Exec(t.Context(), `SELECT vault.authorize_proof($1, $2)`, token.ID(), proof)
	must(t, err)
	must(t, runStep(t.Context(), conn, "COMMIT"))
	must(t, runStep(t.Context(), conn, "BEGIN"))
	must(t, runStep(t.Context(), conn, "SELECT vault.challenge()"))
	_, err = conn.Exec(t.Context(), `SELECT vault.authorize_proof($1, $2)`, token.ID(), proof)
	wantCode(t, err, badToken)
}

func TestTokenStates(t *testing.T) {
	store := vaulttest.New(t)
	for _, c := range []struct{ name, change, want string }{
		{"expired", `UPDATE vault.admin_tokens SET expires_at = now() - interval '1 s'`, "admin token refused: expired"},
		{"revoked", `UPDATE vault.admin_tokens SET expires_at = NULL, revoked_at = now()`, "admin token refused: revoked"},
		{"unknown", `DELETE FROM vault.admin_token_use; DELETE FROM vault.admin_tokens`,
			"admin token refused: unknown token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store.MustExec(t, c.change)
			err := runSession(t, store.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE"})
			wantCode(t, err, badToken)
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A token with a scope may change the names that it covers, and administer nothing.
func TestScopedToken(t *testing.T) {
	store := vaulttest.New(t)
	scoped := vault.NewToken()
	fingerprint := scoped.Fingerprint()
	must(t, runSession(t, store.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE",
		fmt.Sprintf(`SELECT vault.create_token('%s', 'ci', '\x%x', 'app1/', NULL, gen_random_uuid())`, scoped.ID(),
			fingerprint), "COMMIT"}))
	try := func(sql string) error {
		conn := mustConnect(t, store.URL(vaulttest.Operator))
		must(t, runStep(t.Context(), conn, "BEGIN"))
		must(t, authorise(t.Context(), conn, scoped.Reveal()))
		if err := runStep(t.Context(), conn, sql); err != nil {
			return err
		}
		return runStep(t.Context(), conn, "COMMIT")
	}
	must(t, try(put("app1/mine", 1, 24, 32, uuid.NewString())))
	wantCode(t, try(put("app2/other", 1, 24, 32, uuid.NewString())), denied)
	wantCode(t, try(put("app1", 1, 24, 32, uuid.NewString())), denied)
	mustPut(t, store, "app2/b")
	must(t, try(rewrap("app1/mine", 1)))
	wantCode(t, try(rewrap("app2/b", 1)), denied)
	must(t, try(`SELECT vault.wrapped_keys('app1/', false, 'k', '', 10)`))
	wantCode(t, try(`SELECT vault.wrapped_keys('app', false, 'k', '', 10)`), denied)
	wantCode(t, try(`SELECT vault.wrapped_keys('', false, 'k', '', 10)`), denied)
	wantCode(t, try(`SELECT vault.wrapped_keys('app2/b', true, 'k', '', 10)`), denied)
	wantCode(t, try(`SELECT vault.create_token(gen_random_uuid(), 'more', sha256('x'), '', NULL, gen_random_uuid())`),
		denied)
	wantCode(t, try(`SELECT vault.revoke_token('root', gen_random_uuid())`), denied)
	wantCode(t, try(`SELECT vault.grant_service_role('stranger')`), denied)
}

// A service role's own functions are called only on rows under its prefixes.
func TestScopedRead(t *testing.T) {
	store := vaulttest.New(t)
	store.MustExec(t, `GRANT CREATE ON DATABASE `+store.Database+` TO developer`)
	mustPut(t, store, "app1/a", "app2/b", "app1")
	conn := mustConnect(t, store.URL(vaulttest.Developer))
	must(t, runStep(t.Context(), conn, `CREATE SCHEMA mine;
		CREATE FUNCTION mine.leak(t text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
		$$ BEGIN IF t !~ '^app1/' THEN RAISE EXCEPTION 'leaked'; END IF; RETURN true; END $$`))
	for _, table := range []string{"secrets", "secret_versions", "sealed_versions"} {
		var names string
		must(t, conn.QueryRow(t.Context(),
			`SELECT string_agg(name, ' ') FROM vault.`+table+` WHERE mine.leak(name)`).Scan(&names))
		if names != "app1/a" {
			t.Errorf("%s: got %q, want %q", table, names, "app1/a")
		}
	}
}

// Grants on every table do not bypass row level security, nor does being the owner.
func TestRowSecurityBindsThePowerful(t *testing.T) {
	store := vaulttest.New(t)
	mustPut(t, store, "app1/a")
	mustAdmin(t, store, createApp("victim", "prod/*", appCredential("token", "")))
	store.MustExec(t, `DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'rw_all') THEN
			CREATE ROLE rw_all LOGIN; GRANT pg_write_all_data, pg_read_all_data TO rw_all; CREATE ROLE as_owner LOGIN;
			GRANT vault_owner TO as_owner; END IF; END $$`)
	for _, c := range []struct{ role, sql, code string }{
		{"rw_all", `INSERT INTO vault.secrets (name) VALUES ('y')`, denied},
		{"rw_all", `INSERT INTO vault.audit_log (actor, action) VALUES ('token:root', 'forged')`, denied},
		{"rw_all", `INSERT INTO vault.tx_context (xid, pid, kind, token_id, actor)
			VALUES (pg_current_xact_id(), pg_backend_pid(), 'admin', gen_random_uuid(), 'token:root')`, denied},
		{"rw_all", `INSERT INTO vault.service_scope VALUES ('rw_all', '')`, denied},
		{"as_owner", `INSERT INTO vault.secrets (name) VALUES ('owned')`, denied},
		{"as_owner", `INSERT INTO vault.service_scope VALUES ('app1', '')`, denied},
		{"rw_all", `INSERT INTO vault.apps (name, created_by) VALUES ('x', 'me')`, denied},
		{"rw_all", `INSERT INTO vault.app_rules VALUES ('victim', '*', '{read}')`, denied},
		{"rw_all", `UPDATE vault.app_credentials SET revoked_at = now()`, denied},
		{"rw_all", `DELETE FROM vault.app_rules`, denied},
		{"as_owner", `INSERT INTO vault.apps (name, created_by) VALUES ('x', 'me')`, denied},
		{"as_owner", `INSERT INTO vault.app_rules VALUES ('victim', '*', '{read}')`, denied},
		{"as_owner", `INSERT INTO vault.app_credentials (id, app, kind, token_sha256, created_by)
			VALUES (gen_random_uuid(), 'victim', 'token', sha256('mine'), 'me')`, denied},
		{"as_owner", `INSERT INTO vault.app_use VALUES (gen_random_uuid())`, denied},
		{"as_owner", `DELETE FROM vault.access_epoch`, denied},
		{"as_owner", `TRUNCATE vault.access_epoch`, denied},
		{"as_owner", `TRUNCATE vault.audit_log`, denied},
		{"as_owner", `TRUNCATE vault.secret_versions`, denied},
		{"rw_all", `INSERT INTO vault.change_feed VALUES (pg_current_xact_id(), 'app1/a')`, denied},
		{"as_owner", `INSERT INTO vault.change_feed VALUES ('18446744073709551615', 'app1/a')`, denied},
		{"as_owner", `TRUNCATE vault.change_feed`, denied},
		{"as_owner", `DELETE FROM vault.feed_state`, denied},
	} {
		wantCode(t, runSession(t, store.URL(c.role), []string{c.sql}), c.code)
	}
	// The right to read every table shows no row, the owner's shows all, in the view and in the tables.
	for _, relation := range []string{"secrets", "secret_versions", "sealed_versions"} {
		for role, want := range map[string]string{"rw_all": "", "as_owner": "app1/a"} {
			var names string
			must(t, mustConnect(t, store.URL(role)).QueryRow(t.Context(),
				`SELECT coalesce(string_agg(name, ' '), '') FROM vault.`+relation).Scan(&names))
			if names != want {
				t.Errorf("%s: %s sees %q, want %q", relation, role, names, want)
			}
		}
	}
	// Without a matching UPDATE or DELETE policy, no row is found to change.
	for _, c := range []struct{ role, sql string }{
		{"rw_all", `UPDATE vault.secrets SET deleted_at = now(), restore_until = now()`},
		{"rw_all", `UPDATE vault.admin_tokens SET revoked_at = NULL`},
		{"as_owner", `UPDATE vault.audit_log SET secret = 'z'`},
		{"as_owner", `DELETE FROM vault.audit_log`},
		{"as_owner", `DELETE FROM vault.audit_log_default`},
		{"as_owner", `DELETE FROM vault.audit_seals`},
		{"as_owner", `UPDATE vault.audit_prunes SET rows = 1`},
		{"as_owner", `UPDATE vault.secret_versions SET expires_at = now()`},
		{"as_owner", `DELETE FROM vault.secrets`},
		{"rw_all", `UPDATE vault.access_epoch SET epoch = gen_random_uuid()`},
		{"as_owner", `UPDATE vault.apps SET disabled_at = now()`},
		{"as_owner", `UPDATE vault.app_rules SET actions = '{read,verify,list}'`},
		{"as_owner", `DELETE FROM vault.app_rules`},
		{"as_owner", `UPDATE vault.app_credentials SET expires_at = NULL`},
		{"as_owner", `DELETE FROM vault.app_credentials`},
		{"as_owner", `UPDATE vault.app_use SET last_used_at = now()`},
		{"as_owner", `DELETE FROM vault.change_feed`},
		{"as_owner", `UPDATE vault.feed_state SET floor = '1'`},
	} {
		tag, err := mustConnect(t, store.URL(c.role)).Exec(t.Context(), c.sql)
		if err != nil || tag.RowsAffected() != 0 {
			t.Errorf("%s: %s: got %d rows, error %v, want none", c.role, c.sql, tag.RowsAffected(), err)
		}
	}
	for _, table := range []string{"secrets", "secret_versions", "admin_tokens", "audit_log", "tx_context"} {
		var n int
		must(t, mustConnect(t, store.URL("rw_all")).QueryRow(t.Context(), `SELECT count(*) FROM vault.`+table).Scan(&n))
		if n != 0 {
			t.Errorf("pg_read_all_data sees %d rows of %s, want 0", n, table)
		}
	}
}

// What triggers keep a superuser from doing by mistake, also as a replica. (A superuser can drop the triggers:
// docs/SECURITY.md.)
func TestInvariantsBindTheSuperuser(t *testing.T) {
	store := vaulttest.New(t)
	mustPut(t, store, "app1/a")
	mustAdmin(t, store, createApp("victim", "prod/*", appCredential("token", "")))
	mustAdmin(t, store, createApp("other", "prod/*", ""))
	mustAdmin(t, store, `SELECT vault.revoke_app_credential('victim', NULL, gen_random_uuid())`)
	for _, sql := range []string{
		`UPDATE vault.audit_log SET secret = 'z'`,
		`SET session_replication_role = replica; DELETE FROM vault.audit_log`,
		`TRUNCATE vault.audit_log`,
		`TRUNCATE vault.audit_log_default`,
		`UPDATE vault.audit_log_default SET secret = 'z'`,
		`TRUNCATE vault.audit_seals CASCADE`,
		`UPDATE vault.secret_versions SET ciphertext = '\x00' || ciphertext`,
		`UPDATE vault.secret_versions SET version_id = gen_random_uuid()`,
		`UPDATE vault.secret_versions SET name = 'app1/z', aad = 'app1/z:1'`,
		`DELETE FROM vault.secret_versions`,
		`SET session_replication_role = replica; UPDATE vault.secret_versions SET nonce = decode(repeat('01', 24), 'hex')`,
		`UPDATE vault.secrets SET current_version = 0`,
		`UPDATE vault.secrets SET current_version = 7`,
		`SET session_replication_role = replica; UPDATE vault.secrets SET current_version = 7`,
		`UPDATE vault.secrets SET name = 'app1/renamed'`,
		`UPDATE vault.secret_versions SET wrapped_dek = NULL, nonce = NULL, ciphertext = NULL, key_commit = NULL,
			removed_at = now()`,
		`UPDATE vault.app_credentials SET revoked_at = NULL`,
		`SET session_replication_role = replica; UPDATE vault.app_credentials SET revoked_at = NULL`,
		`UPDATE vault.app_credentials SET app = 'other'`,
		`UPDATE vault.app_credentials SET token_sha256 = sha256('mine')`,
		`DELETE FROM vault.access_epoch`,
		`SET session_replication_role = replica; TRUNCATE vault.access_epoch`,
		`DELETE FROM vault.change_feed`,
		`SET session_replication_role = replica; UPDATE vault.change_feed SET name = 'app1/z'`,
		`TRUNCATE vault.change_feed`,
		`SET session_replication_role = replica; UPDATE vault.feed_state SET floor = '1'`,
		`DELETE FROM vault.feed_state`,
	} {
		wantCode(t, runSession(t, store.URL(vaulttest.Superuser), []string{sql}), denied)
	}
	// rewrap may
	must(t, runSession(t, store.URL(vaulttest.Superuser),
		[]string{`UPDATE vault.secret_versions SET kms_key_id = 'other', wrapped_dek = '\x02'`}))
	must(t, runSession(t, store.URL(vaulttest.Superuser),
		[]string{`UPDATE vault.secret_versions SET expires_at = now() + interval '1 hour'`}))
	store.MustExec(t,
		`INSERT INTO vault.rotation_jobs (secret_id, name, from_version, due_at, run_after) SELECT id, name, 1, now(), now()
			FROM vault.secrets`,
		`INSERT INTO vault.rotation_candidates (job_id, name, version, fmt, kms_key_id, wrapped_dek, nonce, ciphertext,
			key_commit, aad)
			SELECT j.id, j.name, 2, 1, 'k', '\x01', nonce, ciphertext, key_commit, j.name || ':2'
			FROM vault.rotation_jobs j, vault.secret_versions v`)
	for _, set := range []string{`ciphertext = '\x00' || ciphertext`, `nonce = sha256('')`,
		`version = 3, aad = name || ':3'`, `stored_at = now()`, `job_id = 77`} {
		wantCode(t, runSession(t, store.URL(vaulttest.Superuser),
			[]string{`SET session_replication_role = replica; UPDATE vault.rotation_candidates SET ` + set}), denied)
	}
	must(t, runSession(t, store.URL(vaulttest.Superuser),
		[]string{`UPDATE vault.rotation_candidates SET kms_key_id = 'other', wrapped_dek = '\x02'`}))
	wantCode(t, runSession(t, store.URL(vaulttest.Superuser),
		[]string{`UPDATE vault.secret_versions SET expires_at = now() + interval '2 hours'`}), denied)
}

// The worker's authority is a live claim, fenced by its attempt.
func TestClaimIsTheWorkersAuthority(t *testing.T) {
	store := vaulttest.New(t)
	mustAdmin(t, store, putAutomatic("app1/auto", uuid.NewString()))
	store.MustExec(t, `UPDATE vault.secrets SET next_rotation_at = now() - interval '5 days'`)
	worker := store.URL(vaulttest.Daemon)
	wantCode(t, runSession(t, worker, []string{put("app1/auto", 2, 24, 32, uuid.NewString())}), denied)
	must(t, runSession(t, worker, []string{`SELECT vault.enqueue_due_rotations()`,
		`SELECT vault.enqueue_due_rotations()`}))
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.rotation_jobs`); got != "1" {
		t.Fatalf("got %s jobs for one overdue secret, want 1", got)
	}
	must(t, runSession(t, worker, []string{`SELECT vault.claim_rotations('w1', 1, '1 hour')`}))
	ageClaims(t, store)
	must(t, runSession(t, worker, []string{`SELECT vault.claim_rotations('w2', 1, '3 s')`}))
	complete := func(attempt int, request string) string {
		return fmt.Sprintf(`SELECT vault.complete_rotations(ARRAY(SELECT max(id) FROM vault.rotation_jobs), '{%d}', ARRAY[%s],
			'{%s}', true)`, attempt, sealedRow("app1/auto", 2, 24, 32), request)
	}
	request := uuid.NewString()
	wantCode(t, runSession(t, worker, []string{complete(1, uuid.NewString())}), "VA002") // the stalled one wakes up
	must(t, runSession(t, worker, []string{complete(2, request)}))
	must(t, runSession(t, worker, []string{complete(2, request)}))                       // its replay
	wantCode(t, runSession(t, worker, []string{complete(2, uuid.NewString())}), "VA002") // another completion
	wantCode(t, runSession(t, worker, []string{complete(1, uuid.NewString())}), "VA002")
	if got := store.MustQuery(t, `SELECT current_version FROM vault.secrets`); got != "2" {
		t.Errorf("got version %s, want 2", got)
	}
	if got := store.MustQuery(t,
		`SELECT string_agg(action || '/' || outcome, ' ' ORDER BY id) FROM vault.audit_log
			WHERE secret = 'app1/auto'`); got != "put/ok rotate/ok rotate.replay/ok" {
		t.Errorf("got audit rows %q", got)
	}
}

// The surface: PUBLIC may execute no function, every function pins its search_path, and every table has row level
// security. A function whose body is an expression had its names resolved when it was created, by a migration, which
// pins them.
func TestSurface(t *testing.T) {
	store := vaulttest.New(t)
	for name, query := range map[string]string{
		"functions that PUBLIC may call": `SELECT string_agg(p.oid::regprocedure::text, ' ') FROM pg_proc p
			WHERE pronamespace = 'vault'::regnamespace
			AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)`,
		"functions without a pinned search_path": `SELECT string_agg(p.oid::regprocedure::text, ' ') FROM pg_proc p
			WHERE pronamespace = 'vault'::regnamespace AND (prosecdef OR prosqlbody IS NULL)
			AND NOT ('search_path=pg_catalog, pg_temp' = ANY (coalesce(proconfig, '{}')))`,
		"functions of another owner": `SELECT string_agg(p.oid::regprocedure::text, ' ') FROM pg_proc p
			WHERE pronamespace = 'vault'::regnamespace AND proowner <> 'vault_owner'::regrole`,
		"tables without row level security": `SELECT string_agg(relname, ' ') FROM pg_class
			WHERE relnamespace = 'vault'::regnamespace AND relkind IN ('r', 'p')
			AND NOT relrowsecurity AND relname NOT LIKE 'goose%'`,
		"tables others may write": `SELECT string_agg(DISTINCT table_name || ' ' || grantee, ', ')
			FROM information_schema.table_privileges
			WHERE table_schema = 'vault' AND privilege_type <> 'SELECT' AND grantee <> 'vault_owner'`,
		"guard triggers that a replica would skip": `SELECT string_agg(tgname, ' ') FROM pg_trigger
			WHERE NOT tgisinternal AND tgenabled <> 'A'
			AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'vault'::regnamespace)`,
	} {
		if got := store.MustQuery(t, query); got != "" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestNothingStaysInTheContext(t *testing.T) {
	store := vaulttest.New(t)
	mustPut(t, store, "app1/a")
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{`SELECT vault.expire_grace_versions()`}))
	must(t, runSession(t, store.URL(vaulttest.Operator), []string{"BEGIN", "SELECT vault.challenge()", "COMMIT"}))
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.tx_context`); got != "0" {
		t.Errorf("%s context rows were committed", got)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var server *pgconn.PgError
	if !errors.As(err, &server) || server.Code != code {
		t.Fatalf("got %v, want SQLSTATE %s", err, code)
	}
}
