package main

import (
	"context"

	"github.com/spf13/cobra"
)

func newRestoreCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "restore NAME",
		Short: "Bring a deleted secret back",
		Long:  `Bring a deleted secret back, with all its versions and settings, until the window given to delete ends.`,
		Example: `  vaultctl list --deleted
  vaultctl restore prod/old/password`,
		Args:              secretArgs(1, "NAME"),
		ValidArgsFunction: completeNames(a, names{deleted: true}),
		RunE:              func(cmd *cobra.Command, args []string) error { return runRestore(cmd.Context(), a, args[0]) },
	}
}

func runRestore(ctx context.Context, a *app, name string) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	receipt, err := v.Restore(ctx, change, name)
	if err != nil {
		return err
	}
	return a.printReceipt("restored", receipt)
}
