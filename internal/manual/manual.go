// Package manual writes the man pages of a command and of all beneath it from its help. Only binaries built with the
// tag "manual" have it: `make package` builds and runs them, and does not ship them.
package manual

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Add gives root the command "manual DIR".
func Add(root *cobra.Command, section string) {
	root.AddCommand(&cobra.Command{
		Use: "manual DIR", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
			if err != nil {
				return fmt.Errorf("SOURCE_DATE_EPOCH: the time of the pages, in seconds: %w", err)
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			day := time.Unix(seconds, 0).UTC()
			withoutTag(root)
			header := &doc.GenManHeader{Section: section, Source: "HyperionDB Vault", Manual: "HyperionDB Vault", Date: &day}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return err
			}
			return mend(args[0], day.Format(time.DateOnly))
		},
	})
}

var (
	option = regexp.MustCompile(`(?m)^(?:\.PP\n)?(\\fB-.*)\n\t(.*)$`)
	date   = regexp.MustCompile(`(?m)^(\.TH "[^"]*" "[^"]*") "[^"]*"`)
)

// mend writes options as tagged paragraphs and the date as man pages have it; cobra writes tabs and the month's name.
func mend(dir, day string) error {
	pages, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, path := range pages {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text = option.ReplaceAll(text, []byte(".TP\n$1\n$2"))
		text = date.ReplaceAll(text, []byte(`$1 "`+day+`"`))
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// withoutTag leaves out the line that says that the page was generated.
func withoutTag(c *cobra.Command) {
	c.DisableAutoGenTag = true
	for _, child := range c.Commands() {
		withoutTag(child)
	}
}
