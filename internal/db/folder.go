package db

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// NameRange is the names from From on and before To, in the order of their bytes.
type NameRange struct{ From, To string }

// Two characters that no name has: lowest sorts before every character that a name can go on with, highest after all.
const (
	lowest  = "!"
	highest = "~"
)

// Below is the range of the names that begin with a prefix and are longer. The prefix is empty or ends with a
// separator.
func Below(prefix string) NameRange { return NameRange{prefix, prefix + highest} }

// Only is the range of one name.
func Only(name string) NameRange { return NameRange{name, name + lowest} }

// FolderQuery selects entries of one folder of names.
type FolderQuery struct {
	Folder string      // "" is the root; else it ends with "/"
	Ranges []NameRange // an entry is shown if one of its names is in one of them
	After  string      // an entry; the page begins after it
	Limit  int
}

// folderQuery steps through each range from entry to entry along the index of names, and skips the names below an
// entry. The bound of the next step is a column, because with an expression of functions that are not leakproof, row
// level security would read every name first. The ranges are in order, so LIMIT stops at the last entry of the page.
const folderQuery = `
SELECT f.entry FROM unnest($2::text[], $3::text[]) WITH ORDINALITY r (low, high, i) CROSS JOIN LATERAL (
	WITH RECURSIVE hop (entry, bound) AS (
		SELECT one.* FROM (VALUES (r.low COLLATE "C")) h (bound) CROSS JOIN LATERAL (` + nextEntry + `) one
		UNION ALL
		SELECT one.* FROM hop h CROSS JOIN LATERAL (` + nextEntry + `) one
	) SELECT entry FROM hop) f
ORDER BY r.i LIMIT $4`

const nextEntry = `SELECT e.entry,
			e.entry || CASE WHEN e.entry = e.name THEN '` + lowest + `' ELSE '` + highest + `' END COLLATE "C"
	FROM (SELECT s.name, left(s.name, length($1)
			+ coalesce(nullif(strpos(substr(s.name, length($1) + 1), '/'), 0), length(s.name))) COLLATE "C" AS entry
		FROM vault.secrets s
		WHERE s.name >= h.bound AND s.name < r.high AND s.deleted_at IS NULL ORDER BY s.name LIMIT 1) e`

// Folder lists the entries of a folder, sorted by their bytes, each once, without the folder's own name. An entry is a
// secret, or a folder, which ends with "/": a secret "a" and a folder "a/" are two.
func (s Snapshot) Folder(ctx context.Context, q FolderQuery) ([]string, error) {
	low, high := q.bounds()
	if len(low) == 0 {
		return nil, nil
	}
	// Ranges beside each other can lead to the same entry.
	rows, err := Collect(ctx, s.tx, pgx.RowTo[string], folderQuery, q.Folder, low, high, q.Limit+len(low)-1)
	if err != nil {
		return nil, err
	}
	if !slices.IsSorted(rows) {
		return nil, newError(ErrIntegrity, "the entries of a folder are not in order")
	}
	rows = slices.Compact(rows)
	rows = rows[:min(len(rows), q.Limit)]
	for i, entry := range rows {
		if !strings.HasPrefix(entry, q.Folder) {
			return nil, newError(ErrIntegrity, "an entry is not in its folder")
		}
		rows[i] = entry[len(q.Folder):]
	}
	return rows, nil
}

// bounds are the ranges, without those that lie in another, as far as they are in the folder and on the page.
func (q FolderQuery) bounds() (low, high []string) {
	all := Below(q.Folder)
	if q.After != "" {
		all.From = q.Folder + q.After + lowest
		if strings.HasSuffix(q.After, "/") {
			all.From = q.Folder + q.After + highest
		}
	}
	ranges := slices.Clone(q.Ranges)
	slices.SortFunc(ranges, func(a, b NameRange) int {
		if c := strings.Compare(a.From, b.From); c != 0 {
			return c
		}
		return strings.Compare(b.To, a.To)
	})
	end := ""
	for _, r := range ranges {
		r = NameRange{max(r.From, all.From, end), min(r.To, all.To)}
		if r.From < r.To {
			low, high, end = append(low, r.From), append(high, r.To), r.To
		}
	}
	return low, high
}
