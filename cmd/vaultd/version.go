package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/release"
	vaultsql "github.com/hyperiondb/vault/sql"
)

// versionAnswer is the answer in JSON, as vaultctl's.
type versionAnswer struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Schema  int    `json:"schema_version"`
	Go      string `json:"go"`
}

func newVersionCmd(out io.Writer) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			switch output {
			case "text":
				return printVersion(out)
			case "json":
				encoder := json.NewEncoder(out)
				encoder.SetIndent("", "  ")
				return encoder.Encode(versionAnswer{release.Version(), release.Commit(), vaultsql.Version(),
					runtime.Version()})
			}
			return fmt.Errorf("%w: --output takes text or json, not %q", errConfig, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printVersion(out io.Writer) error {
	_, err := fmt.Fprintf(out, "vaultd %s (commit %s, schema %d)\n", release.Version(),
		cmp.Or(release.Commit(), "unknown"), vaultsql.Version())
	return err
}
