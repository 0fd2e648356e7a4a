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

func manyPuts(n int) []db.Put {
	puts := make([]db.Put, n)
	for i := range puts {
		name := fmt.Sprintf("app/s%02d", i)
		puts[i] = db.Put{Request: uuid.New(), Name: name, Sealed: sealedPlaceholder(name), CreateOnly: true}
	}
	return puts
}

// The pair of every commit, for many puts at once: each gets one version, made once, and the results are in order.
func TestCommitOfManyWithoutAnAnswer(t *testing.T) {
	losingCommits(t, func(t *testing.T, store *vaulttest.Store, writer *db.Writer, c db.Credential, audit string) {
		generator, every, grace := "hex:32", 36*time.Hour, 90*time.Second
		puts := manyPuts(20)
		puts[7].Settings = db.Settings{Generator: &generator, RotationInterval: &every, GracePeriod: &grace}
		results, err := writer.PutVersions(t.Context(), c, puts)
		must(t, err)
		for i, r := range results {
			if r.Name != puts[i].Name || r.Version != 1 || r.LSN == "" {
				t.Errorf("answer %d is %+v, want that of %s", i, r, puts[i].Name)
			}
		}
		if got := store.MustQuery(t,
			`SELECT count(*) || ' ' || count(DISTINCT name) FROM vault.secret_versions`); got != "20 20" || len(results) != 20 {
			t.Errorf("got %s versions and names, and %d answers, want 20", got, len(results))
		}
		if got := store.MustQuery(t,
			`SELECT string_agg(action, ' ' ORDER BY id) FROM vault.audit_log WHERE secret = 'app/s07'`); got != audit {
			t.Errorf("got audit rows %q, want %q", got, audit)
		}
		if got := store.MustQuery(t,
			`SELECT concat_ws(' ', kind, generator, rotation_interval, grace_period) FROM vault.secrets
				WHERE name = 'app/s07'`); got != "automatic hex:32 36:00:00 00:01:30" {
			t.Errorf("got settings %q", got)
		}
	})
}

// All or none: an error of one undoes the others.
func TestPutVersionsIsOneTransaction(t *testing.T) {
	store := vaulttest.New(t)
	writer, err := db.NewWriter(t.Context(), db.Options{URL: store.URL(vaulttest.Operator)})
	must(t, err)
	defer writer.Close()
	token := vaulttest.AdminToken(t)
	puts := manyPuts(3)
	puts[2].Sealed.Version = 2
	_, err = writer.PutVersions(t.Context(), db.Credential{TokenID: token.ID(), Prove: token.Prove}, puts)
	if err == nil {
		t.Fatal("version 2 of a new secret was stored")
	}
	if got := store.MustQuery(t,
		`SELECT (SELECT count(*) FROM vault.secrets) || ' ' || (SELECT count(*) FROM vault.audit_log
			WHERE action = 'put' AND outcome = 'ok')`); got != "0 0" {
		t.Errorf("got %s secrets and puts on record, want none", got)
	}
}

// A secret without a current version is distinguished from deleted and missing ones.
func TestCurrents(t *testing.T) {
	store := vaulttest.New(t)
	mustPut(t, store, "a/1", "b/1", "b/2", "b/3", "c/1")
	store.MustExec(t, `UPDATE vault.secret_versions SET expires_at = now() + interval '1 day' WHERE name = 'b/2';
		UPDATE vault.secrets SET deleted_at = now(), restore_until = now() + interval '1 day' WHERE name = 'b/3'`)
	reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(vaulttest.Operator)})
	must(t, err)
	defer reader.Close()
	found, err := reader.Currents(t.Context(), []string{"b/1", "b/2", "b/3", "b/4"})
	must(t, err)
	if len(found) != 2 || found["b/1"].Err != nil || found["b/1"].Version != 1 ||
		!errors.Is(found["b/2"].Err, db.ErrIntegrity) {
		t.Errorf("got %+v, want b/1, and b/2 that has no current version", found)
	}
	if n, err := reader.CountLive(t.Context(), "b/"); err != nil || n != 2 {
		t.Errorf("counted %d, %v, want 2", n, err)
	}
}
