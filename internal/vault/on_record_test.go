package vault_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/access/accessdb"
	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// nothingToRecord are the functions of the write API that write no row, and why they need none.
var nothingToRecord = map[string]string{
	"challenge":       "begins a proof",
	"authorize_proof": "is part of each change; a refused one is recorded by record_refusal",
	"list_tokens":     "reads", "odd_roles": "reads", "revocation_holds": "reads", "my_token": "reads",
	"xmin_holder":  "reads",
	"wrapped_keys": "reads", "grace_report": "reads", "status": "reads", "health": "reads",
	"replication": "reads", "replication_lag": "reads", "standbys": "reads", "sealing_lag": "reads",
	"_too_powerful":      "reads",
	"rotation_candidate": "reads",
	"next_audit_window":  "reads", "audit_window": "reads",
	"add_audit_seal":        "is itself the evidence",
	"prepare_audit_prune":   "moves rows into their month, unchanged",
	"supervise":             "calls the others",
	"report_round":          "says that rounds fail, or work again",
	"report_daemon":         "says that a daemon runs",
	"forget_daemon":         "says that a daemon has ended",
	"beat":                  "says that the primary is there",
	"enqueue_due_rotations": "plans; what becomes of it is recorded", "claim_rotations": "as above",
	"release_rotation": "as above",
	"store_candidate":  "a step of a rotation, which is recorded when it is done or has failed",
}

// recorded is a vault in which every kind of change happens once.
type recorded struct {
	*moving
	ctx     context.Context
	daemon  *vault.Vault
	scoped  vault.Change
	covered []string // functions
}

// step is one change by a token, and its row. A change that is tried with a token that does not cover it has a row too.
type step struct {
	function, action, secret string
	version                  int
	do                       func(c vault.Change) error
}

// Every change of the vault, and every attempt that is refused, writes its row in the transaction of the change: the
// actor, database role, action, secret and version, outcome and request id. A function that is granted to any role and
// is neither here nor in nothingToRecord fails the test.
func TestEveryChangeIsOnRecord(t *testing.T) {
	m := newMoving(t, nil)
	r := &recorded{moving: m, ctx: t.Context(), daemon: m.daemon(t), scoped: scopedToken(t, m.Vault, m.as, "elsewhere/")}
	r.store.MustExec(t,
		`DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'on_record') THEN CREATE ROLE on_record;
			END IF; END $$`)
	for _, s := range r.secrets() {
		r.byToken(s)
	}
	for _, s := range r.access() {
		r.byToken(s)
	}
	for _, s := range r.apps() {
		r.byToken(s)
	}
	r.bulk()
	r.rotations()
	r.supervision()
	r.prune()
	r.reads()
	r.owner()

	granted := strings.Fields(r.store.MustQuery(t, `SELECT string_agg(DISTINCT p.proname, ' ')
		FROM pg_proc p, aclexplode(p.proacl) a
		WHERE p.pronamespace = 'vault'::regnamespace AND a.grantee IN ('vault_service'::regrole, 'vault_worker'::regrole,
		'vault_auditor'::regrole)`))
	for _, function := range granted {
		if !slices.Contains(r.covered, function) && nothingToRecord[function] == "" {
			t.Errorf("function vault.%s: is there a row of what it does?", function)
		}
	}
	for function := range nothingToRecord {
		if !slices.Contains(granted, function) {
			t.Errorf("function vault.%s is granted to nobody: the list is old", function)
		}
	}
}

