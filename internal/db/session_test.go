package db_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// hostile has, for each setting of a session, a value other than the vault's.
var hostile = map[string]string{
	"search_path": "public, pg_catalog", "standard_conforming_strings": "off",
	"default_transaction_isolation":  "'serializable'",
	"default_transaction_deferrable": "on", "row_security": "off", "client_encoding": "'LATIN1'",
	"TimeZone":  "'Asia/Kathmandu'",
	"DateStyle": "'German, DMY'", "IntervalStyle": "'sql_standard'", "bytea_output": "'escape'",
	"extra_float_digits":  "-15",
	"client_min_messages": "'error'", "array_nulls": "off", "transform_null_equals": "on", "quote_all_identifiers": "on",
	"check_function_bodies": "off", "exit_on_error": "on", "jit": "on", "plan_cache_mode": "'force_custom_plan'",
	"idle_session_timeout": "'9s'", "idle_in_transaction_session_timeout": "'9s'", "statement_timeout": "'9s'",
	"lock_timeout":        "'9s'",
	"transaction_timeout": "'9s'",

	"restrict_nonsystem_relation_kind": "'view'",
}

// Each hostile setting, alone, on the database and on the role: the sessions of a reader, on the primary and on the
// standby, and of a writer have the vault's value, and read and write. A setting of a session that this test does not
// list fails it.
func TestSessionSettings(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	writer := mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)})
	_, err := putOne(t.Context(), t, writer, "app/x")
	must(t, err)
	names := db.SessionSettings(store.MustQuery(t, `SELECT current_setting('server_version_num')`))
	want, err := db.ReadSettings(t.Context(), store.URL(vaulttest.Operator), names)
	must(t, err)
	for _, name := range names {
		value, known := hostile[name]
		if !known {
			t.Errorf("no hostile value of %q", name)
			continue
		}
		for _, where := range []string{`DATABASE ` + store.Database, `ROLE operator IN DATABASE ` + store.Database} {
			t.Run(name+" on "+strings.Fields(where)[0], func(t *testing.T) {
				store.MustExec(t, fmt.Sprintf(`ALTER %s SET %s = %s`, where, name, value))
				defer resetOutside(t, store, where)
				store.MustReplay(t)
				for _, url := range []string{store.URL(vaulttest.Operator), store.StandbyURL(vaulttest.Operator)} {
					got, err := db.ReadSettings(t.Context(), url, names)
					must(t, err)
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("settings (-want +got):\n%s", diff)
					}
					_, err = mustReader(t, url).Current(t.Context(), "app/x")
					must(t, err)
				}
				_, err := putOne(t.Context(), t, mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)}),
					"app/"+uuid.NewString())
				must(t, err)
			})
		}
	}
}

// resetOutside resets a setting from another database, where it is not in force.
func resetOutside(t *testing.T, store *vaulttest.Store, where string) {
	t.Helper()
	must(t, store.Cluster.Primary().Exec(t.Context(), "postgres", `ALTER `+where+` RESET ALL`))
}

// A setting that makes the primary read-only, or disables its triggers, is named and left in force; reads work.
func TestSessionRefusals(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	for _, c := range []struct {
		setting, value string
		want           error
		reads          bool
	}{{"default_transaction_read_only", "on", db.ErrUnavailable, true},
		{"session_replication_role", "replica", db.ErrInvalid, false}} {
		t.Run(c.setting, func(t *testing.T) {
			where := `DATABASE ` + store.Database
			must(t, store.Cluster.Primary().Exec(t.Context(), "postgres",
				fmt.Sprintf(`ALTER %s SET %s = %s`, where, c.setting, c.value)))
			defer resetOutside(t, store, where)
			_, err := putOne(t.Context(), t, mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)}), "app/x")
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.setting) {
				t.Errorf("put: got %v, want %v with the name of the setting", err, c.want)
			}
			_, err = mustReader(t, store.URL(vaulttest.Operator)).Current(t.Context(), "app/x")
			if c.reads && !errors.Is(err, db.ErrNotFound) {
				t.Errorf("read: got %v", err)
			}
		})
	}
}

