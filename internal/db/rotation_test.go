package db_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
	"github.com/hyperiondb/vault/test/chaos/pgproxy"
)

// A window is a time of day in its zone, also when the clock is changed.
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
		// the hour that does not exist: 01:59:59 and then 03:00,
		{"02:00-03:00 Europe/Berlin", "2026-03-29 00:59:59Z", false},
		{"02:00-03:00 Europe/Berlin", "2026-03-29 01:00:00Z", true}, // so it is an hour later
		{"02:00-03:00 Europe/Berlin", "2026-03-29 01:59:59Z", true},
		{"02:00-03:00 Europe/Berlin", "2026-03-29 02:00:00Z", false},
		{"02:00-03:00 Europe/Berlin", "2026-10-25 00:30:00Z", true}, // the hour that comes twice
		{"02:00-03:00 Europe/Berlin", "2026-10-25 01:30:00Z", true},
		{"02:00-05:00 Asia/Kolkata", "2026-03-01 20:31:00Z", true}, // UTC+5:30
	} {
		if got := store.MustQuery(t, `SELECT vault._in_window($1, $2::text::timestamptz)`, c.window,
			c.at); got != strconv.FormatBool(c.want) {
			t.Errorf("%s at %s: got %s, want %v", c.window, c.at, got, c.want)
		}
	}
	for _, bad := range []string{"02:00-05:00", "2:00-5:00 UTC", "02:00-24:00 UTC", "02:00-02:00 UTC",
		"02:00-05:00 Mars/Base", "02:00-05:00 5", "02:00-05:00 UTC ", "02:60-05:00 UTC", "02:00-05:00 UTC\n", "x"} {
		wantCode(t, runSession(t, store.URL(vaulttest.Superuser),
			[]string{`SELECT vault._check_window(` + literal(bad) + `)`}), "22023")
	}
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// mustPutAutomatic creates secrets that are due.
func mustPutAutomatic(t *testing.T, store *vaulttest.Store, names ...string) {
	t.Helper()
	for _, name := range names {
		mustAdmin(t, store, putAutomatic(name, uuid.NewString()))
	}
	store.MustExec(t, `UPDATE vault.secrets SET next_rotation_at = now() - interval '5 days' WHERE generator IS NOT NULL`)
}

func mustAdmin(t *testing.T, store *vaulttest.Store, statement string) {
	t.Helper()
	must(t, admin(t, store, statement))
}

// admin runs a statement with the token.
func admin(t *testing.T, store *vaulttest.Store, statement string) error {
	return store.Session(t.Context(), vaulttest.Operator, func(conn *pgx.Conn) error {
		for _, step := range []string{"BEGIN", "AUTHORISE", statement, "COMMIT"} {
			if err := runStep(t.Context(), conn, step); err != nil {
				return err
			}
		}
		return nil
	})
}

const (
	supervise = `SELECT vault.supervise()`
	claimOne  = `SELECT vault.claim_rotations('w', 1, '1 hour')`
	claimLate = `SELECT vault.claim_rotations('w', 1, '3 s')` // once the claim is old: [ageClaims]
)

// storeCandidate is a call for the newest job; fill makes candidates differ.
func storeCandidate(attempt int, name, fill string) string {
	return fmt.Sprintf(`SELECT encode(ciphertext, 'hex') FROM vault.store_candidate(
		(SELECT max(id) FROM vault.rotation_jobs), %d, %s)`, attempt,
		strings.Replace(sealedRow(name, 2, 24, 32), "'11'", "'"+fill+"'", 1))
}

func finish(attempt int, request string) string {
	return fmt.Sprintf(`SELECT vault.finish_rotation((SELECT max(id) FROM vault.rotation_jobs), %d, '%s')`, attempt,
		request)
}

