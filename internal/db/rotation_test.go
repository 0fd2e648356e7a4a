package db_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// A window is a time of day in its zone, whatever the clock there does.
func TestWindows(t *testing.T) {
	store := vaulttest.New(t)
	for _, c := range []struct {
		window, at string
		want       bool
	}{
		{"02:00-05:00 UTC", "2026-03-01 02:00:00Z", true},  // the first moment is in,
		{"02:00-05:00 UTC", "2026-03-01 05:00:00Z", false}, // the last is not
		{"02:00-05:00 UTC", "2026-03-01 01:59:59Z", false},
		{"22:00-04:00 UTC", "2026-03-01 23:00:00Z", true}, // over midnight
		{"22:00-04:00 UTC", "2026-03-01 03:59:59Z", true},
		{"22:00-04:00 UTC", "2026-03-01 12:00:00Z", false},
		{"02:00-05:00 Europe/Berlin", "2026-01-15 01:30:00Z", true}, // winter: UTC+1
		{"02:00-05:00 Europe/Berlin", "2026-07-15 01:30:00Z", true}, // summer: UTC+2
		{"02:00-05:00 Europe/Berlin", "2026-07-15 03:30:00Z", false},
		{"02:00-03:00 Europe/Berlin", "2026-03-29 00:59:59Z", false}, // the hour that does not exist: 01:59:59 and then 03:00
		{"02:00-03:00 Europe/Berlin", "2026-03-29 01:00:00Z", false},
		{"02:00-03:00 Europe/Berlin", "2026-10-25 00:30:00Z", true}, // the hour that comes twice
		{"02:00-03:00 Europe/Berlin", "2026-10-25 01:30:00Z", true},
		{"02:00-05:00 Asia/Kolkata", "2026-03-01 20:31:00Z", true}, // UTC+5:30
	} {
		if got := store.MustQuery(t, `SELECT vault._in_window($1, $2::text::timestamptz)`, c.window, c.at); got != strconv.FormatBool(c.want) {
			t.Errorf("%s at %s: got %s, want %v", c.window, c.at, got, c.want)
		}
	}
	for _, bad := range []string{"02:00-05:00", "2:00-5:00 UTC", "02:00-24:00 UTC", "02:00-02:00 UTC", "02:00-05:00 Mars/Base", "02:00-05:00 5",
		"02:00-05:00 UTC ", "02:60-05:00 UTC", "02:00-05:00 UTC\n", "x"} {
		wantCode(t, runSession(t, store.URL(vaulttest.Superuser), []string{`SELECT vault._check_window(` + literal(bad) + `)`}), "22023")
	}
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// mustPutAutomatic makes secrets that are due.
func mustPutAutomatic(t *testing.T, store *vaulttest.Store, names ...string) {
	t.Helper()
	for _, name := range names {
		must(t, runSession(t, store.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE", fmt.Sprintf(`SELECT vault.put_version('put', '%[1]s', 1, 1, 'k', '\x01',
			decode(repeat('00', 24), 'hex'), decode(repeat('11', 32), 'hex'), decode(repeat('22', 32), 'hex'), '%[1]s:1', gen_random_uuid(), false, 'uuid', '1 day')`, name), "COMMIT"}))
	}
	store.MustExec(t, `UPDATE vault.secrets SET next_rotation_at = now() - interval '5 days' WHERE generator IS NOT NULL`)
}

func mustAdmin(t *testing.T, store *vaulttest.Store, statement string) {
	t.Helper()
	must(t, runSession(t, store.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE", statement, "COMMIT"}))
}

const (
	supervise = `SELECT vault.supervise()`
	claimOne  = `SELECT vault.claim_rotations('w', 1, '1 hour')`
	claimLate = `SELECT vault.claim_rotations('w', 1, '0')`
)

// storeCandidate is a call for the newest job; fill tells one candidate from another.
func storeCandidate(attempt int, name, fill string) string {
	return fmt.Sprintf(`SELECT encode(ciphertext, 'hex') FROM vault.store_candidate((SELECT max(id) FROM vault.rotation_jobs), %d, 1, 'k', '\x01',
		decode(repeat('00', 24), 'hex'), decode(repeat('%s', 32), 'hex'), decode(repeat('22', 32), 'hex'), '%s:2')`, attempt, fill, name)
}

func finish(attempt int, request string) string {
	return fmt.Sprintf(`SELECT vault.finish_rotation((SELECT max(id) FROM vault.rotation_jobs), %d, '%s')`, attempt, request)
}

// Whatever attempt asks, there is one candidate to a job, it lies behind the claim's fence, and it becomes the version.
func TestCandidateIsFenced(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/auto")
	worker := store.URL(vaulttest.Daemon)
	must(t, runSession(t, worker, []string{supervise, claimOne}))
	wantCode(t, runSession(t, worker, []string{finish(1, uuid.NewString())}), "22023") // nothing to finish yet
	wantCode(t, runSession(t, worker, []string{storeCandidate(1, "app1/other", "33")}), "23514")
	must(t, runSession(t, worker, []string{storeCandidate(1, "app1/auto", "33"), claimLate}))

	wantCode(t, runSession(t, worker, []string{storeCandidate(1, "app1/auto", "44")}), "VA002") // the first one wakes up
	wantCode(t, runSession(t, worker, []string{finish(1, uuid.NewString())}), "VA002")
	must(t, runSession(t, worker, []string{storeCandidate(2, "app1/auto", "44")})) // and the second keeps the first one's candidate
	if got, want := store.MustQuery(t, `SELECT string_agg(encode(ciphertext, 'hex'), ' ') FROM vault.rotation_candidates`), strings.Repeat("33", 32); got != want {
		t.Fatalf("got candidates %s, want the first one only", got)
	}
	wantCode(t, runSession(t, worker, []string{`UPDATE vault.rotation_candidates SET nonce = nonce`}), denied)
	wantCode(t, runSession(t, store.URL(vaulttest.Operator), []string{`SELECT * FROM vault.rotation_candidates`}), denied)

	request := uuid.NewString()
	must(t, runSession(t, worker, []string{finish(2, request), finish(2, request)})) // and its replay
	wantCode(t, runSession(t, worker, []string{finish(2, uuid.NewString())}), "VA002")
	got := store.MustQuery(t, `SELECT s.current_version || ' ' || encode(v.ciphertext, 'hex') || ' ' || (SELECT count(*) FROM vault.rotation_candidates)
		FROM vault.secrets s JOIN vault.secret_versions v ON v.secret_id = s.id AND v.version = s.current_version`)
	if want := "2 " + strings.Repeat("33", 32) + " 0"; got != want {
		t.Errorf("got version, bytes and candidates %q, want %q", got, want)
	}
}

// The cap holds for all workers together, however many ask at once.
func TestCapHoldsForAllWorkers(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/a", "app1/b", "app1/c", "app1/d", "app1/e")
	mustAdmin(t, store, `SELECT vault.set_max_rotations(2, gen_random_uuid())`)
	worker := store.URL(vaulttest.Daemon)
	must(t, runSession(t, worker, []string{supervise}))
	var workers sync.WaitGroup
	for range 6 {
		workers.Go(func() {
			if err := runSession(t, worker, []string{claimOne}); err != nil {
				t.Error(err)
			}
		})
	}
	workers.Wait()
	claimed := `SELECT count(*) FROM vault.rotation_jobs WHERE state = 'claimed'`
	if got := store.MustQuery(t, claimed); got != "2" {
		t.Fatalf("got %s claims, want 2", got)
	}
	must(t, runSession(t, worker, []string{`SELECT vault.fail_rotation((SELECT min(id) FROM vault.rotation_jobs WHERE state = 'claimed'), 1, 'x', '1 hour')`, claimOne, claimOne}))
	if got := store.MustQuery(t, claimed); got != "2" {
		t.Errorf("got %s claims after one was given back, want 2", got)
	}
	mustAdmin(t, store, `SELECT vault.set_max_rotations(NULL, gen_random_uuid())`)
	must(t, runSession(t, worker, []string{`SELECT vault.claim_rotations('w', 10, '1 hour')`}))
	if got := store.MustQuery(t, claimed); got != "4" {
		t.Errorf("got %s claims without a cap, want the 4 that may run", got)
	}
}

// Who is paused, or outside of his window, waits; who was asked for by hand does not.
func TestWaitingForLeave(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/paused", "app1/window")
	mustAdmin(t, store, `SELECT vault.pause_rotation('app1/paused', gen_random_uuid(), true)`)
	wantCode(t, runSession(t, store.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE", `SELECT vault.pause_rotation('app1/paused', gen_random_uuid(), true)`}), "VA001")
	later := `to_char(now() AT TIME ZONE 'UTC' + interval '2 hours', 'HH24:MI') || '-' || to_char(now() AT TIME ZONE 'UTC' + interval '3 hours', 'HH24:MI') || ' UTC'`
	store.MustExec(t, `UPDATE vault.secrets SET rotation_window = `+later+` WHERE name = 'app1/window'`)
	worker := store.URL(vaulttest.Daemon)
	jobs := `SELECT coalesce(string_agg(name || ' ' || state, ', ' ORDER BY name), 'none') FROM vault.rotation_jobs`
	wantJobs := func(want string) {
		t.Helper()
		if got := store.MustQuery(t, jobs); got != want {
			t.Fatalf("got jobs %q, want %q", got, want)
		}
	}
	must(t, runSession(t, worker, []string{supervise}))
	wantJobs("none")
	if got := store.MustQuery(t, `SELECT vault.status() ->> 'rotations_overdue'`); got != "0" {
		t.Errorf("got %s overdue, want none: they may not rotate now", got)
	}

	mustAdmin(t, store, `SELECT vault.request_rotation('app1/paused', gen_random_uuid())`)
	must(t, runSession(t, worker, []string{`SELECT vault.claim_rotations('w', 5, '1 hour')`}))
	wantJobs("app1/paused claimed")

	// a job that was queued inside of the window waits for the next one, unless its target may have the value already
	store.MustExec(t, `UPDATE vault.secrets SET rotation_window = NULL WHERE name = 'app1/window'`)
	must(t, runSession(t, worker, []string{supervise, claimOne, storeCandidate(1, "app1/window", "33"),
		`SELECT vault.release_rotation((SELECT max(id) FROM vault.rotation_jobs), 1)`}))
	store.MustExec(t, `DELETE FROM vault.rotation_candidates`, `UPDATE vault.secrets SET rotation_window = `+later+` WHERE name = 'app1/window'`)
	must(t, runSession(t, worker, []string{claimOne}))
	wantJobs("app1/paused claimed, app1/window queued")
	store.MustExec(t, `UPDATE vault.secrets SET rotation_window = NULL WHERE name = 'app1/window'`)
	must(t, runSession(t, worker, []string{claimOne, storeCandidate(2, "app1/window", "33"), `SELECT vault.release_rotation((SELECT max(id) FROM vault.rotation_jobs), 2)`}))
	store.MustExec(t, `UPDATE vault.secrets SET rotation_window = `+later+` WHERE name = 'app1/window'`)
	must(t, runSession(t, worker, []string{claimOne}))
	wantJobs("app1/paused claimed, app1/window claimed")

	mustAdmin(t, store, `SELECT vault.pause_rotation('app1/paused', gen_random_uuid(), false)`)
	if got := store.MustQuery(t, `SELECT string_agg(action, ' ' ORDER BY id) FROM vault.audit_log WHERE secret = 'app1/paused' AND outcome = 'ok'`); got != "put rotation.pause rotation.request rotation.resume" {
		t.Errorf("got audit rows %q", got)
	}
}

// A job that failed for good is taken up again with its candidate and a new fence; asking twice is one job.
func TestRetryTakesUpTheFailedJob(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/auto")
	worker := store.URL(vaulttest.Daemon)
	retry := `SELECT vault.retry_rotation('app1/auto', gen_random_uuid())`
	wantCode(t, runSession(t, store.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE", retry}), "VA004")
	must(t, runSession(t, worker, []string{supervise, claimOne, storeCandidate(1, "app1/auto", "33"),
		`SELECT vault.fail_rotation((SELECT max(id) FROM vault.rotation_jobs), 1, 'the target is away', NULL)`, supervise}))
	state := `SELECT string_agg(concat_ws(' ', state, attempt, failures, (SELECT count(*) FROM vault.rotation_candidates)), ', ') FROM vault.rotation_jobs`
	want := func(what string) {
		t.Helper()
		if got := store.MustQuery(t, state); got != what {
			t.Fatalf("got state, attempt, failures and candidates %q, want %q", got, what)
		}
	}
	want("failed 1 1 1")
	mustAdmin(t, store, retry)
	want("queued 1 0 1")
	mustAdmin(t, store, `SELECT vault.request_rotation('app1/auto', gen_random_uuid())`)
	want("queued 1 0 1")
	must(t, runSession(t, worker, []string{claimOne}))
	wantCode(t, runSession(t, worker, []string{finish(1, uuid.NewString())}), "VA002")
	must(t, runSession(t, worker, []string{finish(2, uuid.NewString())}))
	want("done 2 0 0")

	// a put drops the candidate of a failed job: it was meant to follow another version
	store.MustExec(t, `UPDATE vault.secrets SET next_rotation_at = now() - interval '5 days'`)
	must(t, runSession(t, worker, []string{supervise, claimOne, strings.ReplaceAll(storeCandidate(1, "app1/auto", "33"), ":2", ":3"),
		`SELECT vault.fail_rotation((SELECT max(id) FROM vault.rotation_jobs), 1, 'x', NULL)`}))
	mustAdmin(t, store, put("app1/auto", 3, 24, 32, uuid.NewString()))
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.rotation_candidates`); got != "0" {
		t.Errorf("got %s candidates after a put, want none", got)
	}
}

// A claim that goes stale is a failure of its job, so that a value that kills its workers does not kill them for ever.
func TestVanishedWorkersCount(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/auto")
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise, claimOne, claimLate, claimLate}))
	if got := store.MustQuery(t, `SELECT attempt || ' ' || failures FROM vault.rotation_jobs`); got != "3 2" {
		t.Errorf("got attempt and failures %q, want 3 and 2", got)
	}
}

