package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

type execOptions struct {
	env     []string // VAR=NAME
	secrets []string
	prefix  string
	command []string
	record  onRecord
}

func newExecCmd(a *app) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec [flags] -- COMMAND [ARGUMENT]...",
		Short: "Run a command with secrets in its environment",
		Long: `Run a command with secrets in its environment. It takes vaultctl's place: standard input, signals and the exit code are the
command's own, and nothing of vaultctl stays beside it. 127 says that there is no such command, 126 that it cannot be run.

--env names the variable. With --secret it is the last part of the secret's name, with --prefix all that follows the prefix: in
capitals, and _ for everything that is no letter or digit (prod/app/db-password is DB_PASSWORD). --prefix replaces nothing that
is set already; --env does.

That the values were read is put on record at the primary before the command begins; --unaudited does without. Later versions
do not reach it, so restart it after a rotation, or read from vaultd.`,
		Example: `  vaultctl exec --env DB_PASSWORD=prod/db/app -- ./server --port 8080
  vaultctl exec --prefix prod/app/ -- env
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
	flags.SetInterspersed(false) // what follows COMMAND is its own
	flags.StringArrayVar(&o.env, "env", nil, "set the variable to a secret's value, `VARIABLE=NAME`; may be given several times")
	flags.StringArrayVar(&o.secrets, "secret", nil, "set a variable called as the last part of `NAME`; may be given several times")
	flags.StringVar(&o.prefix, "prefix", "", "set a variable for each secret whose name begins with `PREFIX`")
	o.record.register(cmd)
	completeNameFlag(a, cmd, "secret")
	completeNameFlag(a, cmd, "prefix")
	return cmd
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (o execOptions) check() error {
	if len(o.env)+len(o.secrets) == 0 && o.prefix == "" {
		return usage("which secrets is missing: --env VARIABLE=NAME, --secret NAME or --prefix PREFIX")
	}
	for _, pair := range o.env {
		variable, name, found := strings.Cut(pair, "=")
		if !found || !variableName.MatchString(variable) {
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
	return nil
}

func runExec(ctx context.Context, a *app, o execOptions) error {
	path, err := program(o.command[0])
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	e := environment{}
	defer e.wipe()
	if err := e.fill(ctx, v, o); err != nil {
		return err
	}
	o.record.confess(a)
	if err := o.record.recorded(ctx, v, e.events()); err != nil {
		return err
	}
	environ := e.environ(os.Environ())
	a.close()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &kindError{errNotRun, fmt.Sprintf("running %q: %s", o.command[0], syscall.Exec(path, o.command, environ))}
}

// program finds what is to be run before a secret is read for it.
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

// environment is what secrets add to the command's.
type environment []setVariable

type setVariable struct {
	variable string
	secret   *vault.Secret
	forced   bool // by --env: also over one that is set already
}

func (e environment) wipe() {
	for _, s := range e {
		s.secret.Wipe()
	}
}

func (e environment) events() []audit.Event {
	var events []audit.Event
	for _, s := range e {
		events = append(events, vault.AuditedGet(s.secret.Name, s.secret))
	}
	return events
}

func (e *environment) fill(ctx context.Context, v *vault.Vault, o execOptions) error {
	if o.prefix != "" {
		if err := e.fromPrefix(ctx, v, o); err != nil {
			return err
		}
	}
	for _, name := range o.secrets {
		if err := e.read(ctx, v, o, variableOf(name[strings.LastIndex(name, "/")+1:]), name, false); err != nil {
			return err
		}
	}
	for _, pair := range o.env {
		variable, name, _ := strings.Cut(pair, "=")
		if err := e.read(ctx, v, o, variable, name, true); err != nil {
			return err
		}
	}
	return nil
}

func (e *environment) read(ctx context.Context, v *vault.Vault, o execOptions, variable, name string, forced bool) error {
	secret, err := v.Get(ctx, name, vault.GetOptions{})
	if err != nil {
		o.record.refused(ctx, v, audit.Read, name, 0, err)
		return about(name, err)
	}
	return e.set(setVariable{variable, secret, forced})
}

func (e *environment) fromPrefix(ctx context.Context, v *vault.Vault, o execOptions) error {
	after := ""
	for {
		page, err := v.Export(ctx, o.prefix, after, exportPage)
		if err != nil {
			return err
		}
		for i, s := range page {
			if err = s.Err; err != nil {
				o.record.refused(ctx, v, audit.Read, s.Name, s.Version, err)
			} else {
				err = e.set(setVariable{variableOf(strings.TrimPrefix(s.Name, o.prefix)), &page[i].Secret, false})
			}
			if err != nil {
				vault.WipeAll(page)
				return err
			}
		}
		if len(page) < exportPage {
			break
		}
		after = page[len(page)-1].Name
	}
	if len(*e) == 0 {
		return hint(&kindError{vault.ErrNotFound, fmt.Sprintf("no secret under %q", o.prefix)}, "vaultctl list; a database role sees only the names it was granted")
	}
	return nil
}

// variableOf makes the name of a variable from that of a secret.
func variableOf(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
}

// set refuses what would not be what somebody asked for. Whoever may store a secret under a prefix is not thereby allowed to say
// which program is run instead (PATH) or what is loaded into it (LD_PRELOAD).
func (e *environment) set(s setVariable) error {
	*e = append(*e, s)
	name := s.secret.Name
	if i := slices.IndexFunc(*e, func(other setVariable) bool { return other.variable == s.variable }); i < len(*e)-1 {
		return hint(usage("secrets %q and %q would both be $%s", (*e)[i].secret.Name, name, s.variable), "--env VARIABLE=%s", name)
	}
	switch _, set := os.LookupEnv(s.variable); {
	case !variableName.MatchString(s.variable):
		return hint(usage("secret %q makes no variable's name", name), "--env VARIABLE=%s", name)
	case !s.forced && (set || strings.HasPrefix(s.variable, "LD_") || strings.HasPrefix(s.variable, "DYLD_")):
		return hint(usage("secret %q would replace $%s", name, s.variable), "--env %s=%s, if it is to", s.variable, name)
	case bytes.IndexByte(s.secret.Value, 0) >= 0:
		return usage("secret %q has a zero byte: no variable can hold it", name)
	}
	return nil
}

// environ is the environment with the secrets in the place of what has their variables.
func (e environment) environ(before []string) []string {
	environ := slices.DeleteFunc(before, func(line string) bool {
		variable, _, _ := strings.Cut(line, "=")
		return slices.ContainsFunc(e, func(s setVariable) bool { return s.variable == variable })
	})
	for _, s := range e {
		environ = append(environ, s.variable+"="+string(s.secret.Value))
	}
	return environ
}
