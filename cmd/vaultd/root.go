package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/vault"
)

const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnavailable = 6
)

// errConfig is an error in the settings or the command line.
var errConfig = errors.New("configuration")

// execute is the program without signals and exit.
func execute(ctx context.Context, args []string, out, errOut io.Writer, reload <-chan os.Signal) int {
	var path string
	var version bool
	root := &cobra.Command{
		Use:   "vaultd",
		Short: "Answer reads and verifies of secrets from the local PostgreSQL node",
		Long: `Answer reads and verifies of secrets over HTTP, from the local PostgreSQL node: a read-only standby whose
primary is gone will do. Settings come from a TOML file, then from VAULTD_* in the environment.

SIGHUP reads the file again: access, allow, trusted_proxies, hosts, limits, max_staleness, log level, [credentials] and
the TLS certificates change, and a bad file keeps the old ones; the log names what else was changed and takes a restart.
SIGTERM: /readyz fails at once, drain_delay later no connection is accepted, and the requests under way finish. Under
systemd vaultd says when it is ready (Type=notify) and takes the sockets of a socket unit, so that a restart refuses no
connection.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return printVersion(out)
			}
			config, err := loadConfig(path, os.Environ())
			if err != nil {
				return err
			}
			return serve(cmd.Context(), config, func() (Config, error) { return loadConfig(path, os.Environ()) }, errOut, reload)
		},
	}
	root.PersistentFlags().StringVar(&path, "config", os.Getenv("VAULTD_CONFIG"), "TOML `file` (env VAULTD_CONFIG)")
	root.Flags().BoolVar(&version, "version", false, "show the version")
	root.AddCommand(newCheckConfigCmd(&path, out, errOut), newShipSpoolCmd(&path, out, errOut), newVersionCmd(out))
	addManual(root)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %s", errConfig, err) })
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(errOut, "vaultd: %s\n", strings.ReplaceAll(strings.TrimPrefix(err.Error(), errConfig.Error()+": "), "\n",
		" "))
	return exitCode(err, errOut)
}

func newCheckConfigCmd(path *string, out, errOut io.Writer) *cobra.Command {
	var strict bool
	cmd := &cobra.Command{
		Use: "check-config", Short: "Check the settings and show those in force", Args: cobra.NoArgs,
		Long: `Check the settings and show those in force. A setting with which no vaultd starts is an error: exit code 2. So
is a file in the place of a folder of vaultd, and a missing folder above audit_archive, although a daemon may start all
the same. All else is a warning on stderr, with exit code 0:

- What vaultd does not start with on this machine, for this user: a key file that is missing or of another size, a
  damaged state file, no AWS region. Run it as vaultd's user, with vaultd's environment. No name is resolved, no socket
  opened, and nothing is sent.
- What works and is likely a mistake: networks that hold much of the internet, an allow that answers no client, modes
  of files, a certificate that ends soon, values in the clear. vaultd logs these when it starts.

With --strict a warning is an error: exit code 2.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return checkConfig(cmd.Context(), *path, strict, out, errOut)
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "refuse what is warned of")
	return cmd
}

func checkConfig(ctx context.Context, path string, strict bool, out, errOut io.Writer) error {
	config, err := loadConfig(path, os.Environ())
	if err != nil {
		return err
	}
	if err := config.checkPlaces(); err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	warnings := append(config.warnings(time.Now()), config.refusals(ctx)...)
	for _, w := range warnings {
		if _, err := fmt.Fprintf(errOut, "vaultd: warning: %s\n", w); err != nil {
			return err
		}
	}
	if strict && len(warnings) > 0 {
		return fmt.Errorf("%w: --strict refuses what is warned of", errConfig)
	}
	return config.print(out)
}

func exitCode(err error, errOut io.Writer) int {
	switch {
	case errors.Is(err, errConfig), errors.Is(err, vault.ErrInvalid), strings.HasPrefix(err.Error(), "unknown command"):
		return exitUsage
	case errors.Is(err, vault.ErrNotInitialised):
		fmt.Fprintln(errOut, "hint: vaultctl init, as the owner of the database")
	case errors.Is(err, vault.ErrSchema):
		fmt.Fprintln(errOut, "hint: vaultctl migrate --status; the schema goes first, then the daemons")
	case errors.Is(err, vault.ErrState):
		fmt.Fprintln(errOut, "hint: make sure which primary is the right one, then remove the file")
	case errors.Is(err, spool.ErrDiverged):
		fmt.Fprintln(errOut, "hint: vaultd ship-spool --as-new DIR ships its records as another spool")
	case errors.Is(err, errSetAside):
		fmt.Fprintln(errOut,
			"hint: keep the folder; vaultctl audit list action:audit.gap action:audit.damaged shows what is missing")
	case errors.Is(err, vault.ErrUnavailable), errors.Is(err, seal.ErrAway):
		return exitUnavailable
	}
	return exitFailed
}
