package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/vault"
)

func newStatusCmd(a *app) *cobra.Command {
	var every *time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the state of the vault on the node that answers",
		Long: `Show the state of the vault on the node that answers. It exits with 7, and says why on standard error, when
rotations failed, are overdue or are stopped (rotation limit 0), when the supervisor, a worker or the sealer fails at
something, when writes wait for a standby that is not connected, or when a standby is more than 30 seconds behind by
the heartbeat of the primary. It warns if an acknowledged write could be lost, and of credentials of apps that expire
within 14 days.

It lists the daemons that the primary has heard of within a day, each with its release and the schema version that it
was made for: after an upgrade, those that are left to restart.`,
		Example: `  vaultctl status
  vaultctl status --watch
  PGHOST=db2 vaultctl status -o json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case every == nil:
				return runStatus(cmd.Context(), a)
			case *every < time.Second:
				return usage("--watch takes at least 1s")
			}
			return watch(cmd.Context(), a, *every, runStatus)
		},
	}
	cmd.Flags().Var(durationFlag{&every}, "watch",
		"show it again every 2s, or every `DURATION` written --watch=10s, until Ctrl-C")
	cmd.Flags().Lookup("watch").NoOptDefVal = "2s"
	return cmd
}

// watch runs a command again and again until it is interrupted. An answer that needs attention, or a node that is away,
// is shown and does not end it; another error does. On a terminal each answer replaces the one before. The first line
// says when the node was asked, so an old answer of one that hangs is not taken for a new one.
func watch(ctx context.Context, a *app, every time.Duration, run func(context.Context, *app) error) error {
	terminal := term.IsTerminal(int(a.out.Fd()))
	again := time.NewTicker(every)
	defer again.Stop()
	for {
		if terminal {
			fmt.Fprint(a.out, "\x1b[H\x1b[2J")
		}
		if !a.json() {
			fmt.Fprintf(a.out, "at %s, every %s; Ctrl-C ends\n\n", at(time.Now()), rotation.FormatInterval(every))
		}
		err := run(ctx, a)
		if ctx.Err() != nil {
			return nil // Ctrl-C is how it ends
		}
		if err != nil {
			if code, _ := a.verdict(err); code != exitAttention && code != exitUnavailable {
				return err
			}
			a.report(ctx, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
		if !terminal && !a.json() {
			fmt.Fprintln(a.out)
		}
	}
}

func runStatus(ctx context.Context, a *app) error {
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	s, err := v.Status(ctx)
	if err != nil {
		return err
	}
	var failures []db.RoundFailure
	if s.RoundFailures > 0 {
		if failures, err = v.RoundFailures(ctx); err != nil {
			return err
		}
	}
	daemons, err := v.Daemons(ctx)
	if err != nil {
		return err
	}
	if a.json() {
		err = a.printJSON(statusAnswer{s, daemons})
	} else {
		err = a.printStatus(s, failures, daemons)
	}
	if err != nil {
		return err
	}
	for _, w := range durabilityWarnings(s) {
		a.note("warning: %s", w)
	}
	if sealingIsLate(s) {
		if lag, err := auditdb.New(a.reader, a.writer).SealingLag(ctx); err == nil && lag != nil {
			a.note("warning: %s", printable(sealingProblem(*lag)))
		}
	}
	for _, problem := range lockProblems(s) {
		a.note("warning: %s", problem)
	}
	// A role that may not read apps sees the rest of the status.
	if expiring, err := v.ExpiringCredentials(ctx, expiresSoon); err == nil {
		a.warnExpiring(expiring)
	}
	return statusProblem(s, failures, failedRotations(ctx, v, s))
}

// statusAnswer is the answer in JSON.
type statusAnswer struct {
	db.Status
	Daemons []db.Daemon `json:"daemons"`
}

func (a *app) printStatus(s db.Status, failures []db.RoundFailure, daemons []db.Daemon) error {
	err := a.printFields(
		"node", nodeLine(s),
		"cluster", s.ClusterID,
		"schema", fmt.Sprintf("version %d", s.SchemaVersion),
		"standbys", standbys(s),
		"behind", behind(s),
		"durability", durabilityLine(s),
		"replayed until", when(s.ReplayedUntil),
		"secrets", counts(s.Secrets, "", s.LiveVersions, "live versions", s.Deleted, "deleted"),
		"admin tokens", strconv.FormatInt(s.Tokens, 10),
		"refused", refusals(s),
		"rotations", counts(s.RotationsQueued, "queued", s.RotationsClaimed, "running", s.RotationsOverdue, "overdue",
			s.RotationsFailed, "failed", s.RotationsPaused, "paused")+limit(s.MaxRotations),
		"next rotation", when(s.NextRotationAt),
		"sealing", sealingLine(s, failures),
		"rounds", roundsLine(s))
	if err != nil || len(daemons) == 0 {
		return err
	}
	rows := make([][]string, len(daemons))
	for i, d := range daemons {
		rows[i] = []string{d.Node, d.Version, strconv.Itoa(d.Schema), at(d.Since), at(d.SeenAt)}
	}
	fmt.Fprintln(a.out)
	return a.printTable([]string{"DAEMON", "VERSION", "SCHEMA", "SINCE", "LAST SEEN"}, rows, "")
}

func nodeLine(s db.Status) string {
	line := s.Role + ", PostgreSQL " + s.ServerVersion
	if s.Node != "" {
		line = s.Node + ", " + line
	}
	return line
}

func standbys(s db.Status) string {
	if s.Standbys == nil {
		return ""
	}
	line := strconv.Itoa(*s.Standbys) + " connected"
	if s.SyncNames != nil && *s.SyncNames != "" {
		line += ", synchronous: " + *s.SyncNames
	}
	return line
}

// behind describes the replication lag of a standby.
func behind(s db.Status) string {
	switch {
	case s.Role == "primary":
		return ""
	case s.LagSeconds == nil:
		return "unknown: no heartbeat of the primary was replayed; is vaultd running beside it?"
	case *s.LagSeconds < 10:
		return fmt.Sprintf("%.1f s, by the heartbeat of the primary", *s.LagSeconds)
	}
	return seconds(int64(*s.LagSeconds)) + ", by the heartbeat of the primary"
}

// refusals is "" if nothing was refused.
func refusals(s db.Status) string {
	if s.WrongProofs == 0 && s.RefusedLastHour == 0 {
		return ""
	}
	wrong := plural(int(s.WrongProofs), "wrong admin token", "wrong admin tokens")
	return fmt.Sprintf("%d in the last hour; %s ever", s.RefusedLastHour, wrong)
}

// counts joins pairs of a number and its noun. It leaves out zeros after the first pair.
func counts(pairs ...any) string {
	var parts []string
	for i := 0; i < len(pairs); i += 2 {
		if n := pairs[i].(int64); n > 0 || i == 0 {
			parts = append(parts, strings.TrimSpace(fmt.Sprintf("%d %s", n, pairs[i+1])))
		}
	}
	return strings.Join(parts, ", ")
}

func limit(most *int) string {
	if most == nil {
		return ""
	}
	return fmt.Sprintf("; at most %d at once", *most)
}

func roundsLine(s db.Status) string {
	if s.RoundFailures == 0 {
		return ""
	}
	return fmt.Sprintf("%d failing", s.RoundFailures)
}

// statusProblem is an error if an operator should act. Its hint is that of the first problem.
func statusProblem(s db.Status, failures []db.RoundFailure, failed []db.RotationRow) error {
	if problem := durabilityProblem(s); problem != "" {
		return hint(attention("%s", problem),
			"vaultctl doctor; start the standby, or take it out of synchronous_standby_names")
	}
	var problems, hints []string
	add := func(help, format string, args ...any) {
		problems, hints = append(problems, fmt.Sprintf(format, args...)), append(hints, help)
	}
	if s.LagSeconds != nil && *s.LagSeconds > replayLate.Seconds() {
		add("vaultctl doctor; does this node stream from the primary, and does vaultd run beside it?",
			"behind: the last heartbeat of the primary that this node has is %s old", seconds(int64(*s.LagSeconds)))
	}
	if text, help := rotationProblem(s, failed); text != "" {
		add(help, "rotations: %s", text)
	}
	if s.RoundFailures > 0 {
		add(roundHelp(failures), "rounds: %s", printable(roundProblems(failures, s.RoundFailures)))
	}
	if problems == nil {
		return nil
	}
	return hint(attention("%s", strings.Join(problems, "; ")), "%s", hints[0])
}

// rotationProblem is "" if rotations go on.
func rotationProblem(s db.Status, failed []db.RotationRow) (text, help string) {
	var wrong []string
	switch {
	case s.RotationsFailed > 0:
		help = "vaultctl rotation list shows which and why; vaultctl rotation retry NAME tries again"
	case s.RotationsOverdue > 0:
		help = "vaultctl list shows which; is vaultd running beside the primary?"
	}
	if s.MaxRotations != nil && *s.MaxRotations == 0 {
		wrong, help = append(wrong, "all are stopped (vaultctl rotation limit 0)"), "vaultctl rotation limit none"
	}
	if s.RotationsFailed > 0 {
		wrong = append(wrong, fmt.Sprintf("%d failed", s.RotationsFailed)+failedNames(failed, s.RotationsFailed))
	}
	if s.RotationsOverdue > 0 {
		wrong = append(wrong, fmt.Sprintf("%d overdue", s.RotationsOverdue))
	}
	return strings.Join(wrong, ", "), help
}

// namedRotations is how many failed rotations status names; rotation list has all.
const namedRotations = 3

// failedNames names failed rotations that this role may see, and why they failed.
func failedNames(failed []db.RotationRow, all int64) string {
	if len(failed) == 0 {
		return ""
	}
	var parts []string
	for _, j := range failed[:min(len(failed), namedRotations)] {
		parts = append(parts, fmt.Sprintf("%q: %s", j.Name, j.LastError))
	}
	if more := all - int64(len(parts)); more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	return " (" + printable(strings.Join(parts, "; ")) + ")"
}

// failedRotations are the newest failed rotations that this role may see; none if it may not list them.
func failedRotations(ctx context.Context, v *vault.Vault, s db.Status) []db.RotationRow {
	if s.RotationsFailed == 0 {
		return nil
	}
	jobs, err := v.Rotations(ctx, db.RotationQuery{Failed: true, Limit: namedRotations})
	if err != nil {
		return nil
	}
	return jobs
}
