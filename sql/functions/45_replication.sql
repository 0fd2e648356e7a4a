-- The positions of the nodes. A node computes its own lag from the primary's heartbeat; the primary lists the standbys
-- that have replayed a change.

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
