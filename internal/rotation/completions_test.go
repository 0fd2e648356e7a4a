package rotation_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/rotation/metrics"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// A hundred secrets fall due at once. They are completed many to a transaction, each with its audit row and counted on
// its own. One that a stalled session has locked does not delay the others, and one with an invalid generator fails
// alone.
func TestRotationsAreCompletedTogether(t *testing.T) {
	store := vaulttest.New(t)
	makeDue(t, store, 100)
	store.MustExec(t, `UPDATE vault.secrets SET generator = 'nonsense' WHERE name = 'due/7'`,
		`SELECT vault.supervise()`)
	holding, err := pgx.Connect(t.Context(), store.URL(vaulttest.Superuser))
	must(t, err)
	defer holding.Close(context.WithoutCancel(t.Context()))
	_, err = holding.Exec(t.Context(), `BEGIN; SELECT FROM vault.secrets WHERE name = 'due/8' FOR UPDATE`)
	must(t, err)

	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	defer ring.Close()
	v, closeVault := open(t, store, vaulttest.Daemon, ring)
	defer closeVault()
	registry := prometheus.NewRegistry()
	log := slog.New(slog.DiscardHandler)
	worker := &rotation.Worker{Vault: v, ID: "w", Concurrency: 16, Poll: 50 * time.Millisecond,
		Metrics: metrics.New(registry), Log: log}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { worker.Run(ctx) })

	waitUntil(t, store, `SELECT count(*) FROM vault.secrets WHERE current_version = 2`, "98")
	if got := store.MustQuery(t, `SELECT count(*) || ' ' || (count(DISTINCT tx) < 50)
		FROM vault.audit_log WHERE action = 'rotate' AND outcome = 'ok'`); got != "98 true" {
		t.Errorf("got rotations on record, and whether in fewer than 50 transactions, %q, want 98 true", got)
	}
	_, err = holding.Exec(t.Context(), `ROLLBACK`)
	must(t, err)
	// if it took so long
	store.MustExec(t, `UPDATE vault.rotation_jobs SET run_after = now() WHERE name = 'due/8' AND state = 'queued'`)
	waitUntil(t, store, `SELECT current_version FROM vault.secrets WHERE name = 'due/8'`, "2")
	stop()
	running.Wait()
	failed := store.MustQuery(t, `SELECT sum(failures) FROM vault.rotation_jobs`)
	if got, want := outcomes(t, registry), fmt.Sprintf("done=99 failed=%s", failed); got != want {
		t.Errorf("got attempts %q, want %q", got, want)
	}
}

// makeDue writes secrets as a superuser can: their values are never opened, rotation replaces them.
func makeDue(t *testing.T, store *vaulttest.Store, due int) {
	t.Helper()
	store.MustExec(t,
		fmt.Sprintf(`INSERT INTO vault.secrets
			(name, kind, generator, rotation_interval, current_version, rotated_at, next_rotation_at)
			SELECT 'due/' || n, 'automatic', 'hex:32', '1 day', 1, now() - interval '3 days', now() - interval '1 hour'
			FROM generate_series(1, %d) n`, due),
		`INSERT INTO vault.secret_versions
			(secret_id, name, version, fmt, kms_key_id, wrapped_dek, nonce, ciphertext, key_commit, aad, request_id,
			created_by)
			SELECT id, name, 1, 1, 'k', '\x01', decode(repeat('00', 24), 'hex'), decode(repeat('11', 80), 'hex'),
				decode(repeat('22', 32), 'hex'), name || ':1', gen_random_uuid(), 'test' FROM vault.secrets`)
}

// outcomes are the counts that are not zero.
func outcomes(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	var all []string
	for _, family := range families {
		for _, m := range family.Metric {
			if m.GetCounter().GetValue() > 0 {
				all = append(all, fmt.Sprintf("%s=%v", m.Label[0].GetValue(), m.GetCounter().GetValue()))
			}
		}
	}
	return strings.Join(all, " ")
}
