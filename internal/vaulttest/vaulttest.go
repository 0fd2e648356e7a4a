// Package vaulttest gives tests a real vault: a PostgreSQL primary with a streaming standby, the schema installed,
// roles granted and one admin token. Tests and tools/path import it.
//
// A test program makes one cluster ([Main]); most tests take a fresh database on it ([New]), those that stop or promote
// servers a cluster of their own ([Own]), copied from the prepared one.
package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/testfolder"
	"github.com/hyperiondb/vault/internal/vault"
)

// Token is the admin token of every test vault. It is a constant, so that a search through logs can find it.
const Token = "hva_aaaaaaaaabaabaaaaaaaaagkbjrwc3tboj4sa5dpnnsw4idpmyqhi2dfeb2gk43uebzxk2lumuqdbx6wvzsa"

// TokenSecret is the secret part of [Token]: what must be in no log in any spelling.
const TokenSecret = "canary token of the test suite 00"

// Database roles of every test vault. None has a password.
const (
	Superuser = "postgres"
	Operator  = "operator"  // service role for all names, auditor; what vaultctl connects as
	Daemon    = "vaultd"    // service role for all names, worker
	AppRole   = "app1"      // service role for the names under app1/
	Stranger  = "stranger"  // may log in, and nothing else
	Developer = "developer" // service role for app1/ that may create schemas: the realistic attacker
)

// StaleCopies is the query for the names of secrets that disagree with the copies of their columns in secret_versions,
// separated by spaces: "" if there are none.
const StaleCopies = `SELECT coalesce(string_agg(DISTINCT s.name, ' '), '') FROM vault.secrets s
	LEFT JOIN vault.secret_versions c ON c.secret_id = s.id AND c.version = s.current_version
	LEFT JOIN vault.secret_versions v ON v.secret_id = s.id AND v.removed_at IS NULL
	WHERE s.current_version > 0 AND (c.expires_at IS NOT NULL OR c.created_at IS DISTINCT FROM s.rotated_at
	   OR c.next_rotation_at IS DISTINCT FROM s.next_rotation_at OR v.deleted_at IS DISTINCT FROM s.deleted_at)`

const templateDatabase = "vault_template"

// Program holds what the tests of one program share.
type Program struct {
	Dir      string           // of private files; removed by Close
	KeyFile  string           // the local KMS key of every test vault
	clusters string           // folder of the clusters and of what is prepared alone; removed by Close
	prepared *localpg.Cluster // stopped; the source of clones
	Shared   *localpg.Cluster // running
	creator  *kept            // makes databases on it
	counter  atomic.Int64
}

// Store is one test vault.
type Store struct {
	Cluster  *localpg.Cluster
	Database string
	KeyFile  string

	server    string // folder of its own server programs; "" = none
	extension string // where the server looks for the extension's files
	kept      *kept  // nil: each statement gets a session of its own
}

var program *Program // set once by Main, before any test runs

// Main wraps a TestMain: it makes the cluster, runs the tests and removes it. The environment variable VAULT_TEST_PG
// chooses the major version; without it Main takes the newest installed. Without PostgreSQL it fails.
func Main(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // other programs start theirs
	defer cancel()
	p, err := Start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "making the test cluster:", err)
		return 1
	}
	program = p
	code := m.Run()
	if err := p.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "removing the test cluster:", err)
		return 1
	}
	return code
}

