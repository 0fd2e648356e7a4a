package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// topics are the pages of help that are about no single command.
var topics = []struct{ name, short, text string }{
	{"exit-codes", "What the exit codes mean", `Exit codes, for scripts:

  0    done
  1    failed; of verify: the value is not valid
  2    usage: a wrong flag, argument or name, or a path that does not exist
  3    not found
  4    refused: the token, the database role or the KMS key may not do that
  5    conflict: the secret exists, or has another version than --cas says
  6    unavailable: the database, its primary or the KMS does not answer, or a node is behind
  7    needs attention: the command did its work and found a problem, or the outcome of a change is not known
  8    declined at a question, or not confirmed with --yes
  126  exec: the command cannot be run
  127  exec: there is no such command
  130  interrupted; a command that runs until then (status --watch, audit tail -f, dev) ends with 0

exec passes on the exit code of its command.`},
	{"environment", "Variables that vaultctl reads", `Variables that vaultctl reads; a flag goes before its variable:

  VAULTCTL_DATABASE_URL  connection string or URL of the database (--database-url)
  VAULTCTL_KMS_KEY       URI of the KMS key (--kms-key)
  VAULTCTL_TOKEN_FILE    file with the admin token, mode 0600 (--token-file)
  VAULTCTL_TOKEN         the admin token itself, where a file will not do
  VAULTCTL_THEME         colours of the audit browser: auto, dark, light or none (--theme)
  PGHOST, PGSERVICE, PGPASSFILE, ...
                         those of libpq, where --database-url says nothing; passwords best in ~/.pgpass
  AWS_REGION, AWS_PROFILE, AWS_ACCESS_KEY_ID, ...
                         those of the AWS SDK, for keys in AWS KMS
  XDG_CONFIG_HOME        the folder of vaultctl/token, the admin token used by default (~/.config)
  XDG_STATE_HOME         the folder of vaultctl/primaries.json, by which an old primary is refused (~/.local/state)
  NO_COLOR, TERM, LC_ALL, LANG
                         colours and characters of the audit browser
  TZ                     the zone in which times are shown and read`},
}

func newHelpCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND | TOPIC]",
		Short: "Show the help of a command, of exit-codes or of environment",
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, topic := range topics {
				if len(args) == 1 && args[0] == topic.name {
					_, err := fmt.Fprintln(cmd.OutOrStdout(), topic.text)
					return err
				}
			}
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if about.HasSubCommands() {
				err = knownCommand(about, rest)
			}
			if err != nil {
				return err
			}
			about.InitDefaultHelpFlag() // as --help does
			about.InitDefaultVersionFlag()
			return about.Help()
		},
		ValidArgsFunction: completeHelp,
	}
}

func completeHelp(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	about, _, err := cmd.Root().Find(args)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	for _, c := range about.Commands() {
		if c.IsAvailableCommand() && strings.HasPrefix(c.Name(), typed) {
			found = append(found, c.Name()+"\t"+c.Short)
		}
	}
	for _, topic := range topics {
		if len(args) == 0 && strings.HasPrefix(topic.name, typed) {
			found = append(found, topic.name+"\t"+topic.short)
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}
