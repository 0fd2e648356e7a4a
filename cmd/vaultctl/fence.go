package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/hyperiondb/vault/internal/db"
)

// openFence reads the primaries that this user has connected to. If the state file cannot be kept (no home, a home that
// may not be entered, a read-only file system) vaultctl works without it and prints no warning, which every run in a
// container would repeat. The doctor reports it.
func (a *app) openFence() (*db.Fence, error) {
	if a.fence == nil {
		fence, err := db.OpenFence(a.stateFile())
		if err != nil {
			return nil, err
		}
		a.fence = fence
	}
	return a.fence, nil
}

// migrate refuses to migrate an old primary.
func (a *app) migrate(ctx context.Context, defaultKey string) (db.MigrateReport, error) {
	fence, err := a.openFence()
	if err != nil {
		return db.MigrateReport{}, err
	}
	return db.Options{URL: a.databaseURL, ApplicationName: applicationName, Fence: fence}.Migrate(ctx, defaultKey)
}

// settleGrants restores grants that a dump does not carry, if asked to.
func (a *app) settleGrants(ctx context.Context, restore bool) (db.Grants, error) {
	return db.Options{URL: a.databaseURL, ApplicationName: applicationName, Fence: a.fence}.SettleGrants(ctx, restore)
}

// stateFile is in the user's state folder, as the XDG base directory specification has it; "" if there is none.
func (a *app) stateFile() string {
	dir := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) { // the specification says to ignore a relative path
		home, err := os.UserHomeDir()
		if err != nil || !filepath.IsAbs(home) {
			return ""
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "vaultctl", "primaries.json")
}
