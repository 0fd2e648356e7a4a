package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

func newDoctorCmd(a *app) *cobra.Command {
	var drill drillOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong, or soon will be",
		Long: `Look for what is wrong, or soon will be: connections, schema, KMS key, admin token, durability, replication,
rotations and the files of this machine. It changes nothing and shows no value.

Each check is ok, a warning or a problem, with a command that helps. It exits with 7 when there are problems. A check
that does not apply, such as one of the primary when there is none, is left out. A check that fails is a problem.

--restore is a drill instead: can the secrets of this node be opened? The node is a standby, a spare that was restored
to a point in time (paused or promoted), or a restored dump. It takes the KMS key and a database role; no primary, no
admin token. For each KMS key that wrapped versions it opens the newest of them, then --sample versions at random or
--all, and verifies the audit log against its seals. It names what cannot be opened, and why. It prints no value, so its
reads have no audit row; it writes nothing into the database, and does not remember the node as a primary.

A role with prefixes opens the versions under them. Values of rotations under way are not opened.`,
		Example: `  vaultctl doctor
  PGHOST=db2 vaultctl doctor -o json
  PGHOST=db2 vaultctl doctor --restore
  vaultctl doctor --restore --all --kms-key local:///safe/kek --audit-key ed25519:q3Kx...`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := drill.check(cmd); err != nil {
				return err
			}
			if drill.restore {
				return runDrill(cmd.Context(), a, drill)
			}
			return runDoctor(cmd.Context(), a)
		},
	}
	drill.register(cmd)
	return cmd
}

const (
	resultOK      = "ok"
	resultWarning = "warning"
	resultProblem = "problem"
)

// finding is the result of one check. The zero value leaves it out.
type finding struct {
	Check  string `json:"check"`
	Result string `json:"result"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
}

func fine(format string, args ...any) finding {
	return finding{Result: resultOK, Detail: fmt.Sprintf(format, args...)}
}

func warning(hint, format string, args ...any) finding {
	return finding{Result: resultWarning, Detail: fmt.Sprintf(format, args...), Hint: hint}
}

func problem(hint, format string, args ...any) finding {
	return finding{Result: resultProblem, Detail: fmt.Sprintf(format, args...), Hint: hint}
}

// failure turns an error into a problem, with the hint the command line would give.
func (a *app) failure(err error) finding {
	_, help := a.verdict(err)
	return problem(help, "%s", messageOf(err))
}

// probe holds what the checks look at. A part that could not be read is nil.
type probe struct {
	a          *app
	v          *vault.Vault
	node       *db.Examination
	nodeErr    error
	primary    *db.Examination
	primaryErr error
	status     *db.Status // of the primary, else of the node
	statusErr  error
}

// alreadyReported reports whether another check reports the cause of err.
func (p *probe) alreadyReported(err error) bool {
	switch {
	case p.node == nil && p.primary == nil, errors.Is(err, vault.ErrFenced), errors.Is(err, context.Canceled):
		return true
	case errors.Is(err, vault.ErrSchema), errors.Is(err, vault.ErrNotInitialised):
		return p.node == nil || p.node.Schema.Have != p.node.Schema.Want || !p.node.Schema.FunctionsCurrent
	}
	return false
}

// notChecked is the problem that err prevented a check; nothing if another check reports err.
func (p *probe) notChecked(err error) finding {
	if err == nil || p.alreadyReported(err) {
		return finding{}
	}
	f := p.a.failure(err)
	f.Detail = "it cannot be checked: " + f.Detail
	return f
}

// noStatus is the result of the checks that need the status when there is none.
func (p *probe) noStatus() finding { return p.notChecked(p.statusErr) }

func (a *app) examine(ctx context.Context) (*probe, error) {
	v, err := a.vault(ctx)
	if err != nil {
		return nil, err
	}
	p := &probe{a: a, v: v}
	options := db.Options{URL: a.databaseURL, ApplicationName: applicationName, Fence: a.fence}
	examine := func(primary bool) (*db.Examination, error) {
		e, err := db.Examine(ctx, options, primary)
		if err != nil {
			return nil, err
		}
		return &e, nil
	}
	p.node, p.nodeErr = examine(false)
	p.primary, p.primaryErr = examine(true)
	for _, from := range []struct {
		e   *db.Examination
		ask func(context.Context) (db.Status, error)
	}{{p.primary, v.PrimaryStatus}, {p.node, v.Status}} {
		if from.e == nil || p.status != nil {
			continue // a frozen node would take another timeout
		}
		s, err := from.ask(ctx)
		if p.statusErr = err; err == nil {
			p.status = &s
		}
	}
	return p, ctx.Err()
}

// diagnosis is the answer in JSON.
type diagnosis struct {
	Checks   []finding `json:"checks"`
	Warnings int       `json:"warnings"`
	Problems int       `json:"problems"`
	Restore  *drilling `json:"restore,omitempty"` // of --restore
}

// add counts findings; one without a result is left out.
func (d *diagnosis) add(findings ...finding) {
	for _, f := range findings {
		switch f.Result {
		case "":
			continue
		case resultWarning:
			d.Warnings++
		case resultProblem:
			d.Problems++
		}
		d.Checks = append(d.Checks, f)
	}
}

func runDoctor(ctx context.Context, a *app) error {
	p, err := a.examine(ctx)
	if err != nil {
		return err
	}
	d := diagnosis{Checks: []finding{}}
	for _, c := range checks() {
		f := c.run(ctx, p)
		f.Check = c.name
		d.add(f)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return a.printDiagnosed(d)
}

// printDiagnosed prints the answer. Its error says how many problems there are.
func (a *app) printDiagnosed(d diagnosis) (err error) {
	if a.json() {
		err = a.printJSON(d)
	} else {
		err = a.printDiagnosis(d)
	}
	if err == nil && d.Problems > 0 {
		err = attention("%s", plural(d.Problems, "problem", "problems"))
	}
	return err
}

func (a *app) printDiagnosis(d diagnosis) error {
	var b strings.Builder
	for _, f := range d.Checks {
		fmt.Fprintf(&b, "%-8s %-13s %s\n", f.Result, f.Check, printable(f.Detail))
		if f.Hint != "" {
			fmt.Fprintf(&b, "%-22s hint: %s\n", "", printable(f.Hint))
		}
	}
	if _, err := fmt.Fprint(a.out, b.String()); err != nil {
		return fmt.Errorf("writing the answer: %w", reason(err))
	}
	return nil
}

type check struct {
	name string
	run  func(ctx context.Context, p *probe) finding
}

// checks lists the checks, each after those it builds on.
func checks() []check {
	return []check{
		{"node", checkNode},
		{"primary", checkPrimary},
		{"state file", checkStateFile}, // before checkFence, which writes the file with its own mode
		{"fence", checkFence},
		{"schema", checkSchema},
		{"server", checkServer},
		{"node name", checkNodeName},
		{"tls", checkTLS},
		{"pooler", checkPooler},
		{"clock", checkClock},
		{"role", checkRole},
		{"roles", checkRoles},
		{"kms key", checkKey},
		{"newest value", checkNewest},
		{"admin token", checkToken},
		{"durability", checkDurability},
		{"standbys", checkStandbys},
		{"replay", checkReplay},
		{"heartbeat", checkHeartbeat},
		{"sealing", checkSealing},
		{"locks", checkLocks},
		{"rotations", checkRotations},
		{"rounds", checkRounds},
		{"apps", checkApps},
		{"deleted", checkDeleted},
	}
}
