package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

// store is a vault with a number of secrets of three versions, in a database of the env's cluster.
type store struct {
	*env
	database string
	secrets  int
	token    vault.Token
}

const versionsEach = 3

func (s *store) url(role string) string { return s.cluster.Primary().URL(s.database, role) }

func (s *store) exec(ctx context.Context, statements ...string) error {
	return s.cluster.Primary().Exec(ctx, s.database, statements...)
}

func (s *store) queryValue(ctx context.Context, sql string) (string, error) {
	return queryValue(ctx, s.url(superuser), sql)
}

// nameAt is the name of a secret, as an organisation of fifty teams would have it.
func nameAt(i int) string {
	return fmt.Sprintf("%s/team-%02d/svc-%03d/key-%07d", [...]string{"prod", "test"}[i%2], i/2%50, i/100%400, i)
}

const filled = 10_000 // secrets in one COPY

// fill writes real rows, sealed by the cluster's key, with COPY as a superuser, so no policy checks them. Half of the
// secrets rotate every thirty days and have rotated before; the versions before the current one are in grace for some
// days.
func (s *store) fill(ctx context.Context) error {
	cluster, err := s.queryValue(ctx, `SELECT cluster_id FROM vault.config`)
	if err != nil {
		return err
	}
	group, copying := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for from := 0; from < s.secrets; from += filled {
		group.Go(func() error { return s.copyIn(copying, cluster, from, min(from+filled, s.secrets)) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return s.exec(ctx,
		`SELECT setval(pg_get_serial_sequence('vault.secrets', 'id'), max(id)) FROM vault.secrets`,
		`INSERT INTO vault.rotation_jobs (secret_id, name, from_version, state, attempt, due_at, run_after, finished_at,
				to_version, created_at)
			SELECT id, name, current_version - 1, 'done', 1, rotated_at, rotated_at, rotated_at, current_version, rotated_at
				FROM vault.secrets WHERE kind = 'automatic'`,
		`INSERT INTO vault.requests (id, at, action, digest, result)
			SELECT gen_random_uuid(), rotated_at, 'rotate', sha256(convert_to(name, 'UTF8')),
				jsonb_build_object('name', name, 'version', current_version)
			FROM vault.secrets WHERE kind = 'automatic' AND rotated_at > now() - interval '7 days'`,
		`VACUUM ANALYZE`, `CHECKPOINT`)
}

func (s *store) copyIn(ctx context.Context, cluster string, from, to int) error {
	conn, err := pgx.Connect(ctx, s.url(superuser))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `SET session_replication_role = replica`); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `SET synchronous_commit = off`); err != nil {
		return err
	}
	now := time.Now()
	if err := copySecrets(ctx, conn, from, to, now); err != nil {
		return err
	}
	return s.copyVersions(ctx, conn, cluster, from, to, now)
}

// rotation returns when a secret was rotated last, within 29 days, and when it is due next, if it rotates.
func rotation(i int, now time.Time) (last time.Time, next any) {
	last = now.Add(-time.Duration(i*7919%(29*24*60)) * time.Minute)
	if automatic(i) {
		next = last.AddDate(0, 0, 30)
	}
	return last, next
}

func automatic(i int) bool { return i%4 < 2 }

func copySecrets(ctx context.Context, conn *pgx.Conn, from, to int, now time.Time) error {
	i := from
	_, err := conn.CopyFrom(ctx, pgx.Identifier{"vault", "secrets"},
		[]string{"id", "name", "kind", "generator", "rotation_interval", "current_version", "created_at", "rotated_at",
			"next_rotation_at"},
		pgx.CopyFromFunc(func() ([]any, error) {
			if i == to {
				return nil, nil
			}
			last, next := rotation(i, now)
			row := []any{i + 1, nameAt(i), "manual", nil, nil, versionsEach, now.AddDate(-1, 0, 0), last, next}
			if automatic(i) {
				row[2], row[3], row[4] = "automatic", "hex:32", 30*24*time.Hour
			}
			i++
			return row, nil
		}))
	return err
}

func (s *store) copyVersions(ctx context.Context, conn *pgx.Conn, cluster string, from, to int, now time.Time) error {
	i, version := from, 1
	_, err := conn.CopyFrom(ctx, pgx.Identifier{"vault", "secret_versions"},
		[]string{"secret_id", "name", "version", "fmt", "kms_key_id", "wrapped_dek", "nonce", "ciphertext", "key_commit",
			"aad", "request_id", "created_at", "created_by", "expires_at", "next_rotation_at"},
		pgx.CopyFromFunc(func() ([]any, error) {
			if i == to {
				return nil, nil
			}
			row, err := s.sealedRow(ctx, cluster, i, version, now)
			if version++; version > versionsEach {
				i, version = i+1, 1
			}
			return row, err
		}))
	return err
}

func (s *store) sealedRow(ctx context.Context, cluster string, i, version int, now time.Time) ([]any, error) {
	name := nameAt(i)
	kc := envelope.KeyContext{AAD: envelope.AAD(name, version), ClusterID: cluster}
	dataKey, wrapped, err := s.ring.NewDataKey(ctx, kc)
	if err != nil {
		return nil, err
	}
	defer dataKey.Wipe()
	key, err := envelope.NewKey(dataKey, name, version)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	sealed, err := key.Seal(valueOf(name, version, scaleBytes))
	if err != nil {
		return nil, err
	}
	var expires, next any
	if version < versionsEach {
		expires = now.Add(time.Duration(version)*24*time.Hour + time.Duration(i)*time.Millisecond)
	} else {
		_, next = rotation(i, now)
	}
	return []any{i + 1, name, version, sealed.Format, wrapped.KeyID, wrapped.Blob, sealed.Nonce, sealed.Ciphertext,
		sealed.KeyCommit, sealed.AAD, uuid.New(), now.AddDate(0, 0, version-versionsEach), "worker:bench", expires, next}, nil
}
