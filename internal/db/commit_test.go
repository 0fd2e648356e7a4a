package db_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
	"github.com/hyperiondb/vault/test/chaos/pgproxy"
)

// newProxy puts a proxy between a client and the store's primary.
func newProxy(t *testing.T, store *vaulttest.Store) *pgproxy.Proxy {
	t.Helper()
	node := store.Cluster.Primary()
	p, err := pgproxy.New("unix", filepath.Join(node.SocketDir(), fmt.Sprintf(".s.PGSQL.%d", node.Port())))
	must(t, err)
	t.Cleanup(p.Close)
	return p
}

func through(p *pgproxy.Proxy, store *vaulttest.Store, role string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", role, p.Port(), store.Database)
}

// lose drops the next COMMIT, or its answer.
func lose(p *pgproxy.Proxy, when pgproxy.When) {
	p.Cut(pgproxy.Cut{SQL: "^commit", When: when, Times: 1})
}

func sealedPlaceholder(name string) db.SealedValue {
	return db.SealedValue{Version: 1, Format: 1, KMSKeyID: "k", WrappedDEK: []byte{1}, Nonce: make([]byte, 24),
		Ciphertext: make([]byte, 32), KeyCommit: make([]byte, 32), AAD: name + ":1"}
}

// losingCommits runs a test for the pair of every commit: "failed" and "done, but the reply was lost". It applies to
// the next COMMIT; audit is the expected audit log of a put.
func losingCommits(t *testing.T, test func(t *testing.T, store *vaulttest.Store, writer *db.Writer, c db.Credential,
	audit string)) {
	for when, audit := range map[pgproxy.When]string{pgproxy.Before: "put", pgproxy.After: "put put.replay"} {
		t.Run(when.String(), func(t *testing.T) {
			store := vaulttest.New(t)
			p := newProxy(t, store)
			writer, err := db.NewWriter(t.Context(), db.Options{URL: through(p, store, vaulttest.Operator)})
			must(t, err)
			defer writer.Close()
			token := vaulttest.AdminToken(t)
			lose(p, when)
			test(t, store, writer, db.Credential{TokenID: token.ID(), Prove: token.Prove}, audit)
		})
	}
}

// In both cases there is one version, made once, and an answer.
func TestCommitWithoutAnAnswer(t *testing.T) {
	losingCommits(t, func(t *testing.T, store *vaulttest.Store, writer *db.Writer, c db.Credential, audit string) {
		result, err := writer.PutVersion(t.Context(), c, uuid.New(), "put", "app/x", sealedPlaceholder("app/x"), false,
			db.Settings{})
		must(t, err)
		if result.Version != 1 || result.VersionID != store.MustQuery(t, `SELECT version_id FROM vault.secret_versions`) {
			t.Errorf("got %+v, want the one version", result)
		}
		if got := store.MustQuery(t,
			`SELECT string_agg(action, ' ' ORDER BY id) FROM vault.audit_log WHERE secret = 'app/x'`); got != audit {
			t.Errorf("got audit rows %q, want %q", got, audit)
		}
	})
}

// If repeated requests get no answer either, the outcome is reported as unknown, with the request's id.
func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	p := newProxy(t, store)
	writer, err := db.NewWriter(t.Context(), db.Options{URL: through(p, store, vaulttest.Operator)})
	must(t, err)
	defer writer.Close()
	token := vaulttest.AdminToken(t)
	request := uuid.New()
	p.Cut(pgproxy.Cut{SQL: "^commit", When: pgproxy.After, Times: 1000})
	_, err = writer.PutVersion(t.Context(), db.Credential{TokenID: token.ID(), Prove: token.Prove}, request, "put",
		"app/x", sealedPlaceholder("app/x"), false, db.Settings{})
	if !errors.Is(err, db.ErrOutcomeUnknown) || !strings.Contains(err.Error(), request.String()) {
		t.Errorf("got %v, want the outcome to be unknown, and the request's id", err)
	}
}

