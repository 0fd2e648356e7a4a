package auditdb_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vaulttest"
	"github.com/hyperiondb/vault/test/chaos/pgproxy"
)

// shipping is a spool whose records are shipped to a primary.
type shipping struct {
	t      *testing.T
	spool  *spool.Spool
	log    *auditdb.Log
	window time.Duration
}

func newShipping(t *testing.T, url string) *shipping {
	t.Helper()
	s, err := spool.Open(spool.Options{Dir: filepath.Join(t.TempDir(), "spool"), Node: func() string { return "db2@host" },
		SegmentBytes: 2000, Timeout: time.Minute})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return &shipping{t: t, spool: s, log: auditdb.New(nil, mustWriter(t, url))}
}

func (s *shipping) append(ids ...int) {
	s.t.Helper()
	for _, id := range ids {
		must(s.t, s.spool.Append(s.t.Context(), audit.Event{Actor: "client:192.0.2.7", Client: "192.0.2.7",
			Action: audit.Read, Secret: "app/x", Version: 1, Outcome: audit.OK,
			RequestID: fmt.Sprintf("00000000-0000-4000-8000-%012d", id)}))
	}
}

// run ships until the condition holds.
func (s *shipping) run(until func(spool.Stats, spool.Shipping) bool) spool.Shipping {
	s.t.Helper()
	shipper := &spool.Shipper{Spool: s.spool, Primary: s.log, Window: s.window, Log: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() { shipper.Run(ctx); close(done) }()
	deadline := time.Now().Add(60 * time.Second)
	for !until(s.spool.Stats(), shipper.State()) {
		if time.Now().After(deadline) {
			s.t.Errorf("waited in vain: %+v %+v", s.spool.Stats(), shipper.State())
			break
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
	stop()
	<-done
	return shipper.State()
}

func drained(s spool.Stats, p spool.Shipping) bool { return s.Records == 0 && p.Failing == nil }

// arrived checks that the reads 1 to n are stored, each once, with consecutive numbers.
func (s *shipping) arrived(store *vaulttest.Store, n int) {
	s.t.Helper()
	const query = `SELECT concat_ws(' ', count(*), count(DISTINCT request_id), min(right(request_id::text, 12)::int),
		max(right(request_id::text, 12)::int),
		count(DISTINCT detail->>'seq'), bool_and(db_role = 'vaultd' AND host(client) = '192.0.2.7' AND node = 'db2@host'))
		FROM vault.audit_log WHERE action = 'read'`
	if got, want := store.MustQuery(s.t, query), fmt.Sprintf("%d %d 1 %d %d t", n, n, n, n); got != want {
		s.t.Errorf("got reads %s, want %s", got, want)
	}
}

// The pair of every commit, "failed" and "done, but the reply was lost", and a primary that is unreachable for a while.
func TestShippedExactlyOnce(t *testing.T) {
	for _, when := range []pgproxy.When{pgproxy.Before, pgproxy.After} {
		t.Run(when.String(), func(t *testing.T) {
			store := vaulttest.New(t)
			p := newProxy(t, store)
			s := newShipping(t, through(p, store, vaulttest.Daemon))
			s.append(1, 2, 3)
			lose(p, when)
			s.run(drained)
			s.append(4)
			lose(p, when)
			s.run(drained)
			s.arrived(store, 4)
			if got := store.MustQuery(t,
				`SELECT string_agg(next_seq || ' ' || gaps, ',') FROM vault.audit_spools`); got != "6 0" {
				t.Errorf("got the position %s, want 6 without gaps", got)
			}
		})
	}
}

// A standby is promoted that lacks records which the old primary acknowledged: it gets them from the spool, which has
// kept them.
func TestShippedAgainAfterALossyFailover(t *testing.T) {
	t.Parallel()
	store := vaulttest.Own(t)
	old := newShipping(t, store.URL(vaulttest.Daemon))
	old.append(1, 2, 3)
	old.run(drained)
	store.MustReplay(t)
	standby := store.Cluster.Standbys()[0]
	must(t, standby.Stop(t.Context(), localpg.Fast))
	old.append(4, 5, 6, 7, 8, 9)
	old.run(drained)
	must(t, store.Cluster.Primary().Kill())
	must(t, standby.Start(t.Context()))
	must(t, standby.Promote(t.Context()))

	again := &shipping{t: t, spool: old.spool,
		log: auditdb.New(nil, mustWriter(t, standby.URL(store.Database, vaulttest.Daemon)))}
	again.append(10)
	state := again.run(drained)
	again.arrived(store, 10)
	if state.Gaps != 0 {
		t.Errorf("got %d gaps, want none: the spool had them", state.Gaps)
	}
}

// Lost records are reported, and changed ones do not fit.
func TestGapsAndForgeries(t *testing.T) {
	store := vaulttest.New(t)
	s := newShipping(t, store.URL(vaulttest.Daemon))
	s.append(1, 2, 3)
	batch, err := s.spool.Read(10)
	must(t, err)

	missing := batch
	missing.First, missing.Records = batch.First+1, batch.Records[1:]
	at, err := s.log.Ship(t.Context(), missing)
	must(t, err)
	if at.Next != 1 {
		t.Errorf("records behind a hole that is not admitted moved the primary to %d", at.Next)
	}
	forged := batch
	forged.Records = append([]spool.Record(nil), batch.Records...)
	forged.Records[1].Event = []byte(strings.Replace(string(batch.Records[1].Event), "app/x", "app/y", 1))
	if _, err := s.log.Ship(t.Context(), forged); !errors.Is(err, db.ErrConflict) ||
		!strings.Contains(err.Error(), "record 3") {
		t.Errorf("a record that was changed: got %v, want that the next does not continue it", err)
	}
	missing.Lost = true
	at, err = s.log.Ship(t.Context(), missing)
	must(t, err)
	if at.Next != 5 || at.Gaps != 1 || at.Last != batch.Hash() {
		t.Errorf("got %+v after an admitted hole", at)
	}
	if got := store.MustQuery(t,
		`SELECT concat_ws(' ', detail->>'from', detail->>'to', detail->>'lost', node, outcome) FROM vault.audit_log
			WHERE action = 'audit.gap'`); got != "1 1 1 db2@host failed" {
		t.Errorf("got the gap %q on record", got)
	}
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.audit_log WHERE action = 'read'`); got != "3" {
		t.Errorf("got %s reads, want 3", got)
	}
}

// The folder is restored to an earlier state, as with a restored machine: other records have numbers that the primary
// has.
func TestAFolderThatWentBack(t *testing.T) {
	store := vaulttest.New(t)
	s := newShipping(t, store.URL(vaulttest.Daemon))
	s.append(1, 2)
	batch, err := s.spool.Read(10)
	must(t, err)
	other := batch
	other.Records = append([]spool.Record(nil), batch.Records...)
	other.Records[2].Event = []byte(`{"action":"read","actor":"client:192.0.2.9","outcome":"ok",` +
		`"at":"2024-01-01T00:00:00Z"}`)
	_, err = s.log.Ship(t.Context(), other)
	must(t, err)
	s.append(3)
	state := s.run(func(_ spool.Stats, p spool.Shipping) bool { return p.Failing != nil })
	if !errors.Is(state.Failing, spool.ErrDiverged) || s.spool.Stats().Records == 0 {
		t.Errorf("got %v, want that the primary has other records, and nothing shipped", state.Failing)
	}
}

// An event can claim anything; db_role is the session's role, and a time in the future is not kept.
func TestWhatAShippedEventCannotClaim(t *testing.T) {
	store := vaulttest.New(t)
	log := auditdb.New(nil, mustWriter(t, store.URL(vaulttest.Daemon)))
	_, err := log.Ship(t.Context(), spool.Batch{Node: "n\x1b[2J", Boot: uuid.New(), First: 1,
		Records: []spool.Record{
			{Event: []byte(`{"actor":"token:root","action":"read","secret":"a\u001b[31m","outcome":"maybe",` +
				`"at":"2999-01-01T00:00:00Z"}`)},
		}})
	must(t, err)
	if got := store.MustQuery(t,
		`SELECT concat_ws(' ', actor, outcome, at < now() + interval '2 minutes', detail->>'claimed_at' LIKE '2999%', secret,
			node) FROM vault.audit_log WHERE action = 'read'`); got != "role:vaultd failed t t a?[31m n?[2J" {
		t.Errorf("got %q", got)
	}
	stranger := auditdb.New(nil, mustWriter(t, store.URL(vaulttest.Stranger)))
	if _, err := stranger.Ship(t.Context(), spool.Batch{Boot: uuid.New()}); err == nil {
		t.Error("a role without a grant ships reads")
	}
}
