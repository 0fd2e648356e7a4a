-- Counts and health, without names. Works on a standby, where it includes the replay position. Every scrape calls it,
-- so it counts in indexes and reads no table whole.
CREATE OR REPLACE FUNCTION vault.status() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = on
SET jit = off AS $$
  SELECT jsonb_build_object(
    'role', CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END,
    'node', nullif(current_setting('cluster_name'), ''),
    'server_version', current_setting('server_version'),
    'cluster_id', c.cluster_id,
    'schema_version', c.installed_version,
    'compatible_since', c.schema_version,
    'secrets', (SELECT count(*) FROM vault.secrets) - (SELECT count(*) FROM vault.secrets WHERE deleted_at IS NOT NULL),
    'deleted', (SELECT count(*) FROM vault.secrets WHERE deleted_at IS NOT NULL),
    'live_versions', (SELECT count(*) FROM vault.secret_versions WHERE expires_at IS NULL)
                     + (SELECT count(*) FROM vault.secret_versions WHERE removed_at IS NULL AND expires_at > now()),
    'tokens', (SELECT count(*) FROM vault.admin_tokens t WHERE revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > now())
      AND NOT EXISTS (SELECT FROM vault.token_revocations r WHERE r.token_id = t.id)),
    'wrong_proofs', (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM vault.wrong_proofs),
    'refused_last_hour', (SELECT coalesce(sum(refused), 0) FROM vault.refusals
        WHERE minute > now() - interval '1 hour'),
    'rotations_queued', (SELECT count(*) FROM vault.rotation_jobs WHERE state = 'queued'),
    'rotations_claimed', (SELECT count(*) FROM vault.rotation_jobs WHERE state = 'claimed'),
    'rotations_failed', (SELECT count(*) FROM vault.rotation_jobs j JOIN vault.secrets s ON s.id = j.secret_id
                         WHERE j.state = 'failed' AND j.from_version = s.current_version AND s.deleted_at IS NULL),
    'rotations_overdue', (SELECT count(*) FROM vault.secrets s WHERE s.deleted_at IS NULL
        AND s.next_rotation_at < now() - interval '5 minutes'
                          AND vault._may_rotate(s, now())
                              AND (s.rotation_window IS NULL
                              OR vault._in_window(s.rotation_window, now() - interval '5 minutes'))),
    'rotations_paused', (SELECT count(*) FROM vault.secrets WHERE rotation_paused_at IS NOT NULL
        AND deleted_at IS NULL),
    'max_rotations', c.max_rotations,
    'keep_jobs_days', c.keep_jobs_days,
    'keep_versions_days', c.keep_versions_days,
    'held_locks', CASE WHEN NOT pg_is_in_recovery() THEN vault._held_locks() END,
    -- or the failure lasts
    'round_failures', (SELECT count(*) FROM vault.round_failures WHERE code NOT IN ('40001', '40P01', '55P03')
        OR times > 3),
    'unsupervised_seconds', (SELECT greatest(extract(epoch FROM h.at - h.supervised_at), 0)::float8
        FROM vault.heartbeat h),
    'next_rotation_at', (SELECT min(next_rotation_at) FROM vault.secrets WHERE deleted_at IS NULL),
    'standbys', CASE WHEN NOT pg_is_in_recovery() THEN (SELECT count(*) FROM pg_stat_replication) END,
    'synchronous_standby_names', CASE WHEN NOT pg_is_in_recovery()
        THEN current_setting('synchronous_standby_names') END,
    'lag_seconds', vault.replication_lag(),
    'audit_unsealed_seconds', vault.sealing_lag() -> 'seconds',
    'durability', CASE WHEN NOT pg_is_in_recovery() THEN vault._durability() END,
    'replayed_until', CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() END,
    'lsn', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)
  FROM vault.config c
$$;
