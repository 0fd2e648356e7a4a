package auditdb_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// sealing is a vault with its sealer, and an auditor that verifies.
type sealing struct {
	t       testing.TB
	store   *vaulttest.Store
	key     *seal.Key
	daemon  *auditdb.Log
	auditor *auditdb.Log
	at      string // the time of the rows that write adds, as SQL; "": now
}

func newSealing(t testing.TB, store *vaulttest.Store) *sealing {
	t.Helper()
	key, err := seal.NewKey([]byte("a seed of the test suite, 32 B.."))
	must(t, err)
	return &sealing{t: t, store: store, key: key, daemon: mustLog(t, store.URL(vaulttest.Daemon)),
		auditor: mustLog(t, store.URL(vaulttest.Operator))}
}

func mustPublic(t testing.TB, by seal.Signer) seal.PublicKey {
	t.Helper()
	key, err := by.Public(t.Context())
	must(t, err)
	return key
}

// write puts rows into the log, each in a transaction of its own.
func (s *sealing) write(n int) {
	s.t.Helper()
	for range n {
		s.store.MustExec(s.t, `INSERT INTO vault.audit_log (at, actor, action, secret, version, client, request_id, detail)
			VALUES (`+cmp.Or(s.at, "now()")+`, 'token:root', 'put', 'app/x', 1, '10.0.0.1', gen_random_uuid(),
			'{"b": 1.50, "a": "<é>", "c": [true, null]}')`)
	}
}

// inOneMonth gives the rows of the test's template, and those that write adds, one time: each month has seals of its
// own, which the test counts, and it may end while the test runs.
func (s *sealing) inOneMonth() {
	s.t.Helper()
	s.at = "'" + s.store.MustQuery(s.t, `now()`) + "'"
	s.store.MustExec(s.t, `ALTER TABLE vault.audit_log DISABLE TRIGGER audit_is_append_only`,
		`UPDATE vault.audit_log SET at = `+s.at,
		`ALTER TABLE vault.audit_log ENABLE ALWAYS TRIGGER audit_is_append_only`)
}

// seal seals every row and returns their number. It first waits for the transactions that delay sealing: the server may
// still run that of a client that has left, and a transaction in another database delays it too.
func (s *sealing) seal() int {
	s.t.Helper()
	until(s.t, "no transaction delays sealing", func() bool {
		return s.mustInt(`SELECT (SELECT count(*) FROM vault.audit_log
				WHERE system_id = vault._system_id() AND tx >= pg_snapshot_xmin(pg_current_snapshot()))
			+ (SELECT count(*) FROM pg_locks WHERE relation = 'vault.lock_sealing'::regclass
				AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`) == 0
	})
	return s.sealClosed()
}

// sealClosed seals the rows below every running transaction and returns their number.
func (s *sealing) sealClosed() int {
	s.t.Helper()
	total := 0
	for {
		n, err := s.daemon.SealAudit(s.t.Context(), 1000,
			func(w seal.Window) ([]seal.Seal, error) { return w.Seal(s.t.Context(), s.key) })
		must(s.t, err)
		if n == 0 {
			return total
		}
		total += n
	}
}

func (s *sealing) verify(o seal.Options) (seal.Report, error) {
	if o.Keys == nil {
		o.Keys = []seal.PublicKey{mustPublic(s.t, s.key)}
	}
	return seal.Verify(s.t.Context(), s.auditor.Source(time.Time{}), o)
}

func (s *sealing) mustVerify(o seal.Options) seal.Report {
	s.t.Helper()
	report, err := s.verify(o)
	must(s.t, err)
	return report
}

// wantFault: the words name the row or seal.
func wantFault(t testing.TB, what string, err error, words string) {
	t.Helper()
	if !errors.Is(err, seal.ErrTampered) || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: got %v, want a fault: %s", what, err, words)
	}
}

func (s *sealing) mustInt(sql string) int64 {
	s.t.Helper()
	var n int64
	_, err := fmt.Sscan(s.store.MustQuery(s.t, sql), &n)
	must(s.t, err)
	return n
}

// unlock disables the log's triggers, as a superuser always can.
const unlock = `ALTER TABLE vault.audit_log DISABLE TRIGGER ALL; ALTER TABLE vault.audit_seals DISABLE TRIGGER ALL;
	ALTER TABLE vault.audit_prunes DISABLE TRIGGER ALL`

