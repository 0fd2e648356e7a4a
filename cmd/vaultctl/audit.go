package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/vault"
)

const filterHelp = `FILTER is words that must all hold:

  actor:ci-deploy action:read secret:prod/* ip:10.0.0.0/8 outcome:denied since:-2h

and request:, node:, version: and until:. Of several words with the same key one must match; "-" before a word negates
it (the first word then comes after "--"); "*" at the end stands for anything. A word alone is the beginning of a
secret's name. Times are -2h, -7d, 2026-11-25, 2026-11-25T10:00, 10:00, today, yesterday or monday, in the local zone.`

func newAuditCmd(a *app) *cobra.Command {
	var theme string
	cmd := &cobra.Command{
		Use:   "audit [FILTER]",
		Short: "Browse the audit log",
		Long: `Browse the audit log: who read and changed what, and who was refused. On a terminal it opens a browser ("?"
shows its keys); elsewhere, audit list and audit export print events. A terminal that cannot move its cursor
(TERM=dumb) gets the output of audit list.

The browser asks the terminal for its background colour without waiting for the answer. With --theme, VAULTCTL_THEME or
COLORFGBG it does not ask.

It takes a database role that was granted it (grant --as auditor), and works on a standby too.

` + filterHelp,
		Example: `  vaultctl audit
  vaultctl audit prod/db/password since:friday
  vaultctl audit outcome:denied since:-7d`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && !strings.ContainsAny(args[0], ":/*") && nearest(cmd.Commands(), args[0]) != "" {
				return knownCommand(cmd, args) // "vaultctl audit lst" is a typing error, not a filter
			}
			_, err := parseFilter(args)
			return err
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !term.IsTerminal(int(a.in.Fd())) || !term.IsTerminal(int(a.out.Fd())) {
				if len(args) > 0 {
					return hint(usage("the browser takes a terminal"), "vaultctl audit list %s", strings.Join(args, " "))
				}
				return cmd.Help()
			}
			if isDumb(os.Getenv("TERM")) {
				return runAuditList(cmd.Context(), a, args, listedAtFirst)
			}
			return runAudit(cmd.Context(), a, strings.Join(args, " "), theme)
		},
	}
	cmd.Flags().StringVar(&theme, "theme", cmp.Or(os.Getenv("VAULTCTL_THEME"), "auto"),
		"`colours` of the browser: auto, dark, light or none (env VAULTCTL_THEME; NO_COLOR=1 is none)")
	cmd.Flags().Lookup("theme").DefValue = "auto"
	_ = cmd.RegisterFlagCompletionFunc("theme", cobra.FixedCompletions([]string{"auto", "dark", "light", "none"},
		cobra.ShellCompDirectiveNoFileComp))
	cmd.ValidArgsFunction = completeFilter(a)
	cmd.AddCommand(newAuditListCmd(a), newAuditTailCmd(a), newAuditExportCmd(a), newAuditVerifyCmd(a),
		newAuditArchiveCmd(a), newAuditPruneCmd(a))
	for _, c := range append(cmd.Commands(), cmd) {
		c.SetFlagErrorFunc(negatedFirst)
	}
	return cmd
}

// isDumb reports whether a terminal cannot move its cursor: it would show the browser's escape sequences as text.
func isDumb(term string) bool { return term == "" || term == "dumb" || term == "unknown" }

func takesFilter(cmd *cobra.Command) bool { return strings.HasSuffix(cmd.Use, " [FILTER]") }

// negatedFirst explains that "-action:read" was taken for flags, or "-node:a" for -n with a value.
func negatedFirst(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if takesFilter(cmd) && strings.HasPrefix(err.Error(), "unknown shorthand flag") ||
		errors.As(err, &invalid) && wasFilter(cmd, invalid.GetFlag().Shorthand, invalid.GetValue()) {
		return filterHint(cmd, usage("%s", flagError(err)))
	}
	return cmd.Root().FlagErrorFunc()(cmd, err)
}

// wasFilter reports whether the value of a flag of one letter is probably the rest of a negated filter.
func wasFilter(cmd *cobra.Command, letter, value string) bool {
	return takesFilter(cmd) && letter != "" && strings.ContainsAny(value, ":/*")
}

func filterHint(cmd *cobra.Command, err error) error {
	return hint(err, `%s -- -KEY:VALUE: a filter that begins with "-" comes after "--"`, cmd.CommandPath())
}

// parseFilter reads the words of a command line, as one line.
func parseFilter(args []string) (filter.Filter, error) {
	line := strings.Join(args, " ")
	f, err := filter.Parse(line, time.Now())
	var wrong *filter.Error
	if errors.As(err, &wrong) {
		return f, &pointedError{usage("%s", wrong), line, wrong.Column}
	}
	return f, err
}

// pointedError shows the input under the message, and a caret at the place.
type pointedError struct {
	error
	input  string
	column int // in characters
}

func (p *pointedError) Unwrap() error { return p.error }

func (p *pointedError) pointer() string {
	before := printable(string([]rune(p.input)[:min(p.column, len([]rune(p.input)))]))
	return fmt.Sprintf("  %s\n  %s^\n", printable(p.input), strings.Repeat(" ", lipgloss.Width(before)))
}

// valuesCompleted is the highest number of values of one completion.
const valuesCompleted = 50

