package db_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// advisoryLocks are those that earlier releases took, the last two by goose, which migrated then. A stranger holds all
// of them.
const advisoryLocks = `SELECT pg_advisory_lock(1752790130, 1), pg_advisory_lock(1752790130, 2),
	pg_advisory_lock(1752790130),
	pg_advisory_lock(4097083626), pg_advisory_lock(5887940537704921958)`

// A session with no right but CONNECT can block neither claims nor sealing nor a migration, also of an empty database.
func TestStrangersHoldNothingUp(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/auto")
	mustAdmin(t, store, `SELECT vault.set_max_rotations(5, gen_random_uuid())`)
	stranger := mustConnect(t, store.URL(vaulttest.Stranger))
	must(t, runStep(t.Context(), stranger, advisoryLocks))
	if got := store.MustQuery(t,
		`SELECT string_agg(proname, ' ') FROM pg_proc WHERE pronamespace = 'vault'::regnamespace
			AND prosrc ~ 'advisory'`); got != "" {
		t.Errorf("functions that take an advisory lock, which anybody may: %s", got)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	daemon := mustConnect(t, store.URL(vaulttest.Daemon))
	for _, statement := range []string{supervise, claimOne} {
		must(t, runStep(ctx, daemon, statement))
	}
	var windows int
	must(t, daemon.QueryRow(ctx, `SELECT count(*) FROM vault.next_audit_window(1000)`).Scan(&windows))
	if windows != 1 {
		t.Errorf("got %d windows to seal, want one", windows)
	}
	_, err := db.Migrate(ctx, store.URL(vaulttest.Superuser), "test", "")
	must(t, err)
	fresh := "fresh_" + store.Database
	store.MustExec(t, `CREATE DATABASE `+fresh)
	url := store.Cluster.Primary().URL(fresh, vaulttest.Superuser)
	there := mustConnect(t, store.Cluster.Primary().URL(fresh, vaulttest.Stranger))
	must(t, runStep(ctx, there, advisoryLocks))
	var all sync.WaitGroup
	for range 4 { // of which all but one find it done
		all.Go(func() {
			if _, err := db.Migrate(ctx, url, "test", ""); err != nil {
				t.Errorf("migrating an empty database beside others: %v", err)
			}
		})
	}
	all.Wait()
	must(t, there.Close(ctx))
	store.MustExec(t, `DROP DATABASE `+fresh)
}

// No role can lock a table of the vault against its writers: strangers not at all, granted roles only as readers.
func TestNobodyLocksATable(t *testing.T) {
	store := vaulttest.New(t)
	tables := strings.Fields(store.MustQuery(t, `SELECT string_agg(oid::regclass::text, ' ' ORDER BY relname) FROM pg_class
		WHERE relnamespace = 'vault'::regnamespace AND relkind IN ('r', 'p', 'v')`))
	for _, role := range []string{vaulttest.Stranger, vaulttest.Operator, vaulttest.Daemon, vaulttest.Developer} {
		conn := mustConnect(t, store.URL(role))
		try := func(sql string) error {
			must(t, runStep(t.Context(), conn, "BEGIN"))
			err := runStep(t.Context(), conn, sql)
			must(t, runStep(t.Context(), conn, "ROLLBACK"))
			return err
		}
		for _, table := range tables {
			for _, mode := range []string{"ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE",
				"EXCLUSIVE", "ACCESS EXCLUSIVE"} {
				if err := try(`LOCK TABLE ` + table + ` IN ` + mode + ` MODE`); err == nil {
					t.Errorf("role %s locks %s IN %s MODE", role, table, mode)
				}
			}
			for _, strength := range []string{"UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"} {
				if err := try(`SELECT FROM ` + table + ` FOR ` + strength); err == nil {
					t.Errorf("role %s locks rows of %s FOR %s", role, table, strength)
				}
			}
		}
		for _, table := range []string{"vault.lock_claims", "vault.lock_sealing", "vault.lock_migration"} {
			if err := try(`LOCK TABLE ` + table + ` IN ACCESS SHARE MODE`); err == nil {
				t.Errorf("role %s locks %s", role, table)
			}
		}
	}
}

// A granted role can keep a lock while its transaction is open. Every wait for it has a limit, and its error names the
// holder.
func TestTheHolderIsNamed(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/auto")
	mustAdmin(t, store, `SELECT vault.set_max_rotations(5, gen_random_uuid())`)
	store.MustExec(t, supervise, `SELECT vault._audit_partition('2020-01-01')`,
		`SELECT vault.add_audit_seal(`+auditSeal("now()", "'k'")+`)`,
		`INSERT INTO vault.audit_log (actor, action, recorded_at)
			VALUES ('token:root', 'put', clock_timestamp() - interval '2 hours')`)
	url := store.URL(vaulttest.Daemon) + "&application_name=stuck"
	holder := mustConnect(t, url)
	for _, statement := range []string{"BEGIN", supervise, claimOne, `SELECT vault.next_audit_window(1000)`} {
		must(t, runStep(t.Context(), holder, statement))
	}
	want := fmt.Sprintf(`for the transaction of pid %d ("stuck", role "vaultd", idle in transaction), since 20`,
		holder.PgConn().PID())
	daemon, operator := store.URL(vaulttest.Daemon), store.URL(vaulttest.Operator)
	var all sync.WaitGroup
	for what, waits := range map[string]struct {
		url   string
		steps []string
	}{
		"claiming waits":      {daemon, []string{claimOne}},
		"sealing waits":       {daemon, []string{`SELECT vault.next_audit_window(1000)`}},
		"a seal waits":        {daemon, []string{`SELECT vault.add_audit_seal(` + auditSeal("now()", "'k'") + `)`}},
		"the heartbeat waits": {daemon, []string{`SELECT vault.beat()`}},
		"pruning waits":       {operator, []string{"BEGIN", "AUTHORISE", prunePast}},
	} {
		all.Go(func() {
			err := runSession(t, waits.url, waits.steps)
			if code, text := sqlState(err); code != "VA006" || !strings.HasPrefix(text, what+" ") ||
				!strings.Contains(text, want) {
				t.Errorf("got %s %q, want VA006 %q %q", code, text, what, want)
			}
		})
	}
	all.Wait()
	lag := store.MustQuery(t,
		`SELECT concat_ws(' ', l->'held', l->'sealer'->>'pid', l->'sealer'->>'application', l->'sealer'->>'role')
			FROM vault.sealing_lag() AS l`)
	if want := fmt.Sprintf("false %d stuck vaultd", holder.PgConn().PID()); lag != want {
		t.Errorf("got the sealing lag %q, want %q", lag, want)
	}
	writer := mustWriter(t, db.Options{URL: daemon})
	if _, err := writer.ClaimRotations(t.Context(), "w", 1, 0, time.Hour); !errors.Is(err, db.ErrBusy) ||
		!strings.Contains(err.Error(), want) {
		t.Errorf("the worker's claim: got %v, want that it is busy and %q", err, want)
	}
	must(t, runStep(t.Context(), holder, "ROLLBACK"))
	must(t, runSession(t, daemon, []string{claimOne, `SELECT vault.next_audit_window(1000)`, `SELECT vault.beat()`}))
}

// A round that another session has begun and does not end keeps the next from nothing but what that one has in hand.
func TestAnOpenRoundKeepsNoOther(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/first", "app1/lost", "app1/second")
	store.MustExec(t, `SELECT vault._audit_partitions()`,
		`UPDATE vault.secrets SET rotation_window = '00:00-23:59 Gone/Zone' WHERE name = 'app1/lost'`,
		`UPDATE vault.secrets SET next_rotation_at = now() + interval '1 hour' WHERE name = 'app1/second'`)
	holder := mustConnect(t, store.URL(vaulttest.Daemon))
	for _, statement := range []string{"BEGIN", supervise} { // heartbeat, a job, and what it notes of the lost zone
		must(t, runStep(t.Context(), holder, statement))
	}
	store.MustExec(t,
		`UPDATE vault.secrets SET next_rotation_at = now() - interval '1 hour' WHERE name = 'app1/second'`)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	must(t, runStep(ctx, mustConnect(t, store.URL(vaulttest.Daemon)), supervise))
	if got := store.MustQuery(t, `SELECT string_agg(name, ' ') FROM vault.rotation_jobs`); got != "app1/second" {
		t.Errorf("got jobs of %q beside an open round, want app1/second's", got)
	}
	if got := store.MustQuery(t,
		`SELECT string_agg(part, ' ' ORDER BY part) FROM vault.round_failures`); got != "heartbeat windows" {
		t.Errorf("got failures of %q beside an open round, want heartbeat and windows", got)
	}
	must(t, runStep(t.Context(), holder, "COMMIT"))
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise}))
	if got := store.MustQuery(t,
		`SELECT string_agg(part || ' ' || subject, ', ') FROM vault.round_failures`); got != "window app1/lost" {
		t.Errorf("got failures of %q after it, want the lost zone's", got)
	}
}

