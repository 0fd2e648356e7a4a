package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/vault"
)

// onRecord puts what somebody at a terminal reads on the primary's audit log, before he sees it.
type onRecord struct{ unaudited bool }

func (o *onRecord) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.unaudited, "unaudited", false,
		"do without a row in the audit log: what is left when the primary is away")
}

// answered is called when the answer is known and before a byte of it is shown; with its error nothing is.
func (o onRecord) answered(ctx context.Context, a *app, v *vault.Vault, e audit.Event) error {
	o.confess(a)
	if o.unaudited {
		return nil
	}
	return shown(v.RecordRead(ctx, e))
}

// confess says that nothing will be on record, if that was asked for.
func (o onRecord) confess(a *app) {
	if o.unaudited {
		a.note("vaultctl: not on record (--unaudited)")
	}
}

// recorded is answered for several reads together.
func (o onRecord) recorded(ctx context.Context, v *vault.Vault, events []audit.Event) error {
	if o.unaudited {
		return nil
	}
	return shown(v.RecordReads(ctx, events))
}

// shown is whether what was read may be: not if it could not be put on record.
func shown(err error) error {
	if errors.Is(err, vault.ErrUnavailable) || errors.Is(err, vault.ErrOutcomeUnknown) {
		return hint(&kindError{vault.ErrUnavailable, "this cannot be put on record, so it is not shown: " + text(err)},
			"the primary has to be reachable too; --unaudited does without")
	}
	return err
}

// refused records, where that can be done, that somebody asked and why he got nothing.
func (o onRecord) refused(ctx context.Context, v *vault.Vault, action, name string, version int, why error) {
	reason := ""
	for kind, word := range map[error]string{vault.ErrNotFound: "not_found", vault.ErrRefused: "not_allowed",
		vault.ErrIntegrity: "integrity", vault.ErrKeyRefused: "key_refused"} {
		if errors.Is(why, kind) {
			reason = word
		}
	}
	if reason == "" || o.unaudited {
		return
	}
	e := audit.Event{Action: action, Secret: name, Version: version, Outcome: audit.Failed,
		Detail: map[string]any{"reason": reason}}
	if reason == "not_allowed" {
		e.Outcome = audit.Denied
	}
	_ = v.RecordRead(ctx, e) // nothing is shown, so nothing depends on it
}
