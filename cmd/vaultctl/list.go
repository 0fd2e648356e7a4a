package main

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

// listPage is how many names one statement returns.
const listPage = 1000

func newListCmd(a *app) *cobra.Command {
	var deleted, namesOnly bool
	cmd := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List secrets, without their values",
		Long: `List secrets, without their values: those whose names begin with PREFIX, or all that the database role may
read.

It works on a standby too.`,
		Example: `  vaultctl list
  vaultctl list prod/db/
  vaultctl list --deleted
  vaultctl list prod/ --names | wc -l
  vaultctl list -o json | jq -r '.[] | select(.kind == "automatic") | .name'`,
		Args:              rangeArgs(0, "PREFIX"),
		ValidArgsFunction: completeNames(a, names{live: true}),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := db.ListQuery{Deleted: deleted, Limit: listPage}
			if len(args) == 1 {
				query.Prefix = args[0]
			}
			if namesOnly && a.json() {
				return usage("--names and -o json exclude each other")
			}
			return runList(cmd.Context(), a, query, namesOnly)
		},
	}
	cmd.Flags().BoolVar(&deleted, "deleted", false, "those deleted that can still be restored")
	cmd.Flags().BoolVar(&namesOnly, "names", false, "only their names, one a line")
	return cmd
}

func runList(ctx context.Context, a *app, query db.ListQuery, namesOnly bool) error {
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	secrets, err := listAll(ctx, v, query)
	if err != nil {
		return err
	}
	switch {
	case a.json():
		return a.printJSON(secrets)
	case namesOnly:
		return a.printNames(secrets)
	}
	now := time.Now()
	rows := make([][]string, len(secrets))
	for i, s := range secrets {
		rows[i] = []string{s.Name, strconv.Itoa(s.CurrentVersion), s.Kind, rotates(s), when(s.NextRotationAt),
			state(s, now)}
	}
	nothing := "no secrets"
	if query.Deleted {
		nothing = "no deleted secrets"
	}
	return a.printTable([]string{"NAME", "VERSION", "KIND", "ROTATES", "NEXT ROTATION", "STATE"}, rows,
		nothing+under(query.Prefix))
}

// under says which names an answer is about; "" = all.
func under(prefix string) string {
	if prefix == "" {
		return ""
	}
	return " under " + strconv.Quote(prefix)
}

// printNames prints one name a line, for scripts. It prints nothing if there is none.
func (a *app) printNames(secrets []db.SecretRow) error {
	out := bufio.NewWriter(a.out)
	for _, s := range secrets {
		fmt.Fprintln(out, printable(s.Name))
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("writing the answer: %w", reason(err))
	}
	return nil
}

// listAll asks for page after page; never nil, so that JSON says [].
func listAll(ctx context.Context, v *vault.Vault, query db.ListQuery) ([]db.SecretRow, error) {
	all := []db.SecretRow{}
	for {
		page, err := v.List(ctx, query)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < query.Limit {
			return all, nil
		}
		query.After = page[len(page)-1].Name
	}
}

func rotates(s db.SecretRow) string {
	switch {
	case s.RotateSeconds > 0:
		return "every " + seconds(s.RotateSeconds)
	case s.Generator != "":
		return "on request"
	}
	return ""
}

// overdue is how late a rotation may be. vault.status() uses the same limit, and also counts secrets whose window was
// open that long ago.
const overdue = 5 * time.Minute

func state(s db.SecretRow, now time.Time) string {
	switch {
	case s.RestoreUntil != nil && !s.RestoreUntil.After(now):
		return "deleted for good, waiting for the purge"
	case s.RestoreUntil != nil:
		return "deleted, restorable until " + when(s.RestoreUntil)
	case s.Job != nil && s.Job.State == "failed":
		return "rotation failed"
	case s.PausedAt != nil && (s.Job == nil || s.Job.State == "queued"):
		return "rotation paused"
	case s.NextRotationAt != nil && s.Window == "" && now.Sub(*s.NextRotationAt) > overdue:
		return "rotation overdue"
	case s.Job != nil:
		return "rotating"
	}
	return "ok"
}
