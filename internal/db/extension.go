package db

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	vaultsql "github.com/hyperiondb/vault/sql"
)

// ExtensionName is the vault's name in CREATE EXTENSION. The extension's version is the schema version.
const ExtensionName = "hyperion_vault"

// extensionAgain is a version that installs nothing. Updating to it and back installs the definitions again, for
// functions that differ at the same schema version: ALTER EXTENSION does nothing from a version to itself.
const extensionAgain = "again"

// ExtensionError means that the schema belongs to the extension, which is not at this binary's version. Only ALTER
// EXTENSION may change its members, or the next update would find a schema that it does not know.
type ExtensionError struct{ State MigrationState }

func (e *ExtensionError) Error() string {
	if e.State.Have == e.State.Want {
		return fmt.Sprintf("the extension %s %s installed other functions than this binary's", ExtensionName,
			e.State.Extension)
	}
	return fmt.Sprintf("the schema belongs to the extension %s, which is at version %s; this binary's is %d",
		ExtensionName, e.State.Extension, e.State.Want)
}

func (e *ExtensionError) Unwrap() error { return ErrRefused }

// UpdateExtension is the SQL that brings the extension to this binary's version, once its files are installed.
func (s MigrationState) UpdateExtension() string {
	update := fmt.Sprintf("ALTER EXTENSION %s UPDATE TO '%d'", ExtensionName, s.Want)
	if s.Extension == fmt.Sprint(s.Want) {
		update = fmt.Sprintf("ALTER EXTENSION %s UPDATE TO '%s'; %s", ExtensionName, extensionAgain, update)
	}
	return update
}

// useExtension is Migrate on a schema that CREATE EXTENSION made: it stores only the default key.
func useExtension(ctx context.Context, conn *pgx.Conn, state MigrationState,
	defaultKMSKey string) (MigrateReport, error) {
	if state.Have != state.Want || !state.FunctionsCurrent {
		return MigrateReport{}, &ExtensionError{state}
	}
	if defaultKMSKey != "" {
		if err := storeKey(ctx, conn, defaultKMSKey); err != nil {
			return MigrateReport{}, err
		}
	}
	config, err := queryConfig(ctx, conn)
	return MigrateReport{ClusterID: config.ClusterID, FromVersion: state.Have, SchemaVersion: config.SchemaVersion,
		Extension: state.Extension}, err
}

func storeKey(ctx context.Context, conn *pgx.Conn, key string) error {
	return classify(pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL ROLE vault_owner`); err != nil {
			return err
		}
		return onRecord(ctx, tx, func() error {
			_, err := tx.Exec(ctx, `UPDATE vault.config SET default_kms_key = $1`, key)
			return err
		})
	}))
}

// ExtensionFiles are the files that CREATE EXTENSION and ALTER EXTENSION read: the SQL that Migrate runs, and the list
// of tables whose rows pg_dump carries.
func ExtensionFiles() []vaultsql.File {
	version := vaultsql.Version()
	files := []vaultsql.File{
		{Name: ExtensionName + ".control", Text: fmt.Sprintf(extensionControl, version)},
		{Name: fmt.Sprintf("%s--%d.sql", ExtensionName, version),
			Text: extensionScript("CREATE EXTENSION "+ExtensionName, func(s *script) {
				s.WriteString(schemaIsFree)
				s.install("")
			})},
		{Name: fmt.Sprintf("%s--%d--%s.sql", ExtensionName, version, extensionAgain),
			Text: extensionScript(updating(extensionAgain), nil)},
		{Name: fmt.Sprintf("%s--%s--%d.sql", ExtensionName, extensionAgain, version), Text: updateScript(version, version)},
	}
	for _, older := range vaultsql.MigrationFiles() {
		if from := older.Version(); from < version {
			files = append(files, vaultsql.File{Name: fmt.Sprintf("%s--%d--%d.sql", ExtensionName, from, version),
				Text: updateScript(from, version)})
		}
	}
	return files
}

// Dropping the schema that the control file names would drop the extension, and its scripts have that schema in their
// search_path. pg_catalog cannot be dropped, and no unprivileged role can create functions in it.
const extensionControl = `# HyperionDB Vault
comment = 'a secrets vault: sealed values, admin tokens, rotation, audit log'
default_version = '%d'
schema = pg_catalog
relocatable = false
superuser = true
trusted = false
encoding = 'UTF8'
`

const schemaIsFree = `
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'vault') THEN
    RAISE EXCEPTION 'schema "vault" exists'
      USING HINT = 'A vault that vaultctl init made stays without the extension: vaultctl migrate keeps it current';
  END IF;
END $$;
`

// The server parses the whole script before it runs the first statement, so a SET in it would be too late.
const stringsConform = `
DO $$
BEGIN
  IF current_setting('standard_conforming_strings') <> 'on' THEN
    RAISE EXCEPTION 'standard_conforming_strings is off, so the rules of the vault would lose their backslashes'
      USING HINT = 'SET standard_conforming_strings = on';
  END IF;
END $$;
`

// The role is switched for the script only: what follows in the transaction, such as another script, runs as the role
// that installs.
const (
	rememberRole = "\nSELECT set_config('hyperion_vault.installer', current_setting('role'), true);\n"
	returnToRole = "\nSELECT set_config('role', current_setting('hyperion_vault.installer'), true);\n"
)

// carryRows has pg_dump carry the rows of the extension's tables, which it would otherwise take for part of the script.
// The rows of goose's table are; tx_context never has a committed row; access_epoch, change_feed and feed_state have
// their own rows in every database.
//
// The monthly partitions of the audit log are created over time. One that a script created (an update that moves old
// rows) is dropped from the extension: pg_dump then carries it as a table, because CREATE EXTENSION would not create it
// again.
const carryRows = `
DO $$
DECLARE t regclass;
BEGIN
  FOR t IN SELECT d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
      WHERE e.extname = 'hyperion_vault' AND d.classid = 'pg_class'::regclass
        AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
        AND d.objid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass('vault.audit_log'))
        AND d.objid <> to_regclass('vault.audit_log_default') LOOP
    EXECUTE format('ALTER EXTENSION hyperion_vault DROP TABLE %s', t);
  END LOOP;
  FOR t IN SELECT c.oid FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
        AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' JOIN pg_extension e ON e.oid = d.refobjid
      WHERE e.extname = 'hyperion_vault' AND c.relkind IN ('r', 'S') AND c.relpersistence = 'p'
        AND c.relname NOT LIKE 'goose%' AND c.relname NOT IN ('access_epoch', 'change_feed', 'feed_state')
      ORDER BY c.oid LOOP
    PERFORM pg_extension_config_dump(t, '');
  END LOOP;
END $$;
`

func updating(to string) string {
	return fmt.Sprintf("ALTER EXTENSION %s UPDATE TO '%s'", ExtensionName, to)
}

func updateScript(from, to int) string {
	return extensionScript(updating(fmt.Sprint(to)), func(s *script) { s.update(from) })
}

// extensionScript adds to the body (nil = none) the beginning and the end of every script of the extension. psql stops
// at the \echo line; CREATE EXTENSION skips it, and is itself the transaction.
func extensionScript(statement string, body func(*script)) string {
	var s script
	fmt.Fprintf(&s, "-- HyperionDB Vault, made by: make extension\n\\echo Use \"%s\" to load this file. \\quit\n",
		statement)
	if body != nil {
		s.WriteString(stringsConform)
		s.WriteString(rememberRole)
		body(&s)
		s.WriteString(returnToRole)
		s.WriteString(carryRows)
	}
	return s.String()
}
