package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/vault"
)

type updateOptions struct {
	name     string
	generate generateFlags
	settings settingsFlags
	manual   bool
	noRotate bool
}

func newUpdateCmd(a *app) *cobra.Command {
	var o updateOptions
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Change the settings of a secret, without a new value",
		Long: `Change the settings of a secret, without a new value. Settings that are not given stay as they are.

A new --rotate-every counts from the newest version, so a shorter one may be due at once. A new --grace holds for
versions superseded from now on.`,
		Example: `  vaultctl update prod/api/key --rotate-every 30d --generate
  vaultctl update prod/api/key --no-rotate
  vaultctl update prod/db/password --grace 7d
  vaultctl update prod/db/password --manual`,
		Args:              secretArgs(1, "NAME"),
		ValidArgsFunction: completeNames(a, names{live: true}),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if err := o.parse(cmd); err != nil {
				return err
			}
			return runUpdate(cmd.Context(), a, o)
		},
	}
	flags := cmd.Flags()
	o.settings.register(flags)
	o.generate.register(flags)
	flags.BoolVar(&o.noRotate, "no-rotate", false, "keep the generator, rotate only when asked to")
	flags.BoolVar(&o.manual, "manual", false, "forget the generator and stop rotating")
	return cmd
}

func (o *updateOptions) parse(cmd *cobra.Command) error {
	for _, pair := range [][]string{{"manual", "generate"}, {"manual", "rotate-every"}, {"manual", "no-rotate"},
		{"no-rotate", "rotate-every"}} {
		if err := oneOf(cmd, pair...); err != nil {
			return err
		}
	}
	if err := o.generate.parse(cmd); err != nil {
		return err
	}
	if err := o.settings.check(); err != nil {
		return err
	}
	if !o.generate.chosen() && o.settings == (settingsFlags{}) && !o.manual && !o.noRotate {
		return hint(usage("nothing to change"), "%s --help", cmd.CommandPath())
	}
	return nil
}

func runUpdate(ctx context.Context, a *app, o updateOptions) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	receipt, err := v.Update(ctx, vault.UpdateRequest{
		Change: change, Name: o.name, Manual: o.manual, NoRotation: o.noRotate,
		Settings: o.settings.settings(o.generate.spec()),
	})
	if err != nil {
		return err
	}
	return a.printReceipt("updated", receipt)
}
