package db

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Standings reads the standings of the names that exist, from the primary.
func (w *Writer) Standings(ctx context.Context, names []string) (map[string]Standing, error) {
	found := make(map[string]Standing, len(names))
	_, err := Collect(ctx, w.pool, func(row pgx.CollectableRow) (struct{}, error) {
		var name string
		var s Standing
		err := row.Scan(&name, &s.CurrentVersion, &s.DeletedAt)
		found[name] = s
		return struct{}{}, err
	}, `SELECT name, current_version, deleted_at FROM vault.secrets WHERE name = ANY ($1)`, names)
	return found, err
}

// CurrentVersion is the current version of a name, or the error of reading it.
type CurrentVersion struct {
	VersionRow
	Err error
}

// Currents reads the current versions of those of the names that are live, from the primary.
func (w *Writer) Currents(ctx context.Context, names []string) (map[string]CurrentVersion, error) {
	return currents(ctx, w.pool, names)
}

// Currents reads the current versions of those of the names that are live, in one statement.
func (r *Reader) Currents(ctx context.Context, names []string) (map[string]CurrentVersion, error) {
	return currents(ctx, r.pool, names)
}

func currents(ctx context.Context, q Querier, names []string) (map[string]CurrentVersion, error) {
	found, err := current.withMissing(ctx, q, names)
	if err != nil {
		return nil, err
	}
	all := make(map[string]CurrentVersion, len(found))
	for name, s := range found {
		row, err := s.current(nil)
		all[name] = CurrentVersion{row, err}
	}
	return all, nil
}

// CountLive counts the live secrets whose names begin with prefix.
func (r *Reader) CountLive(ctx context.Context, prefix string) (n int64, err error) {
	err = r.pool.QueryRow(ctx, `SELECT count(*) FROM vault.secrets s WHERE s.deleted_at IS NULL AND `+UnderPrefix,
		prefix).Scan(&n)
	return n, classify(err)
}

// Put is one of several versions that are stored together.
type Put struct {
	Request    uuid.UUID
	Name       string
	Sealed     SealedValue
	CreateOnly bool
	Settings   Settings
}

// MarshalJSON spells a put as vault.put_versions wants it.
func (p Put) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name             string    `json:"name"`
		Sealed           string    `json:"sealed"`
		Request          uuid.UUID `json:"request_id"`
		CreateOnly       bool      `json:"create_only,omitempty"`
		Generator        *string   `json:"generator,omitempty"`
		RotationInterval *string   `json:"rotation_interval,omitempty"`
		GracePeriod      *string   `json:"grace_period,omitempty"`
		Rotator          *string   `json:"rotator,omitempty"`
		Window           *string   `json:"window,omitempty"`
	}{
		p.Name, p.Sealed.literal(), p.Request, p.CreateOnly, p.Settings.Generator,
		interval(p.Settings.RotationInterval), interval(p.Settings.GracePeriod), p.Settings.Rotator, p.Settings.Window,
	})
}

// interval spells a duration as PostgreSQL reads it.
func interval(d *time.Duration) *string {
	if d == nil {
		return nil
	}
	text := fmt.Sprintf("%d microseconds", d.Microseconds())
	return &text
}

type results []Result

func (all results) committedAt(lsn string) {
	for i := range all {
		all[i].committedAt(lsn)
	}
}

// PutVersions stores all of the versions in one transaction, or none, and answers in their order. Puts are sorted by
// name, so that two writers of the same names cannot deadlock.
func (w *Writer) PutVersions(ctx context.Context, c Credential, puts []Put) ([]Result, error) {
	spelled, err := json.Marshal(puts)
	if err != nil {
		return nil, err
	}
	return change[results](ctx, w, &c, Refusal{"put", "", puts[0].Request}, `SELECT vault.put_versions($1)`,
		string(spelled))
}
