package db_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// auditRows are so many that the planner prefers indexes, and a search takes several slices.
const auditRows = 45000

// mustFillAudit inserts rows of the 67 days before the 25th of November 2026: 40 secrets, 5 actors, one row in 500
// refused, one in 20,000 a purge, and a tail that arrives late.
func mustFillAudit(t testing.TB, s *vaulttest.Store) {
	t.Helper()
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

// mustWalk collects every page, and fails if a row comes twice or out of order.
func mustWalk(t testing.TB, r *db.Reader, q db.AuditQuery) (ids []int64, pages int) {
	t.Helper()
	var last *db.AuditRow
	for {
		page, err := r.Audit(t.Context(), q)
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
	filter db.AuditFilter
	sql    string // the same, asked naively
}{
	{"all", db.AuditFilter{}, `true`},
	{"secret", where(db.AuditCondition{Column: db.AuditSecret, Equal: []string{"prod/s2"}}), `secret = 'prod/s2'`},
	{"secrets", where(db.AuditCondition{Column: db.AuditSecret, Equal: []string{"prod/s2", "test/s3", "none"}}),
		`secret IN ('prod/s2', 'test/s3')`},
	{"prefix", where(db.AuditCondition{Column: db.AuditSecret, Prefixes: []string{"prod/"}}),
		`starts_with(secret, 'prod/')`},
	{"rare prefix", where(db.AuditCondition{Column: db.AuditSecret, Prefixes: []string{"rare/", "ra"}}),
		`starts_with(secret, 'rare/')`},
	{"not prefix", where(db.AuditCondition{Column: db.AuditSecret, Not: true, Prefixes: []string{"prod/", "test/"}}),
		`secret IS NULL OR NOT (starts_with(secret, 'prod/') OR starts_with(secret, 'test/'))`},
	{"actors", where(db.AuditCondition{Column: db.AuditActor, Equal: []string{"ci", "token:ci", "worker:ci"}}),
		`actor = 'token:ci'`},
	{"actor prefix", where(db.AuditCondition{Column: db.AuditActor, Prefixes: []string{"token:", "role:"}}),
		`actor ~ '^(token|role):'`},
	{"network",
		where(db.AuditCondition{Column: db.AuditClient, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/28")}}),
		`client <<= '10.0.1.0/28'`},
	{"address",
		where(db.AuditCondition{Column: db.AuditClient, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.1.1/32")}}),
		`client = '10.0.1.1'`},
	{"not network",
		where(db.AuditCondition{Column: db.AuditClient, Not: true,
			Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}}), `client IS NULL`},
	{"refusals", where(db.AuditCondition{Column: db.AuditOutcome, Not: true, Equal: []string{"ok"}}), `outcome <> 'ok'`},
	{"denied", where(db.AuditCondition{Column: db.AuditOutcome, Equal: []string{"denied"}}), `outcome = 'denied'`},
	{"neither ok nor denied",
		where(db.AuditCondition{Column: db.AuditOutcome, Not: true, Equal: []string{"ok", "denied"}}), `outcome = 'failed'`},
	{"ok", where(db.AuditCondition{Column: db.AuditOutcome, Equal: []string{"ok"}},
		db.AuditCondition{Column: db.AuditAction, Equal: []string{"put"}}), `outcome = 'ok' AND action = 'put'`},
	{"rare action", where(db.AuditCondition{Column: db.AuditAction, Equal: []string{"purge"}}), `action = 'purge'`},
	{"action prefix", where(db.AuditCondition{Column: db.AuditAction, Prefixes: []string{"pu"}}),
		`action IN ('put', 'purge')`},
	{"version", where(db.AuditCondition{Column: db.AuditVersion, Numbers: []int{2, 3}}), `version IN (2, 3)`},
	{"node", where(db.AuditCondition{Column: db.AuditNode, Equal: []string{"node1"}}), `node = 'node1'`},
	{"request", where(db.AuditCondition{Column: db.AuditRequest, Equal: []string{"c4ca4238-a0b9-2382-0dcc-509a6f75849b"}}),
		`request_id = md5('1')::uuid`},
	{"refusals of many", where(db.AuditCondition{Column: db.AuditActor, Equal: []string{"token:ci"}},
		db.AuditCondition{Column: db.AuditOutcome, Equal: []string{"denied", "failed"}}),
		`actor = 'token:ci' AND outcome <> 'ok'`},
	{"rare action of an actor", where(db.AuditCondition{Column: db.AuditActor, Equal: []string{"role:my role"}},
		db.AuditCondition{Column: db.AuditAction, Equal: []string{"purge"}}),
		`actor = 'role:my role' AND action = 'purge'`},
	{"a month of a prefix", between(t0.AddDate(0, 0, -50), t0.AddDate(0, 0, -20),
		db.AuditCondition{Column: db.AuditSecret, Prefixes: []string{"prod/"}}),
		`starts_with(secret, 'prod/') AND at >= '2026-10-06 12:00Z' AND at < '2026-11-05 12:00Z'`},
	{"hours", between(t0.Add(-3*time.Hour), time.Time{}), `at >= '2026-11-25 09:00Z'`},
}

var t0 = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func where(conditions ...db.AuditCondition) db.AuditFilter {
	return db.AuditFilter{Conditions: conditions}
}

func between(since, until time.Time, conditions ...db.AuditCondition) db.AuditFilter {
	return db.AuditFilter{Since: since, Until: until, Conditions: conditions}
}

func TestAuditOfManyRows(t *testing.T) {
	s := vaulttest.New(t)
	mustFillAudit(t, s)
	t.Run("answers", func(t *testing.T) { matchesPlainWhere(t, s) })
	t.Run("reads", func(t *testing.T) { readsFewRows(t, s) })
	t.Run("values", func(t *testing.T) { knowsValues(t, s) })
	t.Run("uses", func(t *testing.T) { knowsUses(t, s) })
}

// matchesPlainWhere compares every plan with a plain WHERE, in both directions.
func matchesPlainWhere(t *testing.T, s *vaulttest.Store) {
	r := mustReader(t, s.URL(vaulttest.Operator))
	for _, c := range auditFilters {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			want := s.MustQuery(t,
				`SELECT coalesce(string_agg(id::text, ',' ORDER BY at DESC, id DESC), '') FROM vault.audit_log WHERE `+c.sql)
			older, _ := mustWalk(t, r, db.AuditQuery{Filter: c.filter, Limit: 1000})
			if got := joined(older); got != want {
				t.Errorf("older: got %d events, want %d", len(older), strings.Count(want, ",")+1)
			}
			newer, _ := mustWalk(t, r, db.AuditQuery{Filter: c.filter, Limit: 700, Newer: true})
			slices.Reverse(newer)
			if got := joined(newer); got != want {
				t.Errorf("newer: got %d events, want %d", len(newer), strings.Count(want, ",")+1)
			}
			mustCountLike(t, r, c.filter, len(older))
		})
	}
}

// mustCountLike checks that exact counts are right, and approximate ones near.
func mustCountLike(t *testing.T, r *db.Reader, f db.AuditFilter, want int) {
	t.Helper()
	counts, err := r.AuditCounts(t.Context(), f, time.Time{}, time.Now(), 30)
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
	for _, c := range auditFilters {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			for _, newer := range []bool{false, true} {
				plans, err := db.ExplainAudit(t.Context(), s.URL(vaulttest.Operator),
					db.AuditQuery{Filter: c.filter, Newer: newer, From: &db.AuditCursor{At: t0.AddDate(0, 0, -10)}, Limit: 100})
				if err != nil {
					t.Fatal(err)
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
	r := mustReader(t, s.URL(vaulttest.Operator))
	for _, c := range []db.AuditCondition{
		{Column: "detail", Equal: []string{"x"}}, {Column: db.AuditVersion, Equal: []string{"1"}},
		{Column: db.AuditClient, Prefixes: []string{"10."}},
		{Column: db.AuditOutcome, Prefixes: []string{"o"}}, {Column: db.AuditSecret},
		{Column: `secret" OR true --`, Equal: []string{"x"}},
	} {
		if _, err := r.Audit(t.Context(), db.AuditQuery{Filter: where(c)}); !errors.Is(err, db.ErrInvalid) {
			t.Errorf("%+v: got %v, want %v", c, err, db.ErrInvalid)
		}
	}
	stranger := mustReader(t, s.URL(vaulttest.AppRole))
	if _, err := stranger.Audit(t.Context(), db.AuditQuery{}); !errors.Is(err, db.ErrRefused) {
		t.Errorf("a role that is no auditor: got %v, want %v", err, db.ErrRefused)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := r.Audit(ctx, db.AuditQuery{}); !errors.Is(err, db.ErrUnavailable) {
		t.Errorf("no time: got %v, want %v", err, db.ErrUnavailable)
	}
}

func TestAuditWorksOnAStandby(t *testing.T) {
	s := vaulttest.New(t)
	s.MustReplay(t)
	r := mustReader(t, s.StandbyURL(vaulttest.Operator))
	ids, _ := mustWalk(t, r, db.AuditQuery{Limit: 2})
	if want := s.MustQuery(t, `SELECT count(*) FROM vault.audit_log`); fmt.Sprint(len(ids)) != want {
		t.Errorf("got %d events, want %s", len(ids), want)
	}
	if _, err := r.AuditCounts(t.Context(), db.AuditFilter{}, time.Time{}, time.Now(), 10); err != nil {
		t.Error(err)
	}
	if _, err := r.AuditValues(t.Context(), db.AuditActor, []string{"token:"}, 5); err != nil {
		t.Error(err)
	}
	if _, err := r.SecretUses(t.Context(), db.ListQuery{}); err != nil {
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
	f, err := mustReader(t, url).FollowAudit(t.Context(),
		where(db.AuditCondition{Column: db.AuditSecret, Prefixes: []string{"f/"}}))
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
func mustNext(t *testing.T, s *vaulttest.Store, f *db.AuditFollower, want string) {
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
	r := mustReader(t, s.URL(vaulttest.Operator))
	for _, c := range []struct {
		column   db.AuditColumn
		prefixes []string
		limit    int
		want     string
	}{
		{db.AuditSecret, []string{"prod/s1"}, 20, "prod/s10 prod/s12 prod/s14 prod/s16 prod/s18"},
		{db.AuditSecret, []string{""}, 3, "prod/s0 prod/s10 prod/s12"},
		{db.AuditSecret, []string{"rare", "prod/s2"}, 2, "prod/s2 prod/s20"},
		{db.AuditSecret, []string{"zzz"}, 3, ""},
		{db.AuditActor, []string{"c", "token:c", "client:"}, 9, "client:10.0.0.7 token:ci"},
		{db.AuditNode, []string{"node"}, 9, "node0 node1"},
	} {
		got, err := r.AuditValues(t.Context(), c.column, c.prefixes, c.limit)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s %q: got %q, %v, want %q", c.column, c.prefixes, got, err, c.want)
		}
	}
}

func knowsUses(t *testing.T, s *vaulttest.Store) {
	s.MustExec(t,
		`ALTER TABLE vault.secrets DISABLE ROW LEVEL SECURITY; INSERT INTO vault.secrets (name)
			VALUES ('prod/s2'), ('prod/unread'), ('test/s3'); ALTER TABLE vault.secrets ENABLE ROW LEVEL SECURITY`)
	r := mustReader(t, s.URL(vaulttest.Operator))
	uses, err := r.SecretUses(t.Context(), db.ListQuery{Prefix: "prod/"})
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
	if _, err := mustReader(t, s.URL(vaulttest.AppRole)).SecretUses(t.Context(), db.ListQuery{}); !errors.Is(err,
		db.ErrRefused) {
		t.Errorf("a role that is no auditor: got %v, want %v", err, db.ErrRefused)
	}
}

func TestSealOf(t *testing.T) {
	s := vaulttest.New(t)
	r := mustReader(t, s.URL(vaulttest.Operator))
	page, err := r.Audit(t.Context(), db.AuditQuery{Limit: 2})
	if err != nil || len(page.Rows) != 2 {
		t.Fatalf("got %d rows, %v", len(page.Rows), err)
	}
	if _, err := r.SealOf(t.Context(), page.Rows[0].Cursor()); !errors.Is(err, db.ErrNotFound) {
		t.Errorf("no seals: got %v, want %v", err, db.ErrNotFound)
	}
	s.MustExec(t, fmt.Sprintf(`INSERT INTO vault.audit_seals (id, system_id, month, from_tx, to_tx, rows, first_id,
		last_id, root, previous, hash, key_id, signature, sealed_at, marks)
		SELECT 7, system_id, date_trunc('month', at AT TIME ZONE 'UTC')::date, tx, (tx::text::bigint + 1)::text::xid8, 1,
			id, id, sha256('a'), sha256('b'), sha256('c'), 'key', 'signature', now(), 'mark' FROM vault.audit_log
			WHERE id = %d`, page.Rows[1].ID))
	for i, want := range []int64{0, 7} {
		if seal, err := r.SealOf(t.Context(), page.Rows[i].Cursor()); err != nil || seal.ID != want {
			t.Errorf("row %d: got seal %d, %v, want %d", i, seal.ID, err, want)
		}
	}
}