// Constraints created in a session with standard_conforming_strings = off, a missing one and one that rows break:
// migrate restores them and says so, and finds nothing more to do. A fresh install needs no correction, so the list of
// sql/functions/65_constraints.sql is that of the migrations.
func TestMigrateMendsConstraints(t *testing.T) {
	t.Parallel()
	store := vaulttest.New(t)
	_, err := putOne(t.Context(), t, mustWriter(t, db.Options{URL: store.URL(vaulttest.Operator)}), "app/x")
	must(t, err)
	checks := `SELECT string_agg(conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid), E'\n'
		ORDER BY conrelid::regclass::text, conname) FROM pg_constraint
		WHERE contype = 'c' AND connamespace = 'vault'::regnamespace`
	fresh := store.MustQuery(t, checks)
	if report := mustMigrateStore(t, store); len(report.Mended) != 0 {
		t.Fatalf("a fresh vault is mended: %+v", report.Mended)
	}
	listed := store.MustQuery(t, `SELECT count(*) FROM vault._checks()`)
	if have := store.MustQuery(t, `SELECT count(*) FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid
		WHERE c.contype = 'c' AND c.connamespace = 'vault'::regnamespace AND NOT r.relispartition`); have != listed {
		t.Errorf("there are %s CHECK constraints, and sql/functions/65_constraints.sql lists %s", have, listed)
	}
	store.MustExec(t, `SET standard_conforming_strings = off`, // before the rest is parsed
		`ALTER TABLE vault.secrets DROP CONSTRAINT secret_name_grammar,
		ADD CONSTRAINT secret_name_grammar CHECK (octet_length(name) BETWEEN 1 AND 255
			AND name ~ '\A[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_][A-Za-z0-9_-]*)*\Z') NOT VALID,
			DROP CONSTRAINT rotation_window_grammar, ADD CONSTRAINT rotation_window_grammar CHECK (rotation_window ~ '\A.*\Z');
		ALTER TABLE vault.apps DROP CONSTRAINT app_name_grammar,
			ADD CONSTRAINT app_name_grammar CHECK (name ~ '\A[a-z0-9][a-z0-9_.-]{0,63}\Z');
		ALTER TABLE vault.admin_tokens DROP CONSTRAINT token_name_grammar;
		UPDATE vault.admin_tokens SET name = 'a name';
		ALTER TABLE vault.audit_log DROP CONSTRAINT audit_outcome, ADD CONSTRAINT audit_outcome CHECK (true)`)
	mended := map[string]bool{}
	for _, m := range mustMigrateStore(t, store).Mended {
		mended[m.Table+"."+m.Rule] = m.Holds
	}
	want := map[string]bool{"secrets.secret_name_grammar": true, "secrets.rotation_window_grammar": true,
		"apps.app_name_grammar": true, "admin_tokens.token_name_grammar": false, "audit_log.audit_outcome": true}
	if diff := cmp.Diff(want, mended); diff != "" {
		t.Errorf("mended (-want +got):\n%s", diff)
	}
	store.MustExec(t, `ALTER TABLE vault.admin_tokens DISABLE TRIGGER USER`, `DELETE FROM vault.admin_token_use`,
		`ALTER TABLE vault.admin_tokens DROP CONSTRAINT token_name_grammar; UPDATE vault.admin_tokens SET name = 'root'`)
	if again := mustMigrateStore(t, store).Mended; len(again) != 1 || !again[0].Holds {
		t.Errorf("once the rows keep the rule: got %+v", again)
	}
	if now := store.MustQuery(t, checks); now != fresh {
		t.Errorf("constraints (-want +got):\n%s", cmp.Diff(fresh, now))
	}
	if last := mustMigrateStore(t, store).Mended; len(last) != 0 {
		t.Errorf("the next migrate mends again: %+v", last)
	}
}

func mustMigrateStore(t *testing.T, s *vaulttest.Store) db.MigrateReport {
	t.Helper()
	report, err := db.Migrate(t.Context(), s.URL(vaulttest.Superuser), "test", "")
	must(t, err)
	return report
}

// Nothing that the vault installs depends on the meaning of a backslash: only E” literals have one.
func TestNoPlainBackslash(t *testing.T) {
	for _, file := range db.InstalledAgain() {
		for n, line := range strings.Split(file.Text, "\n") {
			for i, piece := range strings.Split(line, "'") {
				if i%2 == 1 && strings.Contains(piece, `\`) && !strings.HasSuffix(strings.Split(line, "'")[i-1], "E") {
					t.Errorf("%s line %d: a backslash in a plain literal", file.Name, n+1)
				}
			}
		}
	}
}