// A job has one candidate for all attempts, it needs the claim's fence, and it becomes the version.
func TestCandidateIsFenced(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/auto")
	worker := store.URL(vaulttest.Daemon)
	must(t, runSession(t, worker, []string{supervise, claimOne}))
	wantCode(t, runSession(t, worker, []string{finish(1, uuid.NewString())}), "22023") // nothing to finish yet
	wantCode(t, runSession(t, worker, []string{storeCandidate(1, "app1/other", "33")}), "23514")
	must(t, runSession(t, worker, []string{storeCandidate(1, "app1/auto", "33")}))
	ageClaims(t, store)
	must(t, runSession(t, worker, []string{claimLate}))

	wantCode(t, runSession(t, worker, []string{storeCandidate(1, "app1/auto", "44")}), "VA002") // the first one wakes up
	wantCode(t, runSession(t, worker, []string{finish(1, uuid.NewString())}), "VA002")
	// and the second attempt keeps the first one's candidate
	must(t, runSession(t, worker, []string{storeCandidate(2, "app1/auto", "44")}))
	if got, want := store.MustQuery(t, `SELECT string_agg(encode(ciphertext, 'hex'), ' ') FROM vault.rotation_candidates`),
		strings.Repeat("33", 32); got != want {
		t.Fatalf("got candidates %s, want the first one only", got)
	}
	wantCode(t, runSession(t, worker, []string{`UPDATE vault.rotation_candidates SET nonce = nonce`}), denied)
	wantCode(t, runSession(t, store.URL(vaulttest.Operator), []string{`SELECT * FROM vault.rotation_candidates`}), denied)

	request := uuid.NewString()
	must(t, runSession(t, worker, []string{finish(2, request), finish(2, request)})) // and its replay
	wantCode(t, runSession(t, worker, []string{finish(2, uuid.NewString())}), "VA002")
	got := store.MustQuery(t, `SELECT s.current_version || ' ' || encode(v.ciphertext, 'hex') || ' ' ||
			(SELECT count(*) FROM vault.rotation_candidates)
		FROM vault.secrets s JOIN vault.secret_versions v ON v.secret_id = s.id AND v.version = s.current_version`)
	if want := "2 " + strings.Repeat("33", 32) + " 0"; got != want {
		t.Errorf("got version, bytes and candidates %q, want %q", got, want)
	}
}

// claimed is a vault whose secrets of these names are claimed for rotation, and the completions of a worker.
type claimed struct {
	t      *testing.T
	store  *vaulttest.Store
	writer *db.Writer
	batch  map[string]db.Completion
}

func mustClaim(t *testing.T, url func(*vaulttest.Store) string, names ...string) *claimed {
	t.Helper()
	c := &claimed{t: t, store: vaulttest.New(t), batch: map[string]db.Completion{}}
	mustPutAutomatic(t, c.store, names...)
	must(t, runSession(t, c.store.URL(vaulttest.Daemon), []string{supervise}))
	c.writer = mustWriter(t, db.Options{URL: url(c.store)})
	jobs, err := c.writer.ClaimRotations(t.Context(), "w", 100, 0, time.Hour)
	must(t, err)
	for _, j := range jobs {
		v := sealedPlaceholder(j.Name)
		v.Version, v.AAD = 2, j.Name+":2"
		c.batch[j.Name] = db.Completion{Request: uuid.New(), Job: j.ID, Attempt: j.Attempt, SealedValue: v}
	}
	if len(c.batch) != len(names) {
		t.Fatalf("got %d claims of %d", len(c.batch), len(names))
	}
	return c
}

func daemonURL(store *vaulttest.Store) string { return store.URL(vaulttest.Daemon) }

// complete completes these together, and returns the names of those completed.
func (c *claimed) complete(names ...string) (string, error) {
	c.t.Helper()
	var batch []db.Completion
	for _, name := range names {
		batch = append(batch, c.batch[name])
	}
	results, err := c.writer.CompleteRotations(c.t.Context(), batch)
	var done []string
	for request, result := range results {
		if result.Version != 2 || request != c.batch[result.Name].Request ||
			result.VersionID != c.store.MustQuery(c.t,
				`SELECT version_id FROM vault.secret_versions WHERE name = $1 AND version = 2`, result.Name) {
			c.t.Errorf("got %+v for request %s, want what is stored", result, request)
		}
		done = append(done, result.Name)
	}
	slices.Sort(done)
	return strings.Join(done, " "), err
}

