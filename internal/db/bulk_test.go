package db_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/chaos/pgproxy"
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

// The pair of every commit, of many at once: all end in one version, made once, and an answer in their order.
func TestCommitOfManyWithoutAnAnswer(t *testing.T) {
	for _, c := range []struct {
		name  string
		when  pgproxy.When
		audit string
	}{
		{"failed", pgproxy.Before, "put"},
		{"done, reply lost", pgproxy.After, "put put.replay"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := vaulttest.New(t)
			p := newProxy(t, store)
			writer, err := db.NewWriter(t.Context(), db.Options{URL: through(p, store, vaulttest.Operator)})
			must(t, err)
			defer writer.Close()
			token := vaulttest.AdminToken(t)
			generator, every, grace := "hex:32", 36*time.Hour, 90*time.Second
			puts := manyPuts(20)
			puts[7].Settings = db.Settings{Generator: &generator, RotationInterval: &every, GracePeriod: &grace}
			lose(p, c.when)
			results, err := writer.PutVersions(t.Context(), db.Credential{TokenID: token.ID(), Prove: token.Prove}, puts)
			must(t, err)
			for i, r := range results {
				if r.Name != puts[i].Name || r.Version != 1 || r.LSN == "" {
					t.Errorf("answer %d is %+v, want that of %s", i, r, puts[i].Name)
				}
			}
			if got := store.MustQuery(t, `SELECT count(*) || ' ' || count(DISTINCT name) FROM vault.secret_versions`); got != "20 20" || len(results) != 20 {
				t.Errorf("got %s versions and names, and %d answers, want 20", got, len(results))
			}
			if got := store.MustQuery(t, `SELECT string_agg(action, ' ' ORDER BY id) FROM vault.audit_log WHERE secret = 'app/s07'`); got != c.audit {
				t.Errorf("got audit rows %q, want %q", got, c.audit)
			}
			if got := store.MustQuery(t, `SELECT concat_ws(' ', kind, generator, rotation_interval, grace_period) FROM vault.secrets WHERE name = 'app/s07'`); got != "automatic hex:32 36:00:00 00:01:30" {
				t.Errorf("got settings %q", got)
			}
		})
	}
}

// All or none: what one of them is refused for undoes the others.
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
	if got := store.MustQuery(t, `SELECT (SELECT count(*) FROM vault.secrets) || ' ' || (SELECT count(*) FROM vault.audit_log WHERE action = 'put' AND outcome = 'ok')`); got != "0 0" {
		t.Errorf("got %s secrets and puts on record, want none", got)
	}
}

// A page ends where it should, and tells a secret that lost its current version.
func TestCurrentPage(t *testing.T) {
	store := vaulttest.New(t)
	mustPut(t, store, "a/1", "b/1", "b/2", "b/3", "c/1")
	store.MustExec(t, `SET session_replication_role = replica; UPDATE vault.secrets SET current_version = 7 WHERE name = 'b/2'`)
	reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(vaulttest.Operator)})
	must(t, err)
	defer reader.Close()
	page, err := reader.CurrentPage(t.Context(), "b/", "", 2)
	must(t, err)
	if len(page) != 2 || page[0].Name != "b/1" || page[0].Check() != nil || page[1].Name != "b/2" || page[1].Check() == nil {
		t.Errorf("got %+v, want b/1, and b/2 that points nowhere", page)
	}
	page, err = reader.CurrentPage(t.Context(), "b/", "b/2", 2)
	must(t, err)
	if len(page) != 1 || page[0].Name != "b/3" {
		t.Errorf("got %+v, want b/3", page)
	}
	if n, err := reader.CountLive(t.Context(), "b/"); err != nil || n != 3 {
		t.Errorf("counted %d, %v, want 3", n, err)
	}
}
