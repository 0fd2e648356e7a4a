package db_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

const failures = `SELECT coalesce(string_agg(part || ':' || subject, ' ' ORDER BY part, subject), '')
	FROM vault.round_failures`

// refuseRows creates a trigger that refuses the rows of one secret.
func refuseRows(table, when, name string) string {
	return fmt.Sprintf(`CREATE FUNCTION public.stumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF %s
		THEN RAISE 'not this one'; END IF;
		RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END; END $$;
		GRANT EXECUTE ON FUNCTION public.stumble() TO vault_owner;
		CREATE TRIGGER stumble BEFORE %s ON vault.%s FOR EACH ROW EXECUTE FUNCTION public.stumble()`,
		strings.ReplaceAll(name, "NAME", "'app1/bad'"), when, table)
}

func acceptRows(table string) string {
	return `DROP TRIGGER stumble ON vault.` + table + `; DROP FUNCTION public.stumble()`
}

// If one secret, one month or one part of a round fails, the rest is done. The failure is listed, until it works again.
func TestRoundsGoOn(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/bad", "app1/good")
	later := store.MustQuery(t,
		`SELECT to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + interval '2 months', 'YYYY_MM')`)
	reset := `DELETE FROM vault.rotation_jobs; UPDATE vault.secrets
		SET next_rotation_at = now() - interval '5 days', deleted_at = NULL, restore_until = NULL`
	enqueued := `SELECT coalesce(string_agg(name, ' ' ORDER BY name), '') FROM vault.rotation_jobs`
	for _, c := range []struct{ what, before, after, failing, done, want string }{
		{"a zone that the server lost",
			`UPDATE vault.secrets SET rotation_window = '00:00-23:59 Nowhere/Gone' WHERE name = 'app1/bad'`,
			`UPDATE vault.secrets SET rotation_window = NULL`, "window:app1/bad", enqueued, "app1/good"},
		{"a job that cannot be made", refuseRows("rotation_jobs", "INSERT", "NEW.name = NAME"), acceptRows("rotation_jobs"),
			"enqueue:app1/bad", enqueued, "app1/good"},
		{"a version that cannot expire", `UPDATE vault.secret_versions SET expires_at = now() - interval '1 hour';` +
			refuseRows("secret_versions", "UPDATE", "NEW.name = NAME"), acceptRows("secret_versions"), "expire:app1/bad",
			`SELECT count(*) || ' ' || bool_or(name = 'app1/good') FROM vault.secret_versions WHERE removed_at IS NOT NULL`,
			"1 true"},
		{"a month's name is taken",
			fmt.Sprintf(`DROP TABLE IF EXISTS vault.audit_log_%[1]s; CREATE TABLE vault.audit_log_%[1]s (i int)`, later),
			`DROP TABLE vault.audit_log_` + later, "partitions:" + strings.ReplaceAll(later, "_", "-"), enqueued,
			"app1/bad app1/good"},
		{"a part as a whole", `ALTER TABLE vault.requests RENAME TO away`, `ALTER TABLE vault.away RENAME TO requests`,
			"forget:", enqueued, "app1/bad app1/good"},
		{"the heartbeat", refuseRows("heartbeat", "UPDATE", "NEW.at <> OLD.at"), acceptRows("heartbeat"), "heartbeat:",
			enqueued, "app1/bad app1/good"},
		{"a secret that cannot be purged",
			`UPDATE vault.secrets SET deleted_at = now() - interval '2 days', restore_until = now() - interval '1 day';` +
				refuseRows("secrets", "DELETE", "OLD.name = NAME"), acceptRows("secrets"), "purge:app1/bad",
			`SELECT string_agg(name, ' ') FROM vault.secrets`, "app1/bad"},
	} {
		store.MustExec(t, reset, c.before)
		must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise}))
		if got := store.MustQuery(t, c.done); got != c.want {
			t.Errorf("%s: got %q done, want %q", c.what, got, c.want)
		}
		if got := store.MustQuery(t, failures); got != c.failing {
			t.Errorf("%s: got failures %q, want %q", c.what, got, c.failing)
		}
		if got := store.MustQuery(t, `SELECT vault.status() ->> 'round_failures'`); got != "1" {
			t.Errorf("%s: status counts %s, want 1", c.what, got)
		}
		must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise})) // and once more, with what failed before
		store.MustExec(t, c.after)
		must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise}))
		if got := store.MustQuery(t, failures); got != "" {
			t.Errorf("%s: got failures %q after it was mended", c.what, got)
		}
	}
}

