package db

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Summary is a live secret and its newest versions, without any value, read in one statement.
type Summary struct {
	Name           string
	CurrentVersion int
	CreatedAt      time.Time // of the secret
	RotatedAt      time.Time // of its current version
	Versions       []SummaryVersion
}

// SummaryVersion is one version of a secret; a Summary has them newest first.
type SummaryVersion struct {
	Version   int
	CreatedAt time.Time
	ExpiresAt *time.Time // nil: the current version; in the past: it opens no more
	Removed   bool       // its sealed bytes are gone
}

// Summary reads a secret and at most so many of its newest versions. ErrNotFound if it is absent or deleted.
func (s Snapshot) Summary(ctx context.Context, name string, versions int) (Summary, error) {
	found := Summary{Name: name}
	rows, err := Collect(ctx, s.tx, func(row pgx.CollectableRow) (v SummaryVersion, err error) {
		err = row.Scan(&found.CurrentVersion, &found.CreatedAt, &v.Version, &v.CreatedAt, &v.ExpiresAt, &v.Removed)
		return v, err
	}, `SELECT s.current_version, s.created_at, v.version, v.created_at, v.expires_at, v.removed_at IS NOT NULL
		FROM vault.secrets s JOIN vault.secret_versions v ON v.secret_id = s.id
		WHERE s.name = $1 AND s.deleted_at IS NULL ORDER BY v.version DESC LIMIT $2`, name, versions)
	if err == nil && len(rows) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Summary{}, err
	}
	found.RotatedAt, found.Versions = rows[0].CreatedAt, rows
	return found, nil
}
