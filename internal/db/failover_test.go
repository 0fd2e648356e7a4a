package db_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vaulttest"
	"github.com/hyperiondb/vault/test/chaos/pgproxy"
)

func credential(t *testing.T) db.Credential {
	token := vaulttest.AdminToken(t)
	return db.Credential{TokenID: token.ID(), Prove: token.Prove}
}

func putOne(ctx context.Context, t *testing.T, w *db.Writer, name string) (db.Result, error) {
	t.Helper()
	return w.PutVersion(ctx, credential(t), uuid.New(), "put", name, sealedPlaceholder(name), false, db.Settings{})
}

func mustReader(t testing.TB, url string) *db.Reader {
	t.Helper()
	r, err := db.NewReader(t.Context(), db.Options{URL: url, ApplicationName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func mustWriter(t *testing.T, o db.Options) *db.Writer {
	t.Helper()
	w, err := db.NewWriter(t.Context(), o)
	must(t, err)
	t.Cleanup(w.Close)
	return w
}

// within fails the test if a call takes longer than its limit.
func within(t *testing.T, limit time.Duration, what string, call func() error) error {
	t.Helper()
	began := time.Now()
	err := call()
	if took := time.Since(began); took > limit {
		t.Errorf("%s took %v, more than %v", what, took, limit)
	}
	return err
}

// until polls a condition on the primary.
func until(t *testing.T, store *vaulttest.Store, sql string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); store.MustQuery(t, sql) != "true"; {
		if time.Now().After(deadline) {
			t.Fatalf("never became so: %s", sql)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

func reload(t *testing.T, store *vaulttest.Store, settings ...string) {
	t.Helper()
	for _, s := range settings {
		store.MustExec(t, `ALTER SYSTEM SET `+s)
	}
	store.MustExec(t, `SELECT pg_reload_conf()`)
}

const waiting = `SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'`
const stopWaiting = `SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`

// A COMMIT whose wait for the standby is cancelled is answered with success and a warning. It does not count: the
// change is repeated until the standby has it.
func TestCancelledWaitIsNoAcknowledgement(t *testing.T) {
	t.Parallel()
	store := vaulttest.OwnWith(t, map[string]string{"synchronous_standby_names": "*", "lc_messages": "C"})
	standby := mustConnect(t, store.StandbyURL(vaulttest.Superuser))
	replay := func(sql string) { // of the standby: a put is given up before a server that starts slowly may be there
		_, err := standby.Exec(t.Context(), sql)
		must(t, err)
	}
	writer := mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)})
	replay(`SELECT pg_wal_replay_pause()`)
	replay(`DO $$ BEGIN WHILE pg_get_wal_replay_pause_state() <> 'paused' LOOP PERFORM pg_sleep(0.01); END LOOP; END $$`)

	answered := make(chan error, 1)
	go func() {
		_, err := putOne(context.Background(), t, writer, "app/x")
		answered <- err
	}()
	until(t, store, waiting)
	store.MustExec(t, stopWaiting)
	until(t, store, `SELECT count(*) = 1 FROM vault.secret_versions`) // visible, and on one node only
	until(t, store, waiting)
	select {
	case err := <-answered:
		t.Fatalf("the put was answered without the standby, error %v", err)
	default:
	}
	replay(`SELECT pg_wal_replay_resume()`)
	must(t, <-answered)
	if got := store.MustQuery(t,
		`SELECT string_agg(action, ' ' ORDER BY id) FROM vault.audit_log WHERE secret = 'app/x'`); got != "put put.replay" {
		t.Errorf("got audit rows %q", got)
	}
}

// The same if the server's own timeout ends the wait and the standby stays away: the outcome is reported as unknown in
// time.
func TestOutcomeIsUnknownWithoutTheStandby(t *testing.T) {
	t.Parallel()
	store := vaulttest.OwnWith(t, map[string]string{"synchronous_standby_names": "*"})
	writer := mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator) + "&options=-c%20statement_timeout%3D5s"})
	must(t, store.Cluster.Standbys()[0].Stop(t.Context(), localpg.Fast))
	err := within(t, 2*time.Minute, "the put", func() error {
		_, err := putOne(t.Context(), t, writer, "app/x")
		return err
	})
	if !errors.Is(err, db.ErrOutcomeUnknown) {
		t.Errorf("got %v, want the outcome to be unknown", err)
	}
	if _, err := putOne(t.Context(), t, writer, "App/X"); errors.Is(err, db.ErrOutcomeUnknown) || err == nil {
		t.Errorf("a change that is refused before its COMMIT: got %v, want a definite answer", err)
	}
}

