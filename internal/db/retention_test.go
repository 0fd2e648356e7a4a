package db_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// Versions that were removed and rotations that ended go after their days, at most a limit of them in one round; what
// can be opened, and what an operator still has to see, stays. Numbers go on from the current version.
func TestHistoryHasAnEnd(t *testing.T) {
	store := vaulttest.New(t)
	mustAdmin(t, store, putAutomatic("app1/a", uuid.NewString()))
	for version := 2; version <= 6; version++ {
		mustAdmin(t, store, put("app1/a", version, 24, 32, uuid.NewString()))
	}
	worker, operator := store.URL(vaulttest.Daemon), store.URL(vaulttest.Operator)
	// 1 to 3 were removed long ago, 4 lately; 5 is in grace.
	aged := func(where, column string) {
		t.Helper()
		store.MustExec(t, `ALTER TABLE vault.secret_versions DISABLE TRIGGER versions_are_sealed;
			UPDATE vault.secret_versions SET `+column+` WHERE `+where+`;
			ALTER TABLE vault.secret_versions ENABLE ALWAYS TRIGGER versions_are_sealed`)
	}
	aged(`version <= 4`, `expires_at = now() - interval '500 days'`)
	must(t, runSession(t, worker, []string{supervise}))
	aged(`version <= 3`, `removed_at = now() - interval '401 days'`)
	insertJob := `INSERT INTO vault.rotation_jobs (secret_id, name, from_version, state, due_at, run_after, finished_at)
		SELECT id, name, %d, '%s', now(), now(), now() - interval '%d days' FROM vault.secrets`
	for _, job := range []struct {
		from  int
		state string
		days  int
	}{{1, "done", 31}, {2, "superseded", 31}, {3, "done", 29}, {4, "failed", 31}, {6, "failed", 31}} {
		store.MustExec(t, fmt.Sprintf(insertJob, job.from, job.state, job.days))
	}
	versions := `SELECT string_agg(version::text, ' ' ORDER BY version) FROM vault.secret_versions`
	jobs := `SELECT string_agg(from_version || ' ' || state, ', ' ORDER BY from_version) FROM vault.rotation_jobs`
	want := func(when, query, what string) {
		t.Helper()
		if got := store.MustQuery(t, query); got != what {
			t.Errorf("%s: got %q, want %q", when, got, what)
		}
	}

	want("before", versions, "1 2 3 4 5 6")
	must(t, runSession(t, worker, []string{`SELECT vault.supervise(2)`}))
	want("after a round of two", versions, "3 4 5 6")
	if got := store.MustQuery(t, `SELECT vault.supervise(2) -> 'forgotten'`); got != "1" {
		t.Errorf("the second round forgot %s, want 1", got)
	}
	want("after both", versions, "4 5 6")
	want("after both", jobs, "3 done, 6 failed")
	want("the rounds", failures, "")

	mustAdmin(t, store, `SELECT vault.set_retention(29, 400, gen_random_uuid())`)
	store.MustExec(t, `UPDATE vault.rotation_jobs SET finished_at = finished_at - interval '1 hour'`)
	must(t, runSession(t, worker, []string{supervise}))
	want("with a shorter time", jobs, "6 failed")
	want("the record", `SELECT detail::text FROM vault.audit_log WHERE action = 'rotation.keep'`,
		`{"keep_jobs_days": 29, "keep_versions_days": 400}`)

	// Readers: the versions that can be opened, and the history that is left.
	reader := mustReader(t, operator)
	live, err := reader.LiveVersions(t.Context(), "app1/a")
	must(t, err)
	history, err := reader.History(t.Context(), "app1/a")
	must(t, err)
	if len(live) != 2 || len(history) != 3 {
		t.Errorf("got %d versions that can be opened and %d in the history, want 2 and 3", len(live), len(history))
	}
	// No number comes again: not that of a version that is gone.
	for version := 1; version <= 6; version++ {
		wantCode(t, runSession(t, operator, []string{"BEGIN", "AUTHORISE",
			put("app1/a", version, 24, 32, uuid.NewString())}), "VA001")
	}
	mustAdmin(t, store, put("app1/a", 7, 24, 32, uuid.NewString()))
}

