package db

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// The two statements of the read path, over a view that shows the caller only the names under its prefixes. Each takes
// any number of names, and its plan serves any of them. A name has one current version: the one without an end.
//
// Every row has the access epoch of the same snapshot. PostgreSQL computes it once a query.
const (
	currentQuery = sealedColumns + ` AND expires_at IS NULL`
	liveQuery    = sealedColumns + ` AND (expires_at IS NULL OR expires_at > now())`

	sealedColumns = `SELECT name, version, version_id, fmt, kms_key_id, wrapped_dek, nonce, ciphertext, key_commit, aad,
		created_at,
		expires_at, next_rotation_at, ` + accessEpoch + ` FROM vault.sealed_versions WHERE name = ANY ($1)`

	// missingQuery looks into names that the statements above have no row for: whether the secret exists, and whether it
	// has a current version by now. It has a row for each name, since an absent secret has an epoch too.
	missingQuery = `SELECT n.name, s.name IS NOT NULL, v.version, ` + accessEpoch + ` FROM unnest($1::text[]) AS n (name)
		LEFT JOIN (SELECT name FROM vault.secrets WHERE name = ANY ($1) AND deleted_at IS NULL) s ON s.name = n.name
		LEFT JOIN (SELECT name, version FROM vault.sealed_versions WHERE name = ANY ($1) AND expires_at IS NULL) v
			ON v.name = s.name`

	accessEpoch = `(SELECT epoch FROM vault.access_epoch)`
)

// readResult is what a statement found of one secret. If found is false there is no such secret.
type readResult struct {
	found bool
	rows  []VersionRow // newest first
	bad   error        // why a row could not be read, or that it is missing
	epoch uuid.UUID    // of access, in the snapshot of the statement; zero: the node has none

	unanswered bool // the server could not read the name: bad is its error, and there is no epoch

	instance Instance // the server that answered
}

func (s readResult) current(err error) (VersionRow, error) {
	if err := s.check(err); err != nil {
		return VersionRow{}, err
	}
	if s.rows[0].ExpiresAt != nil { // of all live versions the query has found those in grace alone
		return VersionRow{}, errNoCurrent()
	}
	return s.withSecretColumns(s.rows[0]), nil
}

func (s readResult) version(version int, err error) (VersionRow, error) {
	for _, row := range s.rows {
		if row.Version == version {
			return s.withSecretColumns(row), err
		}
	}
	if err := s.check(err); err != nil {
		return VersionRow{}, err
	}
	return VersionRow{}, ErrNotFound
}

// withSecretColumns adds the times that only the current version's row has.
func (s readResult) withSecretColumns(row VersionRow) VersionRow {
	row.RotatedAt, row.NextRotationAt = nil, nil
	if current := &s.rows[0]; current.ExpiresAt == nil {
		row.RotatedAt, row.NextRotationAt = &current.CreatedAt, current.NextRotationAt
	}
	return row
}

func (s readResult) check(err error) error {
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

// shared is a query that concurrent requests share. It has a limit of its own, so it does not use the pool's.
func shared(p *pool, limit time.Duration, query sealedQuery) *coalescer[readResult] {
	byName := func(ctx context.Context, names []string) (map[string]readResult, error) {
		return query.byName(ctx, p.sessions, names)
	}
	return &coalescer[readResult]{limit: limit, query: byName}
}

// sealedQuery is one of the statements, and the function that reads its rows.
type sealedQuery struct {
	sql  string
	scan func(s *scanner, into *readResult)
}

var (
	current = sealedQuery{currentQuery, (*scanner).secret}
	live    = sealedQuery{liveQuery, (*scanner).secret}
	missing = sealedQuery{missingQuery, (*scanner).missing}
)

// byName queries all names at once. If the server fails on the data of one of them, each is queried alone, so the
// others are answered.
func (s sealedQuery) byName(ctx context.Context, q Querier, names []string) (map[string]readResult, error) {
	found, err := s.run(ctx, q, names)
	if len(names) == 1 || !ofOneRow(err) {
		return found, err
	}
	all := make(map[string]readResult, len(names))
	for _, name := range names {
		one, err := s.run(ctx, q, []string{name})
		if err != nil {
			all[name] = readResult{found: true, bad: err, unanswered: true}
		} else if s, found := one[name]; found {
			all[name] = s
		}
	}
	return all, nil
}

// ofOneRow reports whether the server could not read something (classes 22, 58 and XX of appendix A of its manual: data
// exception, system error, internal error or corrupted data).
func ofOneRow(err error) bool { return isClass(err, "22", "58", "XX") }

// unreadable turns an error in the stored data into ErrIntegrity. The caller gave only a name, so its arguments are not
// the cause.
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

// withMissing is byName for a query that is not shared: names without a row are looked into at once.
func (s sealedQuery) withMissing(ctx context.Context, q Querier, names []string) (map[string]readResult, error) {
	found, err := s.byName(ctx, q, names)
	if err != nil || len(found) == len(names) {
		return found, err
	}
	absent := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return found[name].found })
	there, err := missing.byName(ctx, q, absent)
	if err != nil {
		return nil, err
	}
	var again []string
	for name, l := range there {
		switch {
		case !l.found:
		case l.bad != nil:
			found[name] = l
		default: // created between the two statements
			again = append(again, name)
		}
	}
	if len(again) > 0 {
		late, err := s.withMissing(ctx, q, again)
		if err != nil {
			return nil, err
		}
		maps.Copy(found, late)
	}
	return found, nil
}

func (s sealedQuery) run(ctx context.Context, q Querier, names []string) (map[string]readResult, error) {
	rows, err := q.Query(ctx, s.sql, names)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	all := make(map[string]readResult, len(names))
	instance := instanceOf(rows.Conn().PgConn())
	var row scanner
	for rows.Next() {
		name := row.begin(rows)
		secret := all[name]
		secret.instance = instance
		s.scan(&row, &secret)
		all[name] = secret
	}
	return all, unreadable(classify(rows.Err()))
}

// scanner reads rows column by column, because pgx ends the whole result at the first row that does not scan.
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

func (s *scanner) secret(into *readResult) {
	into.found = true
	var v VersionRow
	if err := errors.Join(s.epoch(13, into), s.version(&v)); err != nil {
		into.bad = newError(ErrIntegrity, "a row has a column of the wrong kind: %s", oneLine(err))
		return
	}
	into.insert(v)
}

func (s *scanner) missing(into *readResult) {
	if err := errors.Join(s.scan(1, &into.found), s.epoch(3, into)); err != nil {
		into.found, into.bad = true, newError(ErrIntegrity, "a row has a column of the wrong kind: %s", oneLine(err))
		return
	}
	if into.found && s.raw[2] == nil {
		into.bad = errNoCurrent()
	}
}

func errNoCurrent() error { return newError(ErrIntegrity, "the secret has no current version") }

// epoch leaves the zero epoch where the server has none.
func (s *scanner) epoch(column int, into *readResult) error {
	if s.raw[column] == nil {
		into.epoch = uuid.Nil
		return nil
	}
	return s.scan(column, (*[16]byte)(&into.epoch))
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

// insert keeps the newest first. There are few; sorting in the server cost more.
func (s *readResult) insert(v VersionRow) {
	at := len(s.rows)
	for at > 0 && s.rows[at-1].Version < v.Version {
		at--
	}
	s.rows = append(s.rows, v)
	copy(s.rows[at+1:], s.rows[at:])
	s.rows[at] = v
}