// Start makes the prepared cluster and starts the shared one.
func Start(ctx context.Context) (*Program, error) {
	dir, err := os.MkdirTemp("", "vaulttest")
	if err != nil {
		return nil, err
	}
	p := &Program{Dir: dir, creator: &kept{}}
	if p.clusters, err = clusterFolder(); err == nil {
		err = p.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// clusterFolder makes a folder that the servers' user may pass through, as it may not through Dir.
func clusterFolder() (string, error) {
	dir, err := os.MkdirTemp(testfolder.Parent(), "vaulttest")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", errors.Join(err, os.Remove(dir))
	}
	return dir, nil
}

func (p *Program) start(ctx context.Context) error {
	binaries, err := localpg.FindVersion(os.Getenv("VAULT_TEST_PG"))
	if err != nil {
		return err
	}
	err = testfolder.Share("cluster"+strconv.Itoa(binaries.Major), p.clusters,
		func(dir string) error { return prepare(ctx, binaries, dir) },
		func(dir string) error { return p.take(ctx, dir) })
	if err != nil {
		return err
	}
	if p.Shared, err = localpg.Clone(ctx, p.prepared, filepath.Join(p.clusters, "shared")); err != nil {
		return err
	}
	if err = p.Shared.Start(ctx); err != nil {
		return err
	}
	// The first session of a database writes a file of its catalog, pg_internal.init, which copies of the database have.
	for _, node := range p.Shared.Nodes() {
		if err := node.Exec(ctx, templateDatabase, `SELECT`); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the cluster that every other one is a copy of, stopped, and its key.
func prepare(ctx context.Context, binaries localpg.Binaries, dir string) error {
	key := filepath.Join(dir, "kek")
	if _, err := kms.GenerateKeyFile(key); err != nil {
		return err
	}
	c, err := localpg.Open(ctx, localpg.Options{
		Dir: filepath.Join(dir, "prepared"), Standbys: 1, Binaries: binaries, Parameters: parameters(),
	})
	if err != nil {
		return err
	}
	if err := Install(ctx, c.Primary(), templateDatabase, "local://"+key); err != nil {
		return errors.Join(fmt.Errorf("preparing the template database: %w", err), c.Remove())
	}
	// No test uses it, and it is a fifth of the files that each copy of the cluster has.
	err = c.Primary().Exec(ctx, "postgres", `ALTER DATABASE template0 IS_TEMPLATE false`, `DROP DATABASE template0`)
	if err != nil {
		return errors.Join(fmt.Errorf("dropping template0: %w", err), c.Remove())
	}
	if err := c.Stop(ctx, localpg.Fast); err != nil {
		return errors.Join(err, c.Remove())
	}
	return c.Close()
}

// take makes the cluster in dir this program's own, by a copy if other programs share it. The key stays where it is,
// since the vault holds its path.
func (p *Program) take(ctx context.Context, dir string) error {
	p.KeyFile = filepath.Join(dir, "kek")
	prepared, err := localpg.Load(filepath.Join(dir, "prepared"))
	if err != nil || dir == p.clusters {
		p.prepared = prepared
		return err
	}
	p.prepared, err = localpg.Clone(ctx, prepared, filepath.Join(p.clusters, "prepared"))
	return errors.Join(err, prepared.Close())
}

// parameters of every cluster log everything a careless administrator might log, so that a leak shows.
func parameters() map[string]string {
	return map[string]string{
		"log_statement": "all", "log_min_duration_statement": "0", "log_parameter_max_length": "-1",
		"log_parameter_max_length_on_error": "-1", "log_error_verbosity": "verbose", "max_connections": "200",
		// A cluster has a hundred databases, and the launcher would start a worker for one of them each half second.
		"autovacuum_naptime": "1d",
		// Every session runs functions in it, and most sessions are short: the server loads it once for all.
		"shared_preload_libraries": "plpgsql",
	}
}

// Install makes a database with a test vault in it on a cluster that has none, and the roles. The KMS key may be "".
func Install(ctx context.Context, primary *localpg.Node, database, kmsKey string) error {
	err := primary.Exec(ctx, "postgres",
		`CREATE DATABASE `+database,
		`CREATE ROLE operator LOGIN; CREATE ROLE vaultd LOGIN; CREATE ROLE app1 LOGIN;
		 CREATE ROLE stranger LOGIN; CREATE ROLE developer LOGIN`)
	if err != nil {
		return err
	}
	url := primary.URL(database, Superuser)
	if _, err := db.Migrate(ctx, url, "vaulttest", kmsKey); err != nil {
		return err
	}
	// CreateTokenAsOwner would make a random token; this one is a constant.
	token, err := vault.ParseToken(Token)
	if err != nil {
		return err
	}
	fingerprint := token.Fingerprint()
	err = primary.Exec(ctx, database,
		fmt.Sprintf(`SELECT vault.create_token_as_owner('%s', 'root', '\x%x', NULL, gen_random_uuid())`, token.ID(),
			fingerprint))
	if err != nil {
		return err
	}
	return grantRoles(ctx, url, token)
}

func grantRoles(ctx context.Context, url string, token vault.Token) error {
	writer, err := db.NewWriter(ctx, db.Options{URL: url, ApplicationName: "vaulttest"})
	if err != nil {
		return err
	}
	defer writer.Close()
	v := vault.New(vault.Options{Writer: writer})
	for _, g := range []struct {
		role   string
		group  vault.Group
		prefix string
	}{
		{Operator, vault.GroupService, ""}, {Operator, vault.GroupAuditor, ""},
		{Daemon, vault.GroupService, ""}, {Daemon, vault.GroupWorker, ""},
		{AppRole, vault.GroupService, "app1/"}, {Developer, vault.GroupService, "app1/"},
	} {
		if _, err := v.Grant(ctx, vault.Change{Token: token, RequestID: uuid.New()}, g.role, g.group, g.prefix); err != nil {
			return fmt.Errorf("granting %s to %s: %w", g.group, g.role, err)
		}
	}
	return nil
}

// Close stops and removes everything.
func (p *Program) Close() error {
	p.creator.close()
	var errs []error
	for _, c := range []*localpg.Cluster{p.Shared, p.prepared} {
		if c != nil {
			errs = append(errs, c.Remove())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(p.clusters), os.RemoveAll(p.Dir))...)
}

// ClusterDir is the folder of one more cluster, for NewCluster and NewExtensionCluster. Its path is short, as errors
// name it and are looked for in a terminal.
func (p *Program) ClusterDir() string {
	return filepath.Join(p.clusters, fmt.Sprintf("own%d", p.counter.Add(1)))
}

// NewDatabase makes a fresh vault on the shared cluster. file_copy, which the standby repeats, takes half as long as
// writing each page to the WAL and replaying it.
func (p *Program) NewDatabase(ctx context.Context) (*Store, error) {
	name := fmt.Sprintf("vault%d", p.counter.Add(1))
	err := p.creator.use(ctx, p.Shared.Primary().URL("postgres", Superuser), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, fmt.Sprintf(`CREATE DATABASE %s TEMPLATE %s STRATEGY file_copy`, name, templateDatabase))
		return err
	})
	return &Store{Cluster: p.Shared, Database: name, KeyFile: p.KeyFile}, err
}

// NewCluster makes a vault on a cluster of its own, running. The caller removes the cluster.
func (p *Program) NewCluster(ctx context.Context, dir string) (*Store, error) {
	cluster, err := localpg.Clone(ctx, p.prepared, dir)
	if err != nil {
		return nil, err
	}
	if err := cluster.Start(ctx); err != nil {
		return nil, errors.Join(err, cluster.Remove())
	}
	return &Store{Cluster: cluster, Database: templateDatabase, KeyFile: p.KeyFile}, nil
}

// New gives a test a fresh vault.
func New(t testing.TB) *Store {
	t.Helper()
	s, err := program.NewDatabase(t.Context())
	if err != nil {
		t.Fatalf("making a test vault: %v", err)
	}
	s.keep(t)
	return s
}

// Own gives a test a vault on a cluster of its own, whose servers it may stop, kill and promote.
func Own(t testing.TB) *Store {
	t.Helper()
	s, err := program.NewCluster(t.Context(), program.ClusterDir())
	if err != nil {
		t.Fatalf("making a test cluster: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Cluster.Remove(); err != nil {
			t.Errorf("removing a test cluster: %v", err)
		}
	})
	s.keep(t)
	return s
}

