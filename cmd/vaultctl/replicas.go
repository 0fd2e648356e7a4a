package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/vault"
)

const (
	standbyWait = 30 * time.Second // for standbys to replay a change
	replayWait  = 3 * time.Second  // for the node that answers
)

// atLeast is --min-lsn and --wait of a read: the position that the node must have replayed, and how long to wait.
type atLeast struct {
	text string
	lsn  vault.LSN
	wait *time.Duration
}

func (l *atLeast) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.text, "min-lsn", "",
		"read from a node that has replayed this `POSITION`: the lsn that a change answered with -o json")
	cmd.Flags().Var(durationFlag{&l.wait}, "wait",
		"how long to wait for the node to get there; 0 = not at all (default 3s)")
}

func (l *atLeast) parse(cmd *cobra.Command) error {
	switch given := cmd.Flags().Changed("min-lsn"); {
	case !given && l.wait != nil:
		return usage("--wait goes with --min-lsn")
	case !given:
		return nil
	}
	var err error
	if l.lsn, err = vault.ParseLSN(l.text); err != nil {
		return usage("--min-lsn: %s", err)
	}
	return nil
}

// awaitReplay waits for the node; without --min-lsn it returns at once.
func (l *atLeast) awaitReplay(ctx context.Context, v *vault.Vault) error {
	if l.lsn == 0 {
		return nil
	}
	wait := replayWait
	if l.wait != nil {
		wait = *l.wait
	}
	return v.AwaitReplay(ctx, l.lsn, wait)
}

// registerStandbyWait adds --wait of a change.
func registerStandbyWait(cmd *cobra.Command, wait **time.Duration) {
	cmd.Flags().Var(durationFlag{wait}, "wait",
		"return when every standby connected to the primary has replayed it, "+
			"after 30s or the `DURATION` written --wait=5m at the latest")
	cmd.Flags().Lookup("wait").NoOptDefVal = rotation.FormatInterval(standbyWait)
}

// reportChange prints a change that was made, waits for the standbys with --wait, and prints which have replayed it.
// JSON is one document, at the end.
func (a *app) reportChange(ctx context.Context, v *vault.Vault, lsn string, wait *time.Duration, done string,
	answer func(*[]db.Standby) any) error {
	if !a.json() {
		a.note("%s", done)
	}
	var standbys *[]db.Standby
	var failed error
	if wait != nil {
		standbys, failed = followStandbys(ctx, v, lsn, *wait)
	}
	if a.json() {
		if err := a.printJSON(answer(standbys)); err != nil {
			return err
		}
	}
	if standbys == nil {
		return failed
	}
	return a.reportStandbys(*standbys)
}

func followStandbys(ctx context.Context, v *vault.Vault, lsn string, wait time.Duration) (*[]db.Standby, error) {
	standbys, err := v.AwaitStandbys(ctx, lsn, wait)
	if err == nil {
		return &standbys, nil
	}
	failed := attention("done, but whether the standbys have replayed it could not be learned: %s", messageOf(err))
	if errors.Is(err, vault.ErrRefused) {
		failed = hint(failed, "as a superuser: GRANT pg_read_all_stats TO vault_owner")
	}
	return nil, failed
}

// reportStandbys prints which standbys have replayed the change; it is an error if one has not.
func (a *app) reportStandbys(standbys []db.Standby) error {
	var has, hasNot []string
	for _, s := range standbys {
		if name := fmt.Sprintf("%q", s.Name); s.Replayed {
			has = append(has, name)
		} else {
			hasNot = append(hasNot, name)
		}
	}
	switch {
	case len(hasNot) == 1:
		return attention("done, but standby %s has not replayed it yet", hasNot[0])
	case len(hasNot) > 1:
		return attention("done, but standbys %s have not replayed it yet", strings.Join(hasNot, ", "))
	case a.json():
	case len(has) == 0:
		a.note("no standby is connected to the primary")
	default:
		a.note("replayed by %s", strings.Join(has, ", "))
	}
	return nil
}
