package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/vault"
)

func newVerifyCmd(a *app) *cobra.Command {
	input := valueInput{once: true}
	var least atLeast
	var record onRecord
	cmd := &cobra.Command{
		Use:   "verify NAME [SOURCE]",
		Short: "Check a value against a secret, without showing it",
		Long: `Check a value against a secret, without showing it. The current version counts, and older ones in their grace.

The value comes from a hidden prompt or from SOURCE (- is standard input, @FILE a file). The answer is "valid" and exit
code 0, or "not valid" and exit code 1; a check that fails has an error on standard error and mostly another code. Any
node will do. The check is recorded at the primary first; --unaudited checks without a record.`,
		Example: `  vaultctl verify prod/db/password
  vaultctl verify prod/tls/key @key.pem
  printf %s "$candidate" | vaultctl verify prod/api/key - -o json`,
		Args:              secretArgs(1, "NAME", "SOURCE"),
		ValidArgsFunction: completeNameAndSource(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := input.parse(cmd, args[1:]); err != nil {
				return err
			}
			if err := least.parse(cmd); err != nil {
				return err
			}
			return runVerify(cmd.Context(), a, args[0], input, least, record)
		},
	}
	input.spaces.register(cmd.Flags())
	least.register(cmd)
	record.register(cmd)
	return cmd
}

// verdictJSON has the shape of the HTTP API's answer.
type verdictJSON struct {
	Valid     bool        `json:"valid"`
	Version   int         `json:"version,omitempty"`
	Match     vault.Match `json:"match,omitempty"`
	ExpiresAt *time.Time  `json:"expires_at,omitempty"`
}

func runVerify(ctx context.Context, a *app, name string, input valueInput, least atLeast, record onRecord) error {
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	if err := v.Ping(ctx); err != nil { // before the operator types a value
		return err
	}
	value, err := a.readValue(ctx, input)
	if err != nil {
		return err
	}
	defer clear(value)
	if err := least.awaitReplay(ctx, v); err != nil {
		return err
	}
	verdict, err := v.Verify(ctx, name, value, vault.VerifyOptions{})
	if err != nil {
		record.refused(ctx, a, audit.Verify, name, 0, err)
		return about(name, err)
	}
	if err := record.recordRead(ctx, a, vault.AuditedVerify(name, verdict)); err != nil {
		return err
	}
	if err := a.printVerdict(verdict); err != nil {
		return err
	}
	if !verdict.Valid {
		return errNotValid
	}
	return nil
}

func (a *app) printVerdict(v vault.Verdict) error {
	if a.json() {
		return a.printJSON(verdictJSON{v.Valid, v.Version, v.Match, v.ExpiresAt})
	}
	text := "not valid"
	switch {
	case v.Match == vault.MatchGrace:
		text = fmt.Sprintf("valid: version %d (grace until %s)", v.Version, when(v.ExpiresAt))
	case v.Valid:
		text = fmt.Sprintf("valid: version %d (current)", v.Version)
	}
	if _, err := fmt.Fprintln(a.out, text); err != nil {
		return fmt.Errorf("writing the answer: %w", reason(err))
	}
	return nil
}