// A job that cannot be claimed waits; the others are claimed. The same holds for a window whose zone is gone, a full
// counter, and a job whose error names no secret.
func TestClaimsGoOn(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/bad", "app1/good")
	for what, statement := range map[string]string{
		"zone":     `UPDATE vault.secrets SET rotation_window = '00:00-23:59 Nowhere/Gone' WHERE name = 'app1/bad'`,
		"attempts": `UPDATE vault.rotation_jobs SET attempt = 2147483647 WHERE name = 'app1/bad'`,
	} {
		store.MustExec(t, `DELETE FROM vault.rotation_jobs; UPDATE vault.secrets SET rotation_window = NULL`)
		must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise}))
		store.MustExec(t, statement)
		got := store.MustQuery(t, `SELECT string_agg(secret, ' ') FROM vault.claim_rotations('w', 10, '1 hour')`)
		if got != "app1/good" {
			t.Errorf("%s: claimed %q, want the other", what, got)
		}
	}
	store.MustExec(t,
		`UPDATE vault.rotation_jobs SET failures = 2147483647, attempt = 7, claimed_at = now() - interval '1 hour'
			WHERE name = 'app1/good'`)
	if got := store.MustQuery(t, `SELECT failures FROM vault.claim_rotations('w', 10, '3 seconds')`); got != "2147483647" {
		t.Errorf("got %s failures", got)
	}
}

// Failures show names to roles whose prefixes cover them.
func TestRoundFailuresAreScoped(t *testing.T) {
	store := vaulttest.New(t)
	store.MustExec(t,
		`INSERT INTO vault.round_failures (part, subject, error)
			VALUES ('window', 'app1/x', 'e'), ('window', 'other/x', 'e'), ('seal', '', 'e')`)
	for role, want := range map[string]string{vaulttest.Operator: "seal: window:app1/x window:other/x",
		vaulttest.AppRole: "seal: window:app1/x"} {
		reader := mustReader(t, store.URL(role))
		found, err := reader.RoundFailures(t.Context())
		must(t, err)
		var got []string
		for _, f := range found {
			got = append(got, f.Part+":"+f.Subject)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s sees %v, want %s", role, got, want)
		}
	}
	wantCode(t, runSession(t, store.URL(vaulttest.Stranger), []string{`SELECT * FROM vault.round_failures`}), denied)
}

// A daemon reports on its own rounds: by name of the round, at most once a minute.
func TestReportRound(t *testing.T) {
	store := vaulttest.New(t)
	daemon := store.URL(vaulttest.Daemon)
	for _, part := range []string{`NULL`, `'window'`, `'enqueue'`, `''`} {
		wantCode(t, runSession(t, daemon, []string{`SELECT vault.report_round(` + part + `, 'x')`}), "22023")
	}
	must(t, runSession(t, daemon, []string{`SELECT vault.report_round('seal', NULL)`,
		"SELECT vault.report_round('seal', E'a\\033[31m')"}))
	// So the next is less than a minute later on any machine.
	store.MustExec(t, `UPDATE vault.round_failures SET last_at = now() + interval '1 hour'`)
	must(t, runSession(t, daemon, []string{`SELECT vault.report_round('seal', 'b')`}))
	if got := store.MustQuery(t,
		`SELECT string_agg(part || ' ' || error || ' ' || times, ',') FROM vault.round_failures`); got != "seal a?[31m 1" {
		t.Errorf("got %q", got)
	}
	must(t, runSession(t, daemon, []string{`SELECT vault.report_round('seal', NULL)`}))
	if got := store.MustQuery(t, failures); got != "" {
		t.Errorf("got %q after it works", got)
	}
}