func (r *recorded) secrets() []step {
	generator, every, grace := "uuid", 24*time.Hour, time.Hour
	put := func(name string, s vault.Settings) func(vault.Change) error {
		return func(c vault.Change) error {
			_, err := r.Put(r.ctx, vault.PutRequest{Change: c, Name: name, Value: []byte("one"), Settings: s})
			return err
		}
	}
	byName := func(do func(ctx context.Context, c vault.Change, name string) (vault.Receipt, error),
		name string) func(vault.Change) error {
		return func(c vault.Change) error { return second(do(r.ctx, c, name)) }
	}
	return []step{
		{"put_version", "put", "app/x", 1, put("app/x", vault.Settings{})},
		{"put_version", "rotate", "app/x", 2, func(c vault.Change) error {
			return second(r.Rotate(r.ctx, vault.RotateRequest{Change: c, Name: "app/x", Value: []byte("two")}))
		}},
		{"put_version", "rollback", "app/x", 3,
			func(c vault.Change) error { return second(r.Rollback(r.ctx, c, "app/x", 1)) }},
		{"update_secret", "update", "app/x", 0, func(c vault.Change) error {
			return second(r.Update(r.ctx, vault.UpdateRequest{Change: c, Name: "app/x",
				Settings: vault.Settings{Grace: &grace}}))
		}},
		{"end_grace", "grace.end", "app/x", 1,
			func(c vault.Change) error { return second(r.EndGrace(r.ctx, c, "app/x", 1)) }},
		{"rewrap", "rewrap", "app/x", 2, func(c vault.Change) error {
			keys, _ := r.page("app/x", true)
			return second(r.Rewrap(r.ctx, c, r.ring, keys[0]))
		}},
		{"put_version", "put", "app/auto", 1, put("app/auto", vault.Settings{Generator: &generator, RotateEvery: &every})},
		{"request_rotation", "rotation.request", "app/auto", 1,
			func(c vault.Change) error { return second(r.RequestRotation(r.ctx, c, "app/auto")) }},
		{"retry_rotation", "rotation.retry", "app/auto", 1,
			func(c vault.Change) error { return second(r.RetryRotation(r.ctx, c, "app/auto")) }},
		{"pause_rotation", "rotation.pause", "app/auto", 1,
			func(c vault.Change) error { return second(r.PauseRotation(r.ctx, c, "app/auto", true)) }},
		{"pause_rotation", "rotation.resume", "app/auto", 1,
			func(c vault.Change) error { return second(r.PauseRotation(r.ctx, c, "app/auto", false)) }},
		{"set_max_rotations", "rotation.limit", "", 0,
			func(c vault.Change) error { return r.SetMaxRotations(r.ctx, c, new(int)) }},
		{"set_max_rotations", "rotation.limit", "", 0,
			func(c vault.Change) error { return r.SetMaxRotations(r.ctx, c, nil) }},
		{"set_retention", "rotation.keep", "", 0, func(c vault.Change) error {
			return second(r.SetRetention(r.ctx, c, vault.Retention{JobDays: 7, VersionDays: 90}))
		}},
		{"delete_secret", "delete", "app/x", 3,
			func(c vault.Change) error { return second(r.Delete(r.ctx, c, "app/x", time.Hour)) }},
		{"restore_secret", "restore", "app/x", 3, byName(r.Restore, "app/x")},
		{"put_version", "put", "app/gone", 1, put("app/gone", vault.Settings{})},
		{"purge_secret", "purge", "app/gone", 1, byName(r.Purge, "app/gone")},
	}
}

func (r *recorded) access() []step {
	grant := func(group vault.Group) func(vault.Change) error {
		return func(c vault.Change) error { return second(r.Grant(r.ctx, c, "on_record", group, "app/")) }
	}
	return []step{
		{"create_token", "token.create", "", 0, func(c vault.Change) error {
			_, _, err := r.CreateToken(r.ctx, vault.NewTokenRequest{Change: c, Name: "ops"})
			return err
		}},
		{"revoke_token", "token.revoke", "", 0, func(c vault.Change) error { return second(r.RevokeToken(r.ctx, c, "ops")) }},
		{"grant_service_role", "grant", "", 0, grant(vault.GroupService)},
		{"grant_worker_role", "grant", "", 0, grant(vault.GroupWorker)},
		{"grant_auditor_role", "grant", "", 0, grant(vault.GroupAuditor)},
		{"revoke_service_role", "grant.revoke", "", 0,
			func(c vault.Change) error { return second(r.Revoke(r.ctx, c, "on_record", nil)) }},
	}
}

func (r *recorded) apps() []step {
	read := func(pattern string) []accessdb.Rule {
		return []accessdb.Rule{{Pattern: pattern, Actions: []access.Action{access.Read}}}
	}
	enable := func(enabled bool) func(vault.Change) error {
		return func(c vault.Change) error { return second(r.EnableApp(r.ctx, c, "billing", enabled)) }
	}
	return []step{
		{"create_app", "app.create", "", 0,
			func(c vault.Change) error { return second(r.CreateApp(r.ctx, c, "billing", read("app/*"), nil)) }},
		{"allow_app", "app.allow", "", 0,
			func(c vault.Change) error { return second(r.AllowApp(r.ctx, c, "billing", read("other/*"))) }},
		{"disallow_app", "app.disallow", "", 0,
			func(c vault.Change) error { return second(r.DisallowApp(r.ctx, c, "billing", []string{"other/*"})) }},
		{"set_app_enabled", "app.disable", "", 0, enable(false)},
		{"set_app_enabled", "app.enable", "", 0, enable(true)},
		{"add_app_credential", "app.token", "", 0, func(c vault.Change) error {
			return second(r.AddAppCredential(r.ctx, c, "billing",
				accessdb.NewCredential{ID: uuid.New(), Kind: access.ByUnix, Match: access.UnixMatch(1001)}))
		}},
		{"revoke_app_credential", "app.revoke", "", 0,
			func(c vault.Change) error { return second(r.RevokeAppCredential(r.ctx, c, "billing", nil)) }},
		{"delete_app", "app.delete", "", 0,
			func(c vault.Change) error { return second(r.DeleteApp(r.ctx, c, "billing")) }},
	}
}

