package db_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

func TestFolder(t *testing.T) {
	store := vaulttest.New(t)
	mustName(t, store, `SELECT unnest(ARRAY['prod/app', 'prod/app/a', 'prod/app/b', 'prod/app-x', 'prod/app.y',
		'prod/app.y/z', 'prod/z', 'prod/gone/x', 'app1/x', 'Prod', 'top', 'a_b', 'a-b', 'a.b', 'a0'])`)
	store.MustExec(t, `UPDATE vault.secrets SET deleted_at = now(), restore_until = now() + '1 hour'
			WHERE name IN ('prod/z', 'prod/gone/x', 'top')`)
	all := db.Below("")
	for _, c := range []struct {
		folder string
		ranges []db.NameRange
		after  string
		limit  int
		want   string
	}{
		{"", []db.NameRange{all}, "", 100, "Prod a-b a.b a0 a_b app1/ prod/"},
		{"prod/", []db.NameRange{all}, "", 100, "app app-x app.y app.y/ app/"},
		{"prod/app/", []db.NameRange{all}, "", 100, "a b"},
		{"prod/app/a/", []db.NameRange{all}, "", 100, ""},
		{"prod/gone/", []db.NameRange{all}, "", 100, ""}, // deleted
		{"x/", []db.NameRange{all}, "", 100, ""},
		{"", nil, "", 100, ""},

		{"", []db.NameRange{all}, "", 2, "Prod a-b"},
		{"", []db.NameRange{all}, "a-b", 2, "a.b a0"},
		{"", []db.NameRange{all}, "app1/", 2, "prod/"},
		{"", []db.NameRange{all}, "prod/", 2, ""},
		{"prod/", []db.NameRange{all}, "app", 100, "app-x app.y app.y/ app/"},
		{"prod/", []db.NameRange{all}, "app.y", 100, "app.y/ app/"},
		{"prod/", []db.NameRange{all}, "app.y/", 100, "app/"},
		{"prod/", []db.NameRange{all}, "nothing", 100, ""},

		// an entry leads to a name in a range
		{"", []db.NameRange{db.Below("prod/app/")}, "", 100, "prod/"},
		{"", []db.NameRange{db.Below("prod/none/")}, "", 100, ""},
		{"", []db.NameRange{db.Below("prod/gone/")}, "", 100, ""},
		{"", []db.NameRange{db.Below("prod/app/"), db.Only("Prod"), db.Only("a"), db.Only("prod/app")}, "", 100,
			"Prod prod/"},
		{"", []db.NameRange{db.Below("prod/app/"), db.Only("Prod"), db.Only("prod/app"), db.Below("app1/")}, "", 2,
			"Prod app1/"},
		{"", []db.NameRange{db.Below("app1/"), db.Only("prod/app"), db.Below("prod/app."), db.Below("prod/app/")}, "", 3,
			"app1/ prod/"},
		{"prod/", []db.NameRange{db.Below("prod/app/")}, "", 100, "app/"},
		{"prod/", []db.NameRange{db.Below("prod/app.")}, "", 100, "app.y app.y/"},
		{"prod/", []db.NameRange{db.Only("prod/app")}, "", 100, "app"},
		{"prod/", []db.NameRange{db.Only("prod/app"), db.Below("prod/app/"), db.Below("prod/")}, "", 100,
			"app app-x app.y app.y/ app/"},
		{"prod/", []db.NameRange{db.Below("prod/app."), db.Only("prod/app")}, "app", 100, "app.y app.y/"},
		{"prod/app/", []db.NameRange{db.Only("prod/app")}, "", 100, ""},
		{"app1/", []db.NameRange{db.Below("prod/")}, "", 100, ""},
	} {
		reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(vaulttest.Operator)})
		must(t, err)
		defer reader.Close()
		got := mustFolder(t, reader, db.FolderQuery{Folder: c.folder, Ranges: c.ranges, After: c.after, Limit: c.limit})
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q in %q after %q: got %q, want %q", c.folder, c.ranges, c.after, strings.Join(got, " "), c.want)
		}
	}
}

func mustFolder(t *testing.T, reader *db.Reader, q db.FolderQuery) (entries []string) {
	t.Helper()
	must(t, reader.WithEpoch(t.Context(), anyEpoch, func(s db.Snapshot) (err error) {
		entries, err = s.Folder(t.Context(), q)
		return err
	}))
	return entries
}

func anyEpoch(context.Context, uuid.UUID) error { return nil }

