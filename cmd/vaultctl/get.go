package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/vault"
)

func newGetCmd(a *app) *cobra.Command {
	var version int
	var least atLeast
	var record onRecord
	cmd := &cobra.Command{
		Use:   "get NAME",
		Short: "Print the value of a secret",
		Long: `Print the value of a secret, byte for byte. On a terminal it always ends with a newline, and a value that is
not text is refused.

Any node will do, a read-only standby included. The read is recorded at the primary before the value is shown;
--unaudited reads without a record while the primary is away. --min-lsn waits until the node has replayed a certain
change, and exits with 6 if it has not after a moment.`,
		Example: `  vaultctl get prod/db/password
  vaultctl get prod/tls/key > key.pem
  vaultctl get prod/db/password --version 3 -o json`,
		Args:              secretArgs(1, "NAME"),
		ValidArgsFunction: completeNames(a, names{live: true}),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("version") && version < 1 {
				return usage("--version takes a version number from 1 up")
			}
			if err := least.parse(cmd); err != nil {
				return err
			}
			return runGet(cmd.Context(), a, args[0], version, least, record)
		},
	}
	cmd.Flags().IntVar(&version, "version", 0, "an older version, during its grace period (default: the current one)")
	least.register(cmd)
	record.register(cmd)
	return cmd
}

func runGet(ctx context.Context, a *app, name string, version int, least atLeast, record onRecord) error {
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	if err := least.awaitReplay(ctx, v); err != nil {
		return err
	}
	secret, err := v.Get(ctx, name, vault.GetOptions{Version: version})
	if err != nil {
		record.refused(ctx, a, audit.Read, name, version, err)
	}
	switch {
	case err != nil && version > 0:
		return aboutVersion(name, version, err)
	case err != nil:
		return about(name, err)
	}
	defer secret.Wipe()
	if err := record.recordRead(ctx, a, vault.AuditedGet(name, secret)); err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(jsonSecret(secret))
	}
	terminal := term.IsTerminal(int(a.out.Fd()))
	if terminal && !isTerminalSafe(secret.Value) {
		return hint(usage("the value of %q is not text", name), "vaultctl get %s > FILE, or -o json", name)
	}
	if _, err := a.out.Write(secret.Value); err != nil {
		return fmt.Errorf("writing the value: %w", reason(err))
	}
	if terminal && secret.Value[len(secret.Value)-1] != '\n' {
		fmt.Fprintln(a.out)
	}
	return nil
}

// isTerminalSafe reports whether a terminal may show value as it is: a control character other than newline and tab
// could make it do something else.
func isTerminalSafe(value []byte) bool {
	return utf8.Valid(value) && printable(withoutNewlines(string(value))) == withoutNewlines(string(value))
}

func withoutNewlines(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] != '\n' && s[i] != '\t' {
			out = append(out, s[i])
		}
	}
	return string(out)
}

// secretJSON has the shape of the HTTP API's answer.
type secretJSON struct {
	Name           string     `json:"name"`
	Version        int        `json:"version"`
	VersionID      uuid.UUID  `json:"version_id"`
	Value          string     `json:"value"`
	Encoding       string     `json:"encoding"` // utf8 or base64
	CreatedAt      time.Time  `json:"created_at"`
	RotatedAt      *time.Time `json:"rotated_at"`
	NextRotationAt *time.Time `json:"next_rotation_at"`
	ExpiresAt      *time.Time `json:"expires_at"`
}

func jsonSecret(s *vault.Secret) secretJSON {
	out := secretJSON{
		Name: s.Name, Version: s.Version, VersionID: s.VersionID, Value: string(s.Value), Encoding: "utf8",
		CreatedAt: s.CreatedAt, RotatedAt: s.RotatedAt, NextRotationAt: s.NextRotationAt, ExpiresAt: s.ExpiresAt,
	}
	if !utf8.Valid(s.Value) {
		out.Value, out.Encoding = base64.StdEncoding.EncodeToString(s.Value), "base64"
	}
	return out
}
