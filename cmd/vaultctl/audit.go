package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

func newAuditCmd(a *app) *cobra.Command {
	return holdCommands(&cobra.Command{
		Use:   "audit",
		Short: "Read the audit log",
		Long:  `Read the audit log: who changed what, and who was refused. It takes a database role that was granted it (grant --as auditor).`,
	}, newAuditListCmd(a), newAuditVerifyCmd(a), newAuditArchiveCmd(a), newAuditPruneCmd(a))
}

func newAuditListCmd(a *app) *cobra.Command {
	var query db.AuditQuery
	var since *time.Duration
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List recorded events, newest first",
		Long: `List recorded events, newest first.

ACTOR is who was proven to act: token:NAME, worker:ID, supervisor or owner:ROLE; role:ROLE is only the database role of a
session. FROM is that role and the address it came from, "local" for a socket.`,
		Example: `  vaultctl audit list
  vaultctl audit list --secret prod/db/password --limit 20
  vaultctl audit list --action put --since 2h -o json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if query.Limit < 1 {
				return usage("--limit is at least 1")
			}
			if query.Secret != "" {
				if err := envelope.CheckName(query.Secret); err != nil {
					return err
				}
			}
			if since != nil {
				query.Since = time.Now().Add(-*since)
			}
			return runAuditList(cmd.Context(), a, query)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&query.Secret, "secret", "", "only events of this secret (`NAME`)")
	flags.StringVar(&query.Action, "action", "", "only this `action`: put, rotate, rollback, update, delete, restore, purge, token.create, ...")
	flags.Var(durationFlag{&since}, "since", "only events of the last 2h, 7d, ...")
	flags.IntVar(&query.Limit, "limit", 100, "at most `N` events")
	_ = cmd.RegisterFlagCompletionFunc("secret", func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return a.namesWith(cmd.Context(), typed, names{live: true, deleted: true}), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

func runAuditList(ctx context.Context, a *app, query db.AuditQuery) error {
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	events, err := v.Audit(ctx, query)
	switch {
	case errors.Is(err, vault.ErrRefused):
		return hint(err, "vaultctl grant ROLE --as auditor, by somebody with an admin token")
	case err != nil:
		return err
	}
	if a.json() {
		if events == nil {
			events = []db.AuditRow{}
		}
		return a.printJSON(events)
	}
	rows := make([][]string, len(events))
	for i, e := range events {
		rows[i] = []string{at(e.At), e.Actor, e.Action, e.Secret, versionOf(e), e.Outcome, from(e), detail(e.Detail)}
	}
	return a.printTable([]string{"TIME", "ACTOR", "ACTION", "SECRET", "VERSION", "OUTCOME", "FROM", "DETAIL"}, rows, "no events")
}

func versionOf(e db.AuditRow) string {
	if e.Version == 0 {
		return ""
	}
	return strconv.Itoa(e.Version)
}

func from(e db.AuditRow) string {
	if e.Client == "" {
		return e.DBRole + "@local"
	}
	return e.DBRole + "@" + e.Client
}

// detail flattens the JSON of an event to key=value, in the order of the keys.
func detail(raw json.RawMessage) string {
	var fields map[string]any
	if json.Unmarshal(raw, &fields) != nil {
		return string(raw)
	}
	parts := make([]string, 0, len(fields))
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		text := fmt.Sprint(fields[key])
		if strings.ContainsAny(text, " \"") {
			text = strconv.Quote(text)
		}
		parts = append(parts, key+"="+text)
	}
	return strings.Join(parts, " ")
}
