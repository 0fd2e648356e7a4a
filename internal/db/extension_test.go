package db_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/access/accessdb"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
	vaultsql "github.com/hyperiondb/vault/sql"
)

const createExtension = `CREATE EXTENSION hyperion_vault`

// All subtests share one cluster, since it takes seconds to start. The first needs the vault's roles, which belong to
// the cluster.
func TestExtension(t *testing.T) {
	store := vaulttest.OwnExtension(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *vaulttest.Store)
	}{
		{"makes the same catalog", extensionMakesTheSameCatalog},
		{"keeps to itself", extensionKeepsToItself},
		{"is left alone by migrate", extensionIsLeftAlone},
		{"survives dump and restore", extensionSurvivesDumpAndRestore},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, store) })
	}
}

// CREATE EXTENSION leaves the same catalog as init, including roles, and so does an update from every older version.
// After DROP EXTENSION, init works.
func extensionMakesTheSameCatalog(t *testing.T, store *vaulttest.Store) {
	in := func(database string) *vaulttest.Store { return mustDatabase(t, store, database) }
	installed := in("installed")
	installed.MustExec(t, createExtension)
	extension := schemaOf(t, installed)
	installed.MustExec(t, `ALTER EXTENSION hyperion_vault UPDATE TO 'again'`,
		fmt.Sprintf(`ALTER EXTENSION hyperion_vault UPDATE TO '%d'`, vaultsql.Version()))
	same(t, "after going to the version it has", schemaOf(t, installed), extension)

	for _, older := range allButNewest(vaultsql.MigrationFiles()) {
		name, text := db.OlderExtension(older.Version())
		must(t, os.WriteFile(filepath.Join(store.ExtensionFolder(), name), []byte(text), 0o644))
		updated := in(fmt.Sprintf("from%d", older.Version()))
		updated.MustExec(t, fmt.Sprintf(`CREATE EXTENSION hyperion_vault VERSION '%d'`, older.Version()),
			`ALTER EXTENSION hyperion_vault UPDATE`)
		same(t, fmt.Sprintf("updated from version %d", older.Version()), schemaOf(t, updated), extension)
		store.MustExec(t, `DROP DATABASE `+updated.Database)
	}

	// An open connection uses the sealed values' type of an extension that is made again, where it has another oid.
	conn, v := mustConnect(t, installed.URL(vaulttest.Superuser)), oddValue("app1/x", 1)
	for range 2 {
		var got []byte
		must(t, conn.QueryRow(t.Context(), `SELECT (`+db.SealedRow+`).ciphertext`, db.SealedFields(v)...).Scan(&got))
		if !bytes.Equal(got, v.Ciphertext) {
			t.Errorf("through the type: got %x, want %x", got, v.Ciphertext)
		}
		installed.MustExec(t, `DROP EXTENSION hyperion_vault`, createExtension)
	}
	must(t, conn.Close(t.Context()))
	same(t, "made again", schemaOf(t, installed), extension)

	installed.MustExec(t, `DROP EXTENSION hyperion_vault`)
	mustMigrate(t, installed)
	same(t, "migrated in its place", schemaOf(t, installed), extension)

	store.MustExec(t, `DROP DATABASE `+installed.Database)
	store.MustDropRoles(t)
	migrated := in("migrated")
	mustMigrate(t, migrated)
	same(t, "migrated, roles too", schemaOf(t, migrated), extension)

	// The comparison notices a difference.
	before := schemaOf(t, migrated)
	for _, change := range []string{
		`ALTER TABLE vault.secrets ALTER COLUMN grace_period SET DEFAULT '1 hour'`,
		`ALTER FUNCTION vault.status() OWNER TO postgres`,
		`GRANT EXECUTE ON FUNCTION vault.status() TO PUBLIC`,
		`ALTER TABLE vault.audit_log DISABLE TRIGGER audit_is_append_only`,
		`ALTER POLICY auditor_reads ON vault.audit_log TO PUBLIC`,
		`ALTER DEFAULT PRIVILEGES FOR ROLE vault_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC`,
		`ALTER SCHEMA vault OWNER TO postgres`,
		`GRANT vault_auditor TO vault_worker`,
	} {
		migrated.MustExec(t, change)
		after := schemaOf(t, migrated)
		if cmp.Equal(before, after) {
			t.Errorf("%s: the catalogs compare as equal", change)
		}
		before = after
	}
}

