package db

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// currentIDsQuery is one small statement for the names that requests wait for, whatever their number. It reads the view
// of the read path, so a name that is deleted, or that the role may no longer read, has no row.
const currentIDsQuery = `SELECT name, version_id FROM vault.sealed_versions
	WHERE name = ANY ($1) AND expires_at IS NULL`

// CurrentIDs reads the ids of the current versions of those of the names that have one. It is for noticing a change:
// what is given to a client is read by Current.
func (r *Reader) CurrentIDs(ctx context.Context, names []string) (map[string]uuid.UUID, error) {
	found := make(map[string]uuid.UUID, len(names))
	_, err := collect(ctx, r.pool, func(row pgx.CollectableRow) (struct{}, error) {
		var name string
		var id [16]byte
		err := row.Scan(&name, &id)
		found[name] = id
		return struct{}{}, err
	}, currentIDsQuery, names)
	return found, err
}