// The error of the second attempt does not show whether the first has committed, whose COMMIT got no answer: its
// outcome is unknown, done or not.
func TestRefusalOfTheSecondAttempt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		when pgproxy.When
		want string
	}{{"failed", pgproxy.Before, "0"}, {"done, reply lost", pgproxy.After, "1"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			store := vaulttest.New(t)
			p := newProxy(t, store)
			writer := mustWriter(t, db.Options{URL: through(p, store, vaulttest.Operator)})
			token, revoked := vaulttest.AdminToken(t), false
			prove := func(nonce []byte) []byte {
				if p.CutsMade() > 0 && !revoked { // the COMMIT was sent, by whichever attempt came so far in its time
					revoked = true
					store.MustExec(t, `UPDATE vault.admin_tokens SET revoked_at = now()`)
				}
				return token.Prove(nonce)
			}
			lose(p, c.when)
			_, err := writer.PutVersion(t.Context(), db.Credential{TokenID: token.ID(), Prove: prove}, uuid.New(), "put",
				"app/x", sealedPlaceholder("app/x"), false, db.Settings{})
			if !errors.Is(err, db.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "revoked") {
				t.Errorf("got %v, want the outcome to be unknown, and why", err)
			}
			if got := store.MustQuery(t, `SELECT count(*) FROM vault.secret_versions`); got != c.want {
				t.Errorf("got %s versions, want %s", got, c.want)
			}
		})
	}
}

// A primary that was made read-only, as in a switchover, still has our sessions. The first 25006 drops them all, and
// the same change goes to the promoted node.
func TestReadOnlySessionsAreDropped(t *testing.T) {
	t.Parallel()
	store := vaulttest.Own(t)
	old, next := store.Cluster.Primary(), store.Cluster.Standbys()[0]
	writer := mustWriter(t, db.Options{URL: bothHosts(store, old, next, vaulttest.Operator)})
	_, err := putOne(t.Context(), t, writer, "app/x")
	must(t, err)
	store.MustReplay(t)
	reload(t, store, `default_transaction_read_only = on`)
	until(t, store, `SELECT current_setting('default_transaction_read_only') = 'on'`)
	must(t, next.Promote(t.Context()))
	_, err = putOne(t.Context(), t, writer, "app/y")
	must(t, err)
	// the promoted node
	if got := store.MustQuery(t, `SELECT string_agg(name, ' ' ORDER BY name) FROM vault.secrets`); got != "app/x app/y" {
		t.Errorf("the promoted node has %q", got)
	}
}

// bothHosts is a connection string with several hosts, in this order.
func bothHosts(store *vaulttest.Store, first, second *localpg.Node, role string) string {
	return fmt.Sprintf("host=%s,%s port=%d,%d user=%s dbname=%s", first.SocketDir(), second.SocketDir(), first.Port(),
		second.Port(), role, store.Database)
}