// A worker that stalled until its job was deleted is refused as one that lost its claim.
func TestAWorkerOfAForgottenJobIsRefused(t *testing.T) {
	store := vaulttest.New(t)
	mustPutAutomatic(t, store, "app1/auto")
	worker := store.URL(vaulttest.Daemon)
	must(t, runSession(t, worker, []string{supervise, claimOne}))
	job := store.MustQuery(t, `SELECT max(id) FROM vault.rotation_jobs`)
	mustAdmin(t, store, put("app1/auto", 2, 24, 32, uuid.NewString())) // ends the job
	store.MustExec(t, `UPDATE vault.rotation_jobs SET finished_at = now() - interval '31 days'`)
	must(t, runSession(t, worker, []string{supervise}))
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.rotation_jobs WHERE id = `+job); got != "0" {
		t.Fatal("the job is there")
	}
	late := sealedRow("app1/auto", 2, 24, 32)
	for _, step := range []string{
		`SELECT vault.complete_rotations(ARRAY[` + job + `], ARRAY[1], ARRAY[` + late + `], ARRAY[gen_random_uuid()], true)`,
		`SELECT vault.store_candidate(` + job + `, 1, ` + late + `)`,
		`SELECT vault.finish_rotation(` + job + `, 1, gen_random_uuid())`,
	} {
		wantCode(t, runSession(t, worker, []string{step}), "VA002")
	}
	must(t, runSession(t, worker, []string{`SELECT vault.fail_rotation(` + job + `, 1, 'late', NULL)`,
		`SELECT vault.release_rotation(` + job + `, 1)`}))
	if got := store.MustQuery(t,
		`SELECT current_version || ' ' || (SELECT count(*) FROM vault.rotation_jobs) FROM vault.secrets`); got != "2 0" {
		t.Errorf("got version and jobs %q, want 2 and none", got)
	}
}

// Only the supervisor's rounds delete history, and only old history: not the owner of the tables, not a superuser.
func TestHistoryIsDeletedByRoundsOnly(t *testing.T) {
	store := vaulttest.New(t)
	mustPut(t, store, "app1/a")
	mustAdmin(t, store, put("app1/a", 2, 24, 32, uuid.NewString()))
	store.MustExec(t, `UPDATE vault.secret_versions SET expires_at = now() WHERE version = 1`)
	must(t, runSession(t, store.URL(vaulttest.Daemon), []string{supervise}))
	super := store.URL(vaulttest.Superuser)
	remove := `DELETE FROM vault.secret_versions WHERE removed_at IS NOT NULL`
	wantCode(t, runSession(t, super, []string{remove}), denied)
	// Inside of a round the owner's functions delete what is old enough, and nothing else.
	must(t, runSession(t, super, []string{"BEGIN", `SELECT vault._enter('maintenance', 'x')`, `SET ROLE vault_owner`,
		remove, `DELETE FROM vault.secret_versions`, `DELETE FROM vault.rotation_jobs`, "COMMIT"}))
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.secret_versions`); got != "2" {
		t.Errorf("got %s versions, want 2", got)
	}
	wantCode(t, runSession(t, super, []string{"BEGIN", `SELECT vault._enter('maintenance', 'x')`, remove}), denied)
}

// What a database of the release before has is kept, and gets the defaults.
func TestRetentionOfAnOlderVault(t *testing.T) {
	store := vaulttest.New(t)
	takeBack(t, store, 13)
	_, err := db.Migrate(t.Context(), store.URL(vaulttest.Superuser), "test", "")
	must(t, err)
	if got := store.MustQuery(t,
		`SELECT keep_jobs_days || ' ' || keep_versions_days FROM vault.config`); got != "30 400" {
		t.Errorf("got %q", got)
	}
}
