//go:build pgcron

// Run by make test-cron, on a PostgreSQL that has pg_cron.

package rotation_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// pg_cron alone is the supervisor: it enqueues what is due on the primary, as a role that may do nothing else, and
// after a failover on the promoted standby, without a restart or a change by an operator. A worker does the rest.
//
// The shortest schedule of pg_cron 1.4 is a minute. @reboot runs the same job through the same code as soon as pg_cron
// starts: with the server, or with its promotion.
func TestCronSupervises(t *testing.T) {
	store := vaulttest.OwnWith(t, map[string]string{"shared_preload_libraries": "pg_cron",
		"cron.use_background_workers": "on"})
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	admin, closeAdmin := open(t, store, vaulttest.Operator, ring)
	token := vault.Change{Token: vaulttest.AdminToken(t)}
	generator, every := "hex:32", time.Hour
	for _, name := range []string{"app/before", "app/after"} {
		_, err := admin.Put(t.Context(), vault.PutRequest{Change: token, Name: name, Value: []byte("one"),
			Settings: vault.Settings{Generator: &generator, RotateEvery: &every}})
		must(t, err)
	}
	store.MustExec(t, `CREATE ROLE vault_cron LOGIN`)
	_, err = admin.Grant(t.Context(), token, "vault_cron", vault.GroupWorker, "")
	must(t, err)
	closeAdmin()
	inCron(t, store.Cluster.Primary(), `CREATE EXTENSION pg_cron`)
	inCron(t, store.Cluster.Primary(),
		`SELECT cron.schedule_in_database('vault-supervise', '@reboot', 'SELECT vault.supervise()', $1, 'vault_cron')`,
		store.Database)

	due := `UPDATE vault.secrets SET next_rotation_at = now() - interval '1 minute' WHERE name = `
	store.MustExec(t, due+`'app/before'`)
	primary, standby := store.Cluster.Primary(), store.Cluster.Standbys()[0]
	must(t, primary.Stop(t.Context(), localpg.Fast))
	must(t, primary.Start(t.Context()))
	waitUntil(t, store, `SELECT string_agg(name || ' ' || state, ',') FROM vault.rotation_jobs`, "app/before queued")
	waitUntilCron(t, primary, `SELECT string_agg(username || ' ' || status, ',') FROM cron.job_run_details`,
		"vault_cron succeeded")
	waitUntil(t, store, `SELECT count(*) FROM vault.heartbeat`, "1")
	work(t, store, ring, "app/before")

	for node, want := range map[*localpg.Node]string{primary: "1", standby: "0"} {
		if got := ask(t, node,
			`SELECT count(*)::text FROM pg_stat_activity WHERE backend_type = 'pg_cron launcher'`); got != want {
			t.Errorf("%s pg_cron launchers run on %s, want %s", got, node.Name(), want)
		}
	}
	store.MustExec(t, due+`'app/after'`)
	store.MustReplay(t)
	must(t, primary.Kill())
	must(t, standby.Promote(t.Context()))
	waitUntil(t, store, `SELECT state FROM vault.rotation_jobs WHERE name = 'app/after'`, "queued")
	work(t, store, ring, "app/after")
}

// work runs a worker, and no supervisor, until the secret is at its second version.
func work(t *testing.T, store *vaulttest.Store, keys vault.Keys, name string) {
	t.Helper()
	v, closeVault := open(t, store, vaulttest.Daemon, keys)
	defer closeVault()
	ctx, stop := context.WithCancel(t.Context())
	worker := &rotation.Worker{Vault: v, ID: "one", Concurrency: 1, Poll: 50 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler)}
	var running sync.WaitGroup
	running.Go(func() { worker.Run(ctx) })
	waitUntil(t, store, `SELECT current_version FROM vault.secrets WHERE name = '`+name+`'`, "2")
	stop()
	running.Wait()
}

// pg_cron keeps its tables in the database postgres, also for a job that runs in another database.
func inCron(t *testing.T, node *localpg.Node, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), node.URL("postgres", vaulttest.Superuser))
	must(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), sql, args...)
	must(t, err)
}

func ask(t *testing.T, node *localpg.Node, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), node.URL("postgres", vaulttest.Superuser))
	must(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	var answer *string
	must(t, conn.QueryRow(t.Context(), sql).Scan(&answer))
	if answer == nil {
		return ""
	}
	return *answer
}

func waitUntilCron(t *testing.T, node *localpg.Node, query, want string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for got := ""; got != want; {
		if got = ask(t, node, query); time.Now().After(deadline) {
			t.Fatalf("%s: got %q, want %q", query, got, want)
		}
		time.Sleep(20 * time.Millisecond) // between two polls
	}
}
