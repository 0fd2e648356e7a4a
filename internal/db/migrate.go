package db

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	vaultsql "github.com/hyperiondb/vault/sql"
)

const (
	oldestServer = 150000
	versionTable = "vault.goose_db_version"
)

// MigrateReport is the result of a migration.
type MigrateReport struct {
	ClusterID     uuid.UUID `json:"cluster_id"`
	Created       bool      `json:"created"`        // there was no schema before
	FromVersion   int       `json:"from_version"`   // 0 before the first migration
	SchemaVersion int       `json:"schema_version"` // now
	// version of the extension that owns the schema; "" = Migrate does
	Extension string `json:"extension,omitempty"`

	Mended []MendedRule `json:"mended,omitempty"`
}

// MendedRule is a CHECK constraint that differed from this release's.
type MendedRule struct {
	Table string `json:"table"`
	Rule  string `json:"rule"`
	Was   string `json:"was,omitempty"` // "": it was missing
	Holds bool   `json:"holds"`         // false: existing rows break it; it holds for new ones
}

// MigrationState compares the database with this binary.
type MigrationState struct {
	Have             int    `json:"schema_version"` // 0: not initialised
	Want             int    `json:"binary_version"`
	FunctionsCurrent bool   `json:"functions_current"`   // and row level security is on
	Extension        string `json:"extension,omitempty"` // its version, if CREATE EXTENSION made the schema
	SetUp            bool   `json:"-"`                   // Migrate has run, which stores the default key
	DefaultKMSKey    string `json:"-"`
}

// Migrate installs or upgrades the schema. It runs as the owner of the database (a superuser, or a role with CREATEROLE
// if the group roles do not exist yet) and may be repeated at any time: every step does only what is missing. It stores
// defaultKMSKey unless it is "". A schema that CREATE EXTENSION made is left to ALTER EXTENSION: [ExtensionError] if
// that has to run.
func Migrate(ctx context.Context, url, applicationName, defaultKMSKey string) (MigrateReport, error) {
	return Options{URL: url, ApplicationName: applicationName}.Migrate(ctx, defaultKMSKey)
}

