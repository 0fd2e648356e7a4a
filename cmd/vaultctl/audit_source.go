package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/tui"
)

// browsed is what the browser shows: the log, and the node that it is read from.
type browsed struct {
	*auditdb.Log
	node *db.Reader
}

var _ tui.Source = browsed{}

func runAudit(ctx context.Context, a *app, line, theme string) error {
	log, err := a.log(ctx)
	if err != nil {
		return err
	}
	// If the first query is refused, the error with its hint is printed instead of the browser.
	first, cancel := context.WithTimeout(ctx, tui.Deadline)
	defer cancel()
	if _, err := log.Events(first, audit.Query{Limit: 1}); err != nil {
		return asAuditor(err)
	}
	err = tui.Run(ctx, tui.Options{Source: browsed{log, a.reader}, Filter: line, Theme: theme, In: a.in, Out: a.out,
		Now: time.Now})
	if errors.Is(err, tui.ErrTheme) {
		return usage("%s", err)
	}
	return err
}

func (b browsed) Follow(ctx context.Context, f filter.Filter) (tui.Follower, error) {
	return b.Log.Follow(ctx, f)
}

func (b browsed) Status(ctx context.Context) (tui.Status, error) {
	status, err := b.node.Status(ctx)
	return tui.Status{Node: status.Node, Standby: status.Role == "standby", ReplayedUntil: status.ReplayedUntil}, err
}

func (b browsed) Export(ctx context.Context, f filter.Filter, w io.Writer, progress func(int64)) error {
	return exportEvents(ctx, b.Log, f, w, progress)
}
