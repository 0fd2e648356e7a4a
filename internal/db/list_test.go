package db_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// A list has the names that begin with its prefix and no neighbours in the index, page after page.
func TestListIsTheNamesUnderAPrefix(t *testing.T) {
	store := vaulttest.New(t)
	names := []string{"a", "ap", "app", "app-x", "app.x", "app/a", "app/z", "app/zz", "app0", "appz", "apq", "b", "zz"}
	store.MustExec(t, `INSERT INTO vault.secrets (name) SELECT unnest('{`+strings.Join(names, ",")+`}'::text[])`,
		`INSERT INTO vault.secrets (name, deleted_at, restore_until)
			VALUES ('app/gone', now(), now() + interval '1 day'),
				('app/lost', now() - interval '2 days', now() - interval '1 day')`)
	reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(vaulttest.Operator)})
	must(t, err)
	defer reader.Close()
	for _, prefix := range []string{"", "a", "app", "app/", "app/z", "b", "c", "zz", "~", "app~", "é", "app/é"} {
		var want []string
		for _, name := range names {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, mustList(t, reader, db.ListQuery{Prefix: prefix, Limit: 2})); diff != "" {
			t.Errorf("under %q: %s", prefix, diff)
		}
	}
	if diff := cmp.Diff([]string{"app/gone"}, mustList(t, reader,
		db.ListQuery{Prefix: "app", Deleted: true, Limit: 2})); diff != "" {
		t.Errorf("deleted: %s", diff)
	}
}

// mustList reads all pages.
func mustList(t *testing.T, reader *db.Reader, q db.ListQuery) (names []string) {
	t.Helper()
	for {
		page, err := reader.Secrets(t.Context(), q)
		must(t, err)
		for _, s := range page {
			names = append(names, s.Name)
		}
		if len(page) < q.Limit {
			return names
		}
		q.After = page[len(page)-1].Name
	}
}