// Every change that a superuser can make to the sealed log is found and named.
func TestTamperingIsFound(t *testing.T) {
	s := newSealing(t, vaulttest.New(t))
	s.inOneMonth()
	s.write(3)
	s.store.MustExec(t, `SELECT vault.supervise()`) // the rows move into their month
	if got := s.store.MustQuery(t, `SELECT count(*) FROM vault.audit_log_default`); got != "0" {
		t.Fatalf("%s rows are in no month", got)
	}
	s.seal()
	s.write(4)
	s.seal()
	s.write(5)
	s.seal()
	s.write(2)
	report := s.mustVerify(seal.Options{})
	if report.Seals != 3 || report.Unsealed != 2 || report.Rows < 12 || !report.Trusted {
		t.Fatalf("got %+v", report)
	}
	var copies []seal.Seal
	for c, err := range s.auditor.Source(time.Time{}).Seals(t.Context()) {
		must(t, err)
		copies = append(copies, c)
	}
	s.mustVerify(seal.Options{Copies: copies})
	s.store.MustExec(t, unlock,
		`CREATE TABLE public.log AS SELECT * FROM vault.audit_log;
			CREATE TABLE public.seals AS SELECT * FROM vault.audit_seals`)
	heal := `DELETE FROM vault.audit_log; INSERT INTO vault.audit_log SELECT * FROM public.log;
		DELETE FROM vault.audit_seals; INSERT INTO vault.audit_seals SELECT * FROM public.seals`

	first, last := s.mustInt(`SELECT first_id FROM vault.audit_seals WHERE id = 2`),
		s.mustInt(`SELECT last_id FROM vault.audit_seals WHERE id = 2`)
	month := s.store.MustQuery(t, `to_char(timestamptz `+s.at+` AT TIME ZONE 'UTC', 'YYYY-MM')`)
	row := first + 1
	changed := fmt.Sprintf("row %d was changed after it was sealed (seal 2,", row)
	edit := func(set string) string { return fmt.Sprintf(`UPDATE vault.audit_log SET %s WHERE id = %d`, set, row) }
	for _, test := range []struct{ what, sql, words string }{
		{"at", edit(`at = at + interval '1 microsecond'`), changed},
		{"recorded_at", edit(`recorded_at = recorded_at - interval '1 microsecond'`), changed},
		{"actor", edit(`actor = 'token:somebody'`), changed},
		{"db_role", edit(`db_role = 'other'`), changed},
		{"client", edit(`client = '10.0.0.2'`), changed},
		{"client's prefix", edit(`client = '10.0.0.1/24'`), changed},
		{"no client", edit(`client = NULL`), changed},
		{"node", edit(`node = coalesce(node, '') || 'x'`), changed},
		{"action", edit(`action = 'verify'`), changed},
		{"secret", edit(`secret = 'app/y'`), changed},
		{"an empty secret", edit(`secret = ''`), changed},
		{"no secret", edit(`secret = NULL`), changed},
		{"version", edit(`version = 2`), changed},
		{"outcome", edit(`outcome = 'denied'`), changed},
		{"request_id", edit(`request_id = gen_random_uuid()`), changed},
		{"detail", edit(`detail = detail || '{"d": 1}'`), changed},
		{"a number in detail", edit(`detail = jsonb_set(detail, '{b}', '1.5')`), changed},
		{"a text moved from one column to the next", edit(`action = 'pu', secret = 'tapp/x'`), changed},
		{"id", edit(`id = 1000000`), "row 1000000 was changed after it was sealed (seal 2,"},
		{"tx", edit(`tx = (SELECT to_tx FROM vault.audit_seals WHERE id = 3)`), "rows of seal 2"},
		{"system_id", edit(`system_id = 7`), "rows of seal 2"},
		{"moved to another month", edit(`at = at - interval '70 days'`), fmt.Sprintf("row %d is in no seal", row)},
		{"deleted", fmt.Sprintf(`DELETE FROM vault.audit_log WHERE id = %d`, row),
			fmt.Sprintf("1 of the 4 rows of seal 2, month %s, rows %d to %d are gone: the first of them after row %d",
				month, first, last, first)},
		{"the first deleted", fmt.Sprintf(`DELETE FROM vault.audit_log WHERE id = %d`, first),
			fmt.Sprintf("are gone: the first, row %d", first)},
		{"the last deleted", fmt.Sprintf(`DELETE FROM vault.audit_log WHERE id = %d`, last),
			fmt.Sprintf("1 of the 4 rows of seal 2, month %s, rows %d to %d are gone", month, first, last)},
		{"a seal's rows deleted", fmt.Sprintf(`DELETE FROM vault.audit_log WHERE id BETWEEN %d AND %d`, first, last),
			"4 of the 4 rows of seal 2"},
		{"inserted",
			fmt.Sprintf(`INSERT INTO vault.audit_log (id, tx, at, actor, action)
				SELECT 1000000, tx, at, 'token:root', 'put' FROM vault.audit_log WHERE id = %d`, row),
			"row 1000000 was not there when its time was sealed (seal 2,"},
		{"inserted twice",
			fmt.Sprintf(`INSERT INTO vault.audit_log (id, tx, at, recorded_at, actor, action)
				SELECT id, tx, at - interval '1 second', recorded_at, actor, action FROM vault.audit_log WHERE id = %d`, row),
			fmt.Sprintf("row %d", row)},
		{"inserted into a month without seals",
			fmt.Sprintf(`INSERT INTO vault.audit_log (id, tx, at, actor, action)
				SELECT 1000000, tx, '2020-02-02', 'token:root', 'put' FROM vault.audit_log WHERE id = %d`, row),
			"row 1000000 is in no seal"},
		{"reordered",
			fmt.Sprintf(`UPDATE vault.audit_log l SET tx = o.tx FROM vault.audit_log o WHERE l.id IN (%[1]d, %[2]d)
				AND o.id IN (%[1]d, %[2]d) AND o.id <> l.id`, first+1, first+2), "was changed after it was sealed (seal 2,"},
		{"contents exchanged",
			fmt.Sprintf(`UPDATE vault.audit_log l SET request_id = o.request_id FROM vault.audit_log o
				WHERE l.id IN (%[1]d, %[2]d) AND o.id IN (%[1]d, %[2]d) AND o.id <> l.id`, first+1, first+2), changed},

		{"a seal's count", `UPDATE vault.audit_seals SET rows = 3, marks = substr(marks, 1, 12) WHERE id = 2`,
			"seal 2 was changed"},
		{"a seal's root", `UPDATE vault.audit_seals SET root = sha256('') WHERE id = 2`, "seal 2 was changed"},
		{"a seal's time", `UPDATE vault.audit_seals SET sealed_at = sealed_at + interval '1 day' WHERE id = 2`,
			"seal 2 was changed"},
		{"a seal's key", `UPDATE vault.audit_seals SET key_id = 'ed25519:' || repeat('A', 43) WHERE id = 2`,
			"seal 2 was changed"},
		{"a seal's hash", `UPDATE vault.audit_seals SET hash = sha256('x') WHERE id = 2`, "seal 2 was changed"},
		{"a seal's signature", `UPDATE vault.audit_seals SET signature = decode(repeat('00', 64), 'hex') WHERE id = 2`,
			"the signature of seal 2 is not by the key"},
		{"a seal's signature of another",
			`UPDATE vault.audit_seals SET signature = (SELECT signature FROM vault.audit_seals WHERE id = 1) WHERE id = 2`,
			"the signature of seal 2"},
		{"a seal's window",
			`UPDATE vault.audit_seals SET to_tx = (SELECT to_tx FROM vault.audit_seals WHERE id = 3) WHERE id = 2`,
			"seal 2 was changed"},
		{"a seal and its rows",
			fmt.Sprintf(`DELETE FROM vault.audit_seals WHERE id = 2; DELETE FROM vault.audit_log WHERE id BETWEEN %d AND %d`,
				first, last), "seal 2 is missing"},
		{"the first seal", `DELETE FROM vault.audit_seals WHERE id = 1`, "seal 1 is missing"},
		{"seals exchanged",
			`UPDATE vault.audit_seals SET id = 5 - id + 100 WHERE id IN (2, 3);
				UPDATE vault.audit_seals SET id = id - 100 WHERE id > 100`, "seal 2 was changed"},
		{"another vault's chain", `UPDATE vault.config SET cluster_id = gen_random_uuid()`, "another vault's seal"},
	} {
		id := s.store.MustQuery(t, `SELECT cluster_id FROM vault.config`)
		s.store.MustExec(t, test.sql)
		_, err := s.verify(seal.Options{})
		wantFault(t, test.what, err, test.words)
		s.store.MustExec(t, heal, fmt.Sprintf(`UPDATE vault.config SET cluster_id = '%s'`, id))
	}
	s.mustVerify(seal.Options{})

	// Marks are no evidence: with them spoilt the seal is still named.
	s.store.MustExec(t, edit(`actor = 'token:somebody'`),
		`UPDATE vault.audit_seals SET marks = decode(repeat('00', 4 * rows::int), 'hex')`)
	_, err := s.verify(seal.Options{})
	wantFault(t, "spoilt marks", err, "seal 2")
	s.store.MustExec(t, heal)

	other, err := seal.NewKey(make([]byte, 32))
	must(t, err)
	_, err = s.verify(seal.Options{Keys: []seal.PublicKey{mustPublic(t, other)}})
	wantFault(t, "another key", err, "seal 1 is signed by "+mustPublic(t, s.key).String())

	// Without the newest seals and their rows the log fits; only a node that has seen them finds the loss.
	s.store.MustExec(t,
		`DELETE FROM vault.audit_log WHERE tx >= (SELECT from_tx FROM vault.audit_seals WHERE id = 3);
			DELETE FROM vault.audit_seals WHERE id = 3`)
	s.mustVerify(seal.Options{})
	_, err = s.verify(seal.Options{Copies: copies})
	wantFault(t, "the newest seals dropped", err, "seal 3 is gone, and had been seen: the log ends at seal 2")

	// With the key they could be made anew.
	s.write(1)
	s.seal()
	s.mustVerify(seal.Options{})
	_, err = s.verify(seal.Options{Copies: copies})
	wantFault(t, "made anew", err, "seal 3 is not the one that was seen before")
}