// byToken tries a change with a token that does not cover it, and then makes it.
func (r *recorded) byToken(s step) {
	r.t.Helper()
	r.covered = append(r.covered, s.function, "record_refusal")
	refused := vault.Change{Token: r.scoped.Token, RequestID: uuid.New()}
	if err := s.do(refused); !isRefused(err) {
		r.t.Fatalf("%s with a token of another scope: got %v, want a refusal", s.action, err)
	}
	r.wantRow(refused.RequestID, fmt.Sprintf(`role:operator operator %s "%s" 0 denied scoped`, s.action, s.secret))
	done := vault.Change{Token: r.as.Token, RequestID: uuid.New()}
	if err := s.do(done); err != nil {
		r.t.Fatalf("%s: %v", s.action, err)
	}
	r.wantRow(done.RequestID, fmt.Sprintf(`token:root operator %s "%s" %d ok `, s.action, s.secret, s.version))
	r.wantTogether(done.RequestID)
}

func isRefused(err error) bool { return err != nil && strings.Contains(err.Error(), "scope") }

// wantRow: this is the one row of the request.
func (r *recorded) wantRow(request uuid.UUID, want string) {
	r.t.Helper()
	got := r.store.MustQuery(r.t, `SELECT string_agg(format('%s %s %s "%s" %s %s %s', actor, db_role, action, secret,
		coalesce(version, 0), outcome,
		detail ->> 'claimed_token'), ', ') FROM vault.audit_log WHERE request_id = $1`, request)
	if got != want {
		r.t.Errorf("the log says\n\t%s\nwant\n\t%s", got, want)
	}
}

// wantTogether: the row and the change's own request were written by one transaction.
func (r *recorded) wantTogether(request uuid.UUID) {
	r.t.Helper()
	if got := r.store.MustQuery(r.t,
		`SELECT l.tx::text = q.xmin::text FROM vault.audit_log l JOIN vault.requests q ON q.id = l.request_id
			WHERE q.id = $1`, request); got != "true" {
		r.t.Errorf("request %s has its row in another transaction", request)
	}
}

// bulk: each of many has its own row, in the transaction they share; so has each that was refused, and each that was
// compared.
func (r *recorded) bulk() {
	r.covered = append(r.covered, "put_versions", "record_reads")
	many := func(c vault.Change) []vault.ImportResult {
		results, err := r.Import(r.ctx, vault.ImportRequest{Change: c, OnConflict: vault.FailOnConflict,
			Items: []vault.ImportItem{{Name: "app/many1", Value: []byte("one")}, {Name: "app/many2", Value: []byte("two")}}})
		must(r.t, err)
		return results
	}
	for _, result := range many(r.scoped) {
		wantErr(r.t, result.Err, vault.ErrRefused)
	}
	for _, result := range append(many(r.as), many(r.as)...) {
		must(r.t, result.Err)
	}
	got := r.store.MustQuery(r.t,
		`SELECT string_agg(format('%s %s %s %s %s', actor, action, secret, version, outcome), ', ' ORDER BY id)
			FROM vault.audit_log WHERE secret ^@ 'app/many'`)
	want := "role:operator put app/many1  denied, role:operator put app/many2  denied, " +
		"token:root put app/many1 1 ok, token:root put app/many2 1 ok, " +
		"role:operator verify app/many1 1 ok, role:operator verify app/many2 1 ok"
	if got != want {
		r.t.Errorf("the log says\n\t%s\nwant\n\t%s", got, want)
	}
	if got := r.store.MustQuery(r.t, `SELECT count(DISTINCT l.tx::text) || ' ' || bool_and(l.tx::text = q.xmin::text)
		FROM vault.audit_log l JOIN vault.requests q ON q.id = l.request_id
		WHERE l.secret ^@ 'app/many' AND l.outcome = 'ok' AND l.action = 'put'`); got != "1 true" {
		r.t.Errorf("got %s, want the rows in the one transaction of the puts", got)
	}
}