// URL is the connection URL of the primary, for a role.
func (s *Store) URL(role string) string { return s.Cluster.Primary().URL(s.Database, role) }

// StandbyURL is the connection URL of the first standby, for a role.
func (s *Store) StandbyURL(role string) string {
	return s.Cluster.Standbys()[0].URL(s.Database, role)
}

// MustReplay waits until every standby has replayed what the primary has written so far, the database itself included.
func (s *Store) MustReplay(t testing.TB) {
	t.Helper()
	lsn, err := s.Cluster.Primary().LSN(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, standby := range s.Cluster.Standbys() {
		if err := standby.WaitReplay(t.Context(), lsn); err != nil {
			t.Fatal(err)
		}
	}
}

// AdminToken parses [Token].
func AdminToken(t testing.TB) vault.Token {
	t.Helper()
	token, err := vault.ParseToken(Token)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// MustExec runs statements as the superuser on the primary, in one session.
func (s *Store) MustExec(t testing.TB, statements ...string) {
	t.Helper()
	err := s.superuser(t.Context(), func(conn *pgx.Conn) error {
		for _, statement := range append([]string{`SET search_path = pg_catalog, pg_temp`}, statements...) {
			if _, err := conn.PgConn().Exec(t.Context(), statement).ReadAll(); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// MustQuery returns the one value of a superuser's query on the primary, as text.
func (s *Store) MustQuery(t testing.TB, sql string, args ...any) string {
	t.Helper()
	var value *string
	err := s.superuser(t.Context(), func(conn *pgx.Conn) error {
		return conn.QueryRow(t.Context(), `SELECT (`+sql+`)::text`, args...).Scan(&value)
	})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if value == nil {
		return ""
	}
	return *value
}