func allButNewest(all []vaultsql.File) []vaultsql.File { return all[:len(all)-1] }

// CREATE EXTENSION refuses an existing vault, keeps the session's role, and owns everything it creates.
func extensionKeepsToItself(t *testing.T, store *vaulttest.Store) {
	migrated := mustDatabase(t, store, "taken")
	mustMigrate(t, migrated)
	fails(t, migrated, vaulttest.Superuser, "P0001", `schema "vault" exists`, createExtension)
	same(t, "after the refusal",
		[]string{migrated.MustQuery(t, `SELECT count(*) FROM pg_extension WHERE extname = 'hyperion_vault'`)}, []string{"0"})

	installed := mustDatabase(t, store, "refused")
	fails(t, installed, vaulttest.Stranger, "42501", "permission denied to create extension", createExtension)
	fails(t, installed, vaulttest.Superuser, "0A000", "must be installed in schema", createExtension+` SCHEMA public`)
	got := installed.MustQuery(t,
		`SELECT string_agg(name, ',') FROM pg_available_extensions WHERE name = 'hyperion_vault' AND default_version = $1`,
		fmt.Sprint(vaultsql.Version()))
	if got != "hyperion_vault" {
		t.Errorf("the extension is not offered at version %d: %q", vaultsql.Version(), got)
	}

	installed.MustExec(t, `CREATE ROLE dba SUPERUSER; SET ROLE dba; BEGIN; `+createExtension+`;
		CREATE TABLE public.afterwards AS SELECT current_user AS who; COMMIT`)
	if got := installed.MustQuery(t, `SELECT who FROM public.afterwards`); got != "dba" {
		t.Errorf("after CREATE EXTENSION the transaction runs as %q", got)
	}
	fails(t, installed, vaulttest.Superuser, "2BP01", "extension hyperion_vault requires it",
		`DROP TABLE vault.audit_log CASCADE`)
	installed.MustExec(t, `DROP SCHEMA public CASCADE`)
	if got := installed.MustQuery(t, `SELECT count(*) FROM vault.config`); got != "1" {
		t.Error("the vault went with the schema public")
	}
}

// Migrate leaves the extension's schema to ALTER EXTENSION, and prints the statement to type.
func extensionIsLeftAlone(t *testing.T, store *vaulttest.Store) {
	store = mustDatabase(t, store, "outdated")
	store.MustExec(t, createExtension)
	version := fmt.Sprint(vaultsql.Version())
	report := mustMigrate(t, store)
	if report.Extension != version || report.Created {
		t.Errorf("got %+v, want the extension's version %s and nothing created", report, version)
	}
	if got := store.MustQuery(t, `SELECT default_kms_key FROM vault.config`); got != testKey(store) {
		t.Errorf("got default key %q", got)
	}
	for _, test := range []struct{ older, says, want string }{
		{`UPDATE vault.config SET functions_sha256 = '\x00', migrated_at = now()`,
			"installed other functions than this binary's",
			`ALTER EXTENSION hyperion_vault UPDATE TO 'again'; ALTER EXTENSION hyperion_vault UPDATE TO '` + version + `'`},
		{`UPDATE vault.config SET installed_version = 0; UPDATE pg_extension SET extversion = '0'
			WHERE extname = 'hyperion_vault'`,
			"which is at version 0; this binary's is " + version, `ALTER EXTENSION hyperion_vault UPDATE TO '` + version + `'`},
	} {
		store.MustExec(t, test.older)
		before := schemaOf(t, store)
		_, err := db.Migrate(t.Context(), store.URL(vaulttest.Superuser), "test", "")
		var extension *db.ExtensionError
		if !errors.As(err, &extension) || !errors.Is(err, db.ErrRefused) {
			t.Fatalf("got %v, want an ExtensionError", err)
		}
		if got := err.Error(); !strings.Contains(got, test.says) {
			t.Errorf("got %q, want it to say %q", got, test.says)
		}
		if got := extension.State.UpdateExtension(); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
		same(t, "after the refusal", schemaOf(t, store), before)
	}
	store.MustExec(t, `UPDATE vault.config SET installed_version = `+version,
		`UPDATE pg_extension SET extversion = '`+version+`' WHERE extname = 'hyperion_vault'`)
	state, err := db.State(t.Context(), store.URL(vaulttest.Superuser), "test")
	must(t, err)
	for statement := range strings.SplitSeq(state.UpdateExtension(), ";") {
		store.MustExec(t, statement)
	}
	mustMigrate(t, store) // what was to be typed has helped
}

