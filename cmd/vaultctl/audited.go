package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/vault"
)

// onRecord writes a read into the primary's audit log before the value is shown.
type onRecord struct{ unaudited bool }

func (o *onRecord) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.unaudited, "unaudited", false,
		"read without a row in the audit log, for when the primary is away")
}

// recordRead records a read. The caller shows nothing before recordRead returns, and nothing if it fails.
func (o onRecord) recordRead(ctx context.Context, a *app, e audit.Event) error {
	o.warnUnaudited(a)
	return o.recordReads(ctx, a, []audit.Event{e})
}

// warnUnaudited prints a note if --unaudited was given.
func (o onRecord) warnUnaudited(a *app) {
	if o.unaudited {
		a.note("vaultctl: not on record (--unaudited)")
	}
}

// recordReads is recordRead for several reads together, without the note.
func (o onRecord) recordReads(ctx context.Context, a *app, events []audit.Event) error {
	if o.unaudited {
		return nil
	}
	log, err := a.log(ctx)
	if err == nil {
		err = log.Record(ctx, events...)
	}
	return mayShow(err)
}

// mayShow fails if the audit record could not be written.
func mayShow(err error) error {
	if errors.Is(err, vault.ErrUnavailable) || errors.Is(err, vault.ErrOutcomeUnknown) {
		return hint(&kindError{vault.ErrUnavailable, "this cannot be put on record, so it is not shown: " + messageOf(err)},
			"the primary has to be reachable too; --unaudited does without")
	}
	return err
}

// refused records a read that failed, with the reason, if the primary can be reached.
func (o onRecord) refused(ctx context.Context, a *app, action, name string, version int, why error) {
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
	_ = o.recordReads(ctx, a, []audit.Event{e}) // nothing is shown, so nothing depends on it
}
