package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/vault"
)

const followEvery = time.Second

func newAuditTailCmd(a *app) *cobra.Command {
	var o tailOptions
	cmd := &cobra.Command{
		Use:   "tail [FILTER]",
		Short: "Print the newest events, oldest first, and go on with those to come",
		Long: `Print the newest events, oldest first, and with --follow go on with those to come. Reads of other nodes
appear when they are shipped: each event once, in the order of arrival. While the database is away the command waits.

` + filterHelp,
		Example: `  vaultctl audit tail
  vaultctl audit tail -f outcome:denied
  vaultctl audit tail -f -n 0 -o jsonl | siem-agent`,
		Args:              filterArgs,
		ValidArgsFunction: completeFilter(a),
		Annotations:       map[string]string{streamsKey: "jsonl"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.lines < 0:
				return usage("--lines is at least 0")
			case o.follow && a.json():
				return hint(usage("-o json has an end, and --follow has none"), "-o jsonl")
			}
			o.filter = args
			return asAuditor(runAuditTail(cmd.Context(), a, o))
		},
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with events to come, until Ctrl-C")
	cmd.Flags().IntVarP(&o.lines, "lines", "n", 20, "begin with the newest `N` events")
	return cmd
}

type tailOptions struct {
	filter []string
	follow bool
	lines  int
}

// runAuditTail begins to follow before it queries the newest events. An event recorded in between is in both answers
// and printed once.
func runAuditTail(ctx context.Context, a *app, o tailOptions) error {
	f, err := parseFilter(o.filter)
	if err != nil {
		return err
	}
	log, err := a.log(ctx)
	if err != nil {
		return err
	}
	var follower *auditdb.Follower
	if o.follow {
		if follower, err = log.Follow(ctx, f); err != nil {
			return err
		}
	}
	events := []audit.Row{}
	if o.lines > 0 {
		if events, err = listEvents(ctx, log, f, o.lines); err != nil {
			return err
		}
	}
	slices.Reverse(events)
	if a.json() {
		return a.printJSON(events)
	}
	if !a.jsonl() {
		a.noteUnknownActions(f, len(events))
	}
	if err := a.printTail(events); err != nil || !o.follow {
		return err
	}
	seen := map[audit.Cursor]bool{}
	for _, e := range events {
		seen[listed(e)] = true
	}
	return follow(ctx, a, follower, seen)
}

// listed identifies an event.
func listed(e audit.Row) audit.Cursor { return audit.Cursor{ID: e.ID, Read: e.Read} }

// follow prints new events until ctx ends, which is not an error.
func follow(ctx context.Context, a *app, follower *auditdb.Follower, seen map[audit.Cursor]bool) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = followEvery, 10*time.Second
	away := false
	for {
		fresh, more, err := follower.Next(ctx)
		pause := followEvery
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, vault.ErrUnavailable):
			if !away {
				a.note("vaultctl: %s; trying again", printable(messageOf(err)))
			}
			away, pause = true, wait.NextBackOff()
		case err != nil:
			return err
		case more:
			away, pause = false, 0
		default:
			away = false
			wait.Reset()
		}
		fresh = slices.DeleteFunc(fresh, func(e audit.Row) bool { return seen[listed(e)] })
		if err := a.printTail(fresh); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// printTail writes events as they arrive, in columns of a fixed width: the widest value is not known yet.
func (a *app) printTail(events []audit.Row) error {
	if a.jsonl() {
		return printLines(a, events)
	}
	var b strings.Builder
	for _, e := range events {
		version := "-"
		if e.Version > 0 {
			version = "v" + versionOf(e)
		}
		line := fmt.Sprintf("%s  %-8s %-20s %-12s %-28s %-4s %-10s %-24s %s", at(e.At), e.Outcome, e.Actor,
			e.Action, dash(e.Secret), version, dash(e.Node), from(e), detail(e))
		b.WriteString(strings.TrimRight(printable(line), " ") + "\n")
	}
	if _, err := io.WriteString(a.out, b.String()); err != nil {
		return fmt.Errorf("writing the answer: %w", reason(err))
	}
	return nil
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printLines writes one JSON document a line.
func printLines[T any](a *app, events []T) error {
	if err := writeLines(a.shown(), events); err != nil {
		return fmt.Errorf("writing the answer: %w", reason(err))
	}
	return nil
}

func writeLines[T any](w io.Writer, events []T) error {
	var lines strings.Builder
	encoder := json.NewEncoder(&lines)
	encoder.SetEscapeHTML(false)
	for _, e := range events {
		if err := encoder.Encode(e); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, lines.String())
	return err
}
