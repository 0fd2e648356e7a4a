package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/strictjson"
	"github.com/hyperiondb/vault/internal/vault"
)

func newGetCmd(a *app) *cobra.Command {
	var version int
	var field string
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
  vaultctl get prod/db/account --field username
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
			if cmd.Flags().Changed("field") && (field == "" || a.json()) {
				return usage("--field takes the name of a member, and no -o json")
			}
			return runGet(cmd.Context(), a, args[0], getOptions{version, field, least, record})
		},
	}
	cmd.Flags().IntVar(&version, "version", 0, "an older version, during its grace period (default: the current one)")
	cmd.Flags().StringVar(&field, "field", "", "only the member `NAME` of a value that is a JSON object")
	least.register(cmd)
	record.register(cmd)
	completeVersionFlag(a, cmd)
	return cmd
}

type getOptions struct {
	version int    // 0 = current
	field   string // "" = the whole value
	least   atLeast
	record  onRecord
}

func runGet(ctx context.Context, a *app, name string, o getOptions) error {
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	if err := o.least.awaitReplay(ctx, v); err != nil {
		return err
	}
	secret, err := v.Get(ctx, name, vault.GetOptions{Version: o.version})
	if err != nil {
		o.record.refused(ctx, a, audit.Read, name, o.version, err)
	}
	switch {
	case err != nil && o.version > 0:
		return aboutVersion(name, o.version, err)
	case err != nil:
		return about(name, err)
	}
	defer secret.Wipe()
	if err := o.record.recordRead(ctx, a, vault.AuditedGet(name, secret)); err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(jsonSecret(secret))
	}
	value := []byte(secret.Value)
	if o.field != "" {
		if value, err = fieldOf(value, o.field); err != nil {
			return hint(err, "vaultctl get %s, without --field", name)
		}
		defer clear(value)
	}
	terminal := term.IsTerminal(int(a.out.Fd()))
	if terminal && !isTerminalSafe(value) {
		return hint(usage("the value of %q is not text", name), "vaultctl get %s > FILE, or -o json", name)
	}
	if _, err := a.out.Write(value); err != nil {
		return fmt.Errorf("writing the value: %w", reason(err))
	}
	if terminal && !bytes.HasSuffix(value, []byte("\n")) {
		fmt.Fprintln(a.out)
	}
	return nil
}

// fieldOf returns one member of a JSON object: a string's text, anything else as JSON. Its errors show nothing of the
// value.
func fieldOf(value []byte, name string) ([]byte, error) {
	docs, err := strictjson.Documents(value)
	if err != nil || len(docs) != 1 {
		return nil, usage("the value is not a JSON object")
	}
	members, ok := docs[0].Members()
	if !ok {
		return nil, usage("the value is not a JSON object")
	}
	member, found := memberOf(members, name)
	if !found {
		return nil, &kindError{vault.ErrNotFound, fmt.Sprintf("the value has no member %q", name)}
	}
	if text, ok := member.Text(); ok {
		return text, nil
	}
	return bytes.Clone(member.Raw()), nil
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
