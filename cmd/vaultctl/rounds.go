package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hyperiondb/vault/internal/db"
)

// unsupervisedProblem is longer than the longest interval between rounds that can be configured.
const unsupervisedProblem = 2 * time.Hour

// namedFailures is how many failures one line shows; vault.round_failures has all.
const namedFailures = 10

// roundProblems lists the failures of rounds that this role may see.
func roundProblems(failures []db.RoundFailure, all int64) string {
	var parts []string
	for _, f := range failures[:min(len(failures), namedFailures)] {
		what := f.Part
		switch {
		case f.Part == "window" && f.Subject != "":
			what = fmt.Sprintf("%q waits", f.Subject)
		case f.Subject != "":
			what = fmt.Sprintf("%s of %q", f.Part, f.Subject)
		}
		parts = append(parts, fmt.Sprintf("%s: %s", what, f.Error))
	}
	if hidden := all - int64(len(parts)); hidden > 0 {
		parts = append(parts, fmt.Sprintf("%d that are not shown to this role, or work again by now", hidden))
	}
	return strings.Join(parts, "; ")
}

const (
	roundsHelp = "SELECT * FROM vault.round_failures; the log of vaultd on the primary"
	windowHelp = `vaultctl update NAME --window "HH:MM-HH:MM ZONE", or install the time zone on the server`
)

func roundHelp(failures []db.RoundFailure) string {
	for _, f := range failures {
		if f.Part != "window" {
			return roundsHelp
		}
	}
	return windowHelp
}

// roundFailures are the failures of the node that p.status describes.
func (p *probe) roundFailures(ctx context.Context) ([]db.RoundFailure, error) {
	switch {
	case p.status.RoundFailures == 0:
		return nil, nil
	case p.primary != nil:
		return p.v.PrimaryRoundFailures(ctx)
	}
	return p.v.RoundFailures(ctx)
}

func checkRounds(ctx context.Context, p *probe) finding {
	if p.status == nil {
		return p.noStatus()
	}
	if late := p.status.Unsupervised; late != nil && *late > unsupervisedProblem.Seconds() {
		return problem("the log of vaultd on the primary",
			"the primary has a heartbeat, and no round of a supervisor has ended for %s", seconds(int64(*late)))
	}
	if p.status.RoundFailures == 0 {
		return fine("supervisor, workers and sealer do what they find")
	}
	failures, err := p.roundFailures(ctx)
	if err != nil {
		return p.notChecked(err)
	}
	return problem(roundHelp(failures), "%s", roundProblems(failures, p.status.RoundFailures))
}
