package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

const deleteWindow = 7 * 24 * time.Hour

func newDeleteCmd(a *app) *cobra.Command {
	var window *time.Duration
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a secret; it can be restored for a while",
		Long: `Delete a secret. From then on it cannot be read or verified, and its name stays taken. Until the window ends
it can be restored; after that it is purged. With --window 0 nothing can bring it back, so the name has to be typed
again, unless --yes is given.`,
		Example: `  vaultctl delete prod/old/password
  vaultctl delete prod/old/password --window 30d
  vaultctl restore prod/old/password`,
		Args:              secretArgs(1, "NAME"),
		ValidArgsFunction: completeNames(a, names{live: true}),
		RunE: func(cmd *cobra.Command, args []string) error {
			keep := deleteWindow
			if window != nil {
				keep = *window
			}
			return runDelete(cmd.Context(), a, args[0], keep, yes)
		},
	}
	cmd.Flags().Var(durationFlag{&window}, "window", "how long it can be restored (default 7d)")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func runDelete(ctx context.Context, a *app, name string, window time.Duration, yes bool) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	if window == 0 {
		question := fmt.Sprintf("%q could not be restored: without a window it is purged.", name)
		if err := a.confirm(ctx, yes, name, question); err != nil {
			return err
		}
	}
	receipt, err := v.Delete(ctx, change, name, window)
	if err != nil {
		return err
	}
	return a.printReceipt("deleted", receipt)
}
