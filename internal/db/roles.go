package db

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Roles lists database roles whose names begin with a prefix, at most limit, in their order: those that a grant may
// name. PostgreSQL's own and superusers are left out.
func (r *Reader) Roles(ctx context.Context, prefix string, limit int) ([]string, error) {
	return Collect(ctx, r.pool, pgx.RowTo[string], `SELECT rolname::text FROM pg_catalog.pg_roles
		WHERE rolname::text ^@ $1 AND NOT rolname::text ^@ 'pg_' AND NOT rolname::text ^@ 'vault_' AND NOT rolsuper
		ORDER BY 1 LIMIT $2`, prefix, limit)
}
