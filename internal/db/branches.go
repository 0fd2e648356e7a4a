package db

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Branch is a continuation of names: up to the next slash, or to the end.
type Branch struct {
	Text  string // begins with the prefix that was asked for
	Whole bool   // it is a secret's name; with a width, other names may begin with it too
}

// BranchQuery selects the names that branches are made of.
type BranchQuery struct {
	Prefix        string
	Live, Deleted bool // which secrets; Deleted means those that can be restored
	Width         int  // characters after the prefix that make a branch; 0 = up to a slash
	Limit         int
}

// branchesQuery steps from branch to branch along the index of names, and skips the names below a branch. '~' sorts
// after every character of a name. The bound of the next step is a column: with an expression of functions that are not
// leakproof, row level security would read every name first.
const branchesQuery = `
WITH RECURSIVE hop (branch, whole, bound) AS (
	SELECT one.* FROM (VALUES ('' COLLATE "C")) h (bound) CROSS JOIN LATERAL (` + nextBranch + `) one
	UNION ALL
	SELECT one.* FROM hop h CROSS JOIN LATERAL (` + nextBranch + `) one
)
SELECT branch, whole FROM hop LIMIT $5`

const nextBranch = `SELECT b.branch, b.branch = b.name, CASE
			WHEN b.branch = b.name AND ($4::int = 0 OR length(b.name) < length($1) + $4::int) THEN b.name
			ELSE b.branch || '~' END COLLATE "C"
	FROM (SELECT s.name, CASE
			WHEN $4::int > 0 THEN left(s.name, length($1) + $4::int)
			WHEN strpos(substr(s.name, length($1) + 1), '/') = 0 THEN s.name
			ELSE left(s.name, length($1) + strpos(substr(s.name, length($1) + 1), '/')) END COLLATE "C" AS branch
		FROM vault.secrets s
		WHERE ` + UnderPrefix + ` AND s.name > h.bound
			AND ($2 AND s.deleted_at IS NULL OR $3 AND s.deleted_at IS NOT NULL AND s.restore_until > now())
		ORDER BY s.name LIMIT 1) b`

// Branches lists the continuations of a prefix, sorted, each once.
func (r *Reader) Branches(ctx context.Context, q BranchQuery) ([]Branch, error) {
	return Collect(ctx, r.pool, func(row pgx.CollectableRow) (b Branch, err error) {
		err = row.Scan(&b.Text, &b.Whole)
		return b, err
	}, branchesQuery, q.Prefix, q.Live, q.Deleted, q.Width, q.Limit)
}
