package db

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// The two statements of the read path, over views that cut what is read to the caller's prefixes. Both ask for any number of names
// at once and are planned once, for any of them.
const (
	currentQuery = sealedColumns + ` FROM vault.sealed_current` + sealedNames
	liveQuery    = sealedColumns + ` FROM vault.sealed_live` + sealedNames

	sealedColumns = `SELECT name, current_version, rotated_at, next_rotation_at,
		version, version_id, fmt, kms_key_id, wrapped_dek, nonce, ciphertext, key_commit, aad, created_at, expires_at`
	sealedNames = ` WHERE name = ANY ($1)`
)

// sealed is what a statement found of one secret; the zero value is a secret that is not there.
type sealed struct {
	found   bool
	pointer int // the current version, says the secret
	rows    []VersionRow
	bad     error // of a row that could not be read
}

func (s sealed) current(name string, err error) (VersionRow, error) {
	if err := s.check(err); err != nil {
		return VersionRow{}, err
	}
	if len(s.rows) == 0 || s.rows[0].ExpiresAt != nil {
		return VersionRow{}, newError(ErrIntegrity, "secret %q points to version %d, which is not a current version", name, s.pointer)
	}
	return s.rows[0], nil
}

func (s sealed) live(name string, err error) ([]VersionRow, error) {
	if err := s.check(err); err != nil {
		return nil, err
	}
	if len(s.rows) == 0 {
		return nil, newError(ErrIntegrity, "secret %q has no live version", name)
	}
	return s.rows, nil
}

func (s sealed) version(version int, err error) (VersionRow, error) {
	for _, row := range s.rows {
		if row.Version == version {
			return row, err
		}
	}
	if err := s.check(err); err != nil {
		return VersionRow{}, err
	}
	return VersionRow{}, ErrNotFound
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

// newCoalescer asks a pool, past the limit of that: it has its own.
func newCoalescer(p *pool, limit time.Duration, sql string) *coalescer[sealed] {
	return &coalescer[sealed]{limit: limit, query: func(ctx context.Context, names []string) (map[string]sealed, error) {
		return sealedByName(ctx, p.Pool, sql, names)
	}}
}

// sealedByName asks for all names at once. When the server itself fails on something that one of them leads to, they are asked
// for one by one, and the others are answered.
func sealedByName(ctx context.Context, q rowsQuerier, sql string, names []string) (map[string]sealed, error) {
	found, err := querySealed(ctx, q, sql, names)
	if len(names) == 1 || !ofOneRow(err) {
		return found, err
	}
	all := make(map[string]sealed, len(names))
	for _, name := range names {
		one, err := querySealed(ctx, q, sql, []string{name})
		if err != nil {
			all[name] = sealed{found: true, bad: err}
		} else if s, found := one[name]; found {
			all[name] = s
		}
	}
	return all, nil
}

// ofOneRow: the server could not read something (classes 22, 58 and XX of appendix A of its manual: data exception, system
// error, internal error or corrupted data).
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

func querySealed(ctx context.Context, q rowsQuerier, sql string, names []string) (map[string]sealed, error) {
	rows, err := q.Query(ctx, sql, names)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	all := make(map[string]sealed, len(names))
	var s scanner
	for rows.Next() {
		name := s.begin(rows)
		secret := all[name]
		s.secret(&secret)
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
	err := errors.Join(s.scan(1, &into.pointer), s.time(2, &v.RotatedAt), s.time(3, &v.NextRotationAt))
	if err == nil && s.raw[4] != nil {
		err = s.version(&v)
		into.insert(v)
	}
	if err != nil {
		into.bad = newError(ErrIntegrity, "a row has a column of the wrong kind: %s", oneLine(err))
	}
}

func (s *scanner) version(v *VersionRow) error {
	for i, target := range []any{&v.Version, (*[16]byte)(&v.VersionID), &v.Format, &v.KMSKeyID, &v.WrappedDEK, &v.Nonce, &v.Ciphertext,
		&v.KeyCommit, &v.AAD, &v.CreatedAt} {
		if err := s.scan(4+i, target); err != nil {
			return err
		}
	}
	return s.time(14, &v.ExpiresAt)
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
