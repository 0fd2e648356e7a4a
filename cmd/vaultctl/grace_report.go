package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/rotation"
)

type graceReportOptions struct {
	name  string // "" = all
	exact bool
	quiet time.Duration
}

func newGraceReportCmd(a *app) *cobra.Command {
	var o graceReportOptions
	quiet := "24h"
	cmd := &cobra.Command{
		Use:   "report [NAME | PREFIX/]",
		Short: "Show who still presents a superseded version, and whether its grace may end",
		Long: `Show who still reads or verifies with a superseded version while its grace lasts, by the audit log: the app, or
the address of a client without a credential, how often, when last. A grace may end when no client has presented the
version for --quiet-for.

Reads on other nodes count once they have been shipped; reads on a node that cannot reach the primary are missing. NAME
is one secret, PREFIX/ ends with a slash, and without either all are shown.`,
		Example: `  vaultctl grace report prod/db/password
  vaultctl grace report prod/ --quiet-for 7d
  vaultctl grace report -o json`,
		Args:              rangeArgs(0, "NAME | PREFIX/"),
		ValidArgsFunction: completeNames(a, names{live: true}),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.parse(args, quiet); err != nil {
				return err
			}
			return runGraceReport(cmd.Context(), a, o)
		},
	}
	cmd.Flags().StringVar(&quiet, "quiet-for", quiet, "`duration` without a use after which a grace may end")
	return cmd
}

func (o *graceReportOptions) parse(args []string, quiet string) error {
	var err error
	if o.quiet, err = rotation.ParseInterval(quiet); err != nil {
		return usage("--quiet-for: %s", err)
	}
	if len(args) == 0 {
		return nil
	}
	o.name, o.exact = args[0], args[0] == "" || args[0][len(args[0])-1] != '/'
	if o.exact {
		return envelope.CheckName(o.name)
	}
	return envelope.CheckName(o.name[:len(o.name)-1])
}

// graceJSON is one version in grace.
type graceJSON struct {
	Secret    string         `json:"secret"`
	Version   int            `json:"version"`
	ExpiresAt time.Time      `json:"expires_at"`
	MayEnd    bool           `json:"may_end"` // no client has presented it for --quiet-for
	Presented []graceUseJSON `json:"presented_by"`
}

type graceUseJSON struct {
	Actor   string     `json:"actor"`
	Client  string     `json:"client,omitempty"`
	Times   int64      `json:"times"`
	FirstAt *time.Time `json:"first_at"`
	LastAt  *time.Time `json:"last_at"`
}

func runGraceReport(ctx context.Context, a *app, o graceReportOptions) error {
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	if o.exact {
		if _, err := v.Describe(ctx, o.name); err != nil {
			return about(o.name, err)
		}
	}
	// The report shows every use in the grace; whether it may end depends on the time of --quiet-for alone.
	uses, err := v.GraceReport(ctx, o.name, o.exact, time.Time{})
	if err != nil {
		return err
	}
	report := graceReport(uses, time.Now().Add(-o.quiet))
	if a.json() {
		return a.printJSON(report)
	}
	return a.printGrace(report)
}

// graceReport gathers the uses of each version; they come in the order of name and version.
func graceReport(uses []db.GraceUse, since time.Time) []graceJSON {
	report := []graceJSON{}
	for _, u := range uses {
		if n := len(report); n == 0 || report[n-1].Secret != u.Secret || report[n-1].Version != u.Version {
			report = append(report, graceJSON{Secret: u.Secret, Version: u.Version, ExpiresAt: u.ExpiresAt, MayEnd: true,
				Presented: []graceUseJSON{}})
		}
		g := &report[len(report)-1]
		if u.LastAt == nil {
			continue
		}
		g.Presented = append(g.Presented, graceUseJSON{u.Actor, u.Client, u.Presented, u.FirstAt, u.LastAt})
		g.MayEnd = g.MayEnd && u.LastAt.Before(since)
	}
	return report
}

func (a *app) printGrace(report []graceJSON) error {
	var rows [][]string
	for _, g := range report {
		end := "in use"
		if g.MayEnd {
			end = "may end"
		}
		row := []string{g.Secret, strconv.Itoa(g.Version), when(&g.ExpiresAt), end}
		if len(g.Presented) == 0 {
			rows = append(rows, append(row, "no client", "", ""))
		}
		for _, u := range g.Presented {
			rows = append(rows, append(row[:4:4], u.Actor, fmt.Sprint(u.Times), when(u.LastAt)))
		}
	}
	return a.printTable([]string{"NAME", "VERSION", "GRACE UNTIL", "GRACE", "PRESENTED BY", "TIMES", "LAST"}, rows,
		"no version is in grace")
}
