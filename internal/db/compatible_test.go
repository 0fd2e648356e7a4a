package db_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// The migrate of version 13 takes a newer schema for its own. It stops, and what it installed is rolled back.
func TestAnOlderMigrateChangesNothing(t *testing.T) {
	store := vaulttest.New(t)
	before := schemaOf(t, store)
	err := runSession(t, store.URL(vaulttest.Superuser), []string{"BEGIN",
		`CREATE OR REPLACE FUNCTION vault.tx_kind() RETURNS text LANGUAGE sql AS 'SELECT NULL::text'`,
		`UPDATE vault.config SET schema_version = 13, functions_sha256 = sha256('x')`})
	wantCode(t, err, "55000")
	same(t, "after it", schemaOf(t, store), before)
}

// A pool's connections that were made before a migration to a schema that does not fit are closed when it is noticed.
func TestPingNoticesANewSchema(t *testing.T) {
	store := vaulttest.New(t)
	reader := mustReader(t, store.URL(vaulttest.Operator))
	must(t, reader.Ping(t.Context()))
	set := func(what string) { store.MustExec(t, `UPDATE vault.config SET `+what) }
	set(`installed_version = installed_version + 3`)
	must(t, reader.Ping(t.Context()))
	set(`schema_version = installed_version`)
	if err := reader.Ping(t.Context()); !errors.Is(err, db.ErrSchema) || !strings.Contains(err.Error(), "newer than") {
		t.Errorf("got %v, want that the schema is newer", err)
	}
	if _, err := reader.Secret(t.Context(), "app1/a"); !errors.Is(err, db.ErrSchema) {
		t.Errorf("a read afterwards: got %v, want ErrSchema", err)
	}
}
