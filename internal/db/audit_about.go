package db

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// AuditValues returns values that occur in the log and begin with one of the prefixes, sorted. Each takes a few index
// steps, however many rows have it. Nodes have no index: it returns those of the newest events.
func (r *Reader) AuditValues(ctx context.Context, column AuditColumn, prefixes []string, limit int) ([]string, error) {
	text := `SELECT DISTINCT node FROM (SELECT node FROM vault.audit_log ORDER BY at DESC, id DESC LIMIT 2000) newest
		WHERE node ^@ $1 ORDER BY 1 LIMIT $2`
	switch column {
	case AuditActor, AuditSecret:
		// Each step begins after the previous value. Actors have the database's own order, in which values with a prefix
		// follow the prefix; the search ends at the first value without it.
		c := string(column)
		text = `WITH RECURSIVE step AS (
				SELECT 1 AS n, (SELECT ` + c + ` FROM vault.audit_log WHERE ` + c + ` >= $1 ORDER BY ` + c + ` LIMIT 1) AS value
			UNION ALL
				SELECT n + 1, (SELECT ` + c + ` FROM vault.audit_log WHERE ` + c + ` > value ORDER BY ` + c + ` LIMIT 1)
				FROM step WHERE value IS NOT NULL AND value ^@ $1 AND n < $2)
			SELECT value FROM step WHERE value ^@ $1`
	case AuditNode:
	default:
		return nil, newError(ErrInvalid, "no values of %q", column)
	}
	var found []string
	err := r.ReadInOrder(ctx, func(tx pgx.Tx) error {
		for _, p := range prefixes {
			values, err := collect(ctx, tx, pgx.RowTo[string], text, p, limit)
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

// SecretUse is a secret and its last read in the log.
type SecretUse struct {
	SecretRow
	// nil: no read among its newest usedRows events
	LastReadAt *time.Time `json:"last_read_at,omitempty"`
}

const usedRows = 200

// SecretUses lists secrets in the order of their names. It takes a role that may read the secrets, and one in
// vault_auditor.
func (r *Reader) SecretUses(ctx context.Context, q ListQuery) ([]SecretUse, error) {
	if q.Limit == 0 {
		q.Limit = 100
	}
	var uses []SecretUse
	err := r.ReadInOrder(ctx, func(tx pgx.Tx) error {
		var err error
		uses, err = collect(ctx, tx, scanUse, `SELECT `+secretColumns+`, `+secretJob+`,
				(SELECT max(at) FILTER (WHERE action = 'read' AND outcome = 'ok') FROM
				(SELECT at, action, outcome FROM vault.audit_log a WHERE a.secret = s.name
					ORDER BY at DESC, id DESC LIMIT `+strconv.Itoa(usedRows)+`) newest)
			FROM vault.secrets s WHERE `+underPrefix+` AND s.name > $2 AND s.deleted_at IS NULL
			ORDER BY s.name LIMIT $3`, q.Prefix, q.After, q.Limit)
		return err
	})
	return uses, err
}

func scanUse(row pgx.CollectableRow) (SecretUse, error) {
	var u SecretUse
	var job []byte
	s := &u.SecretRow
	err := row.Scan(&s.Name, &s.Kind, &s.CurrentVersion, &s.Generator, &s.RotateSeconds, &s.GraceSeconds, &s.Rotator,
		&s.Window, &s.PausedAt, &s.CreatedAt, &s.RotatedAt, &s.NextRotationAt, &s.DeletedAt, &s.RestoreUntil, &job,
		&u.LastReadAt)
	if err == nil && job != nil {
		err = json.Unmarshal(job, &s.Job)
	}
	return u, err
}

// SealOf finds the seal of an event: its number, 0 if it has none yet, and its time. ErrNotFound if there are no seals
// at all.
func (r *Reader) SealOf(ctx context.Context, event AuditCursor) (AuditSeal, error) {
	var seal AuditSeal
	var any bool
	err := r.ReadInOrder(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM vault.audit_seals), coalesce(seal.id, 0),
				coalesce(seal.sealed_at, now())
			FROM (SELECT) one LEFT JOIN (SELECT s.id, s.sealed_at FROM vault.audit_log a
				JOIN vault.audit_seals s ON s.system_id = a.system_id
				AND s.to_tx > a.tx AND s.from_tx <= a.tx AND s.month = date_trunc('month', a.at AT TIME ZONE 'UTC')::date
				WHERE a.id = $1 AND a.at = $2 ORDER BY s.system_id, s.to_tx LIMIT 1) seal ON true`,
			event.ID, event.At).Scan(&any, &seal.ID, &seal.SealedAt)
	})
	if err == nil && !any {
		err = ErrNotFound
	}
	return seal, err
}
