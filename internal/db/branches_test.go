package db_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// mustName inserts secrets without versions, which is enough for names.
func mustName(t testing.TB, store *vaulttest.Store, names string, args ...any) {
	t.Helper()
	store.MustExec(t, fmt.Sprintf(`INSERT INTO vault.secrets (name) `+names, args...), `ANALYZE vault.secrets`)
}

func TestBranches(t *testing.T) {
	store := vaulttest.New(t)
	mustName(t, store, `SELECT unnest(ARRAY['prod/app', 'prod/app/a', 'prod/app/b', 'prod/app-x', 'prod/app.y', 'prod/z',
		'app1/x', 'Prod', 'top'])`)
	store.MustExec(t, `UPDATE vault.secrets SET deleted_at = now(), restore_until = now() + '1 hour'
			WHERE name IN ('prod/z', 'top')`,
		`INSERT INTO vault.secrets (name, deleted_at, restore_until)
			VALUES ('gone/x', now() - interval '2 hours', now() - interval '1 hour')`)
	for _, c := range []struct {
		query db.BranchQuery
		role  string
		want  string
	}{
		{db.BranchQuery{Live: true}, vaulttest.Operator, "Prod! app1/ prod/"},
		{db.BranchQuery{Live: true, Deleted: true}, vaulttest.Operator, "Prod! app1/ prod/ top!"},
		{db.BranchQuery{Deleted: true}, vaulttest.Operator, "prod/ top!"},
		{db.BranchQuery{Live: true, Prefix: "p"}, vaulttest.Operator, "prod/"},
		{db.BranchQuery{Live: true, Prefix: "prod/"}, vaulttest.Operator, "prod/app! prod/app-x! prod/app.y! prod/app/"},
		{db.BranchQuery{Live: true, Prefix: "prod/app/"}, vaulttest.Operator, "prod/app/a! prod/app/b!"},
		{db.BranchQuery{Live: true, Prefix: "prod/app/a"}, vaulttest.Operator, "prod/app/a!"},
		{db.BranchQuery{Live: true, Prefix: "prod/ap", Width: 2}, vaulttest.Operator,
			"prod/app! prod/app- prod/app. prod/app/"},
		{db.BranchQuery{Live: true, Prefix: "prod/a", Width: 2}, vaulttest.Operator, "prod/app!"}, // what three begin with
		{db.BranchQuery{Live: true, Prefix: "x"}, vaulttest.Operator, ""},
		{db.BranchQuery{Live: true, Prefix: "'~%_"}, vaulttest.Operator, ""},
		{db.BranchQuery{Live: true, Limit: 2}, vaulttest.Operator, "Prod! app1/"},
		{db.BranchQuery{Live: true}, vaulttest.AppRole, "app1/"}, // which may see no other
	} {
		reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(c.role)})
		must(t, err)
		defer reader.Close()
		if c.query.Limit == 0 {
			c.query.Limit = 100
		}
		found, err := reader.Branches(t.Context(), c.query)
		must(t, err)
		var got []string
		for _, b := range found {
			got = append(got, b.Text+map[bool]string{true: "!"}[b.Whole])
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v as %s: got %q, want %q", c.query, c.role, strings.Join(got, " "), c.want)
		}
	}
}

// Among 100,000 names, each branch is found by one index lookup, without reading the names below it.
func TestBranchesHop(t *testing.T) {
	store := vaulttest.New(t)
	mustName(t, store, `SELECT format('team%%s/app/s%%s', i %% 20, i) FROM generate_series(1, 100000) i`)
	conn, err := pgx.Connect(t.Context(), store.URL(vaulttest.Operator))
	must(t, err)
	defer conn.Close(t.Context())
	var explained string
	must(t, conn.QueryRow(t.Context(), `EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) `+db.BranchesQuery,
		"", true, false, 0, 501).Scan(&explained))
	if rows := rowsRead(t, explained); rows > 100 {
		t.Errorf("%d rows are read for 20 branches:\n%s", rows, explained)
	}
}

// rowsRead is how many rows a scan of the table returned or removed.
func rowsRead(t *testing.T, explained string) int {
	t.Helper()
	var plans []map[string]any
	must(t, json.Unmarshal([]byte(explained), &plans))
	var count func(node map[string]any) float64
	count = func(node map[string]any) (n float64) {
		number := func(key string) float64 { f, _ := node[key].(float64); return f }
		if node["Relation Name"] == "secrets" {
			n = (number("Actual Rows") + number("Rows Removed by Filter")) * number("Actual Loops")
		}
		below, _ := node["Plans"].([]any)
		for _, child := range below {
			n += count(child.(map[string]any))
		}
		return n
	}
	return int(count(plans[0]["Plan"].(map[string]any)))
}