func (c *claimed) alone(name string) error {
	c.t.Helper()
	_, err := c.writer.CompleteRotation(c.t.Context(), c.batch[name])
	return err
}

func (c *claimed) want(query, want string) {
	c.t.Helper()
	if got := c.store.MustQuery(c.t, query); got != want {
		c.t.Errorf("%s: got %q, want %q", query, got, want)
	}
}

const (
	rotated   = `SELECT string_agg(name, ' ' ORDER BY name) FROM vault.secrets WHERE current_version = 2`
	rotations = `SELECT string_agg(secret || ' ' || action || ' ' || actor, ', ' ORDER BY secret, id) FROM vault.audit_log
		WHERE action LIKE 'rotate%'`
	asked = `SELECT count(*) FROM vault.requests WHERE action = 'rotate'`
)

// A batch completes in one transaction the jobs that its worker still has, and leaves the rest unchanged; each of these
// gets its error alone.
func TestBatchLeavesOutWhatIsLost(t *testing.T) {
	c := mustClaim(t, daemonURL, "app1/a", "app1/b", "app1/deleted", "app1/edited", "app1/held", "app1/old",
		"app1/reclaimed")
	mustAdmin(t, c.store, `SELECT vault.delete_secret('app1/deleted', gen_random_uuid(), '1 day')`)
	c.store.MustExec(t,
		`UPDATE vault.rotation_jobs SET claimed_at = now() - interval '2 hours' WHERE name = 'app1/reclaimed'`,
		`ALTER TABLE vault.secrets DISABLE TRIGGER secrets_move_forward`,
		`UPDATE vault.secrets SET current_version = 7 WHERE name = 'app1/edited'`)
	_, err := c.writer.ClaimRotations(t.Context(), "another", 1, 0, time.Hour)
	must(t, err)
	old := c.batch["app1/old"]
	old.Attempt--
	c.batch["app1/old"] = old
	holding := mustConnect(t, c.store.URL(vaulttest.Operator))
	for _, step := range []string{"BEGIN", "AUTHORISE",
		`SELECT vault.update_secret('app1/held', gen_random_uuid(), NULL, NULL, '1 hour')`} {
		must(t, runStep(t.Context(), holding, step))
	}

	began := c.store.MustQuery(t, `now()`)
	all := slices.Sorted(maps.Keys(c.batch))
	done, err := c.complete(all...)
	must(t, err)
	if done != "app1/a app1/b" {
		t.Errorf("completed %q, want those whose claims hold", done)
	}
	c.want(rotated, "app1/a app1/b")
	c.want(rotations, "app1/a rotate worker:w, app1/b rotate worker:w")
	c.want(asked, "2")
	c.want(`SELECT count(DISTINCT tx) FROM vault.audit_log WHERE action = 'rotate'`, "1")
	c.want(`SELECT string_agg(concat_ws(' ', name, version, expires_at > now()), ', ' ORDER BY name, version)
		FROM vault.secret_versions WHERE name IN ('app1/a', 'app1/b')`,
		"app1/a 1 t, app1/a 2, app1/b 1 t, app1/b 2")
	c.want(`SELECT bool_and(next_rotation_at BETWEEN now() + interval '21 hours' AND now() + interval '1 day'
		AND rotated_at >= '`+began+`')
		FROM vault.secrets WHERE current_version = 2`, "true")
	for _, name := range []string{"app1/deleted", "app1/old", "app1/reclaimed"} {
		if err := c.alone(name); !errors.Is(err, db.ErrClaimLost) {
			t.Errorf("%s alone: got %v, want the claim to be lost", name, err)
		}
	}
	if err := c.alone("app1/edited"); !errors.Is(err, db.ErrConflict) {
		t.Errorf("app1/edited alone: got %v, want a conflict", err)
	}
	must(t, runStep(t.Context(), holding, "ROLLBACK"))
	must(t, c.alone("app1/held"))
	c.want(rotated, "app1/a app1/b app1/held")
	c.want(vaulttest.StaleCopies, "app1/edited")
}

