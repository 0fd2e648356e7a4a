package db_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// Daemons are listed by what they said first and when they were last seen, until they say that they have ended. A role
// can change nothing of another role's daemons.
func TestDaemonsAreSeen(t *testing.T) {
	store := vaulttest.New(t)
	writer := mustWriter(t, db.Options{URL: store.URL(vaulttest.Daemon)})
	other := mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)})
	reader := mustReader(t, store.URL(vaulttest.Operator))
	one := db.Daemon{ID: uuid.New(), Node: "db1@vm", Version: "1.4.0", Commit: "8a91bc4", Schema: 13}
	two := db.Daemon{ID: uuid.New(), Node: "db2\x1b[31m@vm", Version: "1.5.0", Schema: 16}
	for _, d := range []db.Daemon{two, one, one} {
		must(t, writer.ReportDaemon(t.Context(), d))
	}
	got, err := reader.Daemons(t.Context())
	must(t, err)
	if len(got) != 2 || got[0].Node != one.Node || got[0].Version != "1.4.0" || got[0].Commit != "8a91bc4" ||
		got[0].Schema != 13 || !got[0].SeenAt.After(got[0].Since) || got[1].Node != "db2?[31m@vm" {
		t.Errorf("got %+v, want both, printable, the first seen twice", got)
	}

	must(t, other.ForgetDaemon(t.Context(), one.ID))
	must(t, other.ReportDaemon(t.Context(), db.Daemon{ID: one.ID, Node: "mine", Version: "0", Schema: 1}))
	must(t, writer.ForgetDaemon(t.Context(), two.ID))
	store.MustExec(t, fmt.Sprintf(`INSERT INTO vault.daemons
			(id, node, version, commit, schema_version, role_name, seen_at)
		VALUES ('%s', 'gone', '1', '', 13, 'vaultd', now() - interval '25 hours')`, uuid.New()))
	if got, err = reader.Daemons(t.Context()); err != nil || len(got) != 1 || got[0].Node != one.Node {
		t.Errorf("got %+v and %v, want the first as it was", got, err)
	}
	must(t, writer.ReportDaemon(t.Context(), one))
	if got := store.MustQuery(t, `SELECT string_agg(node, ' ') FROM vault.daemons`); got != "db1@vm" {
		t.Errorf("got %q, want that a report deletes what was not seen for a day", got)
	}
}

// A role cannot fill the table.
func TestDaemonsOfARoleHaveABound(t *testing.T) {
	store := vaulttest.New(t)
	store.MustExec(t, `INSERT INTO vault.daemons (id, node, version, commit, schema_version, role_name)
		SELECT gen_random_uuid(), 'n', '1', '', 13, 'vaultd' FROM generate_series(1, 1000)`)
	report := `SELECT vault.report_daemon(gen_random_uuid(), 'n', '1', '', 13)`
	wantCode(t, runSession(t, store.URL(vaulttest.Daemon), []string{report}), "53400")
	must(t, runSession(t, store.URL(vaulttest.Operator), []string{report}))
}
