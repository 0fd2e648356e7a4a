package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/envelope"
)

type execOptions struct {
	env       []string // VAR=NAME
	secrets   []string
	prefix    string
	namespace string // the beginning of variables of the prefix
	pristine  bool
	keep      []string
	files     folderOptions
	command   []string
	record    onRecord
}

func newExecCmd(a *app) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec [flags] -- COMMAND [ARGUMENT]...",
		Short: "Run a command with secrets in its environment",
		Long: `Run a command with secrets in its environment. The command replaces the vaultctl process (exec), so standard
input, signals and the exit code are the command's own. Exit code 127 means that there is no such command, 126 that it
cannot be run.

--env names the variable. With --secret it is the last part of the secret's name, with --prefix the part after the
prefix: in capitals, with _ for everything that is no letter or digit (prod/app/db-password is DB_PASSWORD). Only
--env replaces a variable that is set already.

The author of a secret chooses its name, so --prefix takes only names that end as a secret's do: PASSWORD, PASS,
PASSPHRASE, PIN, SECRET, TOKEN, KEY, CREDENTIALS, SALT, PEPPER, JWT, PEM, DSN, CLIENT_ID, ACCESS_KEY_ID, and URL,
URI, USER or USERNAME after the word for a database, queue, mail server or webhook (DATABASE_URL, SMTP_USER). Other
names, and families of names that programs read as settings (LD_*, BASH_*, GIT_*, NODE_*, PYTHON*, AWS_* except its
keys, ...), are refused: set one of them with --env, or give --namespace APP_. Then all begin with APP_ and may end in
any word.

COMMAND inherits the environment without VAULTCTL_*, VAULTD_*, PGPASSWORD, PGPASSFILE, PGSSLPASSWORD and
PGSERVICEFILE, which are vaultctl's way into the vault; --keep passes one on. With --pristine it inherits only what
--keep names.

--files DIR writes each value to the file DIR/VARIABLE, mode 0400, and the variable holds the file's path. DIR is a
folder in memory (tmpfs) for this command alone: its owner is the caller, others may not enter, nothing else is in
it. The files remain when COMMAND ends, until DIR is removed (systemd: RuntimeDirectory= with
RuntimeDirectoryMode=0700) or the next run replaces them.

The reads are recorded at the primary before the command begins; --unaudited reads without a record. The command does
not see later versions, so restart it after a rotation, or read from vaultd.`,
		Example: `  vaultctl exec --env DB_PASSWORD=prod/db/app -- ./server --port 8080
  vaultctl exec --prefix prod/app/ -- env
  vaultctl exec --prefix prod/app/ --namespace APP_ --pristine --keep PATH -- env
  vaultctl exec --prefix prod/app/ --files /dev/shm/app -- ./server
  vaultctl exec --env PGPASSWORD=prod/db/app -- psql -h db1 app`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return hint(usage("COMMAND is missing"), "%s", cmd.UseLine())
			}
			return nil
		},
		ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.command = args
			if err := o.check(); err != nil {
				return err
			}
			return runExec(cmd.Context(), a, o)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // flags after COMMAND belong to it
	flags.StringArrayVar(&o.env, "env", nil,
		"set the variable to a secret's value, `VARIABLE=NAME`; may be given several times")
	flags.StringArrayVar(&o.secrets, "secret", nil,
		"set a variable called as the last part of `NAME`; may be given several times")
	flags.StringVar(&o.prefix, "prefix", "", "set a variable for each secret whose name begins with `PREFIX`")
	flags.StringVar(&o.namespace, "namespace", "", "begin each variable of --prefix with `WORD_`")
	flags.BoolVar(&o.pristine, "pristine", false, "inherit no variable but those of --keep")
	flags.StringArrayVar(&o.keep, "keep", nil, "inherit `VARIABLE` even so; may be given several times")
	flags.StringVar(&o.files.dir, "files", "", "write the values to files in `DIR`, and their paths to the variables")
	flags.BoolVar(&o.files.onDisk, "files-on-disk", false,
		"accept a DIR that is not in memory: deleted values may stay on the disk")
	o.record.register(cmd)
	completeNameFlag(a, cmd, "secret")
	completeNameFlag(a, cmd, "prefix")
	return cmd
}

func (o execOptions) check() error {
	if len(o.env)+len(o.secrets) == 0 && o.prefix == "" {
		return usage("which secrets is missing: --env VARIABLE=NAME, --secret NAME or --prefix PREFIX")
	}
	for _, pair := range o.env {
		variable, name, found := strings.Cut(pair, "=")
		if !found || !variableName().MatchString(variable) {
			return usage("--env takes VARIABLE=NAME")
		}
		if err := envelope.CheckName(name); err != nil {
			return err
		}
	}
	for _, name := range o.secrets {
		if err := envelope.CheckName(name); err != nil {
			return err
		}
	}
	for _, variable := range o.keep {
		if !variableName().MatchString(variable) {
			return usage("--keep takes the name of a variable")
		}
	}
	switch {
	case o.namespace != "" && o.prefix == "":
		return usage("--namespace takes --prefix")
	case o.namespace != "" && !namespace().MatchString(o.namespace):
		return hint(usage("--namespace takes letters, digits and _, and ends in _"), "--namespace APP_")
	case o.files.onDisk && o.files.dir == "":
		return usage("--files-on-disk takes --files")
	}
	return nil
}

func runExec(ctx context.Context, a *app, o execOptions) error {
	path, err := program(o.command[0])
	if err != nil {
		return err
	}
	folder, err := o.files.open()
	if err != nil {
		return err
	}
	defer folder.close()
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	e := environment{a: a, inherited: o.inherited(os.Environ()), files: folder != nil}
	defer e.wipe()
	if err := e.fill(ctx, v, o); err != nil {
		return err
	}
	if err := folder.holdsOnly(e.variables()); err != nil {
		return err
	}
	o.record.warnUnaudited(a)
	if err := o.record.recordReads(ctx, a, e.events()); err != nil {
		return err
	}
	environ, err := e.environ(folder)
	if err == nil {
		a.close()
		err = ctx.Err()
	}
	if err == nil {
		err = syscall.Exec(path, o.command, environ)
		err = &kindError{errNotRun, fmt.Sprintf("running %q: %s", o.command[0], err)}
	}
	folder.remove()
	return err
}

// program finds the command's path. runExec calls it first, so that a typing error reads no secret.
func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "", &kindError{errNoProgram, fmt.Sprintf("there is no program %q", name)}
	}
	return "", &kindError{errNotRun, fmt.Sprintf("%q cannot be run: %s", name, reason(errors.Unwrap(err)))}
}