// rotations: a worker's rotations have rows too, done and failed. The job is the one that was requested above.
func (r *recorded) rotations() {
	claim := func() vault.Rotation {
		r.t.Helper()
		jobs, err := r.daemon.ClaimRotations(r.ctx, "w", 1, 0, time.Hour)
		must(r.t, err)
		if len(jobs) != 1 {
			r.t.Fatalf("got %d jobs, want 1", len(jobs))
		}
		return jobs[0]
	}
	again := time.Duration(0)
	must(r.t, r.daemon.FailRotation(r.ctx, claim(), vault.ErrUnavailable, &again))
	r.wantNewest(`worker:w vaultd rotate "app/auto" 1 failed`)
	if got := r.store.MustQuery(r.t,
		`SELECT l.tx::text = j.xmin::text FROM vault.audit_log l JOIN vault.rotation_jobs j ON j.name = l.secret
			WHERE l.outcome = 'failed'`); got != "true" {
		r.t.Error("the row of a failed attempt is of another transaction")
	}
	sealed, err := r.daemon.SealCandidate(r.ctx, claim(), []byte("two"))
	must(r.t, err)
	receipt, err := r.daemon.CompleteRotation(r.ctx, sealed)
	must(r.t, err)
	r.wantRow(receipt.RequestID, `worker:w vaultd rotate "app/auto" 2 ok `)
	r.wantTogether(receipt.RequestID)
	must(r.t, second(r.RequestRotation(r.ctx, r.as, "app/auto")))
	job := claim()
	sealed, err = r.daemon.SealCandidate(r.ctx, job, []byte("three"))
	must(r.t, err)
	receipts, err := r.daemon.CompleteRotations(r.ctx, []vault.SealedCandidate{sealed})
	must(r.t, err)
	r.wantRow(receipts[job.ID].RequestID, `worker:w vaultd rotate "app/auto" 3 ok `)
	r.wantTogether(receipts[job.ID].RequestID)
	must(r.t, second(r.RequestRotation(r.ctx, r.as, "app/auto")))
	job = claim()
	must(r.t, second(r.daemon.StoreCandidate(r.ctx, job, []byte("four"))))
	receipt, err = r.daemon.FinishRotation(r.ctx, job)
	must(r.t, err)
	r.wantRow(receipt.RequestID, `worker:w vaultd rotate "app/auto" 4 ok `)
	r.wantTogether(receipt.RequestID)
	r.covered = append(r.covered, "fail_rotation", "complete_rotations", "finish_rotation")
}

// supervision: versions that end and secrets that are purged by themselves. Version 1 of app/x has ended above.
func (r *recorded) supervision() {
	must(r.t, second(r.Delete(r.ctx, r.as, "app/x", 0)))
	r.covered = append(r.covered, "expire_grace_versions", "purge_deleted")
	for _, s := range []struct{ call, want string }{
		{`SELECT vault.expire_grace_versions()`, `supervisor vaultd expire "app/x" 1 ok`},
		{`SELECT vault.purge_deleted()`, `supervisor vaultd purge "app/x" 3 ok`},
	} {
		conn, err := pgx.Connect(r.ctx, r.store.URL(vaulttest.Daemon))
		must(r.t, err)
		before := r.newest()
		for _, sql := range []string{"BEGIN", s.call, "ROLLBACK"} {
			_, err = conn.Exec(r.ctx, sql)
			must(r.t, err)
		}
		if after := r.newest(); after != before {
			r.t.Errorf("%s: its row outlived the rollback: %s", s.call, after)
		}
		_, err = conn.Exec(r.ctx, s.call)
		must(r.t, err)
		r.wantNewest(s.want)
		must(r.t, conn.Close(r.ctx))
	}
}

func (r *recorded) newest() string {
	r.t.Helper()
	return r.store.MustQuery(r.t,
		`SELECT format('%s %s %s "%s" %s %s', actor, db_role, action, secret, version, outcome) FROM vault.audit_log
			ORDER BY id DESC LIMIT 1`)
}

func (r *recorded) wantNewest(want string) {
	r.t.Helper()
	if got := r.newest(); got != want {
		r.t.Errorf("the log says\n\t%s\nwant\n\t%s", got, want)
	}
}

