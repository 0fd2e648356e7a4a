package rotation_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

const benchCap = 32 // rotations at once, over two workers, and pgbench's clients

// BenchmarkDueAtOnce makes DUE secrets (10000) due at one moment, as after a long downtime, and lets two workers rotate them
// at the cap; each must rotate exactly once. The ceiling in the same run is pgbench completing as many jobs, claimed beforehand,
// by the same statements with bytes that are ready: what PostgreSQL takes when claiming and sealing cost nothing.
func BenchmarkDueAtOnce(b *testing.B) {
	due := 10_000
	if text := os.Getenv("DUE"); text != "" {
		var err error
		if due, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		store := vaulttest.Own(b)
		prepareForSpeed(b, store)
		makeDue(b, store, due)
		took := rotateAll(b, store, due)
		ceiling := pgbenchRate(b, store, due)
		rate := float64(due) / took.Seconds()
		b.ReportMetric(rate, "rotations/s")
		b.ReportMetric(ceiling, "pgbench/s")
		b.ReportMetric(100*rate/ceiling, "%ofceiling")
		b.ReportMetric(0, "ns/op")
	}
}

// prepareForSpeed turns the tests' logging off and durability on.
func prepareForSpeed(b *testing.B, store *vaulttest.Store) {
	for _, setting := range []string{"log_statement = none", "log_min_duration_statement = -1", "fsync = on", "max_wal_size = '4GB'"} {
		store.MustExec(b, "ALTER SYSTEM SET "+setting)
	}
	store.MustExec(b, "SELECT pg_reload_conf()")
}

// makeDue writes secrets as a superuser can: their values are never opened, rotation replaces them.
func makeDue(b *testing.B, store *vaulttest.Store, due int) {
	store.MustExec(b,
		fmt.Sprintf(`INSERT INTO vault.secrets (name, kind, generator, rotation_interval, current_version, rotated_at, next_rotation_at)
			SELECT 'bench/' || n, 'automatic', 'hex:32', '1 day', 1, now() - interval '3 days', now() - interval '1 hour' FROM generate_series(1, %d) n`, due),
		`INSERT INTO vault.secret_versions (secret_id, name, version, fmt, kms_key_id, wrapped_dek, nonce, ciphertext, key_commit, aad, request_id, created_by)
			SELECT id, name, 1, 1, 'k', '\x01', decode(repeat('00', 24), 'hex'), decode(repeat('11', 80), 'hex'), decode(repeat('22', 32), 'hex'), name || ':1',
				gen_random_uuid(), 'bench' FROM vault.secrets`,
		fmt.Sprintf(`UPDATE vault.config SET max_rotations = %d`, benchCap), `ANALYZE`, `CHECKPOINT`)
}

func rotateAll(b *testing.B, store *vaulttest.Store, due int) time.Duration {
	ring, err := kms.OpenRing(b.Context(), []string{"local://" + store.KeyFile})
	must(b, err)
	defer ring.Close()
	ctx, stop := context.WithCancel(b.Context())
	var running sync.WaitGroup
	start := time.Now()
	for _, id := range []string{"one", "two"} {
		reader, err := db.NewReader(b.Context(), db.Options{URL: store.URL(vaulttest.Daemon)})
		must(b, err)
		defer reader.Close()
		writer, err := db.NewWriter(b.Context(), db.Options{URL: store.URL(vaulttest.Daemon), MaxConns: benchCap/2 + 2}) // claims and the supervisor too
		must(b, err)
		defer writer.Close()
		v := vault.New(vault.Options{Reader: reader, Writer: writer, Keys: ring})
		log := slog.New(slog.DiscardHandler)
		if id == "one" { // as beside the primary
			supervisor := &rotation.Supervisor{Vault: v, Interval: time.Second, Log: log}
			running.Go(func() { supervisor.Run(ctx) })
		}
		worker := &rotation.Worker{Vault: v, ID: id, Concurrency: benchCap / 2, Poll: time.Second, Log: log}
		running.Go(func() { worker.Run(ctx) })
	}
	limit := time.After(time.Minute + time.Duration(due)*20*time.Millisecond)
	poll := time.NewTicker(200 * time.Millisecond)
	defer poll.Stop()
	// Any that is not done, along the index of the open ones or of what is due: to count them all would be a load of its own.
	for store.MustQuery(b, `SELECT EXISTS (SELECT FROM vault.rotation_jobs WHERE state IN ('queued', 'claimed'))
			OR EXISTS (SELECT FROM vault.secrets WHERE next_rotation_at <= now())`) == "true" {
		select {
		case <-limit:
			b.Fatal("the rotations do not end")
		case <-poll.C:
		}
	}
	took := time.Since(start)
	stop()
	running.Wait()
	got := store.MustQuery(b, `SELECT concat_ws(' ', min(current_version), max(current_version), (SELECT count(*) FROM vault.rotation_jobs),
		(SELECT count(*) FROM vault.rotation_jobs WHERE state = 'done'), (SELECT count(*) FROM vault.audit_log WHERE action = 'rotate' AND outcome = 'ok')) FROM vault.secrets`)
	if want := fmt.Sprintf("2 2 %[1]d %[1]d %[1]d", due); got != want {
		b.Fatalf("got versions, jobs, jobs done and audit rows %q, want %q: each once", got, want)
	}
	return took
}

