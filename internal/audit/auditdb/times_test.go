package auditdb_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// impossible are rows that the vault does not write, but a superuser, an older release or a dump may have.
const impossible = `INSERT INTO vault.audit_log (actor, action, at, recorded_at, detail)
	SELECT 'token:root', 'put', at, r, d FROM (VALUES
	('-infinity'::timestamptz, now(), '{}'::jsonb), ('infinity', now(), '{}'), ('0044-03-15 BC', now(), '{}'),
	('0044-03-15', now(), '{}'),
	('0001-01-01 BC', now(), '{}'), ('0001-01-01', now(), '{}'), ('10000-01-01', now(), '{}'),
	('9999-12-31 23:59:59.999999Z', now(), '{}'),
	('294276-12-31', now(), '{}'), ('4713-01-01 BC', now(), '{}'), (now(), '-infinity', '{}'), (now(), 'infinity', '{}'),
	(now(), now(), (repeat('[', 10001) || repeat(']', 10001))::jsonb)) AS v (at, r, d)`

// A log with rows of such times is sealed, verified, listed, counted and kept by months as any other.
func TestLogOfImpossibleTimes(t *testing.T) {
	s := newSealing(t, vaulttest.New(t))
	s.store.MustExec(t, `SET max_stack_depth = '7MB'; `+impossible, `INSERT INTO vault.audit_log (actor, action, at)
		SELECT 'token:root', 'put', timestamptz '1700-01-15 UTC' + make_interval(months => m)
		FROM generate_series(1, 300) AS m`)
	s.write(3)
	s.store.MustExec(t, `SELECT vault.supervise()`, `SELECT vault.supervise()`)
	if got := s.store.MustQuery(t,
		`SELECT count(*) < 20 FROM pg_inherits WHERE inhparent = 'vault.audit_log'::regclass`); got != "true" {
		t.Error("a month was made for every row")
	}
	if got := s.store.MustQuery(t,
		`SELECT coalesce(string_agg(part || subject || error, ','), '') FROM vault.round_failures`); got != "" {
		t.Errorf("the supervisor fails: %s", got)
	}
	rows := s.mustInt(`SELECT count(*) FROM vault.audit_log`)
	if got := s.seal(); int64(got) != rows {
		t.Errorf("sealed %d of %d rows", got, rows)
	}
	if report := s.mustVerify(seal.Options{}); report.Rows != rows || report.Unsealed != 0 {
		t.Errorf("verified %+v of %d", report, rows)
	}
	for _, newer := range []bool{false, true} {
		seen := map[int64]bool{}
		q := audit.Query{Newer: newer, Limit: 5}
		for {
			page, err := s.auditor.Events(t.Context(), q)
			must(t, err)
			for _, r := range page.Rows {
				if seen[r.ID] {
					t.Fatalf("row %d comes twice", r.ID)
				}
				seen[r.ID] = true
				if _, err := r.MarshalJSON(); err != nil && len(r.Detail) < 1000 {
					t.Errorf("row of %s: %v", r.At, err)
				}
			}
			if q.From = page.Next; q.From == nil || len(page.Rows) == 0 {
				break
			}
		}
		if int64(len(seen)) != rows {
			t.Errorf("newer %v: listed %d of %d", newer, len(seen), rows)
		}
	}
	lag, err := s.daemon.SealingLag(t.Context())
	must(t, err)
	if lag == nil || lag.Seconds != 0 {
		t.Errorf("sealing is behind by %+v", lag)
	}
	for _, edit := range []string{`at = 'infinity' WHERE at = '-infinity'`,
		`at = '9999-12-31 23:59:59.999999Z' WHERE at = 'infinity'`,
		`recorded_at = '-infinity' WHERE recorded_at = 'infinity'`, `at = '0044-03-15 BC' WHERE at = '0044-03-15'`} {
		s.store.MustExec(t, unlock,
			`CREATE TABLE public.log AS SELECT * FROM vault.audit_log; UPDATE vault.audit_log SET `+edit)
		_, err := s.verify(seal.Options{})
		if err == nil || !strings.Contains(err.Error(), "row") {
			t.Errorf("%s: got %v", edit, err)
		}
		s.store.MustExec(t,
			`DELETE FROM vault.audit_log; INSERT INTO vault.audit_log SELECT * FROM public.log; DROP TABLE public.log`)
	}
	s.mustVerify(seal.Options{})
}

// The two words for infinity are one.
func TestInfinityIsTheSameEverywhere(t *testing.T) {
	for _, pair := range [][2]time.Time{{db.Infinity, seal.Infinity}, {db.MinusInfinity, seal.MinusInfinity}} {
		if !pair[0].Equal(pair[1]) {
			t.Errorf("got %s and %s", pair[0], pair[1])
		}
	}
}
