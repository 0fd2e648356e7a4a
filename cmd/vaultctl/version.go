package main

import (
	"runtime"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/release"
	vaultsql "github.com/hyperiondb/vault/sql"
)

func newVersionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program and of the schema it was made for",
		Args:  exactArgs(),
		RunE:  func(*cobra.Command, []string) error { return runVersion(a) },
	}
}

// versionAnswer is the answer in JSON.
type versionAnswer struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Schema  int    `json:"schema_version"`
	Go      string `json:"go"`
}

func runVersion(a *app) error {
	answer := versionAnswer{Version: release.Version(), Commit: release.Commit(), Schema: vaultsql.Version(),
		Go: runtime.Version()}
	if a.json() {
		return a.printJSON(answer)
	}
	return a.printFields("vaultctl", answer.Version, "commit", answer.Commit, "schema version",
		strconv.Itoa(answer.Schema), "go", answer.Go)
}