// pgbenchRate is the same for the next interval, by pgbench.
func pgbenchRate(b *testing.B, store *vaulttest.Store, due int) float64 {
	store.MustExec(b, `UPDATE vault.secrets SET next_rotation_at = now() - interval '1 hour'`)
	for store.MustQuery(b, `SELECT (vault.supervise(5000) ->> 'enqueued')::int`) == "5000" {
	}
	store.MustExec(b, `UPDATE vault.rotation_jobs SET state = 'claimed', attempt = 1, claimed_by = 'pgbench', claimed_at = now() WHERE state = 'queued'`,
		`CREATE TABLE claimed AS SELECT row_number() OVER () AS n, id, name, from_version + 1 AS version FROM vault.rotation_jobs WHERE state = 'claimed'`,
		`ALTER TABLE claimed ADD PRIMARY KEY (n)`, `CREATE SEQUENCE next_claimed`, `GRANT SELECT ON claimed TO vaultd; GRANT USAGE ON next_claimed TO vaultd`,
		`VACUUM ANALYZE`, `CHECKPOINT`)
	script := filepath.Join(b.TempDir(), "rotate.sql")
	must(b, os.WriteFile(script, []byte(`SELECT nextval('next_claimed') AS n \gset
SELECT id, name, version FROM claimed WHERE n = :n \gset
BEGIN;
SET LOCAL synchronous_commit = remote_apply;
SELECT vault.complete_rotation(:id, 1, 1, 'k', '\x01', decode(repeat('00', 24), 'hex'), decode(repeat('11', 80), 'hex'), decode(repeat('22', 32), 'hex'),
  concat(:name::text, ':', :version::text), gen_random_uuid());
COMMIT;
SELECT pg_current_wal_insert_lsn();
`), 0o600))
	pgbench, err := exec.LookPath("pgbench")
	if err != nil {
		b.Fatal("pgbench is not installed: it comes with Debian's postgresql-15")
	}
	node := store.Cluster.Primary()
	run := exec.CommandContext(b.Context(), pgbench, "-n", "-M", "prepared", "-h", node.SocketDir(), "-p", strconv.Itoa(node.Port()), "-U", vaulttest.Daemon,
		"-c", strconv.Itoa(benchCap), "-j", "2", "-t", strconv.Itoa(due/benchCap), "-f", script, store.Database)
	out, err := run.CombinedOutput()
	if err != nil {
		b.Fatalf("pgbench: %v\n%s", err, out)
	}
	if got, want := store.MustQuery(b, `SELECT count(*) FROM vault.secrets WHERE current_version = 3`), strconv.Itoa(due/benchCap*benchCap); got != want {
		b.Fatalf("got %s rotations by pgbench, want %s:\n%s", got, want, out)
	}
	m := regexp.MustCompile(`tps = ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		b.Fatalf("pgbench printed no rate:\n%s", out)
	}
	rate, err := strconv.ParseFloat(string(m[1]), 64)
	must(b, err)
	return rate
}
