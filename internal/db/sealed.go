package db

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// The two statements of the read path, over a view that cuts what is read to the caller's prefixes. Both ask for any
// number of names at once and are planned once, for any of them. The current version is the one without an end, of
// which a name has one.
const (
	currentQuery = sealedColumns + ` AND expires_at IS NULL`
	liveQuery    = sealedColumns + ` AND (expires_at IS NULL OR expires_at > now())`

	sealedColumns = `SELECT name, version, version_id, fmt, kms_key_id, wrapped_dek, nonce, ciphertext, key_commit, aad, created_at,
		expires_at, next_rotation_at FROM vault.sealed_versions WHERE name = ANY ($1)`

	// lostQuery asks for names of which nothing was found: whether the secret is there, and whether its current version is
	// by now.
	lostQuery = `SELECT s.name, v.version FROM vault.secrets s LEFT JOIN vault.sealed_versions v ON v.name = s.name AND v.expires_at IS NULL
		WHERE s.name = ANY ($1) AND s.deleted_at IS NULL`
)

// sealed is what a statement found of one secret; the zero value is a secret that is not there.
type sealed struct {
	found bool
	rows  []VersionRow // newest first
	bad   error        // of a row that could not be read, or is missing
}

func (s sealed) current(err error) (VersionRow, error) {
	if err := s.check(err); err != nil {
		return VersionRow{}, err
	}
	return s.told(s.rows[0]), nil
}

func (s sealed) version(version int, err error) (VersionRow, error) {
	for _, row := range s.rows {
		if row.Version == version {
			return s.told(row), err
		}
	}
	if err := s.check(err); err != nil {
		return VersionRow{}, err
	}
	return VersionRow{}, ErrNotFound
}

// told adds what the current version's row says of the secret.
func (s sealed) told(row VersionRow) VersionRow {
	row.RotatedAt, row.NextRotationAt = nil, nil
	if current := &s.rows[0]; current.ExpiresAt == nil {
		row.RotatedAt, row.NextRotationAt = &current.CreatedAt, current.NextRotationAt
	}
	return row
}

func (s sealed) check(err error) error {
	switch {
	case err != nil:
		return err
	case s.bad != nil:
		return s.bad
	case !s.found:
		return ErrNotFound
	}
	return nil
}

// shared is a query that requests share. It goes past the pool's limit, having its own.
func shared(p *pool, limit time.Duration, query sealedQuery) *coalescer[sealed] {
	return &coalescer[sealed]{limit: limit, query: func(ctx context.Context, names []string) (map[string]sealed, error) {
		return query.byName(ctx, p.sessions, names)
	}}
}

// sealedQuery is one of the statements, with what reads its rows.
type sealedQuery struct {
	sql  string
	scan func(s *scanner, into *sealed)
}

var (
	current = sealedQuery{currentQuery, (*scanner).secret}
	live    = sealedQuery{liveQuery, (*scanner).secret}
	lost    = sealedQuery{lostQuery, (*scanner).lost}
)

// byName asks for all names at once. When the server itself fails on something that one of them leads to, they are
// asked for one by one, and the others are answered.
func (s sealedQuery) byName(ctx context.Context, q rowsQuerier, names []string) (map[string]sealed, error) {
	found, err := s.ask(ctx, q, names)
	if len(names) == 1 || !ofOneRow(err) {
		return found, err
	}
	all := make(map[string]sealed, len(names))
	for _, name := range names {
		one, err := s.ask(ctx, q, []string{name})
		if err != nil {
			all[name] = sealed{found: true, bad: err}
		} else if s, found := one[name]; found {
			all[name] = s
		}
	}
	return all, nil
}

// ofOneRow: the server could not read something (classes 22, 58 and XX of appendix A of its manual: data exception,
// system error, internal error or corrupted data).
func ofOneRow(err error) bool { return isClass(err, "22", "58", "XX") }

