package db_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// wantCopies compares the copies in a secret's versions with its row.
func wantCopies(t *testing.T, after string, store *vaulttest.Store, reader *db.Reader, name string) {
	t.Helper()
	conn := mustConnect(t, store.URL(vaulttest.Superuser))
	var rotated, next, deleted *time.Time
	var version int
	must(t, conn.QueryRow(t.Context(),
		`SELECT current_version, rotated_at, next_rotation_at, deleted_at FROM vault.secrets WHERE name = $1`, name).
		Scan(&version, &rotated, &next, &deleted))
	row, err := reader.Current(t.Context(), name)
	if deleted != nil {
		_, other := reader.Version(t.Context(), name, version)
		if !errors.Is(err, db.ErrNotFound) || !errors.Is(other, db.ErrNotFound) {
			t.Errorf("after %s: got %v and %v, want that it is not there", after, err, other)
		}
		return
	}
	must(t, err)
	oldest, err := reader.Version(t.Context(), name, 1)
	must(t, err)
	for _, got := range []db.VersionRow{row, oldest} {
		if !sameTime(got.RotatedAt, rotated) || !sameTime(got.NextRotationAt, next) {
			t.Errorf("after %s: version %d tells of %v and %v, the secret of %v and %v", after, got.Version, got.RotatedAt,
				got.NextRotationAt, rotated, next)
		}
	}
	if row.Version != version {
		t.Errorf("after %s: got version %d, want %d", after, row.Version, version)
	}
	if stale := store.MustQuery(t, vaulttest.StaleCopies); stale != "" {
		t.Errorf("after %s: versions hold stale copies of %s", after, stale)
	}
}

func sameTime(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}

func TestReadsTellOfTheSecret(t *testing.T) {
	store := vaulttest.New(t)
	reader := mustReader(t, store.URL(vaulttest.AppRole))
	mustPutAutomatic(t, store, "app1/a")
	for _, statement := range []string{
		`SELECT vault.update_secret('app1/a', gen_random_uuid(), NULL, '2 days', NULL)`,
		put("app1/a", 2, 24, 32, uuid.NewString()),
		`SELECT vault.pause_rotation('app1/a', gen_random_uuid(), true)`,
		`SELECT vault.delete_secret('app1/a', gen_random_uuid(), '1 day')`,
		`SELECT vault.restore_secret('app1/a', gen_random_uuid())`,
		`SELECT vault.update_secret('app1/a', gen_random_uuid(), NULL, NULL, NULL, true)`,
	} {
		mustAdmin(t, store, statement)
		wantCopies(t, statement, store, reader, "app1/a")
	}
	byHand := `SET session_replication_role = replica; UPDATE vault.secrets
		SET kind = 'automatic', generator = 'uuid', rotation_interval = '1 day', next_rotation_at = now()`
	store.MustExec(t, byHand)
	wantCopies(t, byHand, store, reader, "app1/a")
	mustAdmin(t, store, `SELECT vault.purge_secret('app1/a', gen_random_uuid())`)
	if _, err := reader.Current(t.Context(), "app1/a"); !errors.Is(err, db.ErrNotFound) {
		t.Errorf("after a purge: got %v", err)
	}
}

// A secret created between the two statements is not one without a current version.
func TestLostOrNew(t *testing.T) {
	store := vaulttest.New(t)
	reader := mustReader(t, store.URL(vaulttest.AppRole))
	mustPut(t, store, "app1/lost", "app2/hidden")
	store.MustExec(t, `UPDATE vault.secret_versions SET expires_at = now()`)
	for name, want := range map[string]error{"app1/lost": db.ErrIntegrity, "app1/none": db.ErrNotFound,
		"app2/hidden": db.ErrNotFound} {
		_, current := reader.Current(t.Context(), name)
		_, live := reader.LiveVersions(t.Context(), name)
		_, version := reader.Version(t.Context(), name, 1)
		for what, err := range map[string]error{"current": current, "live": live, "version": version} {
			if !errors.Is(err, want) {
				t.Errorf("%s of %s: got %v, want %v", what, name, err, want)
			}
		}
	}
	done := make(chan error, 1)
	go func() {
		for i := range 40 {
			if err := admin(t, store, put(fmt.Sprintf("app1/new-%d", i), 1, 24, 32, uuid.NewString())); err != nil {
				done <- err
				return
			}
		}
		close(done)
	}()
	for i := range 40 {
		name, over := fmt.Sprintf("app1/new-%d", i), false
		for {
			_, err := reader.Current(t.Context(), name)
			if err == nil {
				break
			}
			if over || !errors.Is(err, db.ErrNotFound) {
				t.Fatalf("%s: got %v", name, err)
			}
			select {
			case err := <-done:
				must(t, err)
				over = true // now it is there
			default:
			}
		}
	}
	must(t, <-done)
}

// Rows written under schema 5 read the same under the next.
func TestMigrationToSealedVersions(t *testing.T) {
	store := vaulttest.New(t)
	reader := mustReader(t, store.URL(vaulttest.AppRole))
	mustPutAutomatic(t, store, "app1/a", "app1/deleted", "app1/idle")
	mustAdmin(t, store, put("app1/a", 2, 24, 32, uuid.NewString()))
	mustAdmin(t, store, `SELECT vault.update_secret('app1/idle', gen_random_uuid(), NULL, NULL, NULL, true)`)
	mustAdmin(t, store, `SELECT vault.delete_secret('app1/deleted', gen_random_uuid(), '1 day')`)
	takeBack(t, store, 8)
	store.MustExec(t, `DROP VIEW vault.sealed_versions`, `DROP TRIGGER versions_are_told ON vault.secrets`,
		`DROP FUNCTION vault._tell_versions()`,
		`ALTER TABLE vault.secrets DISABLE TRIGGER secrets_move_forward`, // which looks into the versions by now
		`DROP INDEX vault.one_current_version, vault.versions_live`,
		`ALTER TABLE vault.secret_versions DROP COLUMN next_rotation_at, DROP COLUMN deleted_at`,
		`CREATE UNIQUE INDEX one_current_version ON vault.secret_versions (secret_id) WHERE expires_at IS NULL`,
		`DELETE FROM vault.goose_db_version WHERE version_id > 5`, `UPDATE vault.config SET schema_version = 5`)

	// A session is deleting a secret during the migration: the copies show that too.
	held := mustConnect(t, store.URL(vaulttest.Superuser))
	_, err := held.PgConn().Exec(t.Context(),
		`BEGIN; UPDATE vault.secrets SET deleted_at = now(), restore_until = now() + interval '1 day'
			WHERE name = 'app1/idle'`).ReadAll()
	must(t, err)
	migrated := make(chan error, 1)
	go func() {
		_, err := db.Migrate(t.Context(), store.URL(vaulttest.Superuser), "test", "")
		migrated <- err
	}()
	waits := `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
	// between two statements
	for deadline := time.Now().Add(time.Minute); store.MustQuery(t, waits) == "0"; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("migrate does not wait for somebody who is changing a secret")
		}
	}
	_, err = held.Exec(t.Context(), `COMMIT`)
	must(t, err)
	must(t, <-migrated)
	for _, name := range []string{"app1/a", "app1/deleted", "app1/idle"} {
		wantCopies(t, "migrate", store, reader, name)
	}
}