// Somebody who changes one secret and stalls holds up nobody else's rotation.
func TestStalledSessionHoldsUpNobodyElse(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/free", "app1/held")
	conn := mustConnect(t, store.URL(vaulttest.Superuser))
	for _, statement := range []string{`BEGIN`, `SELECT * FROM vault.secrets WHERE name = 'app1/held' FOR UPDATE`} {
		must(t, runStep(t.Context(), conn, statement))
	}
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{`SET statement_timeout = '30s'`, supervise}))
	if got := store.MustQuery(t, `SELECT string_agg(name, ' ') FROM vault.rotation_jobs`); got != "app1/free" {
		t.Errorf("got jobs for %q, want the free one", got)
	}
	must(t, runStep(t.Context(), conn, `ROLLBACK`))
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise}))
	if got := store.MustQuery(t, `SELECT string_agg(name, ' ' ORDER BY name) FROM vault.rotation_jobs`); got != "app1/free app1/held" {
		t.Errorf("got jobs for %q, want both", got)
	}
}

// An epoch lasts as long as its timeline.
func TestHeartbeat(t *testing.T) {
	store := vaulttest.New(t)
	worker := store.URL(vaulttest.Daemon)
	row := `SELECT epoch || ' ' || timeline FROM vault.heartbeat`
	must(t, runSession(t, worker, []string{`SELECT vault.beat()`}))
	first := store.MustQuery(t, row)
	must(t, runSession(t, worker, []string{`SELECT vault.beat()`}))
	if got := store.MustQuery(t, row); got != first {
		t.Errorf("got epoch and timeline %q after %q on one timeline", got, first)
	}
	store.MustExec(t, `UPDATE vault.heartbeat SET timeline = timeline - 1`) // as a promotion leaves it
	must(t, runSession(t, worker, []string{`SELECT vault.beat()`}))
	if got := store.MustQuery(t, row); got == first || got[37:] != first[37:] {
		t.Errorf("got %q, want another epoch on the timeline of %q", got, first)
	}
	wantCode(t, runSession(t, store.URL(vaulttest.Operator), []string{`UPDATE vault.heartbeat SET at = now()`}), denied)
}