// A token's expiry is a time that results and logs can represent.
func TestTokenLifetimes(t *testing.T) {
	store := vaulttest.New(t)
	for _, at := range []string{"infinity", "-infinity", "0044-03-15 BC", "20000-01-01"} {
		wantCode(t, runSession(t, store.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE",
			`SELECT vault.create_token(gen_random_uuid(), 'x', sha256('x'), '', ` + literal(at) + `, gen_random_uuid())`}),
			"22023")
	}
}

// Intervals that are not positive from some dates, of every kind that the write API takes.
func TestIntervalsOfMixedSigns(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/a")
	odd := []string{"-120 months 3651 days", "1 month -1 day", "2 days -1 hour", "-1 day 25 hours", "1000 years", "-1 day",
		"178000000 years"}
	if store.MustQuery(t, `SELECT current_setting('server_version_num')::int >= 170000`) == "true" {
		odd = append(odd, "infinity", "-infinity")
	}
	for _, interval := range odd {
		i := literal(interval)
		for what, statement := range map[string]string{
			"the interval of update": `SELECT vault.update_secret('app1/a', gen_random_uuid(), NULL, ` + i + `, NULL)`,
			"the grace of update":    `SELECT vault.update_secret('app1/a', gen_random_uuid(), NULL, NULL, ` + i + `)`,
			"the interval of put":    strings.Replace(putAutomatic("app1/b", uuid.NewString()), `'1 day'`, i, 1),
			"the grace of put":       strings.Replace(putAutomatic("app1/b", uuid.NewString()), `'1 day'`, `'1 day', `+i, 1),
			"the window of delete":   `SELECT vault.delete_secret('app1/a', gen_random_uuid(), ` + i + `)`,
		} {
			got := runSession(t, store.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE", statement})
			wantCode(t, got, "22023")
			if t.Failed() {
				t.Fatalf("%s as %s", interval, what)
			}
		}
		for _, column := range []string{"rotation_interval", "grace_period"} { // nor by hand
			wantCode(t, runSession(t, store.URL(vaulttest.Superuser),
				[]string{`UPDATE vault.secrets SET ` + column + ` = ` + i}), "23514")
		}
	}
	for _, at := range []string{"infinity", "-infinity", "0044-03-15 BC", "20000-01-01"} {
		for _, set := range []string{"next_rotation_at = ", "deleted_at = now(), restore_until = "} {
			wantCode(t, runSession(t, store.URL(vaulttest.Superuser), []string{`UPDATE vault.secrets SET ` + set + literal(at)}),
				"23514")
		}
	}
}

func putAutomatic(name, request string) string {
	return fmt.Sprintf(`SELECT vault.put_version('put', '%s', %s, '%s', false, 'uuid', '1 day')`, name,
		sealedRow(name, 1, 24, 32), request)
}

// Migrate corrects older rows that break the new rules, and the log says so.
func TestMigrateMendsIntervals(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/a", "app1/fine")
	takeBack(t, store, 8)
	store.MustExec(t,
		`UPDATE vault.secrets SET rotation_interval = '-120 months 3651 days', grace_period = '-1 day 26 hours',
			next_rotation_at = 'infinity' WHERE name = 'app1/a'`,
		`INSERT INTO vault.rotation_jobs (secret_id, name, from_version, due_at, run_after)
			SELECT id, name, 1, '-infinity', 'infinity' FROM vault.secrets`)
	_, err := db.Migrate(t.Context(), store.URL(vaulttest.Superuser), "test", "")
	must(t, err)
	if got := store.MustQuery(t,
		`SELECT concat_ws(' ', rotation_interval, grace_period, next_rotation_at = rotated_at + rotation_interval)
			FROM vault.secrets WHERE name = 'app1/a'`); got != "51 days 02:00:00 t" {
		t.Errorf("got %q", got)
	}
	if got := store.MustQuery(t,
		`SELECT string_agg(secret || ' ' || (detail ->> 'rotation_interval_was'), ',') FROM vault.audit_log
			WHERE actor = 'migrate'`); !strings.HasPrefix(got, "app1/a -10 years +3651 days") {
		t.Errorf("got on record %q", got)
	}
	if got := store.MustQuery(t,
		`SELECT bool_and(isfinite(due_at) AND run_after <= now())::text FROM vault.rotation_jobs`); got != "true" {
		t.Error("jobs with times that are none stayed")
	}
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise}))
}

