package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"
)

func newHistoryCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "history NAME",
		Short: "List the versions of a secret, newest first, without values",
		Long: `List the versions of a secret, newest first, without values.

The current version and those in grace open and verify. The values of expired ones are gone.`,
		Example:           `  vaultctl history prod/db/password`,
		Args:              secretArgs(1, "NAME"),
		ValidArgsFunction: completeNames(a, names{live: true, deleted: true}),
		RunE:              func(cmd *cobra.Command, args []string) error { return runHistory(cmd.Context(), a, args[0]) },
	}
}

func runHistory(ctx context.Context, a *app, name string) error {
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	versions, err := v.History(ctx, name)
	if err != nil {
		return about(name, err)
	}
	if a.json() {
		return a.printJSON(versions)
	}
	rows := make([][]string, len(versions))
	for i, h := range versions {
		rows[i] = []string{strconv.Itoa(h.Version), h.State, at(h.CreatedAt), h.CreatedBy, when(h.ExpiresAt), h.KMSKeyID}
	}
	return a.printTable([]string{"VERSION", "STATE", "CREATED", "BY", "EXPIRES", "KMS KEY"}, rows, "")
}