// The script that a DBA runs with psql leaves the same catalog as migrate does.
func TestPrintedSQLIsWhatMigrateDoes(t *testing.T) {
	store := vaulttest.New(t)
	printed := store.Database + "_printed"
	store.MustExec(t, `CREATE DATABASE `+printed)
	var script strings.Builder
	must(t, db.PrintSQL(&script, "local:///etc/vault/it's a key"))
	url := store.Cluster.Primary().URL(printed, vaulttest.Superuser)
	conn := mustConnect(t, url)
	_, err := conn.PgConn().Exec(t.Context(), script.String()).ReadAll()
	must(t, err)
	if got, want := catalog(t, conn), catalog(t, mustConnect(t, store.URL(vaulttest.Superuser))); got != want {
		t.Errorf("the catalogs differ:\n%s\n%s", got, want)
	}
	report, err := db.Migrate(t.Context(), url, "test", "")
	must(t, err)
	if report.Created || report.FromVersion != report.SchemaVersion {
		t.Errorf("migrate after the printed script did %+v, want nothing", report)
	}
	config := mustConnect(t, url)
	var key string
	must(t, config.QueryRow(t.Context(), `SELECT default_kms_key FROM vault.config`).Scan(&key))
	if key != "local:///etc/vault/it's a key" {
		t.Errorf("got the default key %q", key)
	}
}

func catalog(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	var text string
	must(t, conn.QueryRow(t.Context(), `SELECT jsonb_pretty(jsonb_build_object(
		'tables', (SELECT jsonb_agg(relname || ' ' || relkind::text || ' ' || coalesce(relacl::text, '') || relrowsecurity ||
		relforcerowsecurity || relowner::regrole ORDER BY relname) FROM pg_class WHERE relnamespace = 'vault'::regnamespace),
		'columns', (SELECT jsonb_agg(attrelid::regclass || ' ' || attname || ' ' || format_type(atttypid, atttypmod) ||
		attnotnull ORDER BY attrelid::regclass::text, attnum) FROM pg_attribute
			WHERE attnum > 0 AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'vault'::regnamespace)),
		'functions', (SELECT jsonb_agg(md5(pg_get_functiondef(oid)) || ' ' || oid::regprocedure || coalesce(proacl::text, '')
		ORDER BY oid::regprocedure::text) FROM pg_proc WHERE pronamespace = 'vault'::regnamespace),
		'policies', (SELECT jsonb_agg(p ORDER BY p::text) FROM pg_policies p WHERE schemaname = 'vault'),
		'constraints', (SELECT jsonb_agg(conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
		ORDER BY conrelid::regclass::text, conname) FROM pg_constraint WHERE connamespace = 'vault'::regnamespace),
		'triggers', (SELECT jsonb_agg(pg_get_triggerdef(oid) || tgenabled::text ORDER BY tgname) FROM pg_trigger
		WHERE NOT tgisinternal)))`).Scan(&text))
	return text
}

// On a managed server there is no superuser: the owner of the database with CREATEROLE can install, upgrade and
// administer.
func TestInitAsOwnerWithoutSuperuser(t *testing.T) {
	store := vaulttest.Own(t) // roles are the cluster's
	url := func(database, role string) string { return store.Cluster.Primary().URL(database, role) }
	conn := mustConnect(t, url("postgres", vaulttest.Superuser))
	for _, sql := range []string{`DROP DATABASE vault_template`,
		`DROP ROLE vault_owner, vault_service, vault_worker, vault_auditor`,
		`CREATE ROLE landlord LOGIN CREATEROLE`, `CREATE DATABASE managed OWNER landlord`} {
		_, err := conn.Exec(t.Context(), sql)
		must(t, err)
	}
	for range 2 {
		_, err := db.Migrate(t.Context(), url("managed", "landlord"), "test", "")
		must(t, err)
	}
	writer, err := db.NewWriter(t.Context(), db.Options{URL: url("managed", "landlord")})
	must(t, err)
	defer writer.Close()
	token := vaulttest.AdminToken(t)
	_, err = writer.CreateTokenAsOwner(t.Context(), uuid.New(),
		db.NewToken{ID: token.ID(), Name: "root", Fingerprint: token.Fingerprint()})
	must(t, err)
	c := db.Credential{TokenID: token.ID(), Prove: token.Prove}
	_, err = writer.GrantServiceRole(t.Context(), c, uuid.New(), vaulttest.Stranger, "app/")
	must(t, err)
	_, err = writer.PutVersion(t.Context(), c, uuid.New(), "put", "app/x", sealedPlaceholder("app/x"), false,
		db.Settings{})
	must(t, err)
	reader, err := db.NewReader(t.Context(), db.Options{URL: url("managed", vaulttest.Stranger)})
	must(t, err)
	defer reader.Close()
	if row, err := reader.Current(t.Context(), "app/x"); err != nil || row.Version != 1 {
		t.Errorf("the granted role reads %+v, error %v", row, err)
	}
}
