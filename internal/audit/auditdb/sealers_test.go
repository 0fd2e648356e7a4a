package auditdb_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// mustBeOneChain: no id is missing or twice, every window begins where the one before it ended, every row below the
// last is in exactly one, and the log verifies.
func (s *sealing) mustBeOneChain() seal.Report {
	s.t.Helper()
	for what, sql := range map[string]string{
		"ids with a gap": `SELECT count(*) FROM (SELECT id, row_number() OVER (ORDER BY id) AS n
			FROM vault.audit_seals) x WHERE id <> n`,
		"windows that overlap": `SELECT count(*) FROM (SELECT from_tx, lag(to_tx) OVER (PARTITION BY system_id, month
			ORDER BY id) AS before FROM vault.audit_seals) x WHERE before > from_tx`,
		"rows twice or missing": `SELECT coalesce(sum(rows), 0) - (SELECT count(*) FROM vault.audit_log
			WHERE tx < (SELECT to_tx FROM vault.audit_seals ORDER BY id DESC LIMIT 1))
			FROM vault.audit_seals`,
	} {
		if n := s.mustInt(sql); n != 0 {
			s.t.Errorf("%s: %d", what, n)
		}
	}
	return s.mustVerify(seal.Options{})
}

// Two sealers beside one primary share the work, or one does it all; either way the chain is one.
func TestTwoSealersOnOnePrimary(t *testing.T) {
	s := newSealing(t, vaulttest.New(t))
	s.seal() // rows of the template may be old, and sealing that is a minute late is an error
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var counted sync.Mutex
	did, failed := map[int]int{}, error(nil)
	var work sync.WaitGroup
	for i := range 2 {
		daemon := mustLog(t, s.store.URL(vaulttest.Daemon))
		work.Go(func() {
			for ctx.Err() == nil {
				n, err := daemon.SealAudit(ctx, 3, func(w seal.Window) ([]seal.Seal, error) { return w.Seal(ctx, s.key) })
				counted.Lock()
				did[i] += n
				if err != nil && ctx.Err() == nil {
					failed = err
				}
				counted.Unlock()
			}
		})
	}
	until(t, "both have sealed rows", func() bool {
		s.write(5)
		counted.Lock()
		defer counted.Unlock()
		return did[0] > 0 && did[1] > 0 || failed != nil
	})
	stop()
	work.Wait()
	must(t, failed)
	s.seal()
	if report := s.mustBeOneChain(); report.Unsealed != 0 {
		t.Errorf("%d rows are not sealed", report.Unsealed)
	}
}

// The primary fails with its sealer while rows are written. The sealer beside the promoted standby continues the same
// chain with the rows that were not sealed yet, and one beside the failed node does nothing.
func TestSealingAcrossAPromotion(t *testing.T) {
	store := vaulttest.Own(t)
	s := newSealing(t, store)
	primary, standby := store.Cluster.Primary(), store.Cluster.Standbys()[0]
	hosts := func(role string) string {
		return fmt.Sprintf("user=%s dbname=%s host=%s,%s port=%d,%d connect_timeout=2", role, store.Database,
			primary.SocketDir(), standby.SocketDir(), primary.Port(), standby.Port())
	}
	beside := func(url string) *auditdb.Log {
		return auditdb.New(mustReader(t, url), mustWriter(t, hosts(vaulttest.Daemon)))
	}
	running, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	sealers := map[string]*seal.Sealer{}
	for name, url := range map[string]string{"old": store.URL(vaulttest.Daemon),
		"new": store.StandbyURL(vaulttest.Daemon)} {
		sealer := &seal.Sealer{Store: beside(url), Key: s.key, Log: slog.New(slog.DiscardHandler)}
		sealers[name] = sealer
		work.Go(func() { sealer.Run(running) })
	}
	sealed := func(name string) int64 { return sealers[name].State().Sealed }

	s.write(20)
	until(t, "the old primary's sealer has sealed them", func() bool { return sealed("old") >= 20 })
	before := s.mustInt(`SELECT max(id) FROM vault.audit_seals`)
	// A transaction that ends with the primary delays sealing of these: no sealer has seen them.
	open, err := pgx.Connect(t.Context(), store.URL(vaulttest.Superuser))
	must(t, err)
	defer open.Close(context.WithoutCancel(t.Context()))
	_, err = open.Exec(t.Context(), `BEGIN; INSERT INTO vault.audit_log (actor, action) VALUES ('token:lost', 'put')`)
	must(t, err)
	s.write(10)
	store.MustReplay(t)
	if n := sealed("new"); n != 0 {
		t.Errorf("the sealer beside the standby has sealed %d rows", n)
	}
	must(t, primary.Kill())
	must(t, standby.Promote(t.Context()))

	s.auditor = beside(standby.URL(store.Database, vaulttest.Operator))
	after, err := pgx.Connect(t.Context(), standby.URL(store.Database, vaulttest.Superuser))
	must(t, err)
	defer after.Close(context.WithoutCancel(t.Context()))
	for range 10 {
		_, err = after.Exec(t.Context(), `INSERT INTO vault.audit_log (actor, action) VALUES ('token:root', 'put')`)
		must(t, err)
	}
	until(t, "the new primary's sealer has sealed what was left and what came", func() bool {
		return sealed("new") >= 20 && s.mustVerify(seal.Options{}).Unsealed == 0
	})
	old := sealed("old")
	report := s.mustVerify(seal.Options{})
	if report.Unsealed != 0 || report.Rows < 40 {
		t.Errorf("got %+v, want all of at least 40 rows sealed", report)
	}
	var first, gaps int64
	var lost bool
	must(t, after.QueryRow(t.Context(), `SELECT min(id) FILTER (WHERE id > $1), count(*) - max(id),
		(SELECT bool_or(actor = 'token:lost') FROM vault.audit_log)
		FROM vault.audit_seals`, before).Scan(&first, &gaps, &lost))
	if first != before+1 || gaps != 0 || lost {
		t.Errorf("the chain goes on with seal %d after %d, %d gaps, lost row there: %t", first, before, -gaps, lost)
	}
	if sealed("old") != old {
		t.Error("the sealer beside the dead node went on")
	}
}

