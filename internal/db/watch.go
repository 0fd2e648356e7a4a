package db

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// currentIDsQuery is one small statement for the names that requests wait for, whatever their number. It reads the view
// of the read path, so a name that is deleted, or that the role may no longer read, has no row. No secret has the empty
// name: its row is the access epoch.
const currentIDsQuery = `SELECT name, version_id FROM vault.sealed_versions
	WHERE name = ANY ($1) AND expires_at IS NULL
	UNION ALL SELECT '', epoch FROM vault.access_epoch`

// CurrentIDs reads the ids of the current versions of those of the names that have one, and the access epoch. It is for
// noticing a change: what is given to a client is read by Current.
func (r *Reader) CurrentIDs(ctx context.Context, names []string) (ids map[string]uuid.UUID, epoch uuid.UUID,
	err error) {
	found := make(map[string]uuid.UUID, len(names))
	_, err = Collect(ctx, r.pool, func(row pgx.CollectableRow) (struct{}, error) {
		var name string
		var id [16]byte
		err := row.Scan(&name, &id)
		found[name] = id
		return struct{}{}, err
	}, currentIDsQuery, names)
	epoch = found[""]
	delete(found, "")
	return found, epoch, err
}
