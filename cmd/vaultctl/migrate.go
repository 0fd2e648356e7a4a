package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

func newMigrateCmd(a *app) *cobra.Command {
	var print, status, restoreGrants bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the schema to this binary's version",
		Long: `Bring the schema to this binary's version. Connect as the owner of the database.

It may be run at any time and does only what is missing. --print writes the SQL of a new vault for a DBA to review or
run, and needs no database. --status compares and changes nothing, on a standby too; it exits with 7 when there is
something to do.

After a restore into another cluster roles may have lost what they were granted, or not be there. migrate names them,
and with --restore-grants grants it again; it exits with 7 while something of that is missing.

A schema that CREATE EXTENSION made is changed by ALTER EXTENSION alone: migrate prints the statement to run.`,
		Example: `  vaultctl migrate --status
  vaultctl migrate
  vaultctl migrate --print | psql -d app -v ON_ERROR_STOP=1`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf(cmd, "print", "status", "restore-grants"); err != nil {
				return err
			}
			if err := checkDefaultKey(a.kmsKey); err != nil && !status {
				return err
			}
			switch {
			case print:
				if err := db.PrintSQL(a.out, a.kmsKey); err != nil {
					return fmt.Errorf("writing the SQL: %w", reason(err))
				}
				return nil
			case status:
				return runMigrateStatus(cmd.Context(), a)
			}
			key := ""
			if cmd.Flags().Changed("kms-key") { // the one in the environment is not meant to become the vault's default
				key = a.kmsKey
			}
			return runMigrate(cmd.Context(), a, key, restoreGrants)
		},
	}
	cmd.Flags().BoolVar(&print, "print", false, "write the SQL to standard output and do nothing")
	cmd.Flags().BoolVar(&status, "status", false, "say whether there is anything to do")
	cmd.Flags().BoolVar(&restoreGrants, "restore-grants", false,
		"give roles again what they were granted, after a restore into another cluster")
	return cmd
}

// migrateAnswer is the answer in JSON.
type migrateAnswer struct {
	db.MigrateReport
	db.Grants
}

func runMigrate(ctx context.Context, a *app, defaultKey string, restoreGrants bool) error {
	if restoreGrants {
		if state, err := db.State(ctx, a.databaseURL, applicationName); err != nil {
			return ownerHint(err)
		} else if state.Have == 0 {
			return hint(attention("the vault is not set up in this database"),
				"restore the dump first; vaultctl init makes a new vault")
		}
	}
	report, err := a.migrate(ctx, defaultKey)
	if err != nil {
		return migrateHint(err)
	}
	grants, err := a.settleGrants(ctx, restoreGrants)
	if err != nil {
		return migrateHint(err)
	}
	a.noteMended(report.Mended)
	a.noteGrants(grants, restoreGrants)
	if a.json() {
		return errors.Join(a.printJSON(migrateAnswer{report, grants}), restoredGrants(grants, restoreGrants))
	}
	a.noteSchema(report)
	return restoredGrants(grants, restoreGrants)
}

func (a *app) noteSchema(report db.MigrateReport) {
	switch {
	case report.Extension != "":
		a.note("the schema is that of the extension %s, at version %d: nothing to do", db.ExtensionName, report.SchemaVersion)
	case report.Created:
		a.note("the schema is installed at version %d; the first admin token comes from: vaultctl init", report.SchemaVersion)
	case report.FromVersion < report.SchemaVersion:
		a.note("the schema went from version %d to %d", report.FromVersion, report.SchemaVersion)
	default:
		a.note("the schema is at version %d; functions and policies are installed again", report.SchemaVersion)
	}
}

// noteMended lists the rules of tables that were restored to this release's.
func (a *app) noteMended(rules []db.MendedRule) {
	for _, r := range rules {
		if r.Holds {
			a.note("rule %q of table vault.%s was not this release's, and is now", r.Rule, r.Table)
		} else {
			a.note("rule %q of table vault.%s is this release's for what is written from now on, "+
				"but there are rows that break it", r.Rule, r.Table)
		}
	}
}

// noteGrants lists roles that were given again what they were granted, and those that were not.
func (a *app) noteGrants(g db.Grants, restored bool) {
	for _, grant := range g.Restored {
		a.note("role %q is granted %s again", grant.Role, grant.Group)
	}
	for _, grant := range g.Lost {
		switch {
		case grant.Absent:
			a.note("role %q was granted %s and does not exist", grant.Role, grant.Group)
		case restored:
			a.note("role %q is not granted %s again: it could bypass the vault (vaultctl doctor)", grant.Role, grant.Group)
		default:
			a.note("role %q was granted %s and is not its member", grant.Role, grant.Group)
		}
	}
	for _, role := range g.Unscoped {
		a.note("role %q was granted prefixes, and a restore has not brought them", role)
	}
	switch {
	case restored && len(g.Restored)+len(g.Lost) == 0:
		a.note("no role has lost a grant")
	case !restored && len(g.Lost) > 0:
		a.note("vaultctl migrate --restore-grants grants what a restore has lost")
	}
}