// A dump has rows of an extension's tables only if the extension marks them. If there is pg_dump, it and psql carry the
// vault into a new database; else (a server without client programs) the test copies the marked rows as pg_dump does.
func extensionSurvivesDumpAndRestore(t *testing.T, store *vaulttest.Store) {
	from, to := mustDatabase(t, store, "before"), mustDatabase(t, store, "after")
	from.MustExec(t, createExtension)
	mustMigrate(t, from) // stores the key
	v := openVault(t, from)
	token, _, err := v.CreateTokenAsOwner(t.Context(),
		vault.NewTokenRequest{Change: vault.Change{RequestID: uuid.New()}, Name: "root"})
	must(t, err)
	put := func(v *vault.Vault, name, value string) {
		t.Helper()
		_, err := v.Put(t.Context(), vault.PutRequest{Change: vault.Change{Token: token, RequestID: uuid.New()}, Name: name,
			Value: []byte(value)})
		must(t, err)
	}
	put(v, "app/a", "first")
	put(v, "app/a", "second")
	put(v, "app/b", "other")
	_, err = v.CreateApp(t.Context(), vault.Change{Token: token}, "app",
		[]accessdb.Rule{{Pattern: "app/*", Actions: access.DefaultActions}},
		[]accessdb.NewCredential{{ID: uuid.New(), Kind: access.ByUnix, Match: "uid:7"}})
	must(t, err)

	if dump := from.Program("pg_dump"); dump != "" {
		dumpAndRestore(t, dump, from, to)
	} else {
		copyMarkedRows(t, from, to)
	}

	same(t, "the restored catalog", schemaOf(t, to), schemaOf(t, from))
	// Each database has an epoch and a change feed of its own: what a daemon knows of the one is not said of the other.
	// When the script was installed is its own, too.
	installed := regexp.MustCompile(`"migrated_at": "[^"]*"`)
	withoutOwn := func(s *vaulttest.Store) (rows []string) {
		for _, row := range rowsOf(t, s) {
			table, _, _ := strings.Cut(row, " ")
			if !slices.Contains([]string{"vault.access_epoch", "vault.change_feed", "vault.feed_state"}, table) {
				rows = append(rows, installed.ReplaceAllString(row, `"migrated_at": "then"`))
			}
		}
		return rows
	}
	same(t, "the restored rows", withoutOwn(to), withoutOwn(from))
	if fed := to.MustQuery(t, `SELECT string_agg(DISTINCT name, ' ') FROM vault.change_feed WHERE name <> ''
		AND tx >= (SELECT floor FROM vault.feed_state)`); fed != "app/a app/b" {
		t.Errorf("the restored versions are %q in the feed of their database", fed)
	}
	epoch := `SELECT epoch FROM vault.access_epoch`
	if a, b := from.MustQuery(t, epoch), to.MustQuery(t, epoch); a == b || b == "" {
		t.Errorf("the epoch %q of the restored database is that of the first, %q, or none", b, a)
	}
	restored := openVault(t, to)
	for name, want := range map[string]string{"app/a": "second", "app/b": "other"} {
		secret, err := restored.Get(t.Context(), name, vault.GetOptions{})
		must(t, err)
		if got := string(secret.Value); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	put(restored, "app/a", "third") // with the old token, and the next free ids
	put(restored, "app/c", "new")
}

// A second config row is refused if the first belongs to a vault.
func TestConfigRowIsReplacedByARestoreOnly(t *testing.T) {
	store := vaulttest.New(t)
	id := `SELECT cluster_id FROM vault.config`
	before := store.MustQuery(t, id)
	fails(t, store, vaulttest.Superuser, "23505", "config_pkey", `INSERT INTO vault.config (schema_version) VALUES (77)`)
	if got := store.MustQuery(t, id); got != before {
		t.Errorf("got cluster %s, want %s", got, before)
	}
	store.MustExec(t, `UPDATE vault.config SET default_kms_key = NULL`)
	store.MustExec(t, `INSERT INTO vault.config (cluster_id, schema_version, installed_version)
		VALUES ('00000000-0000-4000-8000-00000000ca0a', 77, 78)`)
	got := store.MustQuery(t, `SELECT concat_ws(' ', cluster_id, schema_version, installed_version) FROM vault.config`)
	if want := fmt.Sprintf("00000000-0000-4000-8000-00000000ca0a %d %d", vaultsql.CompatibleSince,
		vaultsql.Version()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func testKey(s *vaulttest.Store) string { return "local://" + s.KeyFile }

// mustDatabase creates an empty database on the cluster.
func mustDatabase(t *testing.T, s *vaulttest.Store, name string) *vaulttest.Store {
	t.Helper()
	s.MustExec(t, `CREATE DATABASE `+name)
	other := *s
	other.Database = name
	return &other
}

func mustMigrate(t *testing.T, s *vaulttest.Store) db.MigrateReport {
	t.Helper()
	report, err := db.Migrate(t.Context(), s.URL(vaulttest.Superuser), "test", testKey(s))
	must(t, err)
	return report
}

func openVault(t *testing.T, s *vaulttest.Store) *vault.Vault {
	t.Helper()
	options := db.Options{URL: s.URL(vaulttest.Superuser)}
	ring, err := kms.OpenKeyring(t.Context(), []string{testKey(s)})
	must(t, err)
	reader, err := db.NewReader(t.Context(), options)
	must(t, err)
	writer, err := db.NewWriter(t.Context(), options)
	must(t, err)
	t.Cleanup(func() { reader.Close(); writer.Close(); ring.Close() })
	return vault.New(vault.Options{Reader: reader, Writer: writer, Keys: ring})
}

func fails(t *testing.T, s *vaulttest.Store, role, code, says, statement string) {
	t.Helper()
	conn := mustConnect(t, s.URL(role))
	defer conn.Close(t.Context()) // DROP DATABASE does not wait for connections
	_, err := conn.Exec(t.Context(), statement)
	var server *pgconn.PgError
	if !errors.As(err, &server) || server.Code != code || !strings.Contains(server.Message, says) &&
		server.ConstraintName != says && !strings.Contains(server.Detail+server.Hint, says) {
		t.Errorf("%s: got %v, want SQLSTATE %s: %s", statement, err, code, says)
	}
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// schemaOf is the whole catalog of the vault in a database, one fact a line, with names in the place of oids.
func schemaOf(t *testing.T, s *vaulttest.Store) []string {
	t.Helper()
	return mustLines(t, s, catalogQuery)
}

func mustLines(t *testing.T, s *vaulttest.Store, sql string) []string {
	t.Helper()
	conn := mustConnect(t, s.URL(vaulttest.Superuser))
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), sql)
	must(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	if len(lines) == 0 {
		t.Fatalf("nothing to compare in database %q", s.Database)
	}
	slices.Sort(lines)
	return lines
}

// catalogQuery has every column of a catalog except oids and what ANALYZE and VACUUM write.
const catalogQuery = `
WITH class AS (SELECT c.* FROM pg_class c WHERE c.relnamespace = 'vault'::regnamespace),
     proc AS (SELECT p.* FROM pg_proc p WHERE p.pronamespace = 'vault'::regnamespace)
SELECT format('schema %s owner=%s acl=%s', nspname, nspowner::regrole, nspacl) FROM pg_namespace WHERE nspname = 'vault'
UNION ALL SELECT format('relation %s owner=%s partition=%s %s', c.oid::regclass, c.relowner::regrole,
    pg_get_expr(c.relpartbound, c.oid), to_jsonb(c) - ARRAY['relpartbound', 'oid', 'relname', 'relnamespace',
    'reltype', 'relowner', 'relam', 'relfilenode', 'reltoastrelid', 'relpages', 'reltuples', 'relallvisible',
    'relallfrozen', 'relfrozenxid', 'relminmxid'])
  FROM class c
UNION ALL SELECT format('column %s.%s type=%s collation=%s default=%s %s', c.oid::regclass, a.attname,
    format_type(a.atttypid, a.atttypmod),
    nullif(a.attcollation, 0)::regcollation, pg_get_expr(d.adbin, d.adrelid),
    to_jsonb(a) - ARRAY['attrelid', 'attname', 'atttypid', 'attcollation', 'attstattarget', 'attcacheoff'])
  FROM class c JOIN pg_attribute a ON a.attrelid = c.oid
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
UNION ALL SELECT format('constraint %s on %s: %s type=%s validated=%s deferrable=%s', o.conname, o.conrelid::regclass,
    pg_get_constraintdef(o.oid),
    o.contype, o.convalidated, o.condeferrable) FROM pg_constraint o WHERE o.connamespace = 'vault'::regnamespace
UNION ALL SELECT format('index %s %s', pg_get_indexdef(i.indexrelid), to_jsonb(i) - ARRAY['indexrelid', 'indrelid',
    'indcollation', 'indclass', 'indexprs', 'indpred'])
  FROM pg_index i JOIN class c ON c.oid = i.indexrelid
UNION ALL SELECT format('sequence %s type=%s %s', q.seqrelid::regclass, q.seqtypid::regtype,
    to_jsonb(q) - ARRAY['seqrelid', 'seqtypid'])
  FROM pg_sequence q JOIN class c ON c.oid = q.seqrelid
UNION ALL SELECT format('function %s owner=%s acl=%s config=%s %s', p.oid::regprocedure, p.proowner::regrole, p.proacl,
    p.proconfig, pg_get_functiondef(p.oid)) FROM proc p
UNION ALL SELECT format('policy %s', to_jsonb(p)) FROM pg_policies p WHERE p.schemaname = 'vault'
UNION ALL SELECT format('trigger %s enabled=%s', pg_get_triggerdef(g.oid), g.tgenabled) FROM pg_trigger g
    JOIN class c ON c.oid = g.tgrelid WHERE NOT g.tgisinternal
UNION ALL SELECT format('rule %s', pg_get_ruledef(r.oid)) FROM pg_rewrite r JOIN class c ON c.oid = r.ev_class
UNION ALL SELECT format('type %s owner=%s acl=%s', y.oid::regtype, y.typowner::regrole, y.typacl) FROM pg_type y
    WHERE y.typnamespace = 'vault'::regnamespace
UNION ALL SELECT format('default privileges of %s in %s on %s: %s', d.defaclrole::regrole,
    d.defaclnamespace::regnamespace, d.defaclobjtype, d.defaclacl) FROM pg_default_acl d
UNION ALL SELECT format('comment %s: %s', objoid::regclass, description) FROM pg_description
    JOIN class c ON classoid = 'pg_class'::regclass AND objoid = c.oid
UNION ALL SELECT format('role %s %s', r.rolname, to_jsonb(r) - ARRAY['oid', 'rolname']) FROM pg_roles r
    WHERE r.rolname LIKE 'vault\_%'
UNION ALL SELECT format('member %s of %s by %s %s', m.member::regrole, m.roleid::regrole, m.grantor::regrole,
    to_jsonb(m) - ARRAY['oid', 'member', 'roleid', 'grantor'])
  FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid WHERE r.rolname LIKE 'vault\_%'
UNION ALL SELECT format('migration %s %s %s', id, version_id, is_applied) FROM vault.goose_db_version
UNION ALL SELECT format('config %s %s %s', schema_version, installed_version, functions_sha256) FROM vault.config`

// rowsOf is every row of the vault, and the values of its sequences.
func rowsOf(t *testing.T, s *vaulttest.Store) []string {
	t.Helper()
	relations := func(kind string) []string {
		return mustLines(t, s,
			`SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'vault'::regnamespace AND relname NOT LIKE 'goose%'
				AND relkind = '`+kind+`'`)
	}
	var parts []string
	for _, table := range relations("r") {
		parts = append(parts, fmt.Sprintf(`SELECT '%s ' || to_jsonb(x)::text FROM %[1]s x`, table))
	}
	for _, sequence := range relations("S") {
		parts = append(parts, fmt.Sprintf(`SELECT '%s ' || last_value || ' ' || is_called FROM %[1]s`, sequence))
	}
	return mustLines(t, s, strings.Join(parts, " UNION ALL "))
}

// dumpAndRestore runs what an operator types: pg_dump | psql.
func dumpAndRestore(t *testing.T, pgDump string, from, to *vaulttest.Store) {
	t.Helper()
	psql := from.Program("psql")
	if psql == "" {
		t.Fatalf("there is %s and no psql beside it", pgDump)
	}
	dump := mustRun(t, nil, pgDump, "--dbname", from.URL(vaulttest.Superuser))
	if !bytes.Contains(dump, []byte("CREATE EXTENSION IF NOT EXISTS hyperion_vault")) ||
		bytes.Contains(dump, []byte("CREATE TABLE vault.")) {
		t.Fatal("the dump is not that of an extension")
	}
	mustRun(t, dump, psql, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--single-transaction", "--dbname",
		to.URL(vaulttest.Superuser))
}

func mustRun(t *testing.T, input []byte, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(program), err, stderr.String())
	}
	return out.Bytes()
}

// copyMarkedRows does with COPY and setval what pg_dump does with the tables and sequences an extension marks,
// referenced tables first.
func copyMarkedRows(t *testing.T, from, to *vaulttest.Store) {
	t.Helper()
	to.MustExec(t, createExtension)
	marked := `SELECT c.oid::regclass::text FROM pg_extension e CROSS JOIN unnest(e.extconfig) AS m
		JOIN pg_class c ON c.oid = m
		WHERE e.extname = 'hyperion_vault' AND c.relkind = '%s'`
	source, target := mustConnect(t, from.URL(vaulttest.Superuser)), mustConnect(t, to.URL(vaulttest.Superuser))
	for _, table := range referencedFirst(t, from, mustLines(t, from, fmt.Sprintf(marked, "r"))) {
		var rows bytes.Buffer
		_, err := source.PgConn().CopyTo(t.Context(), &rows, `COPY `+table+` TO STDOUT`)
		must(t, err)
		if _, err = target.PgConn().CopyFrom(t.Context(), &rows, `COPY `+table+` FROM STDIN`); err != nil {
			t.Fatalf("restoring %s: %v", table, err)
		}
	}
	for _, sequence := range mustLines(t, from, fmt.Sprintf(marked, "S")) {
		to.MustExec(t, fmt.Sprintf(`SELECT setval('%s', %s, %s)`, sequence,
			from.MustQuery(t, `SELECT last_value FROM `+sequence), from.MustQuery(t, `SELECT is_called FROM `+sequence)))
	}
}

func referencedFirst(t *testing.T, s *vaulttest.Store, tables []string) []string {
	t.Helper()
	conn := mustConnect(t, s.URL(vaulttest.Superuser))
	var ordered []string
	var visit func(table string)
	visit = func(table string) {
		if slices.Contains(ordered, table) {
			return
		}
		rows, err := conn.Query(t.Context(),
			`SELECT confrelid::regclass::text FROM pg_constraint
				WHERE contype = 'f' AND conrelid = $1::text::regclass AND confrelid <> conrelid`, table)
		must(t, err)
		needs, err := pgx.CollectRows(rows, pgx.RowTo[string])
		must(t, err)
		for _, n := range needs {
			visit(n)
		}
		ordered = append(ordered, table)
	}
	for _, table := range tables {
		visit(table)
	}
	return ordered
}
