package auditdb_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// A dump is restored into a new cluster, where transaction ids begin anew below those of its rows. The old rows fit
// their seals, those that were not sealed yet are sealed there, and so are the new ones, in any order of ids.
func TestSealsSurviveARestore(t *testing.T) {
	s := newSealing(t, vaulttest.New(t))
	s.inOneMonth()
	s.write(5)
	s.store.MustExec(t, `SELECT vault.supervise()`)
	s.seal()
	s.write(3) // the dump brings them unsealed
	before := s.mustVerify(seal.Options{})

	restored := newSealing(t, restoredElsewhere(t, s.store))
	restored.at = s.at
	low, high := restored.mustInt(`SELECT pg_current_xact_id()::text::bigint`),
		restored.mustInt(`SELECT max(to_tx::text::bigint) FROM vault.audit_seals`)
	if low >= high {
		t.Fatalf("the new cluster is at transaction %d, not below the sealed %d: this tests nothing", low, high)
	}
	if report := restored.mustVerify(seal.Options{}); report.Seals != before.Seals || report.Unsealed != before.Unsealed {
		t.Errorf("got %+v, want %+v", report, before)
	}
	restored.write(4) // before a sealer runs
	if n := restored.seal(); n != 3+4 {
		t.Errorf("%d rows were sealed, want 7", n)
	}
	restored.write(2)
	restored.seal()
	report := restored.mustVerify(seal.Options{})
	if report.Unsealed != 0 || report.Seals != before.Seals+3 {
		t.Errorf("got %+v", report)
	}

	// Restored into its first cluster: that system's windows continue after their last.
	restored.store.MustExec(t, unlock,
		`INSERT INTO vault.audit_log (at, system_id, tx, actor, action)
			SELECT `+s.at+`, system_id, to_tx, 'token:late', 'put' FROM vault.audit_seals ORDER BY id LIMIT 1`)
	_, err := restored.verify(seal.Options{})
	wantFault(t, "a row slipped into the old system's windows", err, "was not there when its time was sealed")
}

// restoredElsewhere dumps a vault and restores it into a cluster with a system identifier of its own: with pg_dump and
// psql, or (a server without client programs) with COPY, as pg_dump does.
func restoredElsewhere(t *testing.T, from *vaulttest.Store) *vaulttest.Store {
	t.Helper()
	cluster, err := localpg.Open(t.Context(), localpg.Options{Dir: filepath.Join(t.TempDir(), "restored"),
		Binaries: from.Cluster.Binaries()})
	must(t, err)
	t.Cleanup(func() { must(t, cluster.Remove()) })
	to := &vaulttest.Store{Cluster: cluster, Database: "postgres", KeyFile: from.KeyFile}
	to.MustExec(t, `CREATE DATABASE vault`,
		`CREATE ROLE operator LOGIN; CREATE ROLE vaultd LOGIN; CREATE ROLE app1 LOGIN; CREATE ROLE developer LOGIN`)
	to.Database = "vault"
	if dump := from.Program("pg_dump"); dump != "" {
		to.MustExec(t,
			`CREATE ROLE vault_owner; CREATE ROLE vault_service; CREATE ROLE vault_worker; CREATE ROLE vault_auditor`)
		text := mustRun(t, nil, dump, "--dbname", from.URL(vaulttest.Superuser))
		mustRun(t, text, from.Program("psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--single-transaction",
			"--dbname", to.URL(vaulttest.Superuser))
	} else {
		_, err := db.Migrate(t.Context(), to.URL(vaulttest.Superuser), "test", "local://"+from.KeyFile)
		must(t, err)
		to.MustExec(t, `SELECT vault.supervise()`, unlock, `DELETE FROM vault.audit_log; DELETE FROM vault.config`)
		copyTables(t, from, to, "config", "audit_log", "audit_seals")
		to.MustExec(t, `SELECT setval('vault.audit_log_ids', `+from.MustQuery(t,
			`SELECT last_value FROM vault.audit_log_ids`)+`)`)
	}
	to.MustExec(t, `GRANT vault_service, vault_worker TO vaultd; GRANT vault_auditor TO operator`)
	return to
}

func copyTables(t *testing.T, from, to *vaulttest.Store, tables ...string) {
	t.Helper()
	source, err := pgx.Connect(t.Context(), from.URL(vaulttest.Superuser))
	must(t, err)
	defer source.Close(context.WithoutCancel(t.Context()))
	target, err := pgx.Connect(t.Context(), to.URL(vaulttest.Superuser))
	must(t, err)
	defer target.Close(context.WithoutCancel(t.Context()))
	for _, table := range tables {
		var rows bytes.Buffer
		_, err := source.PgConn().CopyTo(t.Context(), &rows, `COPY (SELECT * FROM vault.`+table+`) TO STDOUT`)
		must(t, err)
		_, err = target.PgConn().CopyFrom(t.Context(), &rows, `COPY vault.`+table+` FROM STDIN`)
		must(t, err)
	}
}

func mustRun(t *testing.T, input []byte, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(program), err, stderr.String())
	}
	return out.Bytes()
}

