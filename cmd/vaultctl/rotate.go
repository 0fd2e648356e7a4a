package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/vault"
)

type rotateOptions struct {
	name  string
	input valueInput
	grace *time.Duration
	wait  *time.Duration
}

func newRotateCmd(a *app) *cobra.Command {
	var o rotateOptions
	cmd := &cobra.Command{
		Use:   "rotate NAME [SOURCE]",
		Short: "Replace the value of a secret now",
		Long: `Replace the value of a secret now. The version before stays valid for the grace period.

The new value of a secret with a generator is generated. Otherwise it comes from a hidden prompt or from SOURCE (- is
standard input, @FILE a file). A rotation that was queued for the secret is settled by this one.

A secret with a rotator is rotated by the workers of vaultd, which set the new value at its target first: this command
requests the rotation, or joins the one that is under way, and with --wait waits for it.`,
		Example: `  vaultctl rotate prod/api/key
  vaultctl rotate prod/api/key --grace 0     # the old value is known to others: end it at once
  vaultctl rotate prod/tls/key @new.pem
  vaultctl rotate prod/db/app --wait`,
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
	cmd.Flags().Var(durationFlag{&o.grace}, "grace",
		"how long the version before stays valid, this time; 0 ends it at once (default: the secret's own)")
	registerWait(cmd, &o.wait)
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
	secret, err := v.DescribeForChange(ctx, o.name)
	switch {
	case err != nil:
		return about(o.name, err)
	case secret.DeletedAt != nil:
		return fmt.Errorf("secret %q is deleted: %w", o.name, vault.ErrDeleted)
	case secret.Rotator != "":
		return o.request(ctx, a, v, change)
	}
	value, err := o.value(ctx, a, secret)
	if err != nil {
		return err
	}
	defer clear(value)
	receipt, err := v.Rotate(ctx, vault.RotateRequest{Change: change, Name: o.name, Value: value, Grace: o.grace})
	if errors.Is(err, vault.ErrConflict) && o.input.from == "" && o.grace == nil {
		if done, ok := rotatedMeanwhile(ctx, v, secret); ok {
			return a.printRotation(done)
		}
	}
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

// rotatedMeanwhile returns the queued rotation if a worker has just made it. This command would have settled that
// rotation, so it makes no second new value.
func rotatedMeanwhile(ctx context.Context, v *vault.Vault, secret db.SecretRow) (db.RotationRow, bool) {
	if secret.Job == nil || secret.Job.State == "failed" {
		return db.RotationRow{}, false
	}
	job, err := v.Rotation(ctx, secret.Job.ID)
	return job, err == nil && job.State == "done" && job.FromVersion == secret.CurrentVersion
}

// request queues the rotation for the workers: only vaultd's configuration says which targets may be reached.
func (o rotateOptions) request(ctx context.Context, a *app, v *vault.Vault, change vault.Change) error {
	switch {
	case o.input.from != "":
		return hint(usage("secret %q has a rotator, which would have to bring this value to its target", o.name),
			"vaultctl put %s stores what the target has already", o.name)
	case o.grace != nil:
		return hint(usage("--grace is not for a secret with a rotator"),
			"vaultctl update %s --grace ..., or afterwards vaultctl grace end %s", o.name, o.name)
	}
	requested, err := v.RequestRotation(ctx, change, o.name)
	if err != nil {
		return err
	}
	return a.followRotation(ctx, v, requested, o.wait)
}

// followRotation prints the requested rotation, or with wait its result.
func (a *app) followRotation(ctx context.Context, v *vault.Vault, r db.RequestedRotation, wait *time.Duration) error {
	if wait != nil {
		job, err := waitForRotation(ctx, v, r, *wait)
		if err != nil {
			return err
		}
		return a.printRotation(job)
	}
	if a.json() {
		return a.printJSON(r)
	}
	what := "queued the rotation of"
	if r.State == "claimed" {
		what = "joined the running rotation of"
	}
	a.note("%s %q (job %d); vaultctl rotation list shows how it goes", what, r.Name, r.Job)
	return nil
}

func (a *app) printRotation(j db.RotationRow) error {
	if a.json() {
		return a.printJSON(j)
	}
	a.note("rotated %q version %d (job %d, attempt %d)", j.Name, j.ToVersion, j.ID, j.Attempt)
	return nil
}

// errUnderWay means that the job is neither done nor given up yet.
var errUnderWay = errors.New("under way")

// waitForRotation polls the job on the primary until it is settled or wait is over. It also waits through failed
// attempts that will be repeated.
func waitForRotation(ctx context.Context, v *vault.Vault, r db.RequestedRotation,
	wait time.Duration) (db.RotationRow, error) {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 50*time.Millisecond, time.Second
	var last db.RotationRow
	job, err := backoff.Retry(ctx, func() (db.RotationRow, error) {
		job, err := v.Rotation(ctx, r.Job)
		switch {
		case err != nil:
			return job, backoff.Permanent(about(r.Name, err))
		case job.State == "failed":
			return job,
				backoff.Permanent(hint(fmt.Errorf("rotating %q failed: %s", r.Name, job.LastError), "vaultctl rotation retry %s",
					r.Name))
		case job.State == "superseded":
			return job, backoff.Permanent(conflict("the rotation of %q was overtaken by another change", r.Name))
		case job.State == "done":
			return job, nil
		}
		last = job
		return job, errUnderWay
	}, backoff.WithBackOff(pauses), backoff.WithMaxElapsedTime(wait))
	if errors.Is(err, errUnderWay) {
		why := ""
		if last.LastError != "" {
			why = ": " + last.LastError
		}
		return job,
			hint(attention("the rotation of %q (job %d) is not done after %s%s", r.Name, r.Job, rotation.FormatInterval(wait),
				why), "vaultctl rotation list %s; is a vaultd with rotation_workers running?", r.Name)
	}
	return job, err
}
