package db

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	vaultsql "github.com/hyperiondb/vault/sql"
)

// BranchesQuery is the statement of Branches.
const BranchesQuery = branchesQuery

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
	statement, other := migrationLockTimeout, otherMigrationTimeout
	migrationLockTimeout, otherMigrationTimeout = "1s", "1s"
	return func() { migrationLockTimeout, otherMigrationTimeout = statement, other }
}

// Plan is the EXPLAIN output of one statement.
type Plan struct {
	Text string
	Rows int // that left a scan or were removed there by a filter
}

// ExplainAudit runs the statements of a page under EXPLAIN ANALYZE.
func ExplainAudit(ctx context.Context, url string, q AuditQuery) ([]Plan, error) {
	recorder := &explainer{}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.Tracer = recorder
	connections, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer connections.Close()
	r := &Reader{pool: &pool{sessions: sessions{connections}, limit: time.Minute}}
	if _, err := r.Audit(ctx, q); err != nil {
		return nil, err
	}
	var plans []Plan
	for _, s := range recorder.statements {
		if !strings.Contains(s.SQL, "vault.audit_log") {
			continue
		}
		err := r.ReadInOrder(ctx, func(tx pgx.Tx) error {
			lines, err := collect(ctx, tx, pgx.RowTo[string], `EXPLAIN (ANALYZE, TIMING OFF) `+s.SQL, s.Args...)
			plans = append(plans, planOf(s.SQL, lines))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return plans, nil
}

var planNumbers = regexp.MustCompile(`Scan.* \(actual rows=([0-9]+)(?:\.[0-9]+)? loops=([0-9]+)\)|` +
	`Rows Removed by Filter: ([0-9]+)`)

func planOf(sql string, lines []string) Plan {
	p := Plan{Text: sql + "\n" + strings.Join(lines, "\n")}
	for _, line := range lines {
		if m := planNumbers.FindStringSubmatch(line); m != nil {
			number := func(i int) int { n, _ := strconv.Atoi(m[i]); return n }
			p.Rows += number(1)*number(2) + number(3)
		}
	}
	return p
}

// explainer keeps the statements that it explained.
type explainer struct{ statements []pgx.TraceQueryStartData }

func (e *explainer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	e.statements = append(e.statements, data)
	return ctx
}

func (*explainer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// SessionSettings are the names of the settings of a session on a server version.
func SessionSettings(serverVersion string) (names []string) {
	number, _ := strconv.Atoi(serverVersion)
	for _, s := range sessionSettings {
		if s.since <= number/10000 {
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
	values, err := collect(ctx, r.pool, pgx.RowTo[string],
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