func summary(t *testing.T, reader *db.Reader, name string, versions int) (found db.Summary, err error) {
	t.Helper()
	err = reader.WithEpoch(t.Context(), anyEpoch, func(s db.Snapshot) (err error) {
		found, err = s.Summary(t.Context(), name, versions)
		return err
	})
	return found, err
}

// A page of a folder is what its role may see, also where the rules allow more.
func TestFolderHidesWhatTheRoleMayNotSee(t *testing.T) {
	store := vaulttest.New(t)
	mustName(t, store, `SELECT unnest(ARRAY['prod/app', 'app1/x', 'top'])`)
	reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(vaulttest.AppRole)})
	must(t, err)
	defer reader.Close()
	got := mustFolder(t, reader, db.FolderQuery{Ranges: []db.NameRange{db.Below("")}, Limit: 10})
	if diff := cmp.Diff([]string{"app1/"}, got); diff != "" {
		t.Error(diff)
	}
}

// Among 100,000 names, each entry is found by one index lookup, without reading the names below it, as the role of a
// daemon with prefixes and with the plan of any folder.
func TestFolderHops(t *testing.T) {
	store := vaulttest.New(t)
	mustName(t, store, `SELECT format('team%%s/app/s%%s', i %% 20, i) FROM generate_series(1, 100000) i`)
	many := []string{"team3/app/"}
	for i := range 200 {
		many = append(many, fmt.Sprintf("team7/app/s%d/", i))
	}
	slices.Sort(many)
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		conn, err := pgx.Connect(t.Context(), store.URL(vaulttest.Operator))
		must(t, err)
		defer conn.Close(t.Context())
		_, err = conn.Exec(t.Context(), `SET plan_cache_mode = `+mode)
		must(t, err)
		for folder, prefixes := range map[string][]string{"": {""}, "team3/": {"team3/"}, "team7/app/": many[1:]} {
			var low, high []string
			for _, p := range prefixes {
				low, high = append(low, p), append(high, p+"~")
			}
			var explained string
			must(t, conn.QueryRow(t.Context(), `EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) `+db.FolderQuerySQL,
				folder, low, high, 10_000).Scan(&explained))
			if rows := rowsRead(t, explained); rows > 50 {
				t.Errorf("%s: %d rows of %q are read for 20 entries:\n%s", mode, rows, folder, explained)
			}
		}
	}
}

func TestSummary(t *testing.T) {
	store := vaulttest.New(t)
	mustName(t, store, `VALUES ('a')`)
	store.MustExec(t, `INSERT INTO vault.secret_versions (secret_id, name, version, fmt, kms_key_id, wrapped_dek, nonce,
			ciphertext, key_commit, aad, request_id, created_by, created_at, expires_at, removed_at)
		SELECT id, name, n, 1, 'k', kept, substr(kept, 1, 24), kept, substr(kept, 1, 32), name || ':' || n, gen_random_uuid(),
			'x', now() - (5 - n) * interval '1 hour', CASE WHEN n < 4 THEN now() + (n - 2.5) * interval '1 hour' END,
			CASE WHEN n = 1 THEN now() END
		FROM vault.secrets, generate_series(1, 4) n, LATERAL (SELECT CASE WHEN n > 1 THEN decode(repeat('00', 40), 'hex') END)
			v (kept) WHERE name = 'a'`, `UPDATE vault.secrets SET current_version = 4 WHERE name = 'a'`)
	reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(vaulttest.Operator)})
	must(t, err)
	defer reader.Close()
	s, err := summary(t, reader, "a", 10)
	must(t, err)
	var got []string
	for _, v := range s.Versions {
		state := "current"
		if v.ExpiresAt != nil {
			state = map[bool]string{true: "grace", false: "expired"}[v.ExpiresAt.After(time.Now())]
		}
		got = append(got, fmt.Sprintf("%d %s %t", v.Version, state, v.Removed))
	}
	want := []string{"4 current false", "3 grace false", "2 expired false", "1 expired true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if s.CurrentVersion != 4 || !s.RotatedAt.Equal(s.Versions[0].CreatedAt) || s.CreatedAt.IsZero() {
		t.Errorf("got %+v", s)
	}
	if s, err = summary(t, reader, "a", 2); err != nil || len(s.Versions) != 2 {
		t.Errorf("at most two versions: got %+v, %v", s.Versions, err)
	}
	store.MustExec(t, `UPDATE vault.secrets SET deleted_at = now(), restore_until = now() + '1 hour'`)
	for _, name := range []string{"a", "b"} {
		if _, err := summary(t, reader, name, 10); !errors.Is(err, db.ErrNotFound) {
			t.Errorf("%q: got %v, want that it is not found", name, err)
		}
	}
}
