package auditdb_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// start ships until the test ends.
func (s *shipping) start() *spool.Shipper {
	s.t.Helper()
	shipper := &spool.Shipper{Spool: s.spool, Primary: s.log, Log: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() { shipper.Run(ctx); close(done) }()
	s.t.Cleanup(func() { stop(); <-done })
	return shipper
}

func (s *shipping) untilDrained(shipper *spool.Shipper) {
	s.t.Helper()
	until(s.t, "all records arrive", func() bool { return drained(s.spool.Stats(), shipper.State()) })
}

// Once the setting that made shipping fail is taken back, the records arrive without a restart. The sessions end first,
// so that the new ones begin with the role's settings.
func TestShippingRecovers(t *testing.T) {
	for name, c := range map[string]struct {
		set, reset string
		fails      bool // for certain: a fast server begins a session within a millisecond
	}{
		"statement_timeout":        {`SET statement_timeout = '1ms'`, `RESET statement_timeout`, false},
		"lock_timeout":             {`SET lock_timeout = '1ms'`, `RESET lock_timeout`, false},
		"idle_session_timeout":     {`SET idle_session_timeout = '1ms'`, `RESET idle_session_timeout`, false},
		"read only":                {`SET default_transaction_read_only = on`, `RESET default_transaction_read_only`, true},
		"session_replication_role": {`SET session_replication_role = replica`, `RESET session_replication_role`, true},
	} {
		t.Run(name, func(t *testing.T) {
			store := vaulttest.New(t)
			s := newShipping(t, store.URL(vaulttest.Daemon))
			shipper := s.start()
			s.append(1)
			s.untilDrained(shipper)
			store.MustExec(t, `ALTER ROLE vaultd IN DATABASE `+store.Database+` `+c.set,
				`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'vaultd' AND datname = current_database()`)
			s.append(2)
			if c.fails {
				until(t, "shipping fails", func() bool { return shipper.State().Failing != nil })
			}
			store.MustExec(t, `ALTER ROLE vaultd IN DATABASE `+store.Database+` `+c.reset)
			s.append(3)
			s.untilDrained(shipper)
			s.arrived(store, 3)
		})
	}
}

// A session that failed is not used again: it keeps the settings that its role had when it began.
func TestAFailedAttemptGetsAnotherSession(t *testing.T) {
	store := vaulttest.New(t)
	s := newShipping(t, store.URL(vaulttest.Daemon))
	shipper := s.start()
	s.append(1)
	s.untilDrained(shipper)
	const sessions = `SELECT coalesce(string_agg(pid::text, ' ' ORDER BY pid), '') FROM pg_stat_activity
		WHERE usename = 'vaultd' AND datname = current_database()`
	before := store.MustQuery(t, sessions)
	if before == "" {
		t.Fatal("there is no session to be exchanged")
	}
	other, err := pgx.Connect(t.Context(), store.URL(vaulttest.Superuser))
	must(t, err)
	defer other.Close(context.WithoutCancel(t.Context()))
	_, err = other.Exec(t.Context(), `BEGIN; SELECT FROM vault.audit_spools FOR UPDATE`)
	must(t, err)
	s.append(2)
	until(t, "shipping fails", func() bool { return shipper.State().Failing != nil })
	if err := shipper.State().Failing; !errors.Is(err, db.ErrBusy) {
		t.Errorf("got %v, want that another session is changing it", err)
	}
	_, err = other.Exec(t.Context(), `ROLLBACK`)
	must(t, err)
	s.untilDrained(shipper)
	s.arrived(store, 2)
	if after := store.MustQuery(t, sessions); after == before || after == "" {
		t.Errorf("got the sessions %q after a failure, as before", after)
	}
}

// Another spool of a node begins: the primary says up to where it has the one before.
func TestAnotherSpoolOfANodeIsOnRecord(t *testing.T) {
	store := vaulttest.New(t)
	const follows = `SELECT coalesce(string_agg(concat_ws(' ', outcome, actor, node, detail->>'after_next',
		detail->>'after' IN (SELECT boot::text FROM vault.audit_spools)), ','), '')
		FROM vault.audit_log WHERE action = 'audit.spool' AND detail ? 'after'`
	s := newShipping(t, store.URL(vaulttest.Daemon))
	s.append(1, 2)
	s.run(drained)
	if got := store.MustQuery(t, follows); got != "" {
		t.Errorf("the first spool follows %q", got)
	}
	again := newShipping(t, store.URL(vaulttest.Daemon))
	again.append(3)
	again.run(drained)
	if got, want := store.MustQuery(t, follows), "failed role:vaultd db2@host 4 t"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	ledgers, err := mustLog(t, store.URL(vaulttest.Superuser)).Ledgers(t.Context())
	must(t, err)
	if len(ledgers) != 2 || ledgers[0].Node != "db2@host" || ledgers[0].Next+ledgers[1].Next != 7 {
		t.Errorf("got the ledgers %+v", ledgers)
	}
}
