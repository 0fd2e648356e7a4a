package main

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperiondb/vault/internal/db"
)

const (
	completionTimeout = 2 * time.Second // the operator has pressed Tab and waits
	// completionLimit is how many branches are shown. A shell inserts what all candidates have in common, so it must not
	// get only some of them: if there are more, it gets their shorter beginnings instead.
	completionLimit = 500
)

// bashWords stands in for two functions of the bash-completion package, where that is not installed.
//
//go:embed completion.bash
var bashWords string

func printBashCompletion(cmd *cobra.Command, _ []string) error {
	var script strings.Builder
	script.WriteString(bashWords)
	bare, err := cmd.Flags().GetBool("no-descriptions")
	if err != nil {
		return err
	}
	if err := cmd.Root().GenBashCompletionV2(&script, !bare); err != nil {
		return err
	}
	// Of "@FILE" cobra's script sees FILE alone, and bash replaces both.
	text := strings.ReplaceAll(script.String(), "_init_completion -n =: ", "_init_completion -n =:@ ")
	if _, err := io.WriteString(cmd.OutOrStdout(), text); err != nil {
		return fmt.Errorf("writing the script: %w", reason(err))
	}
	return nil
}

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
		if path, ok := strings.CutPrefix(typed, "@"); ok {
			return filesAfterAt(path), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		return []string{"-\tstandard input", "@\ta file"},
			cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

// filesAfterAt offers @FILE: shells complete files only where nothing is before their names. Folders end with a slash.
// A folder that cannot be read offers nothing.
func filesAfterAt(typed string) []string {
	folder, begin := filepath.Split(typed)
	entries, _ := os.ReadDir(cmp.Or(folder, "."))
	var found []string
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, begin) || name[0] == '.' && begin == "" {
			continue
		}
		if info, err := os.Stat(filepath.Join(folder, name)); err == nil && info.IsDir() { // also behind a link
			name += "/"
		}
		found = append(found, "@"+folder+name)
	}
	return found
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

// completeTokens offers the names of the tokens that are good; an admin token is what lists them.
func completeTokens(a *app) completer {
	return completeOnly(0, func(ctx context.Context, _ []string, _ string) ([]string, error) {
		change, err := a.change()
		if err != nil {
			return nil, err
		}
		v, err := a.vault(ctx)
		if err != nil {
			return nil, err
		}
		tokens, err := v.Tokens(ctx, change)
		var found []string
		for _, t := range tokens {
			if state := tokenState(t, time.Now()); state == "good" {
				found = append(found, t.Name+"\t"+scopeOf(t))
			}
		}
		return found, err
	})
}

// completeRoles offers database roles.
func completeRoles(a *app) completer {
	return completeOnly(0, func(ctx context.Context, _ []string, typed string) ([]string, error) {
		if err := a.makePools(ctx); err != nil {
			return nil, err
		}
		return a.reader.Roles(ctx, typed, completionLimit)
	})
}

// completeNameAndVersion offers names, and then the versions of the name that are not the current one and still open.
func completeNameAndVersion(a *app) completer {
	name, version := completeNames(a, names{live: true}), completeVersions(a, 1)
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return name(cmd, args, typed)
		}
		return version(cmd, args, typed)
	}
}

// completeVersionFlag offers the same for --version of a command whose argument is the name.
func completeVersionFlag(a *app, cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("version", completeVersions(a, 1)) // it fails only if the flag does not exist
}

func completeVersions(a *app, after int) completer {
	return completeOnly(after, func(ctx context.Context, args []string, _ string) ([]string, error) {
		v, err := a.vault(ctx)
		if err != nil {
			return nil, err
		}
		history, err := v.History(ctx, args[0])
		var found []string
		for _, h := range history {
			if h.State == "grace" {
				found = append(found, fmt.Sprintf("%d\tvalid until %s", h.Version, when(h.ExpiresAt)))
			}
		}
		return found, err
	})
}

// completeOnly offers what find returns for the argument after so many others, or for a flag then; never a file. An
// error offers nothing.
func completeOnly(after int,
	find func(ctx context.Context, args []string, typed string) ([]string, error)) completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) != after {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		found, err := find(ctx, args, typed)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return slices.DeleteFunc(found, func(word string) bool { return !strings.HasPrefix(word, typed) }),
			cobra.ShellCompDirectiveNoFileComp
	}
}

// withoutFiles keeps shells from offering file names where a command or flag takes none. A flag that takes a file says
// so in its help.
func withoutFiles(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil && cmd.ValidArgs == nil && cmd.Annotations[takesFile] == "" {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		word, _ := pflag.UnquoteUsage(f)
		switch strings.ToLower(word) {
		case "", "file", "folder", "dir", "place": // "" takes nothing
			return
		}
		if _, known := cmd.GetFlagCompletionFunc(f.Name); !known {
			_ = cmd.RegisterFlagCompletionFunc(f.Name, cobra.NoFileCompletions)
		}
	})
	for _, c := range cmd.Commands() {
		withoutFiles(c)
	}
}

// plainUsage removes the backticks by which the help knows the word for a flag's value: cobra's candidates show them.
func plainUsage(cmd *cobra.Command) {
	plain := func(f *pflag.Flag) { _, f.Usage = pflag.UnquoteUsage(f) }
	cmd.Flags().VisitAll(plain)
	cmd.PersistentFlags().VisitAll(plain)
	for _, c := range cmd.Commands() {
		plainUsage(c)
	}
}

// takesFile annotates a command whose arguments are files.
const takesFile = "takes a file"

// registerCompletions is called last: cobra makes its completion command for the existing commands.
func registerCompletions(root *cobra.Command) {
	withoutFiles(root)
	// It fails only if the flag does not exist.
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"},
		cobra.ShellCompDirectiveNoFileComp))
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		holdCommands(c)
		c.Short = "Print a script that completes commands and names of secrets: bash, zsh or fish"
		c.Long = "Print a script that completes commands, flags and names of secrets, for bash, zsh or fish. vaultctl\n" +
			"completion bash --help says how to load it, and so for the others."
		for _, shell := range c.Commands() {
			switch shell.Name() {
			case "bash":
				shell.RunE = printBashCompletion
				shell.Long = strings.Replace(shell.Long, "This script depends on the 'bash-completion' package.\n"+
					"If it is not installed already, you can install it via your OS's package manager.\n",
					"A session that loads the script itself does not need the package bash-completion. New sessions need it: it\n"+
						"loads the file.\n", 1)
			case "powershell": // of Windows, where vaultctl does not run
				c.RemoveCommand(shell)
			}
		}
	}
}
