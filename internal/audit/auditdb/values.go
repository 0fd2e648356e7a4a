package auditdb

import (
	"context"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/db"
)

// Values returns values of secret, actor or node that occur in the log and begin with typed, an actor's also after its
// kind, sorted. Each takes a few index steps, however many rows have it. Nodes have no index, nor have actors that are
// never the newest reader of a row: it returns those of the newest events.
func (l *Log) Values(ctx context.Context, key filter.Key, typed string, limit int) ([]string, error) {
	prefixes := []string{typed}
	text := `SELECT DISTINCT node FROM (SELECT node FROM vault.audit_log ORDER BY at DESC, id DESC LIMIT 2000) newest
		WHERE node ^@ $1 ORDER BY 1 LIMIT $2`
	switch key {
	case filter.Actor, filter.Secret:
		// Each step begins after the previous value. Actors have the database's own order, in which values with a prefix
		// follow the prefix; the search ends at the first value without it.
		c := string(key)
		text = `WITH RECURSIVE step AS (
				SELECT 1 AS n, (SELECT ` + c + ` FROM vault.audit_log WHERE ` + c + ` >= $1 ORDER BY ` + c + ` LIMIT 1) AS value
			UNION ALL
				SELECT n + 1, (SELECT ` + c + ` FROM vault.audit_log WHERE ` + c + ` > value ORDER BY ` + c + ` LIMIT 1)
				FROM step WHERE value IS NOT NULL AND value ^@ $1 AND n < $2)
			SELECT value FROM step WHERE value ^@ $1`
		if key == filter.Actor {
			prefixes = filter.Term{Key: key, Text: typed}.Actors()
		}
	case filter.Node:
	default:
		return nil, invalid("no values of %q", key)
	}
	var found []string
	err := l.reader.ReadInOrder(ctx, func(tx pgx.Tx) error {
		for _, p := range prefixes {
			values, err := db.Collect(ctx, tx, pgx.RowTo[string], text, p, limit)
			if err != nil {
				return err
			}
			found = append(found, values...)
			if key != filter.Actor {
				continue
			}
			// Of rows with several reads, the index has the newest.
			values, err = db.Collect(ctx, tx, pgx.RowTo[string], `SELECT DISTINCT actor FROM (SELECT actors FROM vault.audit_log
				WHERE since IS NOT NULL ORDER BY at DESC, since DESC, id DESC LIMIT 1000) newest, unnest(actors) AS actor
				WHERE actor ^@ $1 ORDER BY 1 LIMIT $2`, p, limit)
			if err != nil {
				return err
			}
			found = append(found, values...)
		}
		return nil
	})
	slices.Sort(found)
	found = slices.Compact(found)
	return found[:min(limit, len(found))], err
}

const usedRows = 200

// SecretUses lists secrets whose names begin with a prefix and come after one, in the order of names. A read counts if
// it is among the newest usedRows events of its secret. It takes a role that may read the secrets, and one in
// vault_auditor.
func (l *Log) SecretUses(ctx context.Context, prefix, after string, limit int) (uses []audit.SecretUse, err error) {
	err = l.reader.ReadInOrder(ctx, func(tx pgx.Tx) error {
		uses, err = db.Collect(ctx, tx, scanUse, `SELECT name, current_version, rotated_at, next_rotation_at, paused,
				coalesce(job ->> 'state', ''), coalesce(job ->> 'last_error', ''), last_read_at
			FROM (SELECT s.name, s.current_version, s.rotated_at, s.next_rotation_at,
					s.rotation_paused_at IS NOT NULL AS paused, `+db.NewestJob+` AS job,
					(SELECT max(at) FILTER (WHERE action = 'read' AND outcome = 'ok') FROM
					(SELECT at, action, outcome FROM vault.audit_log a WHERE a.secret = s.name
						ORDER BY at DESC, id DESC LIMIT `+strconv.Itoa(usedRows)+`) newest) AS last_read_at
				FROM vault.secrets s WHERE `+db.UnderPrefix+` AND s.name > $2 AND s.deleted_at IS NULL
				ORDER BY s.name LIMIT $3) s
			ORDER BY name`, prefix, after, limit)
		return err
	})
	return uses, err
}

func scanUse(row pgx.CollectableRow) (audit.SecretUse, error) {
	var u audit.SecretUse
	err := row.Scan(&u.Name, &u.Version, &u.RotatedAt, &u.NextRotationAt, &u.Paused, &u.JobState, &u.JobError,
		&u.LastReadAt)
	return u, err
}

// SealOf finds the seal of the row of an event.
func (l *Log) SealOf(ctx context.Context, row audit.Row) (seal audit.RowSeal, err error) {
	err = l.reader.ReadInOrder(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM vault.audit_seals), coalesce(seal.id, 0),
				coalesce(seal.sealed_at, now())
			FROM (SELECT) one LEFT JOIN (SELECT s.id, s.sealed_at FROM vault.audit_log a
				JOIN vault.audit_seals s ON s.system_id = a.system_id
				AND s.to_tx > a.tx AND s.from_tx <= a.tx AND s.month = date_trunc('month', a.at AT TIME ZONE 'UTC')::date
				WHERE a.id = $1 AND a.at >= $2 AND a.at <= $2::timestamptz + `+longestSpan+`
				ORDER BY s.system_id, s.to_tx LIMIT 1) seal ON true`,
			row.ID, row.At).Scan(&seal.Known, &seal.ID, &seal.SealedAt)
	})
	return seal, err
}
