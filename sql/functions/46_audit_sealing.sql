-- How far the sealing of the audit log is behind, and the transaction that delays it.

-- Null on a standby, and without any seal. "seconds": how long the oldest row has waited, 0 = none waits. "held": it
-- waits for a running transaction, including prepared ones and those of other databases, and "holder" is the oldest of
-- these; otherwise it waits for the sealer, and "sealer" is the transaction that has the lock of sealing. (Snapshots of
-- readers and replication slots hold back vacuum, not this.) State and age are visible to members of pg_read_all_stats,
-- which roles.sql makes vault_owner if it may; otherwise they are null.
CREATE OR REPLACE FUNCTION vault.sealing_lag() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_system bigint;
  v_from xid8;
  v_oldest timestamptz;
  v_held boolean;
BEGIN
  IF pg_is_in_recovery() OR NOT EXISTS (SELECT FROM vault.audit_seals) THEN
    RETURN NULL;
  END IF;
  v_system := (SELECT min(system_id) FROM vault.audit_log);
  WHILE v_system IS NOT NULL AND v_oldest IS NULL LOOP
    v_from := coalesce((SELECT to_tx FROM vault.audit_seals WHERE system_id = v_system ORDER BY to_tx DESC LIMIT 1),
        '0');
    -- The first rows in the order of sealing are not always the oldest, because a transaction that began first may have
    -- written last. A thousand rows are enough.
    SELECT min(least(greatest(recorded_at, timestamptz '1970-01-01 UTC'), clock_timestamp())),
        v_system = vault._system_id()
        AND min(tx::text::numeric) >= pg_snapshot_xmin(pg_current_snapshot())::text::numeric
      INTO v_oldest, v_held
      FROM (SELECT recorded_at, tx FROM vault.audit_log WHERE system_id = v_system AND tx >= v_from ORDER BY tx, id
          LIMIT 1000) AS waiting;
    v_system := (SELECT min(system_id) FROM vault.audit_log WHERE system_id > v_system);
  END LOOP;
  IF v_oldest IS NULL THEN
    RETURN jsonb_build_object('seconds', 0);
  END IF;
  RETURN jsonb_build_object('seconds', greatest(extract(epoch FROM clock_timestamp() - v_oldest), 0)::float8, 'held',
      v_held,
    'holder', CASE WHEN v_held THEN vault._oldest_writer() END, 'sealer', vault._lock_holder('vault.lock_sealing'));
END $$;

-- The running transaction with the oldest id; null if none is visible.
CREATE OR REPLACE FUNCTION vault._oldest_writer() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT who FROM (
    SELECT age(backend_xid) AS age, jsonb_build_object('pid', pid, 'application',
        vault._printable(application_name, 64), 'role', vault._printable(usename, 64),
        'database', datname, 'state', state, 'waits_for', wait_event, 'since', xact_start) AS who
      FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT age(transaction), jsonb_build_object('prepared', vault._printable(gid, 200), 'role', owner, 'database',
        database, 'since', prepared)
      FROM pg_prepared_xacts) AS writers
  ORDER BY age DESC LIMIT 1
$$;
