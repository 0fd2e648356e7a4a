package db_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/vaulttest"
	vaultsql "github.com/hyperiondb/vault/sql"
)

// undo reverts a migration, for tests of what the migration does with existing rows.
var undo = map[int]string{
	9: `DROP INDEX vault.secrets_windows; DROP TABLE vault.round_failures;
		ALTER TABLE vault.heartbeat DROP COLUMN supervised_at; ALTER TABLE vault.rotation_jobs DROP CONSTRAINT job_times;
		ALTER TABLE vault.secrets DROP CONSTRAINT rotation_interval_plain, DROP CONSTRAINT grace_period_plain,
			DROP CONSTRAINT secret_times`,
	10: `DROP TABLE vault.lock_claims, vault.lock_sealing;
		ALTER TABLE vault.audit_spools DROP COLUMN role_name, DROP COLUMN role_oid, DROP COLUMN system_id`,
	11: `DROP VIEW vault.sealed_versions; ALTER TABLE vault.service_scope DROP COLUMN role_id CASCADE;
		ALTER TABLE vault.service_scope ADD CONSTRAINT service_scope_pkey PRIMARY KEY (role_name, prefix);
		ALTER TABLE vault.service_scope DISABLE TRIGGER scope_is_bound;
		DROP TABLE vault.token_revocations, vault.refusals; DROP SEQUENCE vault.wrong_proofs, vault.wrong_proofs_minute;` +
		viewOfMigration7() + `; ALTER VIEW vault.sealed_versions OWNER TO vault_owner`,
	12: `DROP TYPE vault.sealed_value CASCADE`, // and the functions that take it
	13: `DROP TABLE vault.app_use, vault.app_rules, vault.app_credentials, vault.apps, vault.access_epoch`,
	14: `DROP FUNCTION vault._feed_change, vault._feed_change_of_all, vault._feed_keeps CASCADE;
		DROP TABLE vault.change_feed, vault.feed_state CASCADE`,
	15: `ALTER TABLE vault.audit_log DROP COLUMN since, DROP COLUMN reads, DROP COLUMN ago, DROP COLUMN back,
		DROP COLUMN requests, DROP COLUMN reader, DROP COLUMN actors, DROP COLUMN clients, DROP COLUMN versions,
		DROP COLUMN details`,
	16: `DROP TABLE vault.daemons, vault.group_grants; DROP INDEX vault.versions_removed;
		DROP FUNCTION vault._forget_history(int);
		DROP POLICY owner_prunes ON vault.secret_versions; DROP POLICY owner_prunes ON vault.rotation_jobs;
		DROP TRIGGER config_moves_forward ON vault.config;
		ALTER TABLE vault.config DROP COLUMN keep_jobs_days, DROP COLUMN keep_versions_days,
			DROP COLUMN installed_version, DROP COLUMN migrated_at, DROP COLUMN home`,
	17: `DROP FUNCTION vault.health() CASCADE`, // and status(), which calls it
}

func viewOfMigration7() string {
	text := vaultsql.MigrationFiles()[6].Text
	return strings.TrimSuffix(strings.TrimSpace(text[strings.Index(text, "CREATE VIEW"):]), ";")
}

// takeBack reverts a database to an older schema version, 8 or newer, with today's functions.
func takeBack(t *testing.T, store *vaulttest.Store, to int) {
	t.Helper()
	for _, file := range slices.Backward(vaultsql.MigrationFiles()) {
		if file.Version() == to {
			break
		}
		text, known := undo[file.Version()]
		if !known {
			t.Fatalf("nothing takes %s back", file.Name)
		}
		store.MustExec(t, text)
	}
	store.MustExec(t, fmt.Sprintf(`DELETE FROM vault.goose_db_version WHERE version_id > %d`, to),
		fmt.Sprintf(`UPDATE vault.config SET schema_version = %d`, to))
}