// completeFilter completes the word at the cursor.
func completeFilter(a *app) completer {
	return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		c := filter.Complete(typed)
		words := c.Words
		if c.Asks() {
			ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
			defer cancel()
			log, err := a.log(ctx)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			values, err := log.Values(ctx, c.Key, c.Typed, valuesCompleted)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			words = c.Of(values)
		}
		found := make([]string, len(words))
		for i, w := range words {
			found[i] = c.Keep + w
		}
		if c.Key == "" {
			return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

func newAuditListCmd(a *app) *cobra.Command {
	var limit int
	var archive string
	cmd := &cobra.Command{
		Use:   "list [FILTER]",
		Short: "List recorded events, newest first",
		Long: `List recorded events, newest first.

ACTOR is the proven actor: token:NAME, worker:ID, client:ADDRESS, supervisor or owner:ROLE; role:ROLE is only the
database role of a session. NODE is the cluster_name of the node that answered or made the change. FROM is the database
role and the address the request came from, "local" for a socket. If that role forwarded a request (a change through
vaultd), "via" in DETAIL is where the role itself connected from. Where a read stands in its node's spool (boot, seq) is
in -o json.

With --archive the reads come from an archive of vaultd (audit_archive), without a database: as the nodes wrote them,
and unproven unless audit verify --archive finds them in order.

` + filterHelp,
		Example: `  vaultctl audit list
  vaultctl audit list prod/db/password --limit 20
  vaultctl audit list action:put action:rotate since:-2h -o jsonl
  vaultctl audit list --archive /var/lib/vaultd/archive prod/ since:2026-10-01 until:2026-10-31`,
		Args:              filterArgs,
		ValidArgsFunction: completeFilter(a),
		Annotations:       map[string]string{streamsKey: "jsonl"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usage("--limit is at least 1")
			}
			if cmd.Flags().Changed("archive") {
				return runArchiveList(cmd.Context(), a, archive, args, limit)
			}
			return runAuditList(cmd.Context(), a, args, limit)
		},
	}
	cmd.Flags().IntVarP(&limit, "limit", "n", listedAtFirst, "at most `N` events")
	cmd.Flags().StringVar(&archive, "archive", "", "reads in this `place`: a folder or s3://... (audit_archive of vaultd)")
	return cmd
}

func filterArgs(_ *cobra.Command, args []string) error {
	_, err := parseFilter(args)
	return err
}

// listedAtFirst is how many events are listed without --limit.
const listedAtFirst = 100

// listAtOnce is how many events one statement returns.
const listAtOnce = 1000

func runAuditList(ctx context.Context, a *app, args []string, limit int) error {
	f, err := parseFilter(args)
	if err != nil {
		return err
	}
	log, err := a.log(ctx)
	if err != nil {
		return err
	}
	events, err := listEvents(ctx, log, f, limit)
	if err != nil {
		return asAuditor(err)
	}
	switch {
	case a.json():
		return a.printJSON(events)
	case a.jsonl():
		return printLines(a, events)
	}
	rows := make([][]string, len(events))
	for i, e := range events {
		rows[i] = []string{at(e.At), e.Actor, e.Action, e.Secret, versionOf(e), string(e.Outcome), e.Node, from(e),
			detail(e)}
	}
	return a.printEvents(f, rows)
}

// printEvents writes the table of the events of a filter.
func (a *app) printEvents(f filter.Filter, rows [][]string) error {
	a.noteUnknownActions(f, len(rows))
	return a.printTable([]string{"TIME", "ACTOR", "ACTION", "SECRET", "VERSION", "OUTCOME", "NODE", "FROM", "DETAIL"},
		rows, "no events")
}

// noteUnknownActions names actions of the filter that this version does not know, if it has found no events. They are
// no error: another version's events may have them.
func (a *app) noteUnknownActions(f filter.Filter, events int) {
	if events > 0 {
		return
	}
	for _, t := range f.Terms {
		if t.Key == filter.Action && !t.Prefix && !slices.Contains(filter.Actions(), t.Text) {
			a.note("no action is called %q; known are %s", t.Text, strings.Join(filter.Actions(), ", "))
		}
	}
}

// listEvents returns at most limit events; never nil, so that JSON says [].
func listEvents(ctx context.Context, log *auditdb.Log, f filter.Filter, limit int) ([]audit.Row, error) {
	events := []audit.Row{}
	q := audit.Query{Filter: f}
	for {
		q.Limit = min(listAtOnce, limit-len(events))
		page, err := log.Events(ctx, q)
		if err != nil {
			return nil, err
		}
		events = append(events, page.Rows...)
		if q.From = page.Next; page.Next == nil || len(events) == limit {
			return events, nil
		}
	}
}

// asAuditor adds the grant that a refused role needs.
func asAuditor(err error) error {
	if errors.Is(err, vault.ErrRefused) {
		return hint(err, "vaultctl grant ROLE --as auditor, by an operator with an admin token")
	}
	return err
}

func versionOf(e audit.Row) string {
	if e.Version == 0 {
		return ""
	}
	return strconv.Itoa(e.Version)
}

func from(e audit.Row) string {
	if e.Client == "" {
		return e.DBRole + "@local"
	}
	return e.DBRole + "@" + e.Client
}

// detail flattens the JSON of an event to key=value, in the order of the keys, without the place in its node's spool.
func detail(e audit.Row) string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(e.Detail, &fields) != nil {
		return string(e.Detail)
	}
	parts := make([]string, 0, len(fields))
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if e.IsPlace(key) {
			continue
		}
		text := string(fields[key])
		var plain string
		if json.Unmarshal(fields[key], &plain) == nil {
			text = plain
		}
		if strings.ContainsAny(text, " \"") {
			text = strconv.Quote(text)
		}
		parts = append(parts, key+"="+text)
	}
	return strings.Join(parts, " ")
}
