package auditdb_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// auditRows are so many that the planner prefers indexes, and a search takes several slices.
const auditRows = 45000

// filled is the vault of mustFilled, which the tests that only read it share.
var filled *vaulttest.Store

// mustFilled is a vault with rows of the 67 days before the 25th of November 2026: 40 secrets, 5 actors, one row in 500
// refused, one in 20,000 a purge, and a tail that arrives late.
func mustFilled(t testing.TB) *vaulttest.Store {
	t.Helper()
	if filled != nil {
		return filled
	}
	s := vaulttest.New(t)
	s.MustExec(t, `SELECT vault._audit_partitions()`,
		`SELECT vault._audit_partition(month::date) FROM generate_series('2026-08-01'::date, '2026-11-01', '1 month') month`,
		fmt.Sprintf(`INSERT INTO vault.audit_log (at, recorded_at, actor, db_role, client, node, action, secret, version,
			outcome, request_id, detail)
			SELECT timestamptz '2026-11-25 12:00Z' - n * interval '129.6 s', timestamptz '2026-11-25 12:00Z',
				(ARRAY['token:ci', 'worker:w1', 'client:10.0.0.7', 'supervisor', 'role:my role'])[1 + n %% 5], 'operator',
				CASE WHEN n %% 3 = 0 THEN NULL ELSE ('10.0.' || n %% 2 || '.' || n %% 200)::inet END, 'node' || n %% 2,
				CASE WHEN n %% 20000 = 19999 THEN 'purge' WHEN n %% 7 = 0 THEN 'put' ELSE 'read' END,
				CASE WHEN n %% 11 = 0 THEN NULL WHEN n %% 5000 = 1 THEN 'rare/x'
				ELSE (ARRAY['prod', 'test'])[1 + n %% 2] || '/s' || n %% 40 END,
				nullif(n %% 4, 0), CASE WHEN n %% 500 = 0 THEN 'denied' WHEN n %% 500 = 250 THEN 'failed' ELSE 'ok' END,
				md5(n::text)::uuid, jsonb_build_object('n', n)
			FROM generate_series(1, %d) n`, auditRows),
		`VACUUM ANALYZE vault.audit_log`)
	filled = s
	return s
}

