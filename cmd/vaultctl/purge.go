package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newPurgeCmd(a *app) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "purge NAME",
		Short: "Remove a secret and all its versions for good",
		Long: `Remove a secret and all its versions for good, deleted before or not. It asks for the name to be typed again,
unless --yes is given. The audit log and backups of the database keep what they have of it.`,
		Example: `  vaultctl purge prod/old/password
  vaultctl purge prod/old/password --yes`,
		Args:              secretArgs(1, "NAME"),
		ValidArgsFunction: completeNames(a, names{live: true, deleted: true}),
		RunE:              func(cmd *cobra.Command, args []string) error { return runPurge(cmd.Context(), a, args[0], yes) },
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func runPurge(ctx context.Context, a *app, name string, yes bool) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	secret, err := v.Describe(ctx, name)
	if err != nil {
		return about(name, err)
	}
	if err := a.confirm(ctx, yes, name, fmt.Sprintf("%q has %s. Nothing can bring it back after a purge.", name,
		versions(secret.CurrentVersion))); err != nil {
		return err
	}
	receipt, err := v.Purge(ctx, change, name)
	if err != nil {
		return err
	}
	return a.printReceipt("purged", receipt)
}

func versions(n int) string {
	if n == 1 {
		return "1 version"
	}
	return fmt.Sprintf("%d versions", n)
}