// Months, and rows of one action, can be dropped when they are sealed and exported; the rest is verified as before, and
// rows dropped in another way are found.
func TestPrune(t *testing.T) {
	s := newSealing(t, vaulttest.New(t))
	as := vaulttest.AdminToken(t).Credential()
	old := func(at, action string) {
		s.store.MustExec(t,
			fmt.Sprintf(`INSERT INTO vault.audit_log (at, actor, action) VALUES ('%s', 'client:10.0.0.1', '%s')`, at, action))
	}
	for range 3 {
		old("2020-01-10", "read")
		old("2020-01-20", "put")
		old("2020-02-10", "read")
		old("2020-02-20", "put")
	}
	s.seal()
	month := func(m time.Month) time.Time { return time.Date(2020, m, 1, 0, 0, 0, 0, time.UTC) }
	last := func(m time.Month) int64 {
		return s.mustInt(fmt.Sprintf(`SELECT max(id) FROM vault.audit_seals WHERE month = '%s'`,
			month(m).Format(time.DateOnly)))
	}
	sum := sha256.Sum256([]byte("a file"))
	prune := func(p auditdb.Pruning) error {
		p.SHA256 = sum[:]
		_, err := s.auditor.Prune(t.Context(), as, uuid.New(), p)
		return err
	}
	january := auditdb.Pruning{Month: month(1), Rows: 6, LastSeal: last(1)}

	wantErr(t, prune(january), db.ErrNotFound) // still in the default partition
	must(t, s.auditor.PreparePrune(t.Context(), as, uuid.New()))
	s.mustVerify(seal.Options{})
	for what, p := range map[string]auditdb.Pruning{
		"fewer rows than there are": {Month: month(1), Rows: 5, LastSeal: last(1)},
		"another seal":              {Month: month(1), Rows: 6, LastSeal: last(2) + 1},
		"no leaves":                 {Month: month(1), Action: "read", Rows: 3, LastSeal: last(1)},
	} {
		if err := prune(p); err == nil {
			t.Errorf("%s: pruned", what)
		}
	}
	old("2020-01-30", "put")
	january.Rows++
	wantErr(t, prune(january), db.ErrConflict) // not sealed
	s.seal()
	january.LastSeal = last(1)

	// Reads of February are dropped, the puts keep their places in their seal.
	february := auditdb.Pruning{Month: month(2), Action: "read", Rows: 3, LastSeal: last(2)}
	for e, err := range s.auditor.Source(month(2)).Entries(t.Context(), nil) {
		must(t, err)
		if e.Seal != nil {
			february.Seals, february.Leaves = append(february.Seals, e.Seal.ID), append(february.Leaves, nil)
		} else if e.Row.Action == "read" {
			n := len(february.Leaves) - 1
			february.Leaves[n], err = auditdb.PackLeaf(february.Leaves[n], e.Row)
			must(t, err)
		}
	}
	must(t, prune(february))
	if got := s.store.MustQuery(t,
		`SELECT string_agg(action, ' ' ORDER BY id) FROM vault.audit_log WHERE at < '2021-01-01'
			AND at >= '2020-02-01'`); got != "put put put" {
		t.Errorf("February has %q", got)
	}
	s.seal()
	if report := s.mustVerify(seal.Options{}); report.Pruned != 3 {
		t.Errorf("got %+v", report)
	}

	must(t, prune(january))
	s.seal()
	if report := s.mustVerify(seal.Options{}); report.Pruned != 3+7 || report.Unsealed != 0 {
		t.Errorf("got %+v", report)
	}
	wantErr(t, prune(january), db.ErrNotFound)

	// A read of January that was shipped late lies beside the pruned ones, and is sealed.
	old("2020-01-31", "read")
	s.store.MustExec(t, `SELECT vault._audit_empty_default('2020-01-01 UTC', '2020-02-01 UTC')`)
	s.seal()
	s.mustVerify(seal.Options{})
	january.Rows, january.LastSeal = 1, last(1)
	must(t, prune(january))
	s.seal()
	s.mustVerify(seal.Options{})

	s.store.MustExec(t, unlock, `ALTER TABLE vault.audit_leaves DISABLE TRIGGER ALL`)
	for _, test := range []struct{ what, sql, undo, words string }{
		{"a leaf hash changed", `UPDATE vault.audit_leaves SET leaves = overlay(leaves PLACING '\x00' FROM 20)`, ``, "seal "},
		{"a forged prune", `INSERT INTO vault.audit_prunes SELECT 99, '2020-02-01', NULL, 3, last_seal, exported_sha256,
			now(), pruned_by FROM vault.audit_prunes WHERE id = 1;
			DELETE FROM vault.audit_log WHERE at >= '2020-02-01' AND at < '2020-03-01'`, ``,
			`prune 99 of 2020-02 has no row "audit.prune" in the log`},
	} {
		_, err := s.verify(seal.Options{})
		must(t, err)
		s.store.MustExec(t, `DROP TABLE IF EXISTS public.leaves`,
			`CREATE TABLE public.leaves AS SELECT * FROM vault.audit_leaves`, test.sql)
		_, err = s.verify(seal.Options{})
		wantFault(t, test.what, err, test.words)
		s.store.MustExec(t, `DELETE FROM vault.audit_leaves; INSERT INTO vault.audit_leaves SELECT * FROM public.leaves`)
	}

	scoped := scopedToken(t, s.store, "app/")
	for _, err := range []error{
		s.auditor.PreparePrune(t.Context(), scoped, uuid.New()),
		func() error { _, err := s.auditor.Prune(t.Context(), scoped, uuid.New(), february); return err }(),
	} {
		if !strings.Contains(fmt.Sprint(err), "has a scope") {
			t.Errorf("with a scoped token: got %v", err)
		}
	}
}

func scopedToken(t *testing.T, store *vaulttest.Store, scope string) db.Credential {
	t.Helper()
	v := vault.New(vault.Options{Writer: mustWriter(t, store.URL(vaulttest.Operator))})
	token, _, err := v.CreateToken(t.Context(), vault.NewTokenRequest{
		Change: vault.Change{Token: vaulttest.AdminToken(t)}, Name: "scoped", Scope: scope})
	must(t, err)
	return token.Credential()
}