// One value that breaks a rule fails the batch, and nothing else.
func TestBatchWithABadRow(t *testing.T) {
	c := mustClaim(t, daemonURL, "app1/a", "app1/bad", "app1/c")
	for name, spoil := range map[string]func(*db.Completion){
		"a nonce of 12 bytes":  func(b *db.Completion) { b.Nonce = make([]byte, 12) },
		"no nonce":             func(b *db.Completion) { b.Nonce = nil },
		"another secret's AAD": func(b *db.Completion) { b.AAD = "app1/a:2" },
		"another's request":    func(b *db.Completion) { b.Request = c.batch["app1/a"].Request },
		"another's job":        func(b *db.Completion) { b.Job, b.AAD = c.batch["app1/a"].Job, "app1/a:2" },
	} {
		t.Run(name, func(t *testing.T) {
			good := c.batch["app1/bad"]
			defer func() { c.batch["app1/bad"] = good }()
			bad := good
			spoil(&bad)
			c.batch["app1/bad"] = bad
			if done, err := c.complete("app1/a", "app1/bad", "app1/c"); !errors.Is(err, db.ErrInvalid) || done != "" {
				t.Errorf("completed %q, error %v, want the rule", done, err)
			}
			c.want(asked, "0")
			c.want(rotated, "")
		})
	}
	must(t, c.alone("app1/a"))
	must(t, c.alone("app1/c"))
	c.want(rotated, "app1/a app1/c")
}

// A batch whose COMMIT failed or got no answer is repeated: each of its requests is a replay, in any batch.
func TestBatchIsReplayed(t *testing.T) {
	for when, audit := range map[pgproxy.When]string{
		pgproxy.Before: "app1/a rotate worker:w, app1/b rotate worker:w",
		pgproxy.After: "app1/a rotate worker:w, app1/a rotate.replay worker:w, " +
			"app1/b rotate worker:w, app1/b rotate.replay worker:w",
	} {
		t.Run(when.String(), func(t *testing.T) {
			var p *pgproxy.Proxy
			c := mustClaim(t, func(store *vaulttest.Store) string {
				p = newProxy(t, store)
				return through(p, store, vaulttest.Daemon)
			}, "app1/a", "app1/b", "app1/c", "app1/d")
			lose(p, when)
			done, err := c.complete("app1/a", "app1/b")
			must(t, err)
			if done != "app1/a app1/b" {
				t.Errorf("completed %q, want both", done)
			}
			c.want(rotations, audit)
			must(t, c.alone("app1/c"))
			other := c.batch["app1/a"]
			other.Ciphertext = make([]byte, 33)
			c.batch["app1/a"] = other
			done, err = c.complete("app1/d", "app1/c", "app1/a")
			must(t, err)
			if done != "app1/c app1/d" {
				t.Errorf("completed %q, want the new one and the replay, and not what has another value by now", done)
			}
			if err := c.alone("app1/a"); !errors.Is(err, db.ErrConflict) {
				t.Errorf("the same request with another value: got %v, want a conflict", err)
			}
			c.want(`SELECT count(*) || ' ' || max(version) FROM vault.secret_versions`, "8 2")
		})
	}
}

