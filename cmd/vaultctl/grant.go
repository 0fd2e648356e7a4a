package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

type grantOptions struct {
	role   string
	group  string
	prefix *string // nil = not given
	revoke bool
}

func newGrantCmd(a *app) *cobra.Command {
	var o grantOptions
	var prefix string
	cmd := &cobra.Command{
		Use:   "grant ROLE",
		Short: "Let a database role use the vault, or no longer",
		Long: `Let a database role use the vault, or no longer. The role must exist (CREATE ROLE). A role that could bypass
the vault's rules, such as a superuser, is refused.

  service   read and verify the secrets under --prefix, and make changes with an admin token
  worker    run rotations: for vaultd on the primary
  auditor   read the audit log

A prefix is compared as text: prod/app/ covers what is under that folder, prod/app also prod/apple. A role may have
several of these, and several prefixes; the command prints all its prefixes. They belong to the role itself: they stay
when it is renamed, and a new role of the same name does not have them. --revoke takes everything away, or one
--prefix.`,
		Example: `  vaultctl grant app --prefix prod/app/
  vaultctl grant vaultd
  vaultctl grant vaultd --as worker
  vaultctl grant app --revoke`,
		Args:              exactArgs("ROLE"),
		ValidArgsFunction: completeRoles(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.role = args[0]
			if cmd.Flags().Changed("prefix") {
				o.prefix = &prefix
			}
			if err := o.parse(cmd); err != nil {
				return err
			}
			return runGrant(cmd.Context(), a, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&prefix, "prefix", "", "only secrets whose names begin with this, e.g. prod/app/ (default: all)")
	flags.StringVar(&o.group, "as", string(vault.GroupService), "service, worker or auditor")
	flags.BoolVar(&o.revoke, "revoke", false, "take access away")
	completeNameFlag(a, cmd, "prefix")
	_ = cmd.RegisterFlagCompletionFunc("as", cobra.FixedCompletions(groups(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func groups() []string {
	return []string{string(vault.GroupService), string(vault.GroupWorker), string(vault.GroupAuditor)}
}

func (o grantOptions) parse(cmd *cobra.Command) error {
	switch {
	case !slices.Contains(groups(), o.group):
		return usage("--as takes service, worker or auditor, not %q", o.group)
	case o.prefix != nil && vault.Group(o.group) != vault.GroupService:
		return usage("--prefix is for --as service only")
	case o.prefix != nil && *o.prefix != "" && !o.revoke:
		if err := checkPrefix("prefix", *o.prefix); err != nil {
			return err
		}
	}
	return oneOf(cmd, "revoke", "as")
}

func runGrant(ctx context.Context, a *app, o grantOptions) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	grant, err := o.apply(ctx, v, change)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(grant)
	}
	a.note("%s", o.summary())
	if o.prefix != nil && !o.revoke {
		a.warnPrefix("prefix", *o.prefix)
	}
	if len(grant.Prefixes) > 1 || o.revoke && len(grant.Prefixes) > 0 {
		a.note("its prefixes now: %s", prefixes(grant.Prefixes))
	}
	return nil
}

func prefixes(all []string) string {
	words := make([]string, len(all))
	for i, prefix := range all {
		words[i] = fmt.Sprintf("%q", prefix)
		if prefix == "" {
			words[i] = "all names"
		}
	}
	return strings.Join(words, ", ")
}

func (o grantOptions) apply(ctx context.Context, v *vault.Vault, change vault.Change) (db.Grant, error) {
	if o.revoke {
		return v.Revoke(ctx, change, o.role, o.prefix)
	}
	prefix := ""
	if o.prefix != nil {
		prefix = *o.prefix
	}
	return v.Grant(ctx, change, o.role, vault.Group(o.group), prefix)
}

func (o grantOptions) summary() string {
	which := "every secret"
	if o.prefix != nil && *o.prefix != "" {
		which = fmt.Sprintf("the secrets under %q", *o.prefix)
	}
	switch {
	case o.revoke && o.prefix == nil:
		return fmt.Sprintf("role %q has no access to the vault any more", o.role)
	case o.revoke:
		return fmt.Sprintf("role %q has lost its grant of %s", o.role, which)
	case o.group == string(vault.GroupWorker):
		return fmt.Sprintf("role %q may run rotations", o.role)
	case o.group == string(vault.GroupAuditor):
		return fmt.Sprintf("role %q may read the audit log", o.role)
	}
	return fmt.Sprintf("role %q may read %s", o.role, which)
}