// A transaction that stays open delays sealing, and so does a prepared one, in any database of the cluster. It is
// named.
func TestSealingLag(t *testing.T) {
	store := vaulttest.OwnWith(t, map[string]string{"max_prepared_transactions": "5"})
	s := newSealing(t, store)
	lag := func() auditdb.Lag {
		t.Helper()
		l, err := s.daemon.SealingLag(t.Context())
		must(t, err)
		if l == nil {
			t.Fatal("got nothing, want how far sealing is behind")
		}
		return *l
	}
	if l, err := s.daemon.SealingLag(t.Context()); err != nil || l != nil {
		t.Errorf("got %+v, error %v, where nothing was ever sealed, want nothing", l, err)
	}
	s.seal()
	if l := lag(); l != (auditdb.Lag{}) {
		t.Errorf("got %+v with everything sealed, want zero", l)
	}
	const late = `INSERT INTO vault.audit_log (actor, action, recorded_at)
		VALUES ('token:root', 'put', clock_timestamp() - interval '90 seconds')`
	var began time.Time
	insertLate := func() { began = time.Now(); store.MustExec(t, late) }
	lateBy := func(seconds float64) {
		t.Helper()
		if least, most := 89.0, 91+time.Since(began).Seconds(); seconds < least || seconds > most {
			t.Errorf("got %.1f seconds, want %.0f to %.1f", seconds, least, most)
		}
	}

	// no sealer
	insertLate()
	l := lag()
	lateBy(l.Seconds)
	if l.Held || l.Holder != nil {
		t.Errorf("got %+v, want a row that waits for a sealer", l)
	}
	s.seal()

	// an open transaction, which has written no audit row, in another database
	idle, err := pgx.Connect(t.Context(), store.Cluster.Primary().URL("postgres",
		vaulttest.Superuser)+"&application_name=forgotten")
	must(t, err)
	defer idle.Close(context.WithoutCancel(t.Context()))
	_, err = idle.Exec(t.Context(), `CREATE TABLE t (i int)`)
	must(t, err)
	_, err = idle.Exec(t.Context(), `BEGIN; INSERT INTO t VALUES (1)`)
	must(t, err)
	insertLate()
	if n := s.sealClosed(); n != 0 {
		t.Fatalf("%d rows were sealed over a transaction that still runs", n)
	}
	l = lag()
	lateBy(l.Seconds)
	if !l.Held || l.Holder == nil || l.Holder.Since == nil || l.Holder.State != "idle in transaction" ||
		l.Holder.PID != int(idle.PgConn().PID()) || l.Holder.Application != "forgotten" || l.Holder.Database != "postgres" {
		t.Errorf("got %+v, holder %+v, want the idle transaction", l, l.Holder)
	}

	// without the right to see what it does
	store.MustExec(t, `REVOKE pg_read_all_stats FROM vault_owner`)
	if l := lag(); !l.Held || l.Holder == nil || l.Holder.PID != int(idle.PgConn().PID()) || l.Holder.State != "" ||
		l.Holder.Since != nil {
		t.Errorf("got %+v, holder %+v, want the idle transaction without what it does", l, l.Holder)
	}
	store.MustExec(t, `GRANT pg_read_all_stats TO vault_owner`)

	// prepared, and its session gone: no backend is left to be seen
	_, err = idle.Exec(t.Context(), `PREPARE TRANSACTION 'left by "somebody"'`)
	must(t, err)
	must(t, idle.Close(t.Context()))
	if n := s.sealClosed(); n != 0 {
		t.Fatalf("%d rows were sealed over a prepared transaction", n)
	}
	if l := lag(); !l.Held || l.Holder == nil || l.Holder.Prepared != `left by "somebody"` ||
		l.Holder.Database != "postgres" {
		t.Errorf("got %+v, holder %+v, want the prepared transaction", l, l.Holder)
	}
	status, err := mustReader(t, store.URL(vaulttest.Daemon)).Status(t.Context())
	must(t, err)
	if status.UnsealedSeconds == nil {
		t.Fatal("status says nothing of rows that are not sealed")
	}
	lateBy(*status.UnsealedSeconds)

	// A reader's snapshot, and a slot, delay vacuum, but not sealing.
	conn, err := pgx.Connect(t.Context(), store.Cluster.Primary().URL("postgres", vaulttest.Superuser))
	must(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), `ROLLBACK PREPARED 'left by "somebody"'`)
	must(t, err)
	_, err = conn.Exec(t.Context(), `BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class`)
	must(t, err)
	insertLate()
	if n := s.seal(); n != 2 {
		t.Errorf("%d rows were sealed beside a reader, want 2", n)
	}
	if l := lag(); l.Seconds != 0 {
		t.Errorf("got %+v with everything sealed, want zero", l)
	}
	s.mustBeOneChain()
}