// A frozen server accepts bytes and never answers. Every call ends in bounded time, and an end before COMMIT is a
// definite failure. After the freeze, nothing has been changed.
func TestFrozenPrimary(t *testing.T) {
	t.Parallel()
	store := vaulttest.Own(t)
	node := store.Cluster.Primary()
	operator := mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator), MaxConns: 8})
	worker := mustWriter(t, db.Options{URL: store.URL(vaulttest.Daemon), MaxConns: 8})
	reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(vaulttest.Operator), MaxConns: 8})
	must(t, err)
	t.Cleanup(reader.Close)
	// sessions from before the freeze
	must(t, errors.Join(operator.Ping(t.Context()), worker.Ping(t.Context()), reader.Ping(t.Context())))
	must(t, node.Freeze())
	t.Cleanup(func() { _ = node.Thaw() })

	ctx := context.Background() // no deadline of the caller's
	var calls sync.WaitGroup    // all at once: each waits for its own deadline
	for name, call := range map[string]func() error{
		"put":       func() error { _, err := putOne(ctx, t, operator, "app/x"); return err },
		"get":       func() error { _, err := reader.Current(ctx, "app/x"); return err },
		"status":    func() error { _, err := reader.Status(ctx); return err },
		"beat":      func() error { return worker.Beat(ctx) },
		"claim":     func() error { _, err := worker.ClaimRotations(ctx, "w", 1, 0, time.Minute); return err },
		"fail":      func() error { return worker.FailRotation(ctx, 1, 1, "x", nil) },
		"release":   func() error { return worker.ReleaseRotation(ctx, 1, 1) },
		"candidate": func() error { _, err := worker.Candidate(ctx, 1, 1); return err },
		"store":     func() error { _, err := worker.StoreCandidate(ctx, 1, 1, sealedPlaceholder("app/x")); return err },
		"listen":    func() error { return worker.WaitForRotations(ctx, func() {}) },
	} {
		calls.Go(func() {
			if err := within(t, 2*time.Minute, name, call); !errors.Is(err, db.ErrUnavailable) {
				t.Errorf("%s: got %v, want the database to be unavailable", name, err)
			}
		})
	}
	calls.Wait()
	must(t, node.Thaw())
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.secrets`); got != "0" {
		t.Errorf("%s secrets after a definite failure", got)
	}
}

// A client that freezes in the middle of a change loses its transaction, and the row lock, before other clients give
// up.
func TestFrozenClientHoldsNothing(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	writer := mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)})
	_, err := putOne(t.Context(), t, writer, "app/x")
	must(t, err)

	// What vaultctl has sent when it freezes.
	frozen := mustConnect(t, store.URL(vaulttest.Operator))
	tx, err := frozen.Begin(t.Context())
	must(t, err)
	c := credential(t)
	var nonce []byte
	must(t, tx.QueryRow(t.Context(), `SELECT vault.challenge()`).Scan(&nonce))
	_, err = tx.Exec(t.Context(), `SELECT vault.authorize_proof($1, $2)`, c.TokenID, c.Prove(nonce))
	must(t, err)
	_, err = tx.Exec(t.Context(), `SELECT vault.delete_secret('app/x', $1, '1 day')`, uuid.New())
	must(t, err)
	_, err = tx.Exec(t.Context(), db.ChangeSettings) // last, as they bound the pauses between these statements too
	must(t, err)

	v := sealedPlaceholder("app/x")
	v.Version, v.AAD = 2, "app/x:2"
	err = within(t, 2*time.Minute, "the put", func() error {
		_, err := writer.PutVersion(t.Context(), c, uuid.New(), "put", "app/x", v, false, db.Settings{})
		return err
	})
	must(t, err)
	if err := tx.Commit(t.Context()); err == nil {
		t.Error("the frozen change was committed after all")
	}
}

// A session that is not the vault's keeps its row lock; the put reports that and gives up.
func TestHeldRowIsBusy(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	writer := mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)})
	_, err := putOne(t.Context(), t, writer, "app/x")
	must(t, err)
	holder := mustConnect(t, store.URL(vaulttest.Superuser))
	tx, err := holder.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM vault.secrets FOR UPDATE`)
	must(t, err)
	err = within(t, 2*time.Minute, "the delete", func() error {
		_, err := writer.DeleteSecret(t.Context(), credential(t), uuid.New(), "app/x", time.Hour)
		return err
	})
	if !errors.Is(err, db.ErrBusy) || !strings.Contains(err.Error(), "another session is changing it") {
		t.Errorf("got %v, want busy", err)
	}
	must(t, tx.Rollback(t.Context()))
	_, err = writer.DeleteSecret(t.Context(), credential(t), uuid.New(), "app/x", time.Hour)
	must(t, err)
}
