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
		newRotationResumeCmd(a), newRotationLimitCmd(a), newRotationKeepCmd(a))
}

func newRotationListCmd(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List rotations under way, waiting and failed",
		Long: `List rotations under way, waiting and failed: those of secrets whose names begin with PREFIX, or all that the
database role may read. --all also lists those that have ended, as long as they are kept (vaultctl rotation keep).

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

type keepOptions struct{ jobs, versions *time.Duration }

func newRotationKeepCmd(a *app) *cobra.Command {
	var o keepOptions
	cmd := &cobra.Command{
		Use:   "keep",
		Short: "Set how long ended rotations and removed versions stay",
		Long: `Set how long the database keeps history that no read and no rotation needs: rotations that have ended (30 days
unless it was changed), which "vaultctl rotation list --all" shows, and versions that can no longer be opened (400
days after their grace ended), which "vaultctl history" shows. Both are 1 to 3650 days.

The supervisor deletes older ones in its rounds. The audit log keeps a row of each, and a version's number is never
used again for that secret. "vaultctl status -o json" shows both settings.`,
		Example: `  vaultctl rotation keep --jobs 7d
  vaultctl rotation keep --jobs 30d --versions 400d`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, args []string) error {
			keep, err := o.parse()
			if err != nil {
				return err
			}
			return runRotationKeep(cmd.Context(), a, keep)
		},
	}
	cmd.Flags().Var(durationFlag{&o.jobs}, "jobs", "rotations that have ended, e.g. 30d")
	cmd.Flags().Var(durationFlag{&o.versions}, "versions", "versions that can no longer be opened, e.g. 400d")
	return cmd
}

func (o keepOptions) parse() (keep vault.Retention, err error) {
	if o.jobs == nil && o.versions == nil {
		return keep, usage("name what to keep: --jobs, --versions or both")
	}
	if keep.JobDays, err = wholeDays("--jobs", o.jobs); err != nil {
		return keep, err
	}
	keep.VersionDays, err = wholeDays("--versions", o.versions)
	return keep, err
}

// wholeDays is 0 for a flag that was not given.
func wholeDays(flag string, d *time.Duration) (int, error) {
	const day = 24 * time.Hour
	switch {
	case d == nil:
		return 0, nil
	case *d < day || *d > 3650*day || *d%day != 0:
		return 0, usage("%s is 1d to 3650d, in whole days", flag)
	}
	return int(*d / day), nil
}

func runRotationKeep(ctx context.Context, a *app, keep vault.Retention) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	if keep, err = v.SetRetention(ctx, change, keep); err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(keep)
	}
	a.note("ended rotations are kept for %d days, removed versions for %d", keep.JobDays, keep.VersionDays)
	return nil
}
