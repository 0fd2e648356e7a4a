package db_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// starting is a reader that is used for the first time, and counts the sessions that it has.
func starting(t *testing.T, length time.Duration) (r *db.Reader, sessions func() string) {
	t.Helper()
	defer db.StartFor(length)()
	store := vaulttest.New(t)
	r, err := db.NewReader(t.Context(), db.Options{URL: store.URL(vaulttest.Daemon), ApplicationName: "starting",
		MaxConns: 8, ShareAtStart: true})
	must(t, err)
	t.Cleanup(r.Close)
	return r, func() string {
		return store.MustQuery(t, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'starting'`)
	}
}

func TestCallersShareAConnectionAtTheStart(t *testing.T) {
	r, sessions := starting(t, time.Hour)
	var group errgroup.Group
	for range 8 {
		group.Go(func() error { return r.Ping(t.Context()) })
	}
	must(t, group.Wait())
	if n := sessions(); n != "1" {
		t.Errorf("8 callers at once made %s sessions, want 1", n)
	}
}

// A connection that stays in use delays the others until the start is over.
func TestStartEnds(t *testing.T) {
	r, sessions := starting(t, 50*time.Millisecond)
	release, err := r.Hold(t.Context())
	must(t, err)
	defer release()
	must(t, r.Ping(t.Context()))
	if n := sessions(); n != "2" {
		t.Errorf("there are %s sessions, want the one that is in use and another", n)
	}
}

func TestCallerLeavesTheStartAtItsDeadline(t *testing.T) {
	r, sessions := starting(t, time.Hour)
	release, err := r.Hold(t.Context())
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Ping(ctx); !errors.Is(err, db.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, db.ErrUnavailable)
	}
	release()
	must(t, r.Ping(t.Context()))
	if n := sessions(); n != "1" {
		t.Errorf("there are %s sessions, want 1", n)
	}
}
