-- Which failures an acknowledged write survives on this primary.

-- The standbys that stream from this node. All but their number is visible to members of pg_read_all_stats, which
-- roles.sql makes vault_owner if it may; otherwise the columns are null.
CREATE OR REPLACE FUNCTION vault.replication() RETURNS TABLE (standby text, state text, sync_state text,
    lag_bytes bigint, lag_seconds float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT application_name, state, sync_state, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), replay_lsn)::bigint,
      extract(epoch FROM replay_lag)::float8
  FROM pg_stat_replication WHERE NOT pg_is_in_recovery() ORDER BY 1
$$;

-- Changes wait for as many synchronous standbys as synchronous_standby_names requires, one unless it has a number. If
-- fewer are connected, writes wait without a limit ("blocked"). "weakened_by" are settings with which a crash of the
-- machine can lose acknowledged writes.
CREATE OR REPLACE FUNCTION vault._durability() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH asked AS (
    SELECT CASE WHEN btrim(names) = '' THEN 0
                ELSE coalesce(substring(names FROM E'(?i)^\\s*(?:first\\s+|any\\s+)?(\\d{1,4})\\s*\\(')::int,
                    1) END AS needed
    FROM current_setting('synchronous_standby_names') AS names
  ), connected AS (
    SELECT bool_or(state IS NULL) AS hidden,
           coalesce(jsonb_agg(standby ORDER BY standby) FILTER (WHERE sync_state IN ('sync', 'quorum')
               AND state = 'streaming'), '[]') AS synchronous
    FROM vault.replication()
  )
  SELECT jsonb_build_object(
    'replication', CASE WHEN needed = 0 THEN 'asynchronous' WHEN hidden THEN 'unknown'
                        WHEN jsonb_array_length(synchronous) >= needed THEN 'synchronous' ELSE 'blocked' END,
    'needed', needed, 'synchronous', synchronous,
    'weakened_by', (SELECT coalesce(jsonb_agg(s || '=off' ORDER BY s), '[]')
        FROM unnest(ARRAY['fsync', 'full_page_writes']) AS s
                    WHERE current_setting(s) = 'off'))
  FROM asked, connected
$$;