// The cap holds for all workers together, with any number of concurrent claims.
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
	must(t, runSession(t, worker,
		[]string{`SELECT vault.fail_rotation(
			(SELECT min(id) FROM vault.rotation_jobs WHERE state = 'claimed'), 1, 'x', '1 hour')`, claimOne, claimOne}))
	if got := store.MustQuery(t, claimed); got != "2" {
		t.Errorf("got %s claims after one was given back, want 2", got)
	}
	mustAdmin(t, store, `SELECT vault.set_max_rotations(NULL, gen_random_uuid())`)
	must(t, runSession(t, worker, []string{`SELECT vault.claim_rotations('w', 10, '1 hour')`}))
	if got := store.MustQuery(t, claimed); got != "4" {
		t.Errorf("got %s claims without a cap, want the 4 that may run", got)
	}
}

// A secret that is paused or outside of its window waits; one with a rotation on request does not.
func TestWaitingForLeave(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/paused", "app1/window")
	mustAdmin(t, store, `SELECT vault.pause_rotation('app1/paused', gen_random_uuid(), true)`)
	wantCode(t, runSession(t, store.URL(vaulttest.Operator),
		[]string{"BEGIN", "AUTHORISE", `SELECT vault.pause_rotation('app1/paused', gen_random_uuid(), true)`}), "VA001")
	later := `to_char(now() AT TIME ZONE 'UTC' + interval '2 hours', 'HH24:MI') || '-' ||
		to_char(now() AT TIME ZONE 'UTC' + interval '3 hours', 'HH24:MI') || ' UTC'`
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
	store.MustExec(t, `DELETE FROM vault.rotation_candidates`,
		`UPDATE vault.secrets SET rotation_window = `+later+` WHERE name = 'app1/window'`)
	must(t, runSession(t, worker, []string{claimOne}))
	wantJobs("app1/paused claimed, app1/window queued")
	store.MustExec(t, `UPDATE vault.secrets SET rotation_window = NULL WHERE name = 'app1/window'`)
	must(t, runSession(t, worker, []string{claimOne, storeCandidate(2, "app1/window", "33"),
		`SELECT vault.release_rotation((SELECT max(id) FROM vault.rotation_jobs), 2)`}))
	store.MustExec(t, `UPDATE vault.secrets SET rotation_window = `+later+` WHERE name = 'app1/window'`)
	must(t, runSession(t, worker, []string{claimOne}))
	wantJobs("app1/paused claimed, app1/window claimed")

	mustAdmin(t, store, `SELECT vault.pause_rotation('app1/paused', gen_random_uuid(), false)`)
	if got := store.MustQuery(t,
		`SELECT string_agg(action, ' ' ORDER BY id) FROM vault.audit_log
			WHERE secret = 'app1/paused' AND outcome = 'ok'`); got != "put rotation.pause rotation.request rotation.resume" {
		t.Errorf("got audit rows %q", got)
	}
}

