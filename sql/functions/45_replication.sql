-- The positions of the nodes. A node computes its own lag from the primary's heartbeat; the primary lists the standbys
-- that have replayed a change.

-- Waits up to 5 s for a session that locks the heartbeat's row.
CREATE OR REPLACE FUNCTION vault._await_heartbeat() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
BEGIN
  PERFORM FROM vault.heartbeat FOR UPDATE;
EXCEPTION WHEN lock_not_available THEN
  RAISE EXCEPTION 'the heartbeat waits for %', vault._lock_holder_text('vault.heartbeat') USING ERRCODE = 'VA006';
END $$;

-- Writes the primary's heartbeat. If the row has another timeline, this node was promoted, and a new epoch begins.
-- Otherwise only the time changes, once a second, without a context (see policies/): that would double the cost.
CREATE OR REPLACE FUNCTION vault.beat() RETURNS vault.heartbeat
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_timeline int := ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int;
  v_row vault.heartbeat;
BEGIN
  IF current_setting('synchronous_commit') = 'off' THEN
    -- a crash must not lose an epoch that was seen, or another would follow
    PERFORM set_config('synchronous_commit', 'local', true);
  END IF;
  PERFORM FROM vault.heartbeat FOR UPDATE SKIP LOCKED;
  IF NOT FOUND AND EXISTS (SELECT FROM vault.heartbeat) THEN
    PERFORM vault._await_heartbeat();
  END IF;
  UPDATE vault.heartbeat SET at = clock_timestamp() WHERE timeline = v_timeline RETURNING * INTO v_row;
  IF FOUND THEN
    RETURN v_row;
  END IF;
  PERFORM vault._enter('maintenance', 'supervisor');
  INSERT INTO vault.heartbeat AS h (at, timeline, began_at) VALUES (clock_timestamp(), v_timeline, clock_timestamp())
    ON CONFLICT (only_row) DO UPDATE SET at = EXCLUDED.at, timeline = EXCLUDED.timeline,
      epoch = CASE WHEN h.timeline = EXCLUDED.timeline THEN h.epoch ELSE EXCLUDED.epoch END,
      began_at = CASE WHEN h.timeline = EXCLUDED.timeline THEN h.began_at ELSE EXCLUDED.began_at END
    RETURNING * INTO v_row;
  PERFORM vault._leave();
  RETURN v_row;
END $$;

-- Seconds that this node is behind: its own clock against the time in the heartbeat that it has replayed, so it
-- includes a difference of the clocks and the time since the last heartbeat. 0 on a primary; null without a heartbeat.
CREATE OR REPLACE FUNCTION vault.replication_lag() RETURNS double precision
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN pg_is_in_recovery()
    THEN (SELECT greatest(extract(epoch FROM clock_timestamp() - at), 0)::double precision FROM vault.heartbeat)
        ELSE 0 END
$$;

-- The standbys connected to this node, and whether each has replayed p_lsn. It omits standbys of standbys, and
-- receivers that never replay: backups, logical subscribers, and receivers that only store the WAL (they confirm that
-- it is written, and never that it is applied).
CREATE OR REPLACE FUNCTION vault.standbys(p_lsn pg_lsn)
RETURNS TABLE (name text, state text, sync_state text, replay_lsn pg_lsn, replayed boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN   -- otherwise the view has only nulls
    RAISE EXCEPTION 'the positions of the standbys are not visible: role "vault_owner" is not in "pg_read_all_stats"'
      USING ERRCODE = '42501', HINT = 'GRANT pg_read_all_stats TO vault_owner';
  END IF;
  RETURN QUERY SELECT coalesce(nullif(r.application_name, ''), host(r.client_addr), 'pid ' || r.pid), r.state,
      r.sync_state,
      r.replay_lsn, coalesce(r.replay_lsn >= p_lsn, false)
    FROM pg_stat_replication r
    WHERE r.state <> 'backup' AND (r.flush_lsn IS NULL OR r.replay_lsn IS NOT NULL)
      AND NOT EXISTS (SELECT FROM pg_replication_slots l WHERE l.active_pid = r.pid AND l.slot_type = 'logical')
    ORDER BY 1;
END $$;

-- ---------- daemons ----------

-- A vaultd says every half a minute which release it is, so that an operator sees which are left to restart. Nothing of
-- it is proven but the role, and nothing depends on it. One that ended without saying so stays for a day. A role has at
-- most 1,000.
CREATE OR REPLACE FUNCTION vault.report_daemon(p_id uuid, p_node text, p_version text, p_commit text, p_schema int)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM vault._bound_length('p_node', octet_length(p_node), 1, 255);
  PERFORM vault._bound_length('p_version', octet_length(p_version), 1, 128);
  PERFORM vault._bound_length('p_commit', octet_length(p_commit), 0, 128);
  PERFORM vault._bound('p_schema', p_schema, 1, 1000000);
  IF p_id IS NULL THEN
    RAISE EXCEPTION 'p_id is null' USING ERRCODE = '22023';
  END IF;
  PERFORM vault._enter('maintenance', 'vaultd');
  DELETE FROM vault.daemons WHERE seen_at < now() - interval '1 day';
  UPDATE vault.daemons SET seen_at = clock_timestamp() WHERE id = p_id AND role_name = session_user;
  IF NOT FOUND THEN
    IF (SELECT count(*) FROM vault.daemons WHERE role_name = session_user) >= 1000 THEN
      RAISE EXCEPTION 'role "%" has 1000 daemons that were seen within a day', session_user USING ERRCODE = '53400';
    END IF;
    INSERT INTO vault.daemons (id, node, version, commit, schema_version)
      VALUES (p_id, vault._printable(p_node, 255), vault._printable(p_version, 128), vault._printable(p_commit, 128),
        p_schema)
      ON CONFLICT DO NOTHING;
  END IF;
  PERFORM vault._leave();
END $$;

-- A vaultd that ends says so.
CREATE OR REPLACE FUNCTION vault.forget_daemon(p_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM vault._enter('maintenance', 'vaultd');
  DELETE FROM vault.daemons WHERE id = p_id AND role_name = session_user;
  PERFORM vault._leave();
END $$;
