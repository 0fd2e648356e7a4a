package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/target"
	"github.com/hyperiondb/vault/internal/vault"
)

type putOptions struct {
	name     string
	input    valueInput
	generate generateFlags
	settings settingsFlags

	createOnly bool
	ifChanged  bool
	cas        int
}

func newPutCmd(a *app) *cobra.Command {
	o := putOptions{cas: -1}
	cmd := &cobra.Command{
		Use:   "put NAME [SOURCE]",
		Short: "Store a value as the newest version of a secret",
		Long: `Store a value as the newest version of a secret, which is created if it is not there.

The value comes from a hidden prompt, from SOURCE (- is standard input, @FILE a file) or from --generate; never from the
command line. The version before stays valid for the grace period (24h unless --grace says otherwise).`,
		Example: `  vaultctl put prod/db/password
  vaultctl put prod/tls/key @key.pem
  pass show db | vaultctl put prod/db/password - --trim-space
  vaultctl put prod/api/key --generate --rotate-every 30d --grace 24h
  vaultctl put prod/db/app --generate --rotate-every 30d --window "02:00-05:00 Europe/Berlin" \
    --rotator "postgres-role role=app via=prod/db/admin"`,
		Args:              secretArgs(1, "NAME", "SOURCE"),
		ValidArgsFunction: completeNameAndSource(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.parse(cmd, args); err != nil {
				return err
			}
			return runPut(cmd.Context(), a, o)
		},
	}
	flags := cmd.Flags()
	o.generate.register(flags)
	o.settings.register(flags)
	o.input.spaces.register(flags)
	flags.BoolVar(&o.createOnly, "create-only", false, "refuse if the secret exists")
	flags.BoolVar(&o.ifChanged, "if-changed", false, "do nothing if the current value is the same")
	flags.IntVar(&o.cas, "cas", -1, "refuse unless `N` is the current version; 0: unless the secret is new")
	flags.Lookup("cas").DefValue = "0" // the zero value is not shown in help
	return cmd
}

func (o *putOptions) parse(cmd *cobra.Command, args []string) error {
	o.name = args[0]
	if cmd.Flags().Changed("generate") && len(args) == 2 {
		if _, err := rotation.ParseGenerator(args[1]); err == nil {
			return hint(usage("%q is taken for SOURCE", args[1]), "--generate=%s, without a space", args[1])
		}
	}
	if err := o.input.parse(cmd, args[1:]); err != nil {
		return err
	}
	if err := o.generate.parse(cmd); err != nil {
		return err
	}
	if err := o.settings.check(); err != nil {
		return err
	}
	switch {
	case o.generate.chosen() && o.input.from != "":
		return usage("the value comes from SOURCE or from --generate, not from both")
	case o.generate.chosen() && o.ifChanged:
		return usage("--if-changed makes no sense with --generate: the value is always new")
	case cmd.Flags().Changed("cas") && o.cas < 0:
		return usage("--cas takes a version number, 0 for none")
	}
	return nil
}

func runPut(ctx context.Context, a *app, o putOptions) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.primary(ctx, 2) // and no other node: a connection takes a fifth of the time of a put
	if err != nil {
		return err
	}
	if err := v.PingPrimary(ctx); err != nil { // before the operator types a value
		return err
	}
	value, err := o.value(ctx, a)
	if err != nil {
		return err
	}
	defer clear(value)
	request := vault.PutRequest{
		Change: change, Name: o.name, Value: value, CreateOnly: o.createOnly, IfChanged: o.ifChanged,
		Settings: o.settings.settings(o.generate.spec()),
	}
	if o.cas >= 0 {
		request.CAS = &o.cas
	}
	receipt, err := v.Put(ctx, request)
	switch {
	case errors.Is(err, vault.ErrUnchanged): // it reveals the current value, so it is recorded like a verify
		e := audit.Event{Action: audit.Verify, Secret: o.name, Version: receipt.Version, Outcome: audit.OK,
			Detail: map[string]any{"valid": true, "match": vault.MatchCurrent, "for": "put"}}
		if err := (onRecord{}).recordRead(ctx, a, e); err != nil {
			return err
		}
		return a.printUnchanged(receipt)
	case errors.Is(err, vault.ErrInvalid) && (o.settings.rotateEvery != nil || o.settings.rotator.text != "") &&
		!o.generate.chosen():
		return hint(err, "--generate: the vault makes the values of a secret that it rotates")
	case err != nil:
		return err
	}
	if err := a.printReceipt("stored", receipt); err != nil {
		return err
	}
	if o.generate.chosen() && o.settings.rotator.text != "" {
		a.noteUnknownToTarget(o.name, o.settings.rotator.text)
	}
	return nil
}

// noteUnknownToTarget says how vault and target get the same value. A target's unknown value is replaced only if the
// rotator allows it.
func (a *app) noteUnknownToTarget(name, rotator string) {
	if spec, err := target.Parse(rotator); err == nil && !spec.ReplacesUnknown() {
		a.note("its target does not know this value; put the one that it has, " +
			"or let the rotator replace that one: adopt=yes")
		return
	}
	a.note("its target does not know this value; to bring it one: vaultctl rotate %s --wait", name)
}

func (o putOptions) value(ctx context.Context, a *app) ([]byte, error) {
	if !o.generate.chosen() {
		return a.readValue(ctx, o.input)
	}
	generated := o.generate.generator.Generate()
	if o.settings.rotator.text == "" {
		return generated, nil
	}
	defer clear(generated)
	return target.New(target.Options{}).Shape(o.settings.rotator.text, nil, generated) // connects to nothing
}

func (a *app) printUnchanged(r vault.Receipt) error {
	if a.json() {
		return a.printJSON(struct {
			Name      string `json:"name"`
			Version   int    `json:"version"`
			Unchanged bool   `json:"unchanged"`
		}{r.Name, r.Version, true})
	}
	a.note("%q already has this value (version %d); nothing was stored", r.Name, r.Version)
	return nil
}

// printReceipt prints what a change did: as JSON on stdout, or as notes on stderr.
func (a *app) printReceipt(did string, r vault.Receipt) error {
	if a.json() {
		return a.printJSON(r)
	}
	if r.VersionID != "" {
		a.note("%s %q version %d", did, r.Name, r.Version)
	} else {
		a.note("%s %q", did, r.Name)
	}
	now := time.Now()
	if r.PreviousExpiresAt != nil && r.PreviousExpiresAt.After(now) {
		a.note("version %d stays valid until %s", r.Version-1, when(r.PreviousExpiresAt))
	}
	if r.NextRotationAt != nil {
		a.note("rotates next at %s", when(r.NextRotationAt))
	}
	if r.RestoreUntil != nil && r.RestoreUntil.After(now) {
		a.note("it can be restored until %s: vaultctl restore %s", when(r.RestoreUntil), r.Name)
	}
	return nil
}
