package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/tui"
	"github.com/hyperiondb/vault/internal/vault"
)

// auditSource answers the browser from the vault.
type auditSource struct{ vault *vault.Vault }

var _ tui.Source = (*auditSource)(nil)

func (a *app) auditSource(ctx context.Context) (*auditSource, error) {
	v, err := a.vault(ctx)
	return &auditSource{v}, err
}

func runAudit(ctx context.Context, a *app, line, theme string) error {
	source, err := a.auditSource(ctx)
	if err != nil {
		return err
	}
	// If the first query is refused, the error with its hint is printed instead of the browser.
	first, cancel := context.WithTimeout(ctx, tui.Deadline)
	defer cancel()
	if _, err := source.vault.Audit(first, db.AuditQuery{Limit: 1}); err != nil {
		return asAuditor(err)
	}
	err = tui.Run(ctx, tui.Options{Source: source, Filter: line, Theme: theme, In: a.in, Out: a.out, Now: time.Now})
	if errors.Is(err, tui.ErrTheme) {
		return usage("%s", err)
	}
	return err
}

// auditFilter turns the terms of each key into at most two conditions: any of them matches, none of them matches.
func auditFilter(f filter.Filter) db.AuditFilter {
	to := db.AuditFilter{Since: f.Since(), Until: f.Until()}
	for _, column := range []struct {
		key  filter.Key
		name db.AuditColumn
	}{
		// The order in which a search looks for few rows.
		{filter.Request, db.AuditRequest}, {filter.Secret, db.AuditSecret}, {filter.Outcome, db.AuditOutcome},
		{filter.Actor, db.AuditActor},
		{filter.IP, db.AuditClient}, {filter.Action, db.AuditAction}, {filter.Node, db.AuditNode},
		{filter.Version, db.AuditVersion},
	} {
		any, none := f.Of(column.key)
		for _, terms := range [][]filter.Term{any, none} {
			if len(terms) > 0 {
				to.Conditions = append(to.Conditions, auditCondition(column.name, terms))
			}
		}
	}
	return to
}

func auditCondition(column db.AuditColumn, terms []filter.Term) db.AuditCondition {
	c := db.AuditCondition{Column: column, Not: terms[0].Not}
	for _, t := range terms {
		texts := []string{t.Text}
		if t.Key == filter.Actor {
			texts = t.Actors()
		}
		switch {
		case t.Key == filter.IP:
			c.Networks = append(c.Networks, t.Network)
		case t.Key == filter.Version:
			c.Numbers = append(c.Numbers, t.Number)
		case t.Prefix:
			c.Prefixes = append(c.Prefixes, texts...)
		default:
			c.Equal = append(c.Equal, texts...)
		}
	}
	return c
}

func (s *auditSource) Events(ctx context.Context, q tui.Query) (tui.Page, error) {
	query := db.AuditQuery{Filter: auditFilter(q.Filter), Newer: q.Newer, Limit: q.Limit}
	if q.From != nil {
		query.From = &db.AuditCursor{At: q.From.At, ID: q.From.ID}
	}
	page, err := s.vault.Audit(ctx, query)
	shown := tui.Page{Events: shownEvents(page.Rows)}
	if page.Next != nil {
		shown.Next = &tui.Cursor{At: page.Next.At, ID: page.Next.ID}
	}
	return shown, err
}

func shownEvents(rows []db.AuditRow) []tui.Event {
	events := make([]tui.Event, len(rows))
	for i, r := range rows {
		events[i] = shownEvent(r)
	}
	return events
}

func shownEvent(r db.AuditRow) tui.Event {
	e := tui.Event{
		ID: r.ID, RecordedAt: r.RecordedAt, DBRole: r.DBRole,
		Event: audit.Event{At: r.At, Actor: r.Actor, Client: r.Client, Node: r.Node, Action: r.Action, Secret: r.Secret,
			Version: r.Version, Outcome: audit.Outcome(r.Outcome)},
	}
	if r.RequestID != nil {
		e.RequestID = r.RequestID.String()
	}
	decoder := json.NewDecoder(bytes.NewReader(r.Detail))
	decoder.UseNumber()
	if decoder.Decode(&e.Detail) != nil {
		e.Detail = map[string]any{"detail": string(r.Detail)} // not an object: written by hand
	}
	e.JSON, _ = json.MarshalIndent(r, "", "  ") // it came from JSON
	return e
}

func (s *auditSource) Counts(ctx context.Context, f filter.Filter, from, to time.Time,
	buckets int) (tui.Counts, error) {
	counts, err := s.vault.AuditCounts(ctx, auditFilter(f), from, to, buckets)
	shown := tui.Counts{From: counts.From, To: counts.To}
	for _, c := range counts.Buckets {
		shown.Buckets = append(shown.Buckets, tui.Count(c))
	}
	return shown, err
}

func (s *auditSource) Follow(ctx context.Context, f filter.Filter) (tui.Follower, error) {
	follower, err := s.vault.FollowAudit(ctx, auditFilter(f))
	return auditFollower{follower}, err
}

type auditFollower struct{ *db.AuditFollower }

func (f auditFollower) Next(ctx context.Context) ([]tui.Event, bool, error) {
	rows, more, err := f.AuditFollower.Next(ctx)
	return shownEvents(rows), more, err
}

// valuesShown is the highest number of suggestions.
const valuesShown = 50

func (s *auditSource) Values(ctx context.Context, key filter.Key, typed string) ([]string, error) {
	column := db.AuditColumn(key)
	prefixes := []string{typed}
	if key == filter.Actor {
		prefixes = filter.Term{Key: key, Text: typed}.Actors()
	}
	return s.vault.AuditValues(ctx, column, prefixes, valuesShown)
}

func (s *auditSource) Secrets(ctx context.Context, prefix, after string, limit int) ([]tui.Secret, error) {
	uses, err := s.vault.SecretUses(ctx, db.ListQuery{Prefix: prefix, After: after, Limit: limit})
	shown := make([]tui.Secret, len(uses))
	for i, u := range uses {
		shown[i] = tui.Secret{Name: u.Name, Version: u.CurrentVersion, RotatedAt: u.RotatedAt,
			NextRotationAt: u.NextRotationAt, Paused: u.PausedAt != nil, LastReadAt: u.LastReadAt}
		if u.Job != nil {
			shown[i].JobState, shown[i].JobError = u.Job.State, u.Job.LastError
		}
	}
	return shown, err
}

func (s *auditSource) Seal(ctx context.Context, e tui.Event) (tui.Seal, error) {
	seal, err := s.vault.SealOf(ctx, db.AuditCursor{At: e.At, ID: e.ID})
	if errors.Is(err, vault.ErrNotFound) {
		return tui.Seal{}, nil
	}
	return tui.Seal{Known: err == nil, ID: seal.ID, SealedAt: seal.SealedAt}, err
}

func (s *auditSource) Status(ctx context.Context) (tui.Status, error) {
	status, err := s.vault.Status(ctx)
	return tui.Status{Node: status.Node, Standby: status.Role == "standby", ReplayedUntil: status.ReplayedUntil}, err
}

func oldestFirst(rows []db.AuditRow) []db.AuditRow {
	slices.Reverse(rows)
	return rows
}