// Events with impossible times, and unreadable ones, are each recorded, and do not stop the rest; no partition is
// created for them.
func TestShippedTimesThatCannotBe(t *testing.T) {
	store := vaulttest.New(t)
	writer := mustWriter(t, db.Options{URL: store.URL(vaulttest.Daemon)})
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise}))
	months := store.MustQuery(t, `SELECT count(*) FROM pg_inherits WHERE inhparent = 'vault.audit_log'::regclass`)
	event := func(fields string) spool.Record {
		return spool.Record{Event: []byte(`{"actor":"client:192.0.2.7","action":"read","secret":"app/x","outcome":"ok"` +
			fields + `}`)}
	}
	now := time.Now().UTC()
	past := now.Add(-time.Hour)
	if begin := now.AddDate(0, 0, 1-now.Day()).Truncate(24 * time.Hour); past.Before(begin) {
		past = begin.Add(time.Second) // this month has a partition; its beginning itself is also "today", below
	}
	good := past.Format(time.RFC3339Nano)
	times := []string{`"-infinity"`, `"infinity"`, `"NaN"`, `"0044-03-15T00:00:00Z BC"`, `"0044-03-15T00:00:00Z"`,
		`"-0044-03-15T00:00:00Z"`,
		`"` + time.Now().AddDate(-2, 0, 0).UTC().Format(time.RFC3339Nano) + `"`,
		`"` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano) + `"`,
		`"99999999-01-01T00:00:00Z"`, `"2026-13-45T99:00:00Z"`, `1400`, `null`, `""`, `{"x":1}`, `"today"`}
	var records []spool.Record
	for _, at := range times {
		records = append(records, event(`,"at":`+at), event(`,"at":"`+good+`"`))
	}
	for i := range 300 { // months of the past
		records = append(records, event(fmt.Sprintf(`,"at":"%04d-05-05T00:00:00Z"`, 1700+i)))
	}
	unreadable := []spool.Record{{Event: []byte(`{`)}, {Event: []byte(``)}, {Event: []byte(`[]`)},
		event(`,"version":99999999999`), event(`,"client":"nobody"`), event(`,"at":1e400`),
		event(`,"detail":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000)), {Event: []byte(`{"outcome":"ok"}`)}}
	records = append(records, unreadable...)
	at, err := auditdb.New(nil, writer).Ship(t.Context(), spool.Batch{Node: "n", Boot: uuid.New(), First: 1,
		Records: chained(records)})
	must(t, err)
	if at.Next != uint64(len(records))+1 {
		t.Errorf("the spool stands at %d of %d", at.Next, len(records))
	}
	reads := len(times)*2 + 300
	got := store.MustQuery(t, `SELECT concat_ws(' ', count(*) FILTER (WHERE action = 'read'),
		count(*) FILTER (WHERE action = 'audit.unreadable'),
		count(*) FILTER (WHERE at = `+literal(good)+`::timestamptz), bool_and(at BETWEEN now() - interval '1 day'
		AND now() + interval '1 minute'),
		count(DISTINCT detail ->> 'seq')) FROM vault.audit_log WHERE detail ? 'seq'`)
	if want := fmt.Sprintf("%d %d %d t %d", reads, len(unreadable), len(times), len(records)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := store.MustQuery(t,
		`SELECT string_agg(DISTINCT detail ->> 'claimed_at', ' ') FROM vault.audit_log
			WHERE detail ->> 'claimed_at' LIKE '%infinity'`); got != "-infinity infinity" {
		t.Errorf("got the claims %q", got)
	}
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise}))
	if got := store.MustQuery(t,
		`SELECT count(*) FROM pg_inherits WHERE inhparent = 'vault.audit_log'::regclass`); got != months {
		t.Errorf("got %s partitions, want %s as before", got, months)
	}
}

// chained gives each record the hash of the one before.
func chained(records []spool.Record) []spool.Record {
	var last [32]byte
	for i := range records {
		records[i].Previous = last
		text := binary.BigEndian.AppendUint64(nil, uint64(i+1))
		last = sha256.Sum256(append(append(text, last[:]...), records[i].Event...))
	}
	return records
}
