package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

func newDescribeCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "describe NAME",
		Short:             "Show the settings and state of a secret, without its value",
		Long:              `Show the settings and state of a secret, deleted ones included, without its value.`,
		Example:           `  vaultctl describe prod/db/password`,
		Args:              secretArgs(1, "NAME"),
		ValidArgsFunction: completeNames(a, names{live: true, deleted: true}),
		RunE:              func(cmd *cobra.Command, args []string) error { return runDescribe(cmd.Context(), a, args[0]) },
	}
}

func runDescribe(ctx context.Context, a *app, name string) error {
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	s, err := v.Describe(ctx, name)
	if err != nil {
		return about(name, err)
	}
	if a.json() {
		return a.printJSON(s)
	}
	return a.printFields(
		"name", s.Name,
		"state", state(s, time.Now()),
		"version", strconv.Itoa(s.CurrentVersion),
		"kind", s.Kind,
		"generator", s.Generator,
		"rotates", rotates(s),
		"window", s.Window,
		"rotator", s.Rotator,
		"next rotation", when(s.NextRotationAt),
		"rotation paused", when(s.PausedAt),
		"grace", seconds(s.GraceSeconds),
		"created", at(s.CreatedAt),
		"newest version", when(s.RotatedAt),
		"deleted", when(s.DeletedAt),
		"rotation job", job(s.Job))
}

func job(j *db.JobRow) string {
	if j == nil {
		return ""
	}
	text := fmt.Sprintf("%s, attempt %d, due %s", j.State, j.Attempt, at(j.DueAt))
	if j.State == "claimed" {
		text += ", by " + j.ClaimedBy
	}
	if j.State == "queued" && j.LastError != "" {
		text += ", again at " + at(j.RunAfter)
	}
	if j.LastError != "" {
		text += ": " + j.LastError
	}
	return text
}

// about names the secret in an error that only says "not found". To a role, names it was not granted are absent.
func about(name string, err error) error {
	if errors.Is(err, vault.ErrNotFound) {
		return hint(&kindError{vault.ErrNotFound, fmt.Sprintf("no secret %q", name)},
			"vaultctl list, vaultctl list --deleted; a database role sees only the names it was granted")
	}
	return err
}

// aboutVersion names the secret and the version in an error that only says "not found".
func aboutVersion(name string, version int, err error) error {
	if errors.Is(err, vault.ErrNotFound) {
		return hint(&kindError{vault.ErrNotFound, fmt.Sprintf("no version %d of %q that is still valid", version, name)},
			"vaultctl history %s", name)
	}
	return err
}
