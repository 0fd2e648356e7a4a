package db

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// storedTimeout is for one statement that looks at all versions.
const storedTimeout = 10 * time.Minute

// storedWhere are the versions that still have sealed bytes: current, in grace, expired and not removed yet, and those
// of deleted secrets that can be restored. A reader without a prefix of its own sees those under its prefixes.
const storedWhere = ` FROM vault.secret_versions WHERE removed_at IS NULL`

// StoredPlace names a version that has sealed bytes. The zero value comes before all others.
type StoredPlace struct {
	SecretID int64
	Version  int
	Name     string
	KMSKeyID string
}

// StoredVersion is a version as it is stored, or the error of reading it. Nothing in it has been checked.
type StoredVersion struct {
	StoredPlace
	Row VersionRow
	Err error
}

// StoredKey is a KMS key that wrapped stored versions, how many of them, and the newest.
type StoredKey struct {
	KMSKeyID string
	Versions int64
	Newest   StoredPlace
	NewestAt time.Time
}

// StoredKeys lists the KMS keys of all stored versions that this role may read, the most used first. It reads every row
// of the table without its sealed bytes.
func (r *Reader) StoredKeys(ctx context.Context) ([]StoredKey, error) {
	ctx, cancel := context.WithTimeout(ctx, storedTimeout)
	defer cancel()
	return Collect(ctx, r.pool.sessions, func(row pgx.CollectableRow) (StoredKey, error) {
		var k StoredKey
		err := row.Scan(&k.KMSKeyID, &k.Versions, &k.Newest.SecretID, &k.Newest.Version, &k.Newest.Name, &k.NewestAt)
		k.Newest.KMSKeyID = k.KMSKeyID
		return k, err
	}, `SELECT kms_key_id, n, secret_id, version, name, created_at FROM (
			SELECT kms_key_id, secret_id, version, name, created_at, count(*) OVER (PARTITION BY kms_key_id) AS n,
				row_number() OVER (PARTITION BY kms_key_id ORDER BY created_at DESC, secret_id, version) AS nth`+storedWhere+`) v
		WHERE nth = 1 ORDER BY n DESC, kms_key_id`)
}

// StoredSample chooses n stored versions at random. It reads every row of the table without its sealed bytes.
func (r *Reader) StoredSample(ctx context.Context, n int) ([]StoredPlace, error) {
	ctx, cancel := context.WithTimeout(ctx, storedTimeout)
	defer cancel()
	return Collect(ctx, r.pool.sessions, scanPlace,
		`SELECT secret_id, version, name, kms_key_id`+storedWhere+` ORDER BY random() LIMIT $1`, n)
}

// StoredAfter is the next page of all stored versions, in the order of the table's key, and where the page after it
// begins. It has fewer than limit if rows between have been removed; more is false after the last page. It reads the
// index of the key alone, also in a database just restored, whose statistics say nothing yet.
func (r *Reader) StoredAfter(ctx context.Context, after StoredPlace, limit int) (page []StoredPlace, next StoredPlace,
	more bool, err error) {
	type row struct {
		StoredPlace
		removed bool
	}
	var rows []row
	err = r.ReadInOrder(ctx, func(tx pgx.Tx) (err error) {
		rows, err = Collect(ctx, tx, func(from pgx.CollectableRow) (v row, err error) {
			return v, from.Scan(&v.SecretID, &v.Version, &v.Name, &v.KMSKeyID, &v.removed)
		}, `SELECT secret_id, version, name, kms_key_id, removed_at IS NOT NULL FROM vault.secret_versions
			WHERE (secret_id, version) > ($1, $2) ORDER BY secret_id, version LIMIT $3`, after.SecretID, after.Version, limit)
		return err
	})
	for _, v := range rows {
		if next = v.StoredPlace; !v.removed {
			page = append(page, next)
		}
	}
	return page, next, len(rows) == limit, err
}

func scanPlace(row pgx.CollectableRow) (p StoredPlace, err error) {
	return p, row.Scan(&p.SecretID, &p.Version, &p.Name, &p.KMSKeyID)
}

// Stored reads versions. One that was removed meanwhile is left out. If the server fails on the data of one of them,
// each is queried alone, so that the others are read.
func (r *Reader) Stored(ctx context.Context, places []StoredPlace) ([]StoredVersion, error) {
	all, err := r.stored(ctx, places)
	if !ofOneRow(err) {
		return all, err
	}
	all = nil
	for _, p := range places {
		one, err := r.stored(ctx, []StoredPlace{p})
		switch {
		case ofOneRow(err):
			all = append(all, StoredVersion{StoredPlace: p, Err: unreadable(err)})
		case err != nil:
			return nil, err
		default:
			all = append(all, one...)
		}
	}
	return all, nil
}

func (r *Reader) stored(ctx context.Context, places []StoredPlace) ([]StoredVersion, error) {
	ids, versions := make([]int64, len(places)), make([]int, len(places))
	for i, p := range places {
		ids[i], versions[i] = p.SecretID, p.Version
	}
	// OFFSET 0 has each row looked up by the key, whatever the statistics say.
	rows, err := r.pool.Query(ctx, `SELECT v.* FROM unnest($1::bigint[], $2::int[]) AS p (id, n)
		CROSS JOIN LATERAL (SELECT name, version, version_id, fmt, kms_key_id, wrapped_dek, nonce, ciphertext,
			key_commit, aad, created_at, expires_at, NULL::timestamptz, secret_id`+storedWhere+`
			AND secret_id = p.id AND version = p.n OFFSET 0) v`, ids, versions)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var all []StoredVersion
	var row scanner
	for rows.Next() {
		v := StoredVersion{StoredPlace: StoredPlace{Name: row.begin(rows)}}
		if err := row.version(&v.Row); err != nil {
			v.Err = newError(ErrIntegrity, "a row has a column of the wrong kind: %s", oneLine(err))
		}
		if err := row.scan(13, &v.SecretID); err != nil {
			return nil, newError(ErrIntegrity, "a row has a column of the wrong kind: %s", oneLine(err))
		}
		v.Version, v.KMSKeyID = v.Row.Version, v.Row.KMSKeyID
		all = append(all, v)
	}
	return all, classify(rows.Err())
}
