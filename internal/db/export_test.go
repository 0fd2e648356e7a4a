package db

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	vaultsql "github.com/hyperiondb/vault/sql"
)

// BranchesQuery is the statement of Branches.
const BranchesQuery = branchesQuery

// SealedRow and SealedFields are the parameter of a sealed value.
const SealedRow = sealedRow

func SealedFields(v SealedValue) []any { return v.fields() }

// FolderQuerySQL is the statement of Folder.
const FolderQuerySQL = folderQuery

// ConnConfig is the result of a connection string, the environment and a service.
func ConnConfig(url string) (*pgx.ConnConfig, error) {
	return Options{URL: url, ApplicationName: "test"}.config(nil)
}

// OlderExtension is the name and text of the install script of an older schema version, as far as its tables go.
func OlderExtension(version int) (name, text string) {
	return fmt.Sprintf("%s--%d.sql", ExtensionName, version),
		extensionScript("CREATE EXTENSION "+ExtensionName, func(s *script) {
			s.roles()
			s.tables(0, version)
			fmt.Fprintf(s, "INSERT INTO vault.config (schema_version) VALUES (%d);\n", version)
		})
}

// ShortLockTimeouts shortens the lock timeouts of migrations, until restore.
func ShortLockTimeouts() (restore func()) {
	patience, other := migrationPatience, otherMigrationTimeout
	migrationPatience, otherMigrationTimeout = time.Second, "1s"
	return func() { migrationPatience, otherMigrationTimeout = patience, other }
}

// StartFor sets how long pools made from now on share connections at their start, until restore.
func StartFor(d time.Duration) (restore func()) {
	before := startFor
	startFor = d
	return func() { startFor = before }
}

// Hold takes a connection of the pool until release.
func (r *Reader) Hold(ctx context.Context) (release func(), err error) {
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	return conn.Release, nil
}

// SessionSettings are the names of the settings of a session on a server version.
func SessionSettings(serverVersion string) (names []string) {
	number, _ := strconv.Atoi(serverVersion)
	for _, s := range sessionSettings {
		if s.name != "transaction_timeout" || number >= 170000 {
			names = append(names, s.name)
		}
	}
	return names
}

// ReadSettings reads settings as they are in a statement of a pool.
func ReadSettings(ctx context.Context, url string, names []string) (map[string]string, error) {
	r, err := NewReader(ctx, Options{URL: url})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	values, err := Collect(ctx, r.pool, pgx.RowTo[string],
		`SELECT current_setting(n) FROM unnest($1::text[]) WITH ORDINALITY u (n, i) ORDER BY i`, names)
	settings := map[string]string{}
	for i, value := range values {
		settings[names[i]] = value
	}
	return settings, err
}

// InstalledAgain are the files that every migrate installs.
func InstalledAgain() []vaultsql.File { return vaultsql.Definitions() }

// CurrentQuery is the statement that reads current versions, and the same without the access epoch.
func CurrentQuery() (with, without string) {
	return currentQuery, strings.Replace(currentQuery, ", "+accessEpoch, "", 1)
}

var RegisterArrays = registerArrays

// Prepared is how often one idle session has run each statement that it keeps prepared.
func (r *Reader) Prepared(ctx context.Context) (map[string]int, error) { return r.pool.prepared(ctx) }

// Prepared is how often one idle session has run each statement that it keeps prepared.
func (w *Writer) Prepared(ctx context.Context) (map[string]int, error) { return w.pool.prepared(ctx) }

func (p *pool) prepared(ctx context.Context) (map[string]int, error) {
	rows, err := p.Query(ctx, `SELECT statement, generic_plans + custom_plans FROM pg_prepared_statements`,
		pgx.QueryExecModeExec)
	if err != nil {
		return nil, err
	}
	runs, statement, n := map[string]int{}, "", 0
	_, err = pgx.ForEachRow(rows, []any{&statement, &n}, func() error { runs[statement] += n; return nil })
	return runs, err
}