func (r *recorded) prune() {
	log := r.log(vaulttest.Operator)
	r.store.MustExec(r.t,
		`INSERT INTO vault.audit_log (at, actor, action) VALUES ('2020-01-10', 'client:10.0.0.1', 'read')`,
		`SELECT vault._audit_empty_default('2020-01-01 UTC', '2020-02-01 UTC')`)
	key, err := seal.NewKey([]byte("a seed of the test suite, 32 B.."))
	must(r.t, err)
	for n := 1; n > 0; {
		n, err = r.log(vaulttest.Daemon).SealAudit(r.ctx, seal.MaxRows,
			func(w seal.Window) ([]seal.Seal, error) { return w.Seal(r.ctx, key) })
		must(r.t, err)
	}
	sum := sha256.Sum256(nil)
	january := auditdb.Pruning{Month: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), Rows: 1, SHA256: sum[:]}
	_, err = fmt.Sscan(r.store.MustQuery(r.t, `SELECT max(id) FROM vault.audit_seals WHERE month = '2020-01-01'`),
		&january.LastSeal)
	must(r.t, err)
	r.byToken(step{"prune_audit", "audit.prune", "", 0,
		func(c vault.Change) error {
			return second(log.Prune(r.ctx, c.Token.Credential(), c.RequestID, january))
		}})
}

// log is the audit log as a role sees it.
func (r *recorded) log(role string) *auditdb.Log {
	r.t.Helper()
	reader, err := db.NewReader(r.ctx, db.Options{URL: r.store.URL(role)})
	must(r.t, err)
	writer, err := db.NewWriter(r.ctx, db.Options{URL: r.store.URL(role)})
	must(r.t, err)
	r.t.Cleanup(func() { reader.Close(); writer.Close() })
	return auditdb.New(reader, writer)
}

// reads are their own records; vault.ship_reads and ship_windows have their tests in auditdb.
func (r *recorded) reads() {
	r.covered = append(r.covered, "record_read", "ship_reads", "ship_windows")
	must(r.t, r.log(vaulttest.Operator).Record(r.ctx, audit.Event{Action: audit.Read, Secret: "app/auto", Version: 4,
		Outcome: audit.OK}))
	r.wantNewest(`role:operator operator read "app/auto" 4 ok`)
}

// owner: the owner of the schema needs no token, and is on record by its login.
func (r *recorded) owner() {
	writer, err := db.NewWriter(r.ctx, db.Options{URL: r.store.URL(vaulttest.Superuser)})
	must(r.t, err)
	defer writer.Close()
	owner := vault.New(vault.Options{Writer: writer})
	change := vault.Change{RequestID: uuid.New()}
	_, _, err = owner.CreateTokenAsOwner(r.ctx, vault.NewTokenRequest{Change: change, Name: "rescue"})
	must(r.t, err)
	r.wantRow(change.RequestID, `owner:postgres postgres token.create "" 0 ok `)
	r.wantTogether(change.RequestID)

	const config = `SELECT count(*) FROM vault.audit_log WHERE action = 'config'`
	before := r.store.MustQuery(r.t, config)
	must(r.t, second(db.Migrate(r.ctx, r.store.URL(vaulttest.Superuser), "on record", "")))
	if after := r.store.MustQuery(r.t, config); after != before {
		r.t.Errorf("a migration that changed nothing left a row")
	}
	must(r.t, second(db.Migrate(r.ctx, r.store.URL(vaulttest.Superuser), "on record", "local:///elsewhere")))
	r.wantNewest(`owner:postgres postgres config ""  ok`)
	got := r.store.MustQuery(r.t, `SELECT concat_ws(' ', l.detail #>> '{default_kms_key,from}' = $1,
		l.detail #>> '{default_kms_key,to}', l.detail ? 'schema_version',
		l.tx::text = c.xmin::text) FROM vault.audit_log l, vault.config c WHERE action = 'config'
		ORDER BY l.id DESC LIMIT 1`, "local://"+r.store.KeyFile)
	if got != "t local:///elsewhere f t" {
		r.t.Errorf("got %q", got)
	}
}

func scopedToken(t *testing.T, v *vault.Vault, as vault.Change, scope string) vault.Change {
	t.Helper()
	token, _, err := v.CreateToken(t.Context(), vault.NewTokenRequest{Change: as, Name: "scoped", Scope: scope})
	must(t, err)
	return vault.Change{Token: token, RequestID: uuid.New()}
}
