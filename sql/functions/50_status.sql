-- The prefixes whose names the session's role may read, none within another; null if it may see the whole vault: with a
-- grant without a prefix, a worker, an auditor, the owner, a superuser. The role is that of the login, with all that it
-- could become by SET ROLE: in here current_user is the owner.
CREATE OR REPLACE FUNCTION vault._visible_prefixes() RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH own AS (SELECT DISTINCT prefix FROM vault.service_scope WHERE pg_has_role(session_user, role_id, 'MEMBER'))
  SELECT CASE WHEN pg_has_role(session_user, 'vault_owner', 'MEMBER')
      OR pg_has_role(session_user, 'vault_worker', 'MEMBER') OR pg_has_role(session_user, 'vault_auditor', 'MEMBER')
      OR EXISTS (SELECT FROM own WHERE prefix = '') THEN NULL
    ELSE ARRAY(SELECT o.prefix FROM own o
        WHERE NOT EXISTS (SELECT FROM own w WHERE o.prefix ^@ w.prefix AND o.prefix <> w.prefix)) END
$$;

-- The counts of vault.health(): of the names under these prefixes, or of the whole vault if p_prefixes is null. It
-- reads the jobs that are open or failed and the secrets that are due or paused, in indexes, so that its cost does not
-- grow with the number of secrets.
CREATE OR REPLACE FUNCTION vault._health_counts(p_prefixes text[]) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = on SET jit = off AS $$
  SELECT jsonb_build_object(
    'rotations_queued', (SELECT count(*) FROM vault.rotation_jobs
        WHERE state = 'queued' AND (p_prefixes IS NULL OR name ^@ ANY (p_prefixes))),
    'rotations_claimed', (SELECT count(*) FROM vault.rotation_jobs
        WHERE state = 'claimed' AND (p_prefixes IS NULL OR name ^@ ANY (p_prefixes))),
    'rotations_failed', (SELECT count(*) FROM vault.rotation_jobs j JOIN vault.secrets s ON s.id = j.secret_id
        WHERE j.state = 'failed' AND j.from_version = s.current_version AND s.deleted_at IS NULL
          AND (p_prefixes IS NULL OR j.name ^@ ANY (p_prefixes))),
    'rotations_overdue', (SELECT count(*) FROM vault.secrets s WHERE s.deleted_at IS NULL
        AND s.next_rotation_at < now() - interval '5 minutes'
        AND (p_prefixes IS NULL OR s.name ^@ ANY (p_prefixes))
        AND vault._may_rotate(s, now())
        AND (s.rotation_window IS NULL
          OR vault._in_window(s.rotation_window, now() - interval '5 minutes'))
        AND NOT EXISTS (SELECT FROM vault.rotation_jobs j        -- it counts as failed
          WHERE j.secret_id = s.id AND j.state = 'failed' AND j.from_version = s.current_version)),
    'rotations_paused', (SELECT count(*) FROM vault.secrets WHERE rotation_paused_at IS NOT NULL
        AND deleted_at IS NULL AND (p_prefixes IS NULL OR name ^@ ANY (p_prefixes))),
    -- or the failure lasts
    'round_failures', (SELECT count(*) FROM vault.round_failures
        WHERE (code NOT IN ('40001', '40P01', '55P03') OR times > 3)
          AND (p_prefixes IS NULL OR subject = '' OR part = 'partitions' OR subject ^@ ANY (p_prefixes))))
$$;

-- The counts of the whole vault. It counts in indexes and reads no table whole.
CREATE OR REPLACE FUNCTION vault._all_totals() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = on SET jit = off AS $$
  SELECT jsonb_build_object(
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
    'next_rotation_at', (SELECT min(next_rotation_at) FROM vault.secrets WHERE deleted_at IS NULL))
$$;

-- The counts of the names under these prefixes, of which none is within another. A prefix is a range of the index.
CREATE OR REPLACE FUNCTION vault._own_totals(p_prefixes text[]) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = on SET jit = off AS $$
  SELECT jsonb_build_object(
    'secrets', s.live, 'deleted', s.deleted, 'next_rotation_at', s.next,
    'live_versions', (SELECT count(*) FROM unnest(p_prefixes) AS p (prefix) JOIN vault.secret_versions v
        ON v.name >= p.prefix COLLATE "C" AND v.name < p.prefix || '~' COLLATE "C"
        WHERE v.expires_at IS NULL OR v.removed_at IS NULL AND v.expires_at > now()),
    'tokens', (SELECT count(*) FROM vault.admin_tokens t WHERE revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > now()) AND t.scope ^@ ANY (p_prefixes)
      AND NOT EXISTS (SELECT FROM vault.token_revocations r WHERE r.token_id = t.id)),
    'wrong_proofs', 0,
    'refused_last_hour', (SELECT coalesce(sum(refused), 0) FROM vault.refusals
        WHERE minute > now() - interval '1 hour' AND db_role = session_user))
  FROM (SELECT count(*) FILTER (WHERE x.deleted_at IS NULL) AS live,
      count(*) FILTER (WHERE x.deleted_at IS NOT NULL) AS deleted,
      min(x.next_rotation_at) FILTER (WHERE x.deleted_at IS NULL) AS next
    FROM unnest(p_prefixes) AS p (prefix) JOIN vault.secrets x
      ON x.name >= p.prefix COLLATE "C" AND x.name < p.prefix || '~' COLLATE "C") AS s
$$;

-- What a scrape and a probe ask: the part of the status whose cost does not grow with the number of secrets. A standby
-- answers it, too. A role with prefixes gets the counts of the names under them.
CREATE OR REPLACE FUNCTION vault.health() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = on
SET jit = off AS $$
  SELECT jsonb_build_object(
    'role', CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END,
    'max_rotations', c.max_rotations,
    'lag_seconds', vault.replication_lag(),
    'audit_unsealed_seconds', vault.sealing_lag() -> 'seconds') || vault._health_counts(vault._visible_prefixes())
  FROM vault.config c
$$;

-- The health of the vault and its counts, without names. Works on a standby, where it includes the replay position.
CREATE OR REPLACE FUNCTION vault.status() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = on
SET jit = off AS $$
  SELECT vault.health() || jsonb_build_object(
    'node', nullif(current_setting('cluster_name'), ''),
    'server_version', current_setting('server_version'),
    'cluster_id', c.cluster_id,
    'schema_version', c.installed_version,
    'compatible_since', c.schema_version,
    'keep_jobs_days', c.keep_jobs_days,
    'keep_versions_days', c.keep_versions_days,
    'held_locks', CASE WHEN NOT pg_is_in_recovery() THEN vault._held_locks() END,
    'unsupervised_seconds', (SELECT greatest(extract(epoch FROM h.at - h.supervised_at), 0)::float8
        FROM vault.heartbeat h),
    'standbys', CASE WHEN NOT pg_is_in_recovery() THEN (SELECT count(*) FROM pg_stat_replication) END,
    'synchronous_standby_names', CASE WHEN NOT pg_is_in_recovery()
        THEN current_setting('synchronous_standby_names') END,
    'durability', CASE WHEN NOT pg_is_in_recovery() THEN vault._durability() END,
    'replayed_until', CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() END,
    'lsn', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)
    || CASE WHEN own.prefixes IS NULL THEN vault._all_totals() ELSE vault._own_totals(own.prefixes) END
  FROM vault.config c, (SELECT vault._visible_prefixes() OFFSET 0) AS own (prefixes)
$$;
