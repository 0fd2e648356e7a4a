-- Locks that sessions of several roles wait for: tables of the vault's own, which no other role may lock. Every wait
-- has a limit, and its error names the holder. VA006: the lock is held.

-- The session or prepared transaction, other than this one, that holds a lock on a table beyond a reader's; null if
-- there is none. Its state and age are visible to members of pg_read_all_stats, which roles.sql makes vault_owner if it
-- may.
CREATE OR REPLACE FUNCTION vault._lock_holder(p_table regclass) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN p.gid IS NOT NULL
      THEN jsonb_build_object('prepared', vault._printable(p.gid, 200), 'role', vault._printable(p.owner, 64), 
             'database', p.database, 'since', p.prepared)
      ELSE jsonb_build_object('pid', l.pid, 'application', vault._printable(a.application_name, 64),
             'role', vault._printable(a.usename, 64), 'database', a.datname, 'state', a.state,
             'waits_for', a.wait_event, 'since', a.xact_start) END
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    -- A prepared transaction has no pid; the lock on its own id identifies it.
    LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.virtualtransaction = l.virtualtransaction
      AND x.locktype = 'transactionid' AND x.granted AND x.mode = 'ExclusiveLock'
    LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
    WHERE l.locktype = 'relation' AND l.relation = p_table AND l.granted AND l.mode <> 'AccessShareLock'
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.pid IS DISTINCT FROM pg_backend_pid()
    ORDER BY coalesce(p.prepared, a.xact_start), l.pid LIMIT 1
$$;

CREATE OR REPLACE FUNCTION vault._lock_holder_text(p_table regclass) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((SELECT CASE WHEN h ? 'prepared' THEN format('the prepared transaction "%s"', h ->> 'prepared')
                               ELSE format('the transaction of pid %s ("%s"', h ->> 'pid', h ->> 'application') END
      || CASE WHEN h ? 'prepared' THEN format(' (role "%s"', h ->> 'role') ELSE format(', role "%s"', h ->> 'role') END
      || coalesce(', ' || (h ->> 'state'), '') || ')' || coalesce(', since ' || (h ->> 'since'), '')
    FROM vault._lock_holder(p_table) AS h WHERE h IS NOT NULL), 'a transaction that has just ended')
$$;

-- Takes a lock until the transaction ends.
CREATE OR REPLACE FUNCTION vault._await_lock(p_table regclass, p_waiting text, p_mode text DEFAULT 'EXCLUSIVE')
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
BEGIN
  EXECUTE format('LOCK TABLE %s IN %s MODE', p_table, p_mode);
EXCEPTION WHEN lock_not_available THEN
  RAISE EXCEPTION '% for %', p_waiting, vault._lock_holder_text(p_table) USING ERRCODE = 'VA006';
END $$;

-- False: another session holds it.
CREATE OR REPLACE FUNCTION vault._try_lock(p_table regclass) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('LOCK TABLE %s IN EXCLUSIVE MODE NOWAIT', p_table);
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN false;
END $$;

-- The locks that a transaction has held for fifteen seconds, or another has waited for two seconds for. The vault's own
-- transactions are shorter, except a migration.
CREATE OR REPLACE FUNCTION vault._held_locks() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_agg(jsonb_build_object('lock', what, 'holder', holder))
    FROM (VALUES ('claims of rotations', 'vault.lock_claims'), ('sealing', 'vault.lock_sealing'),
                 ('the heartbeat', 'vault.heartbeat'), ('migrations', 'vault.lock_migration')) AS t (what, name),
      LATERAL (SELECT vault._lock_holder(to_regclass(name)) AS holder) AS h
    WHERE (holder ->> 'since')::timestamptz < clock_timestamp() - interval '15 seconds'
      OR EXISTS (SELECT FROM pg_locks w WHERE w.relation = to_regclass(name) AND NOT w.granted
                   AND w.waitstart < clock_timestamp() - interval '2 seconds')
$$;
