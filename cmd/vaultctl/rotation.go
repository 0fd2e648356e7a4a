package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

func newRotationCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotation",
		Short: "See and steer the rotations that the workers make",
		Long: `See and steer the rotations that the workers of vaultd make. put and update set when and how a secret rotates;
"vaultctl rotate" replaces a value now.`,
	}
	return holdCommands(cmd, newRotationListCmd(a), newRotationRetryCmd(a), newRotationPauseCmd(a),
		newRotationResumeCmd(a), newRotationLimitCmd(a))
}

func newRotationListCmd(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List rotations under way, waiting and failed",
		Long: `List rotations under way, waiting and failed: those of secrets whose names begin with PREFIX, or all that the
database role may read. --all also lists those settled in the last thirty days.

It works on a standby too.`,
		Example: `  vaultctl rotation list
  vaultctl rotation list prod/db/ --all
  vaultctl rotation list -o json | jq -r '.[] | select(.state == "failed").name'`,
		Args:              rangeArgs(0, "PREFIX"),
		ValidArgsFunction: completeNames(a, names{live: true}),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := db.RotationQuery{Settled: all, Limit: listPage}
			if len(args) == 1 {
				query.Prefix = args[0]
			}
			return runRotationList(cmd.Context(), a, query)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "settled ones too")
	return cmd
}

func runRotationList(ctx context.Context, a *app, query db.RotationQuery) error {
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	jobs, err := allRotations(ctx, v, query)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(jobs)
	}
	rows := make([][]string, len(jobs))
	for i, j := range jobs {
		rows[i] = []string{j.Name, strconv.FormatInt(j.ID, 10), rotationState(j), strconv.Itoa(j.Attempt), at(j.DueAt),
			rotationDetail(j)}
	}
	nothing := "no rotations under way, waiting or failed"
	if query.Settled {
		nothing = "no rotations"
	}
	if query.Prefix != "" {
		nothing += " under " + strconv.Quote(query.Prefix)
	}
	return a.printTable([]string{"NAME", "JOB", "STATE", "ATTEMPT", "DUE", "DETAIL"}, rows, nothing)
}

// allRotations asks for page after page; never nil, so that JSON says [].
func allRotations(ctx context.Context, v *vault.Vault, query db.RotationQuery) ([]db.RotationRow, error) {
	all := []db.RotationRow{}
	for {
		page, err := v.Rotations(ctx, query)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < query.Limit {
			return all, nil
		}
		query.Before = page[len(page)-1].ID
	}
}

func rotationState(j db.RotationRow) string {
	switch {
	case j.State == "claimed":
		return "running"
	case j.State == "queued" && j.Paused && j.RequestedBy == "":
		return "paused"
	case j.State == "queued" && j.Failures > 0:
		return "failing"
	}
	return j.State
}

// rotationDetail is the text that explains a job's state.
func rotationDetail(j db.RotationRow) string {
	switch {
	case j.State == "claimed":
		return fmt.Sprintf("by %s since %s", j.ClaimedBy, when(j.ClaimedAt))
	case j.State == "done" || j.State == "superseded":
		return fmt.Sprintf("version %d at %s", j.ToVersion, when(j.FinishedAt))
	case j.State == "failed":
		return j.LastError
	case j.Failures > 0:
		return fmt.Sprintf("again at %s: %s", at(j.RunAfter), j.LastError)
	case j.Window != "" && j.RequestedBy == "":
		return "window " + j.Window
	}
	return ""
}

func newRotationRetryCmd(a *app) *cobra.Command {
	var wait *time.Duration
	cmd := &cobra.Command{
		Use:   "retry NAME",
		Short: "Try a failed rotation again now",
		Long: `Try a rotation again now that failed for good, or that waits for its next attempt. It uses the value it made
before: the target may have it already.`,
		Example:           `  vaultctl rotation retry prod/db/app --wait`,
		Args:              secretArgs(1, "NAME"),
		ValidArgsFunction: completeNames(a, names{live: true}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRotationRetry(cmd.Context(), a, args[0], wait)
		},
	}
	registerWait(cmd, &wait)
	return cmd
}

func runRotationRetry(ctx context.Context, a *app, name string, wait *time.Duration) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	requested, err := v.RetryRotation(ctx, change, name)
	if err != nil {
		return err
	}
	return a.followRotation(ctx, v, requested, wait)
}

func newRotationPauseCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "pause NAME",
		Short: "Stop rotating a secret by itself, for a while",
		Long: `Stop rotating a secret by itself until "vaultctl rotation resume". An attempt that is under way goes on;
"vaultctl rotate" still works.`,
		Example:           `  vaultctl rotation pause prod/db/app`,
		Args:              secretArgs(1, "NAME"),
		ValidArgsFunction: completeNames(a, names{live: true}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRotationPause(cmd.Context(), a, args[0], true)
		},
	}
}

func newRotationResumeCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "resume NAME",
		Short: "Rotate a paused secret by itself again",
		Long: `Rotate a paused secret by itself again. One that became due meanwhile rotates once, at the next round of the
supervisor.`,
		Example:           `  vaultctl rotation resume prod/db/app`,
		Args:              secretArgs(1, "NAME"),
		ValidArgsFunction: completeNames(a, names{live: true}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRotationPause(cmd.Context(), a, args[0], false)
		},
	}
}

func runRotationPause(ctx context.Context, a *app, name string, pause bool) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	receipt, err := v.PauseRotation(ctx, change, name, pause)
	if err != nil {
		return err
	}
	if !pause {
		return a.printReceipt("resumed the rotation of", receipt)
	}
	receipt.NextRotationAt = nil // it does not, while paused
	return a.printReceipt("paused the rotation of", receipt)
}

func newRotationLimitCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "limit N|none",
		Short: "Cap the rotations that all workers make at once",
		Long: `Cap the rotations that the workers of all nodes make at once: 0 stops every rotation, none lifts the cap. Each
vaultd also has its own setting, rotation_workers. "vaultctl status" shows the cap.`,
		Example: `  vaultctl rotation limit 20
  vaultctl rotation limit none`,
		Args:              exactArgs("N"),
		ValidArgsFunction: cobra.FixedCompletions([]string{"none\tno cap"}, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			most, err := parseLimit(args[0])
			if err != nil {
				return err
			}
			return runRotationLimit(cmd.Context(), a, most)
		},
	}
}

func parseLimit(text string) (*int, error) {
	if text == "none" {
		return nil, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > 100_000 {
		return nil, usage("a limit is a number from 0 to 100000, or none; not %q", text)
	}
	return &n, nil
}

func runRotationLimit(ctx context.Context, a *app, most *int) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	if err := v.SetMaxRotations(ctx, change, most); err != nil {
		return err
	}
	switch {
	case a.json():
		return a.printJSON(struct {
			Max *int `json:"max_rotations"`
		}{most})
	case most == nil:
		a.note("rotations are not capped")
	case *most == 0:
		a.note("no secret rotates until the cap is lifted: vaultctl rotation limit none")
	default:
		a.note("at most %d rotations at once", *most)
	}
	return nil
}
