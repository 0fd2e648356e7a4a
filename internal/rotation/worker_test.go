package rotation_test

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/leaks"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

func TestMain(m *testing.M) { os.Exit(vaulttest.Main(m)) }

// Two daemons' supervisors and workers share 20 due secrets: each rotates once. A secret with an invalid generator
// fails visibly and keeps its value. When they stop, no goroutine is left.
func TestWorkersShareWhatIsDue(t *testing.T) {
	before := goleak.IgnoreCurrent()
	store := vaulttest.New(t)
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	admin, closeAdmin := open(t, store, vaulttest.Operator, ring)
	generator, every := "hex:32", time.Hour
	for i := range 20 {
		_, err := admin.Put(t.Context(), vault.PutRequest{Change: vault.Change{Token: vaulttest.AdminToken(t)},
			Name: "app/" + string(rune('a'+i)), Value: []byte("one"),
			Settings: vault.Settings{Generator: &generator, RotateEvery: &every}})
		must(t, err)
	}
	store.MustExec(t, `UPDATE vault.secrets SET next_rotation_at = now() - interval '1 day'`,
		`UPDATE vault.secrets SET generator = 'nonsense' WHERE name = 'app/c'`)

	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	var closers []func()
	for _, id := range []string{"one", "two"} {
		v, closeVault := open(t, store, vaulttest.Daemon, ring)
		closers = append(closers, closeVault)
		supervisor := &rotation.Supervisor{Vault: v, Interval: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
		worker := &rotation.Worker{Vault: v, ID: id, Concurrency: 3, Poll: 50 * time.Millisecond,
			Log: slog.New(slog.DiscardHandler)}
		running.Go(func() { supervisor.Run(ctx) })
		running.Go(func() { worker.Run(ctx) })
	}
	waitUntil(t, store, `SELECT count(*) FROM vault.secrets WHERE current_version = 2`, "19")
	waitUntil(t, store, `SELECT state || ' ' || (attempt > 0) FROM vault.rotation_jobs WHERE name = 'app/c'`,
		"queued true")
	stop()
	running.Wait()
	if got := store.MustQuery(t, `SELECT max(current_version) || ' ' || count(*) FROM vault.secrets`); got != "2 20" {
		t.Errorf("got newest version and secrets %q, want each rotated once", got)
	}
	if got := store.MustQuery(t, `SELECT last_error FROM vault.rotation_jobs WHERE name = 'app/c'`); got == "" {
		t.Error("the failed rotation does not say why")
	}
	secret, err := admin.Get(t.Context(), "app/c", vault.GetOptions{})
	must(t, err)
	if string(secret.Value) != "one" {
		t.Error("a failed rotation lost the value")
	}
	secret.Wipe()
	closeAdmin()
	for _, f := range closers {
		f()
	}
	must(t, ring.Close())
	leaks.None(t, before)
}

func open(t testing.TB, store *vaulttest.Store, role string, keys vault.Keys) (*vault.Vault, func()) {
	t.Helper()
	reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(role)})
	must(t, err)
	writer, err := db.NewWriter(t.Context(), db.Options{URL: store.URL(role), MaxConns: 6})
	must(t, err)
	return vault.New(vault.Options{Reader: reader, Writer: writer, Keys: keys}), func() { reader.Close(); writer.Close() }
}

func waitUntil(t testing.TB, store *vaulttest.Store, query, want string) {
	t.Helper()
	waitFor(t, time.Minute, store, query, want)
}

func waitFor(t testing.TB, limit time.Duration, store *vaulttest.Store, query, want string) {
	t.Helper()
	deadline := time.After(limit)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for got := ""; got != want; {
		got = store.MustQuery(t, query)
		select {
		case <-deadline:
			t.Fatalf("%s: got %q, want %q", query, got, want)
		case <-poll.C:
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
