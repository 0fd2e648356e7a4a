package db

import (
	"fmt"
	"io"
	"strings"

	vaultsql "github.com/hyperiondb/vault/sql"
)

// script builds the schema's SQL, in the order in which Migrate runs it.
type script struct{ strings.Builder }

// PrintSQL writes what Migrate would run on an empty database as one psql script, for a DBA to review or run. The
// script leaves the database as Migrate leaves it.
func PrintSQL(w io.Writer, defaultKMSKey string) error {
	var s script
	s.WriteString("-- HyperionDB Vault: run as the owner of the database.\nBEGIN;\n" + scriptSettings)
	s.install(defaultKMSKey)
	s.WriteString("COMMIT;\n")
	_, err := io.WriteString(w, s.String())
	return err
}

// scriptSettings are the session settings that the text of the script depends on.
const scriptSettings = `SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL standard_conforming_strings = on;
SET LOCAL client_encoding = 'UTF8';
SET LOCAL row_security = on;
SET LOCAL transform_null_equals = off;
`

// install creates a vault; as vault_owner from the first table on.
func (s *script) install(defaultKMSKey string) {
	s.roles()
	s.tables(0, vaultsql.Version())
	s.definitions()
	fmt.Fprintf(s, "\nINSERT INTO vault.config (schema_version, installed_version, functions_sha256, migrated_at,\n"+
		"    default_kms_key)\n  VALUES (%d, %d, decode('%x', 'hex'), clock_timestamp(), nullif(%s, ''));\n",
		vaultsql.CompatibleSince, vaultsql.Version(), vaultsql.DefinitionsSum(), quoteLiteral(defaultKMSKey))
}

// update upgrades a vault from a schema version to this binary's, which may be the same.
func (s *script) update(from int) {
	s.roles()
	s.tables(from, vaultsql.Version())
	s.definitions()
	fmt.Fprintf(s, "\nUPDATE vault.config SET schema_version = %d, installed_version = %d,\n"+
		"    functions_sha256 = decode('%x', 'hex'), migrated_at = clock_timestamp();\n"+
		"SELECT vault._mend_checks();\n", vaultsql.CompatibleSince, vaultsql.Version(), vaultsql.DefinitionsSum())
}

func (s *script) section(file vaultsql.File) {
	fmt.Fprintf(s, "\n-- ==== %s\n%s", file.Name, file.Text)
}

func (s *script) roles() {
	s.section(vaultsql.File{Name: "roles.sql", Text: vaultsql.Roles})
	s.WriteString("\nSET LOCAL ROLE vault_owner;\n")
}

// tables adds the migrations between two versions, recorded as Migrate records them.
func (s *script) tables(from, to int) {
	if from == 0 {
		s.WriteString(createVersionTable + "\n")
	}
	for _, file := range vaultsql.MigrationFiles() {
		if file.Version() <= from || file.Version() > to {
			continue
		}
		s.section(vaultsql.File{Name: file.Name, Text: strings.TrimPrefix(file.Text, "-- +goose Up\n")})
		s.WriteString(afterMigration(file))
	}
}

func (s *script) definitions() {
	for _, file := range definitions() {
		s.section(file)
	}
}

func quoteLiteral(s string) string {
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}
