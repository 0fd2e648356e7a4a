//go:build !manual

package main

import "github.com/spf13/cobra"

// addManual does nothing in the binaries that are installed; see package manual.
func addManual(*cobra.Command) {}
