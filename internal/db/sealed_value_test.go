package db_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// oddValue has every byte, and a key id with all that the literal of a row, an array or a JSON text would escape.
func oddValue(name string, version int) db.SealedValue {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	v := sealedPlaceholder(name)
	v.Version, v.AAD = version, name+":"+string(rune('0'+version))
	v.KMSKeyID, v.WrappedDEK = "k\" \\ \\\\ \"\" ' '' , ( ) { } \n\t NULL \u00fc \\x00", all
	v.Nonce, v.Ciphertext, v.KeyCommit = all[232:], all, all[:32]
	return v
}

// A sealed value is stored as it was given, alone and in a batch.
func TestSealedValueIsStoredAsGiven(t *testing.T) {
	c := mustClaim(t, daemonURL, "app1/batch", "app1/candidate")
	for name, b := range c.batch {
		b.SealedValue = oddValue(name, 2)
		c.batch[name] = b
	}
	done, err := c.complete("app1/batch")
	must(t, err)
	if done != "app1/batch" {
		t.Errorf("completed %q, want the batch of one", done)
	}
	b := c.batch["app1/candidate"]
	stored, err := c.writer.StoreCandidate(t.Context(), b.Job, b.Attempt, b.SealedValue)
	must(t, err)
	if diff := cmp.Diff(b.SealedValue, stored); diff != "" {
		t.Errorf("the candidate differs:\n%s", diff)
	}
	_, err = c.writer.FinishRotation(t.Context(), uuid.New(), b.Job, b.Attempt)
	must(t, err)

	writer := mustWriter(t, db.Options{URL: c.store.URL(vaulttest.Operator)})
	_, err = writer.PutVersion(t.Context(), credential(t), uuid.New(), "put", "app1/one", oddValue("app1/one", 1), true,
		db.Settings{})
	must(t, err)
	_, err = writer.PutVersions(t.Context(), credential(t), []db.Put{{Request: uuid.New(), Name: "app1/many",
		Sealed: oddValue("app1/many", 1), CreateOnly: true}})
	must(t, err)

	for name, version := range map[string]int{"app1/batch": 2, "app1/candidate": 2, "app1/one": 1, "app1/many": 1} {
		row, err := writer.Current(t.Context(), name)
		must(t, err)
		got := db.SealedValue{Version: row.Version, Format: row.Format, KMSKeyID: row.KMSKeyID, WrappedDEK: row.WrappedDEK,
			Nonce: row.Nonce, Ciphertext: row.Ciphertext, KeyCommit: row.KeyCommit, AAD: row.AAD}
		if diff := cmp.Diff(oddValue(name, version), got); diff != "" {
			t.Errorf("%s differs:\n%s", name, diff)
		}
	}
}

// Migrating from schema 11 replaces the functions that took each sealed column on its own, and leaves none of them.
func TestMigrationToSealedValues(t *testing.T) {
	store := vaulttest.New(t)
	mustPut(t, store, "app1/a")
	takeBack(t, store, 11)
	columns := `int, text, bytea, bytea, bytea, bytea, text`
	arrays := `int[], text[], bytea[], bytea[], bytea[], bytea[], text[]`
	for _, signature := range []string{
		`put_version(text, text, int, ` + columns + `, uuid, boolean, text, interval, interval, text, text)`,
		`_add_version(vault.secrets, int, ` + columns + `, uuid)`,
		`complete_rotation(bigint, int, ` + columns + `, uuid)`,
		`complete_rotations(bigint[], int[], ` + arrays + `, uuid[])`,
		`store_candidate(bigint, int, ` + columns + `)`,
	} {
		store.MustExec(t, `SET ROLE vault_owner; CREATE FUNCTION vault.`+signature+
			` RETURNS jsonb LANGUAGE sql SET search_path = pg_catalog, pg_temp AS 'SELECT NULL::jsonb'; RESET ROLE`)
	}
	report, err := db.Migrate(t.Context(), store.URL(vaulttest.Superuser), "test", "")
	must(t, err)
	if report.FromVersion != 11 {
		t.Errorf("migrated from %d, want 11", report.FromVersion)
	}
	if got, want := store.MustQuery(t, `SELECT string_agg(proname || ' ' || pronargs, ', ' ORDER BY proname)
		FROM pg_proc WHERE pronamespace = 'vault'::regnamespace
		AND proname IN ('put_version', '_add_version', 'complete_rotation', 'complete_rotations', 'store_candidate')`),
		"_add_version 4, complete_rotations 5, put_version 10, store_candidate 3"; got != want {
		t.Errorf("got functions and parameters %q, want %q", got, want)
	}
	mustAdmin(t, store, put("app1/a", 2, 24, 32, uuid.NewString()))
}