// mustWalk collects every page, and fails if a row comes twice or out of order.
func mustWalk(t testing.TB, log *auditdb.Log, q audit.Query) (ids []int64, pages int) {
	t.Helper()
	var last *audit.Row
	for {
		page, err := log.Events(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		pages++
		if q.Newer {
			slices.Reverse(page.Rows)
		}
		for _, row := range page.Rows {
			if last != nil && (cmp.Or(row.At.Compare(last.At), cmp.Compare(row.ID, last.ID)) > 0) != q.Newer {
				t.Fatalf("row %d at %s comes behind %d at %s", row.ID, row.At, last.ID, last.At)
			}
			last = &row
			ids = append(ids, row.ID)
		}
		if page.Next == nil {
			return ids, pages
		}
		if pages > 2*auditRows {
			t.Fatal("the pages have no end")
		}
		q.From = page.Next
	}
}

var auditFilters = []struct {
	name   string
	filter string
	sql    string // the same, asked naively
}{
	{"all", ``, `true`},
	{"secret", `secret:prod/s2`, `secret = 'prod/s2'`},
	{"secrets", `secret:prod/s2 secret:test/s3 secret:none`, `secret IN ('prod/s2', 'test/s3')`},
	{"prefix", `secret:prod/*`, `starts_with(secret, 'prod/')`},
	{"rare prefix", `secret:rare/* secret:ra*`, `starts_with(secret, 'rare/')`},
	{"not prefix", `-secret:prod/* -secret:test/*`,
		`secret IS NULL OR NOT (starts_with(secret, 'prod/') OR starts_with(secret, 'test/'))`},
	{"actors", `actor:ci`, `actor = 'token:ci'`},
	{"actor prefix", `actor:token:* actor:role:*`, `actor ~ '^(token|role):'`},
	{"network", `ip:10.0.1.0/28`, `client <<= '10.0.1.0/28'`},
	{"address", `ip:10.0.1.1`, `client = '10.0.1.1'`},
	{"not network", `-ip:10.0.0.0/16`, `client IS NULL`},
	{"refusals", `-outcome:ok`, `outcome <> 'ok'`},
	{"denied", `outcome:denied`, `outcome = 'denied'`},
	{"neither ok nor denied", `-outcome:ok -outcome:denied`, `outcome = 'failed'`},
	{"ok", `outcome:ok action:put`, `outcome = 'ok' AND action = 'put'`},
	{"rare action", `action:purge`, `action = 'purge'`},
	{"action prefix", `action:pu*`, `action IN ('put', 'purge')`},
	{"version", `version:2 version:3`, `version IN (2, 3)`},
	{"node", `node:node1`, `node = 'node1'`},
	{"request", `request:c4ca4238-a0b9-2382-0dcc-509a6f75849b`, `request_id = md5('1')::uuid`},
	{"refusals of many", `actor:token:ci outcome:denied outcome:failed`, `actor = 'token:ci' AND outcome <> 'ok'`},
	{"rare action of an actor", `actor:"role:my role" action:purge`, `actor = 'role:my role' AND action = 'purge'`},
	{"a month of a prefix", `secret:prod/* since:2026-10-06T12:00Z until:2026-11-05T12:00Z`,
		`starts_with(secret, 'prod/') AND at >= '2026-10-06 12:00Z' AND at < '2026-11-05 12:00Z'`},
	{"hours", `since:2026-11-25T09:00Z`, `at >= '2026-11-25 09:00Z'`},
}

var t0 = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func TestAuditOfManyRows(t *testing.T) {
	s := mustFilled(t)
	t.Run("answers", func(t *testing.T) { matchesPlainWhere(t, s) })
	t.Run("reads", func(t *testing.T) { readsFewRows(t, s) })
	t.Run("values", func(t *testing.T) { knowsValues(t, s) })
	t.Run("uses", func(t *testing.T) { knowsUses(t, s) })
}

// matchesPlainWhere compares every plan with a plain WHERE, in both directions.
func matchesPlainWhere(t *testing.T, s *vaulttest.Store) {
	log := mustLog(t, s.URL(vaulttest.Operator))
	for _, c := range auditFilters {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			f := parsed(t, c.filter)
			want := plainWhere(t, s, c.sql)
			older, _ := mustWalk(t, log, audit.Query{Filter: f, Limit: 1000})
			if got := joined(older); got != want {
				t.Errorf("older: got %d events, want %d", len(older), strings.Count(want, ",")+1)
			}
			newer, _ := mustWalk(t, log, audit.Query{Filter: f, Limit: 700, Newer: true})
			slices.Reverse(newer)
			if got := joined(newer); got != want {
				t.Errorf("newer: got %d events, want %d", len(newer), strings.Count(want, ",")+1)
			}
			mustCountLike(t, log, f, len(older))
		})
	}
}

// plainWhere has the ids of rows, newest first, joined by commas.
func plainWhere(t *testing.T, s *vaulttest.Store, condition string) string {
	t.Helper()
	return s.MustQuery(t,
		`SELECT coalesce(string_agg(id::text, ',' ORDER BY at DESC, id DESC), '') FROM vault.audit_log WHERE `+condition)
}

// mustCountLike checks that exact counts are right, and approximate ones near.
func mustCountLike(t *testing.T, log *auditdb.Log, f filter.Filter, want int) {
	t.Helper()
	counts, err := log.Counts(t.Context(), f, time.Time{}, time.Now(), 30)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	approximate := false
	for _, b := range counts.Buckets {
		sum, approximate = sum+b.Events, approximate || b.Approximate
	}
	if !approximate && sum != int64(want) {
		t.Errorf("counted %d, want %d", sum, want)
	}
	// The rows are spread evenly; values rarer than one in a few hundred rows are not estimated reliably.
	if approximate && want > 1000 && (sum < int64(want)*8/10 || sum > int64(want)*12/10) {
		t.Errorf("estimated %d, want about %d", sum, want)
	}
}

