package main

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// run is the whole program below signals and exit.
func run(ctx context.Context, args []string, io stdio) int {
	a := &app{stdio: io}
	defer a.close()
	root := newRootCmd(a)
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		return a.report(ctx, err)
	}
	return exitDone
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
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "table" && a.output != "json" {
				return usage("unknown output %q: table or json", a.output)
			}
			return nil
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.databaseURL, "database-url", os.Getenv("VAULTCTL_DATABASE_URL"), "connection `string` or URL (env VAULTCTL_DATABASE_URL; default: libpq's environment)")
	flags.StringVar(&a.tokenFile, "token-file", os.Getenv("VAULTCTL_TOKEN_FILE"), "`file` with the admin token, mode 0600 (env VAULTCTL_TOKEN_FILE, or the token in VAULTCTL_TOKEN)")
	flags.StringVar(&a.kmsKey, "kms-key", os.Getenv("VAULTCTL_KMS_KEY"), "KMS key `URI`: awskms:///alias/NAME?region=R or local:///PATH (env VAULTCTL_KMS_KEY; default: the vault's)")
	flags.StringVarP(&a.output, "output", "o", "table", "table or json")
	for _, name := range []string{"database-url", "token-file", "kms-key"} {
		flags.Lookup(name).DefValue = "" // --help must not print a URL with a password in it
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return hint(usage("%s", oneLine(err)), "%s --help", cmd.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: "secrets", Title: "Secrets:"}, &cobra.Group{ID: "access", Title: "Access:"}, &cobra.Group{ID: "vault", Title: "The vault:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("secrets", newPutCmd(a), newGetCmd(a))
	root.SetHelpCommandGroupID("vault")
	root.SetCompletionCommandGroupID("vault")
	root.SetOut(a.out)
	root.SetErr(a.err)
	return root
}

// exactArgs and rangeArgs are cobra's, with the usage exit code and a line that says what was expected.
func exactArgs(names ...string) cobra.PositionalArgs { return rangeArgs(len(names), names...) }

func rangeArgs(least int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return hint(usage("%s is missing", names[len(args)]), "%s", cmd.UseLine())
		case len(args) > len(names):
			return hint(usage("too many arguments: %d, expected %s", len(args), strings.Join(names, " ")), "%s", cmd.UseLine())
		}
		return nil
	}
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