const prunePast = `SELECT vault.prune_audit('2020-01-01', NULL, 1, 1, sha256(''), NULL, NULL, gen_random_uuid())`

// A migration that waits for a reader, or for another migration, keeps every later read waiting too: it gives up soon,
// and names the holder.
func TestMigrateNamesWhatItWaitsFor(t *testing.T) {
	t.Cleanup(db.ShortLockTimeouts())
	store := vaulttest.New(t)
	for what, held := range map[string]struct{ role, statement string }{
		"a reader":          {vaulttest.AppRole, `SELECT FROM vault.secrets`},
		"another migration": {vaulttest.Superuser, `LOCK TABLE vault.lock_migration IN EXCLUSIVE MODE`},
	} {
		holder := mustConnect(t, store.URL(held.role)+"&application_name=stuck")
		for _, statement := range []string{"BEGIN", held.statement} {
			must(t, runStep(t.Context(), holder, statement))
		}
		_, err := db.Migrate(t.Context(), store.URL(vaulttest.Superuser), "test", "")
		want := fmt.Sprintf("migrating waits for the transaction of pid %d ('stuck', role '%s', since 20",
			holder.PgConn().PID(), held.role)
		if !errors.Is(err, db.ErrBusy) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: got %v, want that it is busy and %q", what, err, want)
		}
		must(t, runStep(t.Context(), holder, "COMMIT"))
		_, err = db.Migrate(t.Context(), store.URL(vaulttest.Superuser), "test", "")
		must(t, err)
	}
}

func sqlState(err error) (code, text string) {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code, server.Message
	}
	return "", fmt.Sprint(err)
}