func joined(ids []int64) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = fmt.Sprint(id)
	}
	return strings.Join(texts, ",")
}

// readsFewRows checks that the rows read for a page do not grow with the log.
func readsFewRows(t *testing.T, s *vaulttest.Store) {
	reader := mustReader(t, s.URL(vaulttest.Operator))
	for _, c := range auditFilters {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			for _, newer := range []bool{false, true} {
				plans, err := auditdb.Explain(t.Context(), reader, audit.Query{Filter: parsed(t, c.filter), Newer: newer,
					From: &audit.Cursor{At: t0.AddDate(0, 0, -10)}, Limit: 100})
				if err != nil || len(plans) == 0 {
					t.Fatalf("got %d plans, %v", len(plans), err)
				}
				for _, plan := range plans {
					if strings.Contains(plan.Text, "Seq Scan") || strings.Contains(plan.Text, "Bitmap") {
						t.Errorf("a table is read whole:\n%s", plan.Text)
					}
					// Plan nodes above a scan count its rows again: 20,000 rows are counted a few times.
					if plan.Rows > 3*20000 {
						t.Errorf("%d rows were looked at:\n%s", plan.Rows, plan.Text)
					}
				}
			}
		})
	}
}

func TestAuditRefusesWhatDoesNotFit(t *testing.T) {
	s := vaulttest.New(t)
	log := mustLog(t, s.URL(vaulttest.Operator))
	for _, term := range []filter.Term{
		{Key: "detail", Text: "x"}, {Key: filter.Version, Text: "1"}, {Key: filter.IP, Prefix: true, Text: "10."},
		{Key: filter.Outcome, Prefix: true, Text: "o"}, {Key: filter.Secret},
		{Key: filter.Request, Prefix: true, Text: "c4ca"}, {Key: `secret" OR true --`, Text: "x"},
	} {
		f := filter.Filter{}.With(term)
		if _, err := log.Events(t.Context(), audit.Query{Filter: f}); !errors.Is(err, db.ErrInvalid) {
			t.Errorf("%+v: got %v, want %v", term, err, db.ErrInvalid)
		}
		if _, err := log.Follow(t.Context(), f); !errors.Is(err, db.ErrInvalid) {
			t.Errorf("following %+v: got %v, want %v", term, err, db.ErrInvalid)
		}
	}
	stranger := mustLog(t, s.URL(vaulttest.AppRole))
	if _, err := stranger.Events(t.Context(), audit.Query{}); !errors.Is(err, db.ErrRefused) {
		t.Errorf("a role that is no auditor: got %v, want %v", err, db.ErrRefused)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := log.Events(ctx, audit.Query{}); !errors.Is(err, db.ErrUnavailable) {
		t.Errorf("no time: got %v, want %v", err, db.ErrUnavailable)
	}
}

func TestAuditWorksOnAStandby(t *testing.T) {
	s := vaulttest.New(t)
	s.MustReplay(t)
	log := auditdb.New(mustReader(t, s.StandbyURL(vaulttest.Operator)), nil)
	ids, _ := mustWalk(t, log, audit.Query{Limit: 2})
	if want := s.MustQuery(t, `SELECT count(*) FROM vault.audit_log`); fmt.Sprint(len(ids)) != want {
		t.Errorf("got %d events, want %s", len(ids), want)
	}
	if _, err := log.Counts(t.Context(), filter.Filter{}, time.Time{}, time.Now(), 10); err != nil {
		t.Error(err)
	}
	if _, err := log.Values(t.Context(), filter.Actor, "token:", 5); err != nil {
		t.Error(err)
	}
	if _, err := log.SecretUses(t.Context(), "", "", 100); err != nil {
		t.Error(err)
	}
	follow(t, s, s.StandbyURL(vaulttest.Operator))
}

func TestAuditFollowsOnThePrimary(t *testing.T) {
	s := vaulttest.New(t)
	follow(t, s, s.URL(vaulttest.Operator))
}

// follow: transactions end in another order than they began, and reads arrive long after they happened; each event is
// returned once.
func follow(t *testing.T, s *vaulttest.Store, url string) {
	t.Helper()
	f, err := auditdb.New(mustReader(t, url), nil).Follow(t.Context(), parsed(t, "f/"))
	if err != nil {
		t.Fatal(err)
	}
	first, second := mustBegin(t, s), mustBegin(t, s)
	mustInsert(t, first, "f/first", time.Hour)
	mustInsert(t, second, "f/second", 0)
	mustInsert(t, second, "other", 0)
	mustNext(t, s, f, "")
	mustCommit(t, second)
	mustNext(t, s, f, "f/second")
	third := mustBegin(t, s)
	mustInsert(t, third, "f/third", 24*time.Hour)
	mustCommit(t, third)
	mustNext(t, s, f, "f/third")
	mustNext(t, s, f, "")
	fourth := mustBegin(t, s)
	mustInsert(t, fourth, "f/fourth", 0)
	mustCommit(t, fourth)
	mustCommit(t, first)
	mustNext(t, s, f, "f/first f/fourth") // in the order in which they happened
	mustNext(t, s, f, "")
}

func mustBegin(t *testing.T, s *vaulttest.Store) pgx.Tx {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL(vaulttest.Superuser))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func mustInsert(t *testing.T, tx pgx.Tx, secret string, ago time.Duration) {
	t.Helper()
	_, err := tx.Exec(t.Context(),
		`INSERT INTO vault.audit_log (at, actor, action, secret)
			VALUES (clock_timestamp() - $1::interval, 'owner:postgres', 'read', $2)`, ago, secret)
	if err != nil {
		t.Fatal(err)
	}
}

func mustCommit(t *testing.T, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// mustNext expects the secrets of the next call, after everything is replayed.
func mustNext(t *testing.T, s *vaulttest.Store, f *auditdb.Follower, want string) {
	t.Helper()
	s.MustReplay(t)
	rows, missed, err := f.Next(t.Context())
	if err != nil || missed {
		t.Fatalf("got %v, missed %v", err, missed)
	}
	var got []string
	for _, r := range rows {
		got = append(got, r.Secret)
	}
	if strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func knowsValues(t *testing.T, s *vaulttest.Store) {
	log := mustLog(t, s.URL(vaulttest.Operator))
	for _, c := range []struct {
		key   filter.Key
		typed string
		limit int
		want  string
	}{
		{filter.Secret, "prod/s1", 20, "prod/s10 prod/s12 prod/s14 prod/s16 prod/s18"},
		{filter.Secret, "", 3, "prod/s0 prod/s10 prod/s12"},
		{filter.Secret, "prod/s2", 2, "prod/s2 prod/s20"},
		{filter.Secret, "zzz", 3, ""},
		{filter.Actor, "c", 9, "client:10.0.0.7 token:ci"},
		{filter.Actor, "c", 1, "client:10.0.0.7"},
		{filter.Actor, "token:c", 9, "token:ci"},
		{filter.Node, "node", 9, "node0 node1"},
	} {
		got, err := log.Values(t.Context(), c.key, c.typed, c.limit)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s %q: got %q, %v, want %q", c.key, c.typed, got, err, c.want)
		}
	}
	if got, err := log.Values(t.Context(), filter.Outcome, "", 9); !errors.Is(err, db.ErrInvalid) {
		t.Errorf("values of outcomes: got %q, %v, want %v", got, err, db.ErrInvalid)
	}
}

func knowsUses(t *testing.T, s *vaulttest.Store) {
	s.MustExec(t,
		`ALTER TABLE vault.secrets DISABLE ROW LEVEL SECURITY; INSERT INTO vault.secrets (name)
			VALUES ('prod/s2'), ('prod/unread'), ('test/s3'); ALTER TABLE vault.secrets ENABLE ROW LEVEL SECURITY`)
	log := mustLog(t, s.URL(vaulttest.Operator))
	uses, err := log.SecretUses(t.Context(), "prod/", "", 100)
	if err != nil || len(uses) != 2 {
		t.Fatalf("got %+v, %v, want 2 secrets", uses, err)
	}
	want := s.MustQuery(t,
		`SELECT max(at) FROM vault.audit_log WHERE secret = 'prod/s2' AND action = 'read' AND outcome = 'ok'`)
	if uses[0].LastReadAt == nil || s.MustQuery(t, `SELECT $1::timestamptz`, *uses[0].LastReadAt) != want {
		t.Errorf("got last read %v, want %s", uses[0].LastReadAt, want)
	}
	if uses[1].Name != "prod/unread" || uses[1].LastReadAt != nil {
		t.Errorf("got %+v, want no read", uses[1])
	}
	if _, err := mustLog(t, s.URL(vaulttest.AppRole)).SecretUses(t.Context(), "", "", 100); !errors.Is(err,
		db.ErrRefused) {
		t.Errorf("a role that is no auditor: got %v, want %v", err, db.ErrRefused)
	}
}

func TestSealOf(t *testing.T) {
	s := vaulttest.New(t)
	log := mustLog(t, s.URL(vaulttest.Operator))
	page, err := log.Events(t.Context(), audit.Query{Limit: 2})
	if err != nil || len(page.Rows) != 2 {
		t.Fatalf("got %d rows, %v", len(page.Rows), err)
	}
	if seal, err := log.SealOf(t.Context(), page.Rows[0]); err != nil || seal.Known {
		t.Errorf("no seals: got %+v, %v", seal, err)
	}
	s.MustExec(t, fmt.Sprintf(`INSERT INTO vault.audit_seals (id, system_id, month, from_tx, to_tx, rows, first_id,
		last_id, root, previous, hash, key_id, signature, sealed_at, marks)
		SELECT 7, system_id, date_trunc('month', at AT TIME ZONE 'UTC')::date, tx, (tx::text::bigint + 1)::text::xid8, 1,
			id, id, sha256('a'), sha256('b'), sha256('c'), 'key', 'signature', now(), 'mark' FROM vault.audit_log
			WHERE id = %d`, page.Rows[1].ID))
	for i, want := range []int64{0, 7} {
		if seal, err := log.SealOf(t.Context(), page.Rows[i]); err != nil || !seal.Known || seal.ID != want {
			t.Errorf("row %d: got seal %+v, %v, want %d", i, seal, err, want)
		}
	}
}

// A node's name also finds the events of spools that earlier releases named NAME@HOST, and no other node's.
func TestANodeIsFoundByItsName(t *testing.T) {
	t.Parallel()
	s := vaulttest.New(t)
	for _, node := range []string{"db1", "db1@vm", "db1@", "db10", "db10@vm", "db2@db1", ""} {
		s.MustExec(t, fmt.Sprintf(`INSERT INTO vault.audit_log (actor, node, action, secret) VALUES
			('client:10.0.0.7', nullif('%[1]s', ''), 'read', 'of/%[1]s')`, node))
	}
	log := mustLog(t, s.URL(vaulttest.Operator))
	for line, want := range map[string][]string{
		"node:db1":          {"of/db1", "of/db1@", "of/db1@vm"},
		"node:db1@vm":       {"of/db1@vm"},
		"node:db1*":         {"of/db1", "of/db10", "of/db10@vm", "of/db1@", "of/db1@vm"},
		"node:db2":          {"of/db2@db1"},
		"node:db1 node:db2": {"of/db1", "of/db1@", "of/db1@vm", "of/db2@db1"},
		"-node:db1":         {"of/", "of/db10", "of/db10@vm", "of/db2@db1"},
	} {
		page, err := log.Events(t.Context(), audit.Query{Filter: parsed(t, line+` secret:of/*`)})
		must(t, err)
		got := []string{}
		for _, row := range page.Rows {
			got = append(got, row.Secret)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}