// unreadable: what a name leads to is broken, and no argument of the caller's, who gave nothing but a name.
func unreadable(err error) error {
	if isClass(err, "22", "XX") {
		return &Error{Kind: ErrIntegrity, Code: err.(*Error).Code, Text: "the server cannot read a row: " + err.Error()}
	}
	return err
}

func isClass(err error, classes ...string) bool {
	e, ok := err.(*Error)
	return ok && len(e.Code) == 5 && slices.Contains(classes, e.Code[:2])
}

// withLost is byName for a caller who shares it with nobody: what is not found is looked into.
func (s sealedQuery) withLost(ctx context.Context, q rowsQuerier, names []string) (map[string]sealed, error) {
	found, err := s.byName(ctx, q, names)
	if err != nil || len(found) == len(names) {
		return found, err
	}
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return found[name].found })
	there, err := lost.byName(ctx, q, missing)
	if err != nil {
		return nil, err
	}
	var again []string
	for name, l := range there {
		if l.bad != nil {
			found[name] = l
		} else { // it came to be in between
			again = append(again, name)
		}
	}
	if len(again) > 0 {
		late, err := s.withLost(ctx, q, again)
		if err != nil {
			return nil, err
		}
		maps.Copy(found, late)
	}
	return found, nil
}

func (s sealedQuery) ask(ctx context.Context, q rowsQuerier, names []string) (map[string]sealed, error) {
	rows, err := q.Query(ctx, s.sql, names)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	all := make(map[string]sealed, len(names))
	var row scanner
	for rows.Next() {
		name := row.begin(rows)
		secret := all[name]
		s.scan(&row, &secret)
		all[name] = secret
	}
	return all, unreadable(classify(rows.Err()))
}

// scanner reads rows column by column, so that one that does not read spoils no other: pgx ends the whole answer then.
type scanner struct {
	plans []pgtype.ScanPlan
	types *pgtype.Map
	kinds []pgconn.FieldDescription
	raw   [][]byte
}

func (s *scanner) begin(rows pgx.Rows) (name string) {
	s.raw = rows.RawValues()
	if s.kinds == nil {
		s.kinds, s.types = rows.FieldDescriptions(), rows.Conn().TypeMap()
		s.plans = make([]pgtype.ScanPlan, len(s.kinds))
	}
	return string(s.raw[0]) // text is the same bytes in both formats
}

func (s *scanner) secret(into *sealed) {
	into.found = true
	var v VersionRow
	if err := s.version(&v); err != nil {
		into.bad = newError(ErrIntegrity, "a row has a column of the wrong kind: %s", oneLine(err))
		return
	}
	into.insert(v)
}

func (s *scanner) lost(into *sealed) {
	into.found = true
	if s.raw[1] == nil {
		into.bad = newError(ErrIntegrity, "the secret has no current version")
	}
}

func (s *scanner) version(v *VersionRow) error {
	for i, target := range []any{&v.Version, (*[16]byte)(&v.VersionID), &v.Format, &v.KMSKeyID, &v.WrappedDEK, &v.Nonce,
		&v.Ciphertext, &v.KeyCommit, &v.AAD, &v.CreatedAt} {
		if err := s.scan(1+i, target); err != nil {
			return err
		}
	}
	return errors.Join(s.time(11, &v.ExpiresAt), s.time(12, &v.NextRotationAt))
}

func (s *scanner) scan(column int, target any) error {
	if s.plans[column] == nil {
		s.plans[column] = s.types.PlanScan(s.kinds[column].DataTypeOID, s.kinds[column].Format, target)
	}
	return s.plans[column].Scan(s.raw[column], target)
}

func (s *scanner) time(column int, into **time.Time) error {
	if s.raw[column] == nil {
		return nil
	}
	at := new(time.Time)
	*into = at
	return s.scan(column, at)
}

// insert keeps the newest first. There are few, and asking the server to sort cost more than it does.
func (s *sealed) insert(v VersionRow) {
	at := len(s.rows)
	for at > 0 && s.rows[at-1].Version < v.Version {
		at--
	}
	s.rows = append(s.rows, v)
	copy(s.rows[at+1:], s.rows[at:])
	s.rows[at] = v
}