// A long transaction delays sealing, and its row is sealed in the end, also after a late commit.
func TestLongTransactionDelaysSealing(t *testing.T) {
	s := newSealing(t, vaulttest.New(t))
	s.write(2)
	s.seal()
	long, err := pgx.Connect(t.Context(), s.store.URL(vaulttest.Superuser))
	must(t, err)
	defer long.Close(context.WithoutCancel(t.Context()))
	_, err = long.Exec(t.Context(), `BEGIN; INSERT INTO vault.audit_log (actor, action) VALUES ('token:slow', 'put')`)
	must(t, err)
	s.write(3) // later ids and transactions, committed earlier
	if n := s.sealClosed(); n != 0 {
		t.Errorf("%d rows were sealed over a transaction that still runs", n)
	}
	if report := s.mustVerify(seal.Options{}); report.Unsealed != 3 {
		t.Errorf("got %d unsealed rows, want 3", report.Unsealed)
	}
	_, err = long.Exec(t.Context(), `COMMIT`)
	must(t, err)
	if n := s.seal(); n != 4 {
		t.Errorf("%d rows were sealed, want 4", n)
	}
	if report := s.mustVerify(seal.Options{}); report.Unsealed != 0 {
		t.Errorf("got %+v", report)
	}
}

// --since recomputes only rows sealed since, and finds changes of them.
func TestVerifySince(t *testing.T) {
	s := newSealing(t, vaulttest.New(t))
	s.inOneMonth()
	s.write(3)
	s.seal()
	var since time.Time
	s.write(1)
	since = time.Now()
	s.write(2)
	s.seal()
	all, newer := s.mustVerify(seal.Options{}), s.mustVerify(seal.Options{Since: since})
	if newer.Rows != 3 || all.Rows <= newer.Rows {
		t.Errorf("recomputed %d rows, %d since, want 3", all.Rows, newer.Rows)
	}
	s.store.MustExec(t, unlock, `UPDATE vault.audit_log SET actor = 'x' WHERE id = (SELECT max(id) FROM vault.audit_log)`)
	_, err := s.verify(seal.Options{Since: since})
	wantFault(t, "since", err, "seal 2")
}

// Many rows are sealed a thousand at a time, and a transaction of any size in one seal.
func TestSealsAreBounded(t *testing.T) {
	s := newSealing(t, vaulttest.New(t))
	s.seal()
	before := s.mustInt(`SELECT coalesce(max(id), 0) FROM vault.audit_seals`)
	s.store.MustExec(t,
		`INSERT INTO vault.audit_log (actor, action) SELECT 'token:bulk', 'put' FROM generate_series(1, 2500)`)
	s.store.MustExec(t,
		`DO $$ BEGIN FOR i IN 1..1500 LOOP INSERT INTO vault.audit_log (actor, action) VALUES ('token:loop', 'put');
			COMMIT; END LOOP; END $$`)
	s.seal()
	got := s.store.MustQuery(t, `SELECT string_agg(rows::text, ' ' ORDER BY id) FROM vault.audit_seals WHERE id > $1`,
		before)
	if got != "2500 1000 500" {
		t.Errorf("got seals of %s rows", got)
	}
	s.mustVerify(seal.Options{})
}
