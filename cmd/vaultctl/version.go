package main

import (
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/spf13/cobra"

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
	answer := versionAnswer{Version: buildVersion(), Commit: buildCommit(), Schema: vaultsql.Version(),
		Go: runtime.Version()}
	if a.json() {
		return a.printJSON(answer)
	}
	return a.printFields("vaultctl", answer.Version, "commit", answer.Commit, "schema version",
		strconv.Itoa(answer.Schema), "go", answer.Go)
}

// buildVersion is the module's version as the go command stamped it: a tag, or made up of the commit.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "development"
	}
	return info.Main.Version
}

func buildCommit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	commit, suffix := "", ""
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			commit = setting.Value
		case setting.Key == "vcs.modified" && setting.Value == "true":
			suffix = ", modified"
		}
	}
	if commit == "" {
		return ""
	}
	return commit + suffix
}
