package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
)

const (
	completionTimeout = 2 * time.Second // an operator waits with a finger on Tab
	// completionLimit is how many branches are shown. A shell takes what it gets for all there is and inserts what they
	// have in common, so where there are more, it gets what they begin with instead.
	completionLimit = 500
)

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// names says which secrets a command can be about.
type names struct{ live, deleted bool }

// completeNames offers the names of secrets for the first argument, as a shell does paths: up to the next slash. It
// says nothing when the database does not answer: an error in the middle of a command line helps no operator.
func completeNames(a *app, which names) completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.branches(cmd.Context(), typed, which)
	}
}

// completeNameFlag is the same for a flag that takes a name or what names begin with.
func completeNameFlag(a *app, cmd *cobra.Command, flag string) {
	var complete completer = func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return a.branches(cmd.Context(), typed, names{live: true})
	}
	_ = cmd.RegisterFlagCompletionFunc(flag, complete) // the error would be for a flag that does not exist
}

// completeNameAndSource offers for the second argument what a value can come from.
func completeNameAndSource(a *app) completer {
	complete := completeNames(a, names{live: true})
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) != 1 {
			return complete(cmd, args, typed)
		}
		return []string{"-\tstandard input", "@\ta file"},
			cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

// branches leaves no space behind what is not a whole name.
func (a *app) branches(ctx context.Context, typed string, which names) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	directive := cobra.ShellCompDirectiveNoFileComp
	found, err := a.findBranches(ctx, db.BranchQuery{Prefix: typed, Live: which.live, Deleted: which.deleted})
	if err != nil {
		return nil, directive
	}
	texts := make([]string, len(found))
	for i, branch := range found {
		if texts[i] = branch.Text; !branch.Whole {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
	}
	return texts, directive
}

// findBranches shortens branches that are too many to their next characters, until they differ.
func (a *app) findBranches(ctx context.Context, q db.BranchQuery) ([]db.Branch, error) {
	v, err := a.vault(ctx)
	if err != nil {
		return nil, err
	}
	q.Limit = completionLimit + 1
	found, err := v.Branches(ctx, q)
	for err == nil && (len(found) > completionLimit || len(found) == 1 && q.Width > 0 && !found[0].Whole) {
		q.Width++
		found, err = v.Branches(ctx, q)
	}
	if q.Width > 0 {
		for i := range found {
			found[i].Whole = false
		}
	}
	return found, err
}

// registerCompletions comes last: cobra makes its completion command for the commands that are there.
func registerCompletions(root *cobra.Command) {
	// The error would be for a flag that does not exist.
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"},
		cobra.ShellCompDirectiveNoFileComp))
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		holdCommands(c)
		c.Short = "Print a script that completes commands and names of secrets: bash, zsh or fish"
	}
}