// restoredGrants is the error of --restore-grants if something is still lost.
func restoredGrants(g db.Grants, restored bool) error {
	switch {
	case !restored:
		return nil
	case slices.ContainsFunc(g.Lost, func(l db.LostGrant) bool { return l.Absent }):
		return hint(attention("%s", stillLost(g)), absentRoles)
	case len(g.Lost) > 0:
		return hint(attention("%s", stillLost(g)), "vaultctl doctor says what a role has; vaultctl grant ROLE --revoke")
	case len(g.Unscoped) > 0:
		return hint(attention("%s", plural(len(g.Unscoped), "role has no prefix", "roles have no prefix")),
			"vaultctl grant ROLE --prefix PREFIX, or restore the dump again")
	}
	return nil
}

// absentRoles is the hint of grants of roles that do not exist.
const absentRoles = "CREATE ROLE, then vaultctl migrate --restore-grants; or, if it is gone for good, " +
	"vaultctl grant ROLE --revoke"

func stillLost(g db.Grants) string {
	return plural(len(g.Lost), "grant was not restored", "grants were not restored")
}

// migrateStatusAnswer is the answer of --status in JSON.
type migrateStatusAnswer struct {
	db.MigrationState
	UpToDate   bool           `json:"up_to_date"`
	LostGrants []db.LostGrant `json:"lost_grants,omitempty"`
}

func runMigrateStatus(ctx context.Context, a *app) error {
	state, err := db.State(ctx, a.databaseURL, applicationName)
	if err != nil {
		return ownerHint(err)
	}
	verdict := compareSchema(state)
	var lost []db.LostGrant
	if verdict == nil {
		lost, err = db.Options{URL: a.databaseURL, ApplicationName: applicationName}.LostGrants(ctx)
		if err != nil && !errors.Is(err, vault.ErrRefused) { // a role without access sees the schema only
			return err
		}
		if len(lost) > 0 {
			verdict = lostGrants(lost)
		}
	}
	if a.json() {
		err = a.printJSON(migrateStatusAnswer{state, verdict == nil, lost})
	} else {
		err = a.printFields("schema version", schemaVersion(state.Have), "this binary's", schemaVersion(state.Want),
			"functions", installed(state), "installed by", installer(state))
	}
	if err != nil {
		return err
	}
	return verdict
}

// lostGrants is what --status says of grants that were lost: first those of a role that does not exist, since only
// making it helps.
func lostGrants(lost []db.LostGrant) error {
	i := slices.IndexFunc(lost, func(l db.LostGrant) bool { return l.Absent })
	if i < 0 {
		return hint(attention("role %q has lost its grant of %s (lost in all: %d)", lost[0].Role, lost[0].Group, len(lost)),
			"after a restore: vaultctl migrate --restore-grants; else vaultctl grant ROLE --revoke")
	}
	return hint(attention("role %q was granted %s and does not exist (lost in all: %d)", lost[i].Role, lost[i].Group,
		len(lost)), absentRoles)
}

// migrateHint adds ownerHint's hint or, for a schema of the extension, the SQL that changes it.
func migrateHint(err error) error {
	var extension *db.ExtensionError
	if errors.As(err, &extension) {
		return hint(err, "%s", updateExtension(extension.State))
	}
	return ownerHint(err)
}

func updateExtension(s db.MigrationState) string {
	return "make install-extension where the server is, then as a superuser: " + s.UpdateExtension()
}

func compareSchema(s db.MigrationState) error {
	switch {
	case s.Have == 0:
		return hint(attention("the vault is not set up in this database"), "vaultctl init")
	case s.Extension != "" && (s.Have < s.Want || s.Have == s.Want && !s.FunctionsCurrent):
		err := &db.ExtensionError{State: s}
		return hint(attention("%s", err), "%s", updateExtension(s))
	case s.Have < s.Want:
		return hint(attention("the schema is older than this binary"), "vaultctl migrate")
	case s.Have > s.Want:
		return hint(attention("the schema is newer than this binary"), "a vaultctl made for schema version %d", s.Have)
	case !s.FunctionsCurrent:
		return hint(attention("the installed functions are not this binary's"), "vaultctl migrate")
	}
	return nil
}

func schemaVersion(n int) string {
	if n == 0 {
		return "none"
	}
	return strconv.Itoa(n)
}

func installed(s db.MigrationState) string {
	switch {
	case s.Have == 0:
		return ""
	case s.FunctionsCurrent:
		return "current"
	}
	return "not this binary's"
}

func installer(s db.MigrationState) string {
	if s.Extension == "" {
		return ""
	}
	return "extension " + db.ExtensionName + " " + s.Extension
}
