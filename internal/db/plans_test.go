package db_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// plans collects what auto_explain says about the statements of sessions, those inside of functions included.
type plans struct {
	in  map[string]bool // functions of the vault that ran a statement
	bad []string

	statements int
}

var vaultFunction = regexp.MustCompile(`(?:vault\.|SQL function ")(\w+)`)

func (p *plans) notice(_ *pgconn.PgConn, n *pgconn.Notice) {
	if !strings.Contains(n.Message, "plan:\n") {
		return
	}
	p.statements++
	for _, m := range vaultFunction.FindAllStringSubmatch(n.Where, -1) {
		p.in[m[1]] = true
	}
	if why := vaulttest.BadPlan(n.Message); why != "" {
		p.bad = append(p.bad, why+": "+n.Message)
	}
}

// explained makes every later session of a store send its plans as notices.
func explained(t *testing.T, store *vaulttest.Store) (connect func(role string) *pgx.Conn, found *plans) {
	t.Helper()
	for _, setting := range []string{`session_preload_libraries = 'auto_explain'`, `auto_explain.log_min_duration = 0`,
		`auto_explain.log_nested_statements = on`, `auto_explain.log_level = 'notice'`, `jit = on`} {
		store.MustExec(t, `LOAD 'auto_explain'; ALTER DATABASE `+store.Database+` SET `+setting)
	}
	found = &plans{in: map[string]bool{}}
	return func(role string) *pgx.Conn {
		t.Helper()
		config, err := pgx.ParseConfig(store.URL(role))
		must(t, err)
		config.OnNotice = found.notice
		conn, err := pgx.ConnectConfig(t.Context(), config)
		must(t, err)
		t.Cleanup(func() { conn.Close(t.Context()) })
		return conn
	}, found
}

// Every function that a granted role may call, as psql and pg_cron call it: no plan is compiled, and none has the cost
// of a node that a planner switch forbids. On PostgreSQL 15, a claim was compiled for 332 of its 333 ms.
func TestNoPlanIsCompiled(t *testing.T) {
	store := vaulttest.New(t)
	mustPut(t, store, "app1/a")
	names := []string{"app1/auto"}
	for n := range 30 {
		names = append(names, fmt.Sprintf("app1/auto%d", n))
	}
	mustPutAutomatic(t, store, names...)
	store.MustExec(t, `SELECT vault.supervise()`, `ANALYZE`)
	connect, found := explained(t, store)

	conns := map[string]*pgx.Conn{}
	for function, b := range surfaceOfFunctions() {
		conn := conns[b.as]
		if conn == nil {
			conn = connect(b.as)
			conns[b.as] = conn
		}
		must(t, runStep(t.Context(), conn, "BEGIN"))
		if b.admin {
			must(t, runStep(t.Context(), conn, "AUTHORISE"))
		}
		if err := runStep(t.Context(), conn, b.call(function, "", "")); (err != nil) != (b.good != "") {
			t.Errorf("%s: %v", function, err)
		}
		must(t, runStep(t.Context(), conn, "ROLLBACK"))
	}
	admin, worker := connect(vaulttest.Operator), connect(vaulttest.Daemon)
	job := func(name string) string {
		return `(SELECT max(id) FROM vault.rotation_jobs WHERE name = '` + name + `')`
	}
	done := names[3]
	for _, step := range []string{"BEGIN", "AUTHORISE", `SELECT vault.set_max_rotations(40, gen_random_uuid())`,
		put("app1/a", 2, 24, 32, uuid.NewString()), "COMMIT"} {
		must(t, runStep(t.Context(), admin, step))
	}
	store.MustExec(t, `UPDATE vault.secrets SET next_rotation_at = now() - interval '1 hour' WHERE kind = 'automatic'`)
	for _, step := range []string{supervise, `SELECT vault.claim_rotations('w', 40, '1 hour')`,
		`SELECT vault.store_candidate(` + job(names[1]) + `, 1, ` + sealedRow(names[1], 2, 24, 32) + `)`,
		`SELECT vault.rotation_candidate(` + job(names[1]) + `, 1)`,
		`SELECT vault.finish_rotation(` + job(names[1]) + `, 1, gen_random_uuid())`,
		`SELECT vault.fail_rotation(` + job(names[2]) + `, 1, 'away', NULL)`,
		`SELECT vault.complete_rotations(ARRAY[` + job(done) + `], ARRAY[1], ARRAY[` + sealedRow(done, 2, 24, 32) +
			`], ARRAY[gen_random_uuid()])`,
		`SELECT vault.release_rotation(` + job(names[4]) + `, 1)`, supervise} {
		must(t, runStep(t.Context(), worker, step))
	}
	if got := store.MustQuery(t, `SELECT count(*) FROM vault.secret_versions WHERE version = 2`); got != "3" {
		t.Errorf("got %s second versions, want a put, a finished and a completed rotation", got)
	}
	// All functions that forbid a kind of plan have run, and forbid compiling.
	for _, function := range strings.Fields(store.MustQuery(t, `SELECT string_agg(proname || ':' ||
			('jit=off' = ANY (proconfig))::text, ' ') FROM pg_proc
		WHERE pronamespace = 'vault'::regnamespace AND array_to_string(proconfig, ' ') ~ '\menable_'`)) {
		name, off, _ := strings.Cut(function, ":")
		if off != "true" {
			t.Errorf("%s has planner switches and no jit = off", name)
		}
		if !found.in[name] {
			t.Errorf("%s has planner switches, and no statement in it was explained", name)
		}
	}
	for _, bad := range found.bad {
		t.Error(bad)
	}
}
