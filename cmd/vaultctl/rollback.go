package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/audit"
)

func newRollbackCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback NAME VERSION",
		Short: "Make an older value the current one again",
		Long: `Make an older value the current one again: a new version with the value of VERSION, which must still be in
grace.

Version numbers only go up, so a client never takes an older value for a newer one.`,
		Example: `  vaultctl history prod/db/password
  vaultctl rollback prod/db/password 3`,
		Args:              secretArgs(2, "NAME", "VERSION"),
		ValidArgsFunction: completeNameAndVersion(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			version, err := strconv.Atoi(args[1])
			if err != nil || version < 1 {
				return usage("VERSION is a version number from 1 up")
			}
			return runRollback(cmd.Context(), a, args[0], version)
		},
	}
}

func runRollback(ctx context.Context, a *app, name string, version int) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	if _, err := v.Describe(ctx, name); err != nil {
		return about(name, err)
	}
	opened := audit.Event{Action: audit.Read, Secret: name, Version: version, Outcome: audit.OK,
		Detail: map[string]any{"for": "rollback"}}
	if err := (onRecord{}).recordRead(ctx, a, opened); err != nil {
		return err
	}
	receipt, err := v.Rollback(ctx, change, name, version)
	if err != nil {
		return aboutVersion(name, version, err)
	}
	return a.printReceipt(fmt.Sprintf("the value of version %d is now", version), receipt)
}
