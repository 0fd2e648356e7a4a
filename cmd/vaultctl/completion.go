package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
)

const (
	completionTimeout = 2 * time.Second // the operator has pressed Tab and waits
	// completionLimit is how many branches are shown. A shell inserts what all candidates have in common, so it must not
	// get only some of them: if there are more, it gets their shorter beginnings instead.
	completionLimit = 500
)

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// names says which secrets a command accepts.
type names struct{ live, deleted bool }

// completeNames offers the names of secrets for the first argument, as a shell does paths: up to the next slash. It
// offers nothing if the database does not answer: an error would garble the command line being typed.
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
	_ = cmd.RegisterFlagCompletionFunc(flag, complete) // it fails only if the flag does not exist
}

// completeNameAndSource also offers sources of a value for the second argument.
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

// branches adds no space after a candidate that is not a whole name.
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

// findBranches shortens too many branches to the next characters in which they differ.
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

// registerCompletions is called last: cobra makes its completion command for the existing commands.
func registerCompletions(root *cobra.Command) {
	// It fails only if the flag does not exist.
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"},
		cobra.ShellCompDirectiveNoFileComp))
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		holdCommands(c)
		c.Short = "Print a script that completes commands and names of secrets: bash, zsh or fish"
	}
}