// A job that failed for good is requeued with its candidate and a new fence; a second request joins it.
func TestRetryTakesUpTheFailedJob(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/auto")
	worker := store.URL(vaulttest.Daemon)
	retry := `SELECT vault.retry_rotation('app1/auto', gen_random_uuid())`
	wantCode(t, runSession(t, store.URL(vaulttest.Operator), []string{"BEGIN", "AUTHORISE", retry}), "VA004")
	must(t, runSession(t, worker, []string{supervise, claimOne, storeCandidate(1, "app1/auto", "33"),
		`SELECT vault.fail_rotation((SELECT max(id) FROM vault.rotation_jobs), 1, 'the target is away', NULL)`, supervise}))
	state := `SELECT string_agg(concat_ws(' ', state, attempt, failures,
		(SELECT count(*) FROM vault.rotation_candidates)), ', ') FROM vault.rotation_jobs`
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
	must(t, runSession(t, worker, []string{supervise, claimOne,
		strings.NewReplacer("ROW(2", "ROW(3", ":2'", ":3'").Replace(storeCandidate(1, "app1/auto", "33")),
		`SELECT vault.fail_rotation((SELECT max(id) FROM vault.rotation_jobs), 1, 'x', NULL)`}))
	mustAdmin(t, store, put("app1/auto", 3, 24, 32, uuid.NewString()))
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.rotation_candidates`); got != "0" {
		t.Errorf("got %s candidates after a put, want none", got)
	}
}

// A stale claim is a failure of its job, so that a value that kills its workers does not kill them for ever.
func TestVanishedWorkersCount(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/auto")
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise, claimOne}))
	for range 2 {
		ageClaims(t, store)
		must(t, runSession(t, store.URL(vaulttest.Daemon), []string{claimLate}))
	}
	if got := store.MustQuery(t, `SELECT attempt || ' ' || failures FROM vault.rotation_jobs`); got != "3 2" {
		t.Errorf("got attempt and failures %q, want 3 and 2", got)
	}
}

// A session that changes one secret and stalls does not delay rotations of other secrets.
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
	if got := store.MustQuery(t,
		`SELECT string_agg(name, ' ' ORDER BY name) FROM vault.rotation_jobs`); got != "app1/free app1/held" {
		t.Errorf("got jobs for %q, want both", got)
	}
}

// Statistics from when the queue was empty do not make enqueueing n rows cost n times n.
func TestEnqueueIntoAnEmptyQueue(t *testing.T) {
	const due = 500
	store := vaulttest.New(t)
	store.MustExec(t, fmt.Sprintf(`INSERT INTO vault.secrets (name, kind, generator, rotation_interval, current_version,
		rotated_at, next_rotation_at)
			SELECT 'app1/' || n, 'automatic', 'uuid', '30 days', 1, now(), now() + interval '30 days'
			FROM generate_series(1, %d) n`, due),
		`ANALYZE`, `UPDATE vault.secrets SET next_rotation_at = now() - interval '1 hour'`)
	conn := mustConnect(t, store.URL(vaulttest.Daemon))
	var enqueued, read int
	must(t, conn.QueryRow(t.Context(), `SELECT vault.supervise() -> 'enqueued'`).Scan(&enqueued))
	must(t, runStep(t.Context(), conn, `SELECT pg_stat_force_next_flush()`))
	must(t, conn.QueryRow(t.Context(),
		`SELECT sum(idx_tup_read) FROM pg_stat_all_indexes WHERE relid = 'vault.rotation_jobs'::regclass`).Scan(&read))
	if enqueued != due || read > 10*due {
		t.Errorf("%d rotations were enqueued by reading %d entries of indexes, want %d by a few each", enqueued, read, due)
	}
}

// Nor do they make a claim read the whole backlog.
func TestClaimFromABacklog(t *testing.T) {
	const due, claims = 2000, 10
	store := vaulttest.New(t)
	store.MustExec(t, fmt.Sprintf(`INSERT INTO vault.secrets (name, kind, generator, rotation_interval, current_version,
		rotated_at, next_rotation_at)
			SELECT 'app1/' || n, 'automatic', 'uuid', '30 days', 1, now(), now() - interval '1 hour'
			FROM generate_series(1, %d) n`, due),
		`VACUUM ANALYZE`)
	conn := mustConnect(t, store.URL(vaulttest.Daemon))
	must(t, runStep(t.Context(), conn, supervise))
	read := func() (n int) {
		t.Helper()
		must(t, runStep(t.Context(), conn, `SELECT pg_stat_force_next_flush()`))
		must(t, conn.QueryRow(t.Context(), `SELECT sum(coalesce(idx_tup_fetch, 0) + seq_tup_read) FROM pg_stat_all_tables
			WHERE relid IN ('vault.rotation_jobs'::regclass, 'vault.secrets'::regclass)`).Scan(&n))
		return n
	}
	before := read()
	for range claims { // the sixth may have the generic plan
		must(t, runStep(t.Context(), conn, `SELECT vault.claim_rotations('w', 5, '1 hour')`))
	}
	if got := read() - before; got > due/2 {
		t.Errorf("%d claims of 5 read %d rows of a backlog of %d", claims, got, due)
	}
}
