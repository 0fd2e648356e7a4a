package vault

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
)

const (
	// presenceInterval is no multiple of the heartbeat's: two that begin at one moment need a session each, and a session
	// plans what it has not had yet.
	presenceInterval = 30300 * time.Millisecond
	presenceTimeout  = 5 * time.Second
)

// Daemon is a vaultd that the primary has heard of.
type Daemon = db.Daemon

// Presence tells the primary that this daemon runs, so that an operator sees which release each daemon is. With every
// report it looks whether the schema still fits: connections from before a migration do not notice.
type Presence struct {
	Vault  *Vault
	Daemon Daemon
	Log    *slog.Logger

	failing bool
}

// Run reports at once and then every half a minute, until ctx ends; then it reports the end.
func (p *Presence) Run(ctx context.Context) {
	ticks := time.NewTicker(presenceInterval)
	defer ticks.Stop()
	for ctx.Err() == nil {
		p.report(ctx)
		select {
		case <-ctx.Done():
		case <-ticks.C:
		}
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = p.Vault.writer.ForgetDaemon(ending, p.Daemon.ID) // without it, the row shows when it was last seen
}

// report logs only the first failure and the first success after it. Without a primary, reads go on.
func (p *Presence) report(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, presenceTimeout)
	defer cancel()
	err := p.Vault.reader.Ping(limited)
	if err == nil {
		err = p.Vault.writer.ReportDaemon(limited, p.Daemon)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil && !p.failing:
		p.failing = true
		p.Log.Warn("the primary does not hear which release this daemon is", "error", err)
	case err == nil && p.failing:
		p.failing = false
		p.Log.Info("the primary hears of this daemon again")
	}
}

// NewPresence is that of a daemon which starts now.
func (v *Vault) NewPresence(node, version, commit string, schema int, log *slog.Logger) *Presence {
	return &Presence{Vault: v, Log: log,
		Daemon: Daemon{ID: uuid.New(), Node: node, Version: version, Commit: commit, Schema: schema}}
}

// Daemons lists the daemons seen within a day, as the local node has replayed it.
func (v *Vault) Daemons(ctx context.Context) ([]Daemon, error) { return v.reader.Daemons(ctx) }
