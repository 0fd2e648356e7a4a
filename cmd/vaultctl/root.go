package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/release"
	"github.com/hyperiondb/vault/internal/vault"
)

// run is the program without signals and exit.
func run(ctx context.Context, args []string, io stdio) int {
	a := &app{stdio: io}
	defer a.close()
	root := newRootCmd(a)
	root.SetArgs(args)
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		plainUsage(root)
	}
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitDone
	case !a.parsed && !errors.Is(err, errUsage):
		err = usage("%s", oneLine(err)) // cobra's own
	}
	return a.report(ctx, err)
}

func newRootCmd(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "vaultctl",
		Short: "Secrets in the PostgreSQL cluster you already run",
		Long: `Secrets in the PostgreSQL cluster you already run.

vaultctl connects as libpq does (PGHOST, PGSERVICE, .pgpass, ...) or with --database-url. Changes take an admin token
and a KMS key; reading takes a database role that was granted the names, and the KMS key.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       release.Version(),
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if a.output == "jsonl" && cmd.Annotations[streamsKey] == "" {
				return usage("%s does not write jsonl: table or json", cmd.CommandPath())
			}
			if a.output != "table" && a.output != "json" && a.output != "jsonl" {
				err := usage("unknown output %q: table or json", a.output)
				if wasFilter(cmd, "o", a.output) {
					return filterHint(cmd, err)
				}
				return err
			}
			if cmd.Flags().Changed("kms-key") && a.kmsKey != "" {
				if _, err := kms.ParseURI(a.kmsKey); err != nil {
					return hint(usage("%s", oneLine(err)), "vaultctl keygen FILE prints the URI of a new key file")
				}
			}
			a.parsed = true
			if err := vault.CheckTimeZone(); err != nil {
				a.note("warning: %s", err)
			}
			return nil
		},
	}
	root.SetVersionTemplate("vaultctl {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVar(&a.databaseURL, "database-url", os.Getenv("VAULTCTL_DATABASE_URL"),
		"connection `string` or URL (env VAULTCTL_DATABASE_URL; default: libpq's environment)")
	flags.StringVar(&a.tokenFile, "token-file", "",
		"`file` with the admin token, mode 0600 (env VAULTCTL_TOKEN_FILE, or the token itself in VAULTCTL_TOKEN)")
	flags.StringVar(&a.kmsKey, "kms-key", os.Getenv("VAULTCTL_KMS_KEY"),
		"KMS key `URI`: awskms:///alias/NAME?region=R or local:///PATH (env VAULTCTL_KMS_KEY; default: the vault's)")
	flags.StringVarP(&a.output, "output", "o", "table", "`format` of the answer: table or json")
	for _, name := range []string{"database-url", "kms-key"} {
		flags.Lookup(name).DefValue = "" // --help must not print a URL with a password in it
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return hint(usage("%s", flagError(err)), "%s --help", cmd.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: "secrets", Title: "Secrets:"}, &cobra.Group{ID: "access", Title: "Access:"},
		&cobra.Group{ID: "vault", Title: "The vault:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("secrets", newPutCmd(a), newGetCmd(a), newListCmd(a), newDescribeCmd(a), newHistoryCmd(a), newUpdateCmd(a),
		newRotateCmd(a), newRollbackCmd(a), newVerifyCmd(a), newDeleteCmd(a), newRestoreCmd(a), newPurgeCmd(a))
	add("secrets", newGraceCmd(a))
	add("secrets", newImportCmd(a), newExportCmd(a), newExecCmd(a))
	add("secrets", newRotationCmd(a))
	add("vault", newRewrapCmd(a))
	add("access", newAppCmd(a), newTokenCmd(a), newGrantCmd(a), newAuditCmd(a))
	add("vault", newInitCmd(a), newMigrateCmd(a), newDevCmd(a), newKeygenCmd(a), newStatusCmd(a), newVersionCmd(a))
	add("vault", newDoctorCmd(a))
	holdCommands(root)
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}",
		`{{if and .Runnable (not (index .Annotations "holds"))}}`, 1))
	root.SetHelpCommand(newHelpCmd())
	root.SetHelpCommandGroupID("vault")
	root.SetCompletionCommandGroupID("vault")
	root.SetOut(a.out)
	root.SetErr(a.err)
	registerCompletions(root)
	addManual(root)
	return root
}

// holdCommands makes a command that only holds others: alone it shows its help, and it rejects unknown commands.
func holdCommands(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	cmd.Args = knownCommand
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.Annotations = map[string]string{"holds": "commands"} // so that its usage does not show it as one
	cmd.AddCommand(children...)
	return cmd
}

// knownCommand is the Args of a command that only holds others: its arguments name no command.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	try := cmd.CommandPath() + " --help"
	if cmd.Name() == "completion" { // a shell is not nearly another
		return hint(usage("unknown shell %q", printable(args[0])), "%s bash, zsh or fish", cmd.CommandPath())
	}
	if near := nearest(cmd.Commands(), args[0]); near != "" {
		try = cmd.CommandPath() + " " + near
	}
	return hint(usage("unknown command %q", cmd.CommandPath()+" "+printable(args[0])), "%s", try)
}

// nearest is the command that was probably meant, "" for none: one that begins with the typed text, or is at most two
// letters away and closer than any other.
func nearest(commands []*cobra.Command, typed string) string {
	best, distance := "", 3
	for _, c := range commands {
		if !c.IsAvailableCommand() {
			continue
		}
		d := editDistance(c.Name(), typed)
		if len(typed) > 1 && strings.HasPrefix(c.Name(), typed) {
			d = 0
		}
		if d < distance {
			best, distance = c.Name(), d
		}
	}
	return best
}

// editDistance is the Levenshtein distance: how many letters to insert, remove or replace.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// oneOf refuses flags that contradict each other.
func oneOf(cmd *cobra.Command, names ...string) error {
	var given []string
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			given = append(given, "--"+name)
		}
	}
	if len(given) > 1 {
		return usage("%s and %s exclude each other", given[0], given[1])
	}
	return nil
}

// exactArgs is cobra's ExactArgs with the usage exit code and a line that says what was expected.
func exactArgs(names ...string) cobra.PositionalArgs { return rangeArgs(len(names), names...) }

func rangeArgs(least int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return hint(usage("%s is missing", names[len(args)]), "%s", cmd.UseLine())
		case len(args) > len(names):
			expected := cmp.Or(strings.Join(names, " "), "none")
			return hint(usage("too many arguments: %d, expected %s", len(args), expected), "%s", cmd.UseLine())
		}
		return nil
	}
}

// secretArgs is rangeArgs for a command about one secret, whose name comes first. It checks the name before a command
// prompts for a value.
func secretArgs(least int, names ...string) cobra.PositionalArgs {
	count := rangeArgs(least, names...)
	return func(cmd *cobra.Command, args []string) error {
		if err := count(cmd, args); err != nil {
			return err
		}
		return envelope.CheckName(args[0])
	}
}

// flagError says what a flag takes, where pflag says how Go parses it.
func flagError(err error) string {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && strings.Trim(unknown.GetSpecifiedShortnames(), "0123456789.") == "" &&
		unknown.GetSpecifiedShortnames() != "" {
		return fmt.Sprintf("-%s is no flag, and no argument is a negative number",
			unknown.GetSpecifiedShortnames())
	}
	var invalid *pflag.InvalidValueError
	var number *strconv.NumError
	if !errors.As(err, &invalid) || !errors.As(err, &number) {
		return oneLine(err)
	}
	takes := "a whole number"
	switch {
	case number.Func == "ParseBool":
		takes = "true or false"
	case errors.Is(err, strconv.ErrRange):
		takes = "a smaller number"
	}
	return fmt.Sprintf("--%s takes %s, not %q", invalid.GetFlag().Name, takes, invalid.GetValue())
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