// Migrate is the function of that name, with a fence that refuses an old primary.
func (o Options) Migrate(ctx context.Context, defaultKMSKey string) (MigrateReport, error) {
	conn, err := connectOwner(ctx, o)
	if err != nil {
		return MigrateReport{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := checkServer(ctx, conn); err != nil {
		return MigrateReport{}, err
	}
	before, err := migrationState(ctx, conn)
	if err != nil {
		return MigrateReport{}, err
	}
	if before.Have > before.Want {
		return MigrateReport{}, newerSchema(before.Have)
	}
	if before.Extension != "" {
		return useExtension(ctx, conn, before, defaultKMSKey)
	}
	if err := prepareSchema(ctx, conn); err != nil {
		return MigrateReport{}, err
	}
	before, mended, err := migrateLocked(ctx, conn, defaultKMSKey)
	if err != nil {
		return MigrateReport{}, err
	}
	config, err := queryConfig(ctx, conn)
	return MigrateReport{ClusterID: config.ClusterID, Created: before.Have == 0, FromVersion: before.Have,
		SchemaVersion: config.SchemaVersion, Mended: mended}, err
}

// State compares the schema of a database with this binary's, without changing anything. If no primary answers, it asks
// a standby.
func State(ctx context.Context, url, applicationName string) (MigrationState, error) {
	conn, err := connectAny(ctx, Options{URL: url, ApplicationName: applicationName})
	if err != nil {
		return MigrationState{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return migrationState(ctx, conn)
}

func connectOwner(ctx context.Context, o Options) (*pgx.Conn, error) {
	config, err := primaryConfig(o)
	if err != nil {
		return nil, err
	}
	return connectStraight(ctx, config)
}

// connectAny connects to the primary, which has the newest schema, or, if none of the nodes that answer takes changes,
// to the first of these.
func connectAny(ctx context.Context, o Options) (*pgx.Conn, error) {
	config, err := primaryConfig(o)
	if err != nil {
		return nil, err
	}
	isPrimary, readOnly := config.ValidateConnect, false
	config.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		err := isPrimary(ctx, conn)
		readOnly = readOnly || errors.Is(err, pgconn.ErrReadOnlyConnection)
		return err
	}
	conn, err := connectStraight(ctx, config)
	if err == nil || !readOnly {
		return conn, err
	}
	if config, err = o.config(nil); err != nil {
		return nil, err
	}
	return connectStraight(ctx, config)
}

// connectStraight connects without a pool, and refuses a pooler in between.
func connectStraight(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, classify(err)
	}
	if err := refusePooled(conn, "setting up the schema"); err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return conn, nil
}

func primaryConfig(o Options) (*pgx.ConnConfig, error) {
	return o.config(o.Fence.admit)
}

func checkServer(ctx context.Context, conn *pgx.Conn) error {
	var number int
	var text string
	err := conn.QueryRow(ctx,
		`SELECT current_setting('server_version_num')::int, current_setting('server_version')`).Scan(&number, &text)
	if err != nil {
		return classify(err)
	}
	if number < oldestServer {
		return newError(ErrInvalid, "PostgreSQL %s is too old: 15 or newer", text)
	}
	return nil
}

func migrationState(ctx context.Context, conn querier) (MigrationState, error) {
	state := MigrationState{Want: vaultsql.Version()}
	err := conn.QueryRow(ctx, `SELECT coalesce((SELECT extversion FROM pg_extension WHERE extname = $1), '')`,
		pgx.QueryExecModeExec, ExtensionName).Scan(&state.Extension)
	if err != nil {
		return state, classify(err)
	}
	want := vaultsql.DefinitionsSum()
	var since int
	err = conn.QueryRow(ctx, `SELECT `+versions+`, functions_sha256 IS NOT DISTINCT FROM $1 AND NOT EXISTS (
				SELECT FROM pg_class WHERE relnamespace = to_regnamespace('vault') AND relkind IN ('r', 'p')
					AND NOT relispartition AND relname NOT LIKE 'goose%' AND NOT relrowsecurity),
			$2 = '' OR default_kms_key IS NOT NULL, coalesce(default_kms_key, '')
		FROM vault.config c`, pgx.QueryExecModeExec, want[:], state.Extension).
		Scan(&state.Have, &since, &state.FunctionsCurrent, &state.SetUp, &state.DefaultKMSKey)
	if err = classify(err); errors.Is(err, ErrNotInitialised) || errors.Is(err, ErrNotFound) {
		return state, nil
	}
	return state, err
}

// migrateLocked does everything but the roles in one transaction, so a vault is at one schema or at the other, and
// readers see the old definitions or the new ones. While it waits for a lock, every other use of the table waits behind
// it. It therefore waits for a short time only, rolls back, so that they go on, and begins again.
func migrateLocked(ctx context.Context, conn *pgx.Conn, defaultKMSKey string) (MigrationState, []MendedRule, error) {
	patience := time.Now().Add(migrationPatience)
	pause := newBackOff()
	for {
		before, mended, err := migrateOnce(ctx, conn, defaultKMSKey)
		var e *Error
		if !errors.As(err, &e) || e.Code != lockNotAvailable && e.Code != deadlockDetected || time.Now().After(patience) {
			return before, mended, err
		}
		select {
		case <-ctx.Done():
			return before, mended, err
		case <-time.After(pause.NextBackOff()):
		}
	}
}

func migrateOnce(ctx context.Context, conn *pgx.Conn, defaultKMSKey string) (before MigrationState,
	mended []MendedRule, err error) {
	tx, err := lockMigration(ctx, conn)
	if err != nil {
		return before, nil, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	before, err = stateWithin(ctx, tx) // another migration may have ended meanwhile
	if err == nil && before.Have > before.Want {
		err = newerSchema(before.Have)
	}
	if err == nil && before.Have > 0 {
		err = lockWriters(ctx, tx)
	}
	if err == nil {
		err = lockTables(ctx, tx, `SHARE ROW EXCLUSIVE`) // writers wait from here on, readers go on
	}
	if err == nil {
		err = migrateTables(ctx, tx)
	}
	if err == nil {
		mended, err = installDefinitions(ctx, tx, defaultKMSKey)
	}
	return before, mended, commitOrExplain(ctx, conn, tx, err)
}

// migrateTables runs the numbered migrations that the database does not have, as vault_owner, and records them as
// earlier releases did, with goose.
func migrateTables(ctx context.Context, tx pgx.Tx) error {
	const prepare = `SET LOCAL ROLE vault_owner; DO $$
BEGIN
  IF to_regclass('` + versionTable + `') IS NULL THEN
    ` + createVersionTable + `
  END IF;
END $$`
	err := runAll(ctx, tx, []vaultsql.File{{Name: "versions.sql", Text: prepare},
		{Name: "earlier.sql", Text: vaultsql.Earlier}})
	if err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `SELECT version_id::int FROM `+versionTable+` WHERE is_applied`)
	if err != nil {
		return classify(err)
	}
	applied, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return classify(err)
	}
	for _, file := range vaultsql.MigrationFiles() {
		if slices.Contains(applied, file.Version()) {
			continue
		}
		if err := run(ctx, tx, vaultsql.File{Name: file.Name, Text: file.Text + afterMigration(file)}); err != nil {
			return err
		}
	}
	return nil
}

// createVersionTable makes the table as goose made it.
const createVersionTable = `CREATE TABLE ` + versionTable + ` (
      id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY,
      version_id bigint NOT NULL,
      is_applied boolean NOT NULL,
      tstamp timestamp NOT NULL DEFAULT now()
    );
    INSERT INTO ` + versionTable + ` (version_id, is_applied) VALUES (0, true);`

// afterMigration records a migration, and runs the triggers that wait for the end of the transaction: a table with a
// pending event cannot be altered.
func afterMigration(file vaultsql.File) string {
	return fmt.Sprintf("\nSET CONSTRAINTS ALL IMMEDIATE;\nSET CONSTRAINTS ALL DEFERRED;\n"+
		"INSERT INTO %s (version_id, is_applied) VALUES (%d, true);\n", versionTable, file.Version())
}

// installDefinitions replaces all functions, triggers, policies and grants, and then stores the schema version. The
// policies are last: from the first of them on readers wait.
func installDefinitions(ctx context.Context, tx pgx.Tx, defaultKMSKey string) (mended []MendedRule, err error) {
	files := definitions()
	policies := slices.IndexFunc(files, func(f vaultsql.File) bool { return strings.HasPrefix(f.Name, "policies/") })
	if err := runAll(ctx, tx, files[:policies]); err != nil {
		return nil, err
	}
	if err := tx.QueryRow(ctx, `SELECT vault._mend_checks()`).Scan(&mended); err != nil {
		return nil, classify(err)
	}
	err = onRecord(ctx, tx, func() error {
		sum := vaultsql.DefinitionsSum()
		// Not ON CONFLICT: an INSERT over a row that is there means a restore (sql/functions/70_restore.sql).
		_, err := tx.Exec(ctx, `WITH there AS (UPDATE vault.config SET schema_version = $4, installed_version = $1,
				functions_sha256 = $2, migrated_at = clock_timestamp(),
				default_kms_key = coalesce(nullif($3, ''), default_kms_key) RETURNING only_row)
			INSERT INTO vault.config (schema_version, installed_version, functions_sha256, migrated_at, default_kms_key)
			SELECT $4, $1, $2, clock_timestamp(), nullif($3, '') WHERE NOT EXISTS (SELECT FROM there)`, vaultsql.Version(),
			sum[:], defaultKMSKey, vaultsql.CompatibleSince)
		return err
	})
	if err == nil {
		// the audit row has deferred triggers behind it, as a migration may
		_, err = tx.Exec(ctx, `SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED`)
	}
	if err == nil {
		err = lockTables(ctx, tx, `ACCESS EXCLUSIVE`)
	}
	if err == nil {
		err = runAll(ctx, tx, files[policies:])
	}
	return mended, classify(err)
}

func runAll(ctx context.Context, tx pgx.Tx, files []vaultsql.File) error {
	for _, file := range files {
		if err := run(ctx, tx, file); err != nil {
			return err
		}
	}
	return nil
}

// onRecord writes an audit row of what change does to the configuration, in the same transaction.
func onRecord(ctx context.Context, tx pgx.Tx, change func() error) error {
	var before string
	if err := tx.QueryRow(ctx, `SELECT vault._config_json()::text`).Scan(&before); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `SELECT vault._record_config($1::jsonb)`, before)
	return err
}

