package rotation_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// scene is a vault with an administrator and the daemon whose workers rotate secrets at a target.
type scene struct {
	*vaulttest.Store
	admin, daemon *vault.Vault
	change        vault.Change
}

// noSecondTry puts off a job that failed until a test retries it. The worker would do so by itself after five seconds,
// which a test may take to look at the first attempt.
const noSecondTry = `CREATE FUNCTION public.put_off() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.state = 'queued' AND NEW.failures > 0 THEN
			NEW.run_after := now() + interval '1 hour';
		END IF;
		RETURN NEW; END $$;
	GRANT EXECUTE ON FUNCTION public.put_off() TO vault_owner;
	CREATE TRIGGER put_off BEFORE UPDATE ON vault.rotation_jobs FOR EACH ROW EXECUTE FUNCTION public.put_off()`

func newScene(t *testing.T) *scene {
	t.Helper()
	store := vaulttest.New(t)
	store.MustExec(t, noSecondTry)
	keys, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	admin, closeAdmin := open(t, store, vaulttest.Operator, keys)
	daemon, closeDaemon := open(t, store, vaulttest.Daemon, keys)
	t.Cleanup(func() { closeAdmin(); closeDaemon(); must(t, keys.Close()) })
	return &scene{store, admin, daemon, vault.Change{Token: vaulttest.AdminToken(t)}}
}

// mustPut stores "one" under a name that rotates at a target.
func (s *scene) mustPut(t *testing.T, name string) {
	t.Helper()
	generator, rotator := "hex:32", "target"
	_, err := s.admin.Put(t.Context(), vault.PutRequest{Change: s.change, Name: name, Value: []byte("one"),
		Settings: vault.Settings{Generator: &generator, Rotator: &rotator}})
	must(t, err)
}

func (s *scene) mustRequest(t *testing.T, name string) {
	t.Helper()
	_, err := s.admin.RequestRotation(t.Context(), s.change, name)
	must(t, err)
}

func (s *scene) mustRetry(t *testing.T, name string) {
	t.Helper()
	_, err := s.admin.RetryRotation(t.Context(), s.change, name)
	must(t, err)
}

// mustGet returns the value that readers get. The test's end wipes it.
func (s *scene) mustGet(t *testing.T, name string) []byte {
	t.Helper()
	secret, err := s.admin.Get(t.Context(), name, vault.GetOptions{})
	must(t, err)
	t.Cleanup(secret.Wipe)
	return secret.Value
}

// work starts a worker. stop tells it to stop; wait does so too, and returns when it has.
func (s *scene) work(t *testing.T, target rotation.Target, concurrency int) (stop, wait func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	worker := &rotation.Worker{Vault: s.daemon, Target: target, ID: "w", Concurrency: concurrency,
		Poll: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	running.Go(func() { worker.Run(ctx) })
	return cancel, func() { cancel(); running.Wait() }
}
