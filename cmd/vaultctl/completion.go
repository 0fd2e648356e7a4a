package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
)

const (
	completionTimeout = 2 * time.Second // somebody waits with a finger on Tab
	completionLimit   = 200
)

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// names says which secrets a command can be about.
type names struct{ live, deleted bool }

// completeNames offers the names of secrets for the first argument. It says nothing when the database does not answer: an
// error in the middle of a command line helps nobody.
func completeNames(a *app, which names) completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.namesWith(cmd.Context(), typed, which), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeNameAndSource offers for the second argument what a value can come from.
func completeNameAndSource(a *app) completer {
	complete := completeNames(a, names{live: true})
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) != 1 {
			return complete(cmd, args, typed)
		}
		return []string{"-\tstandard input", "@\ta file"}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

func (a *app) namesWith(ctx context.Context, prefix string, which names) []string {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	v, err := a.vault(ctx)
	if err != nil {
		return nil
	}
	var found []string
	for _, deleted := range []bool{false, true} {
		if wanted := deleted && which.deleted || !deleted && which.live; !wanted {
			continue
		}
		rows, err := v.List(ctx, db.ListQuery{Prefix: prefix, Deleted: deleted, Limit: completionLimit})
		if err != nil {
			return nil
		}
		for _, row := range rows {
			found = append(found, row.Name)
		}
	}
	return found
}

// registerCompletions comes last: cobra makes its completion command for the commands that are there.
func registerCompletions(root *cobra.Command) {
	// The error would be for a flag that does not exist.
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		holdCommands(c)
		c.Short = "Print a script that completes commands and names of secrets: bash, zsh or fish"
	}
}
