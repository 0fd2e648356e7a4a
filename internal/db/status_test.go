package db_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// totals are what a status counts of names.
type totals struct {
	Secrets, Deleted, Live, Tokens, Failed, Overdue, Paused, Rounds int64
	Next                                                            bool
}

func totalsOf(t *testing.T, s *vaulttest.Store, role string) totals {
	t.Helper()
	conn := mustConnect(t, s.URL(role))
	defer conn.Close(context.WithoutCancel(t.Context()))
	var text []byte
	must(t, conn.QueryRow(t.Context(), `SELECT vault.status()`).Scan(&text))
	var of db.Status
	must(t, json.Unmarshal(text, &of))
	if of.ClusterID == "" || of.LSN == "" {
		t.Errorf("%s: got the status %s, without the node", role, text)
	}
	health, err := mustReader(t, s.URL(role)).Health(t.Context())
	must(t, err)
	ages := cmpopts.IgnoreFields(db.Health{}, "LagSeconds", "UnsealedSeconds")
	if diff := cmp.Diff(of.Health, health, ages); diff != "" {
		t.Errorf("%s: the health is not that of the status (-status +health):\n%s", role, diff)
	}
	return totals{of.Secrets, of.Deleted, of.LiveVersions, of.Tokens, of.RotationsFailed, of.RotationsOverdue,
		of.RotationsPaused, of.RoundFailures, of.NextRotationAt != nil}
}

// A role with prefixes sees the counts of the names under them, each once, and nothing of the rest.
func TestStatusCountsWhatTheRoleMayRead(t *testing.T) {
	s := vaulttest.New(t)
	mustPut(t, s, "app1/a", "app1/sub/b", "app10/c", "app2/d", "other/e", "other/f")
	mustAdmin(t, s, `SELECT vault.delete_secret('other/f', gen_random_uuid(), '1 day')`)
	s.MustExec(t, `UPDATE vault.secrets SET kind = 'automatic', generator = 'hex', rotation_interval = '1 day',
			next_rotation_at = now() - interval '1 hour', rotation_paused_at = CASE name WHEN 'app2/d' THEN now() END`,
		`INSERT INTO vault.rotation_jobs (secret_id, name, from_version, state, due_at, run_after, last_error)
			SELECT id, name, current_version, 'failed', now(), now(), 'x' FROM vault.secrets
			WHERE name NOT IN ('app1/a', 'other/e')`,
		`INSERT INTO vault.round_failures (part, subject, error, code)
			SELECT 'expire', name, 'x', 'XX000' FROM vault.secrets UNION SELECT 'claim', '', 'x', 'XX000'`,
		`INSERT INTO vault.admin_tokens (id, name, token_sha256, scope, created_by)
			SELECT gen_random_uuid(), 'of' || n, sha256(n::text::bytea), scope, 'test'
			FROM unnest(ARRAY['app1/', 'app1/sub/', 'app2/']) WITH ORDINALITY AS x (scope, n)`)

	one, nested, all, member := roleName("one"), roleName("nested"), roleName("all"), roleName("member")
	limited, worker := roleName("limited"), roleName("worker") // both are workers; the other one reads no secrets
	for _, role := range []string{one, nested, all, member, limited, worker} {
		mustRole(t, s, role)
	}
	for role, prefixes := range map[string][]string{one: {"app1/"}, nested: {"app1/", "app1/sub/", "app2/d"},
		all: {"app1/", ""}, limited: {"app1/"}} {
		for _, prefix := range prefixes {
			mustAdmin(t, s, grant(role, prefix))
		}
	}
	s.MustExec(t, `GRANT `+quoted(one)+` TO `+quoted(member),
		`GRANT vault_worker TO `+quoted(limited)+`, `+quoted(worker))
	// a rotation that failed is overdue as well, and counts once
	whole := totals{5, 1, 6, 4, 3, 2, 1, 7, true}
	app1 := totals{2, 0, 2, 2, 1, 1, 0, 3, true}
	for role, want := range map[string]totals{vaulttest.Superuser: whole, all: whole, limited: whole, worker: whole,
		one: app1, member: app1,
		nested: {3, 0, 3, 2, 2, 1, 1, 4, true}} {
		if diff := cmp.Diff(want, totalsOf(t, s, role)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", role, diff)
		}
	}

	// its counts are of the role itself: no prefix of another can be asked for
	conn := mustConnect(t, s.URL(one))
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, call := range []string{`vault._own_totals(ARRAY['other/'])`, `vault._all_totals()`,
		`vault._health_counts(NULL)`, `vault._visible_prefixes()`} {
		wantCode(t, runStep(t.Context(), conn, `SELECT `+call), "42501")
	}
	mustAdmin(t, s, `SELECT vault.revoke_service_role('`+one+`', 'app1/')`)
	_, err := conn.Exec(t.Context(), `SELECT vault.status()`)
	wantCode(t, err, "42501")
}
