package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/vault"
)

type rotateOptions struct {
	name  string
	input valueInput
	grace *time.Duration
}

func newRotateCmd(a *app) *cobra.Command {
	var o rotateOptions
	cmd := &cobra.Command{
		Use:   "rotate NAME [SOURCE]",
		Short: "Replace the value of a secret now",
		Long: `Replace the value of a secret now. The version before stays valid for the grace period.

A secret with a generator makes its new value itself. Another takes it from a hidden prompt or from SOURCE (- is standard
input, @FILE a file). A rotation that was queued for the secret is settled by this one.`,
		Example: `  vaultctl rotate prod/api/key
  vaultctl rotate prod/api/key --grace 0     # the old value is known to others: end it at once
  vaultctl rotate prod/tls/key @new.pem`,
		Args:              secretArgs(1, "NAME", "SOURCE"),
		ValidArgsFunction: completeNameAndSource(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if err := o.input.parse(cmd, args[1:]); err != nil {
				return err
			}
			return runRotate(cmd.Context(), a, o)
		},
	}
	o.input.spaces.register(cmd.Flags())
	cmd.Flags().Var(durationFlag{&o.grace}, "grace", "how long the version before stays valid, this time; 0 ends it at once (default: the secret's own)")
	return cmd
}

func runRotate(ctx context.Context, a *app, o rotateOptions) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	secret, err := v.Describe(ctx, o.name)
	switch {
	case err != nil:
		return about(o.name, err)
	case secret.DeletedAt != nil:
		return fmt.Errorf("secret %q is deleted: %w", o.name, vault.ErrDeleted)
	}
	value, err := o.value(ctx, a, secret)
	if err != nil {
		return err
	}
	defer clear(value)
	receipt, err := v.Rotate(ctx, vault.RotateRequest{Change: change, Name: o.name, Value: value, Grace: o.grace})
	if err != nil {
		return err
	}
	return a.printReceipt("rotated", receipt)
}

func (o rotateOptions) value(ctx context.Context, a *app, secret db.SecretRow) ([]byte, error) {
	if secret.Generator == "" || o.input.from != "" {
		return a.readValue(ctx, o.input)
	}
	generator, err := rotation.ParseGenerator(secret.Generator)
	if err != nil {
		return nil, fmt.Errorf("reading the generator of %q: %w", o.name, err)
	}
	return generator.Generate(), nil
}
