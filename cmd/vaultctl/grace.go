package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

func newGraceCmd(a *app) *cobra.Command {
	return holdCommands(&cobra.Command{
		Use:   "grace",
		Short: "The time in which superseded versions still count: who needs it, and its end",
		Long: `The time in which superseded versions still count. After a new version the one before it stays valid for a
while, its grace: clients that still hold the old value go on working, and rollback can bring it back.`,
	}, newGraceEndCmd(a), newGraceReportCmd(a))
}

type graceEndOptions struct {
	name    string
	version int
	wait    *time.Duration
}

func newGraceEndCmd(a *app) *cobra.Command {
	var o graceEndOptions
	cmd := &cobra.Command{
		Use:   "end NAME",
		Short: "Make superseded versions of a secret invalid now",
		Long: `Make the superseded versions of a secret invalid now, or with --version one of them: they can no longer be
read, do not verify and cannot be rolled back to. The current version stays.

On the primary that holds at once. A standby follows when it has replayed the change: --wait waits for all connected
standbys, and exits with 7 if one has not replayed it in time.`,
		Example: `  vaultctl grace end prod/api/key
  vaultctl grace end prod/api/key --version 3
  vaultctl grace end prod/api/key --wait=2m`,
		Args:              secretArgs(1, "NAME"),
		ValidArgsFunction: completeNames(a, names{live: true}),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if cmd.Flags().Changed("version") && o.version < 1 {
				return usage("--version takes a version number from 1 up")
			}
			return runGraceEnd(cmd.Context(), a, o)
		},
	}
	cmd.Flags().IntVar(&o.version, "version", 0, "only this version (default: every one in grace)")
	registerStandbyWait(cmd, &o.wait)
	completeVersionFlag(a, cmd)
	return cmd
}

// receiptJSON is a receipt, and with --wait the standbys.
type receiptJSON struct {
	vault.Receipt
	Standbys *[]db.Standby `json:"standbys,omitempty"`
}

func runGraceEnd(ctx context.Context, a *app, o graceEndOptions) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	receipt, err := v.EndGrace(ctx, change, o.name, o.version)
	if err != nil {
		return err
	}
	done := fmt.Sprintf("ended the grace of %s of %q: over on the primary, and on a standby when it has replayed this",
		numbered(receipt.EndedVersions), o.name)
	return a.reportChange(ctx, v, receipt.LSN, o.wait, done,
		func(standbys *[]db.Standby) any { return receiptJSON{receipt, standbys} })
}

func numbered(versions []int) string {
	var parts []string
	for _, n := range versions {
		parts = append(parts, fmt.Sprint(n))
	}
	if len(parts) == 1 {
		return "version " + parts[0]
	}
	return "versions " + strings.Join(parts, ", ")
}
