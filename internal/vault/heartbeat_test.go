package vault_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/leaks"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// openDaemonAt reads from the node of a URL. The caller closes it, so that no goroutine is left.
func openDaemonAt(t *testing.T, store *vaulttest.Store, url string) (*vault.Vault, func()) {
	t.Helper()
	reader, err := db.NewReader(t.Context(), db.Options{URL: url})
	must(t, err)
	writer, err := db.NewWriter(t.Context(), db.Options{URL: store.URL(vaulttest.Daemon)})
	must(t, err)
	return vault.New(vault.Options{Reader: reader, Writer: writer}), func() { reader.Close(); writer.Close() }
}

// Beside the primary the heartbeat is renewed, beside a standby it is not. A failure is logged once, and so is its end.
// When Run returns, no goroutine is left.
func TestHeartbeat(t *testing.T) {
	before := goleak.IgnoreCurrent()
	store := vaulttest.New(t)
	store.MustReplay(t)
	standby, closeStandby := openDaemonAt(t, store, store.StandbyURL(vaulttest.Daemon))
	if primary, err := standby.Beat(t.Context()); primary || err != nil {
		t.Fatalf("beside a standby: got %v, %v, want nothing done", primary, err)
	}
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.heartbeat`); got != "0" {
		t.Fatalf("got %s heartbeats from beside a standby, want none", got)
	}
	closeStandby()

	v, closeVault := openDaemonAt(t, store, store.URL(vaulttest.Daemon))
	ctx, stop := context.WithCancel(t.Context())
	var log journal
	heartbeat := &vault.Heartbeat{Vault: v, Interval: 20 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(&log, nil))}
	var running sync.WaitGroup
	running.Go(func() { heartbeat.Run(ctx) })
	row := func(sql, want string) {
		t.Helper()
		until(t, sql, func() bool { return store.MustQuery(t, sql) == want })
	}
	row(`SELECT count(*) FROM vault.heartbeat WHERE at > clock_timestamp() - interval '10 seconds'`, "1")
	at := store.MustQuery(t, `SELECT at FROM vault.heartbeat`)
	row(`SELECT at > '`+at+`' FROM vault.heartbeat`, "true")

	store.MustExec(t, `REVOKE EXECUTE ON FUNCTION vault.beat() FROM vault_worker`)
	logged := func(what string) {
		t.Helper()
		until(t, what, func() bool { return strings.Contains(log.String(), what) })
	}
	logged("the heartbeat fails")
	store.MustExec(t, `GRANT EXECUTE ON FUNCTION vault.beat() TO vault_worker`)
	logged("the heartbeat is back")
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("got %d lines in the log, want 2:\n%s", n, &log)
	}
	stop()
	running.Wait()
	closeVault()
	leaks.None(t, before)
}

// A beat waits for no standby: with the synchronous one away the heartbeat is still renewed.
func TestHeartbeatWithoutItsSynchronousStandby(t *testing.T) {
	store := vaulttest.OwnWith(t, map[string]string{"synchronous_standby_names": "absent"})
	v, closeVault := openDaemonAt(t, store, store.URL(vaulttest.Daemon))
	defer closeVault()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // it would wait for ever
	defer cancel()
	primary, err := v.Beat(ctx)
	must(t, err)
	if !primary {
		t.Error("the primary did not beat")
	}
}
