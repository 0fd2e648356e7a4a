//go:build manual

package main

import (
	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/manual"
)

func addManual(root *cobra.Command) { manual.Add(root, "1") }