// definitions are the files of one installation. Function bodies are not checked here, because they refer to one
// another.
func definitions() []vaultsql.File {
	return append([]vaultsql.File{{Name: "as owner",
		Text: "SET LOCAL ROLE vault_owner; SET LOCAL check_function_bodies = off;"}}, vaultsql.Definitions()...)
}

type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// run sends a whole file in the simple protocol; an error names the line.
func run(ctx context.Context, conn execer, file vaultsql.File) error {
	_, err := conn.Exec(ctx, file.Text)
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return classify(err)
	}
	where := file.Name
	if server.Position > 0 {
		line, caret := position(file.Text, int(server.Position))
		where = fmt.Sprintf("%s line %d (%s)", file.Name, line, caret)
	}
	kind := ErrInvalid
	if server.Code == "42501" {
		kind = ErrRefused
	}
	text := fmt.Sprintf("%s: %s (SQLSTATE %s)", where, server.Message, server.Code)
	if server.Hint != "" {
		text += "; " + server.Hint
	}
	return &Error{Kind: kind, Text: text, Code: server.Code}
}

// position turns a character offset (from 1) into a line number and that line from the offset on.
func position(text string, offset int) (int, string) {
	runes := []rune(text)
	offset = min(offset, len(runes)) - 1
	before := string(runes[:offset])
	rest, _, _ := strings.Cut(string(runes[offset:]), "\n")
	return strings.Count(before, "\n") + 1, strings.TrimSpace(rest)
}

// EnsureDatabase makes a database and login roles where they are missing. It takes a superuser's URL of another
// database.
func EnsureDatabase(ctx context.Context, url, database string, logins ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return classify(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	ensure := func(exists, create, name string) error {
		var there bool
		if err := conn.QueryRow(ctx, exists, name).Scan(&there); err != nil || there {
			return classify(err)
		}
		_, err := conn.Exec(ctx, fmt.Sprintf(create, pgx.Identifier{name}.Sanitize()))
		return classify(err)
	}
	for _, login := range logins {
		if err := ensure(`SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`, `CREATE ROLE %s LOGIN`,
			login); err != nil {
			return err
		}
	}
	return ensure(`SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, `CREATE DATABASE %s`, database)
}
