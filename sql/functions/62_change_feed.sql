-- The change feed: the triggers that fill it, the rules that keep it whole, and the part of the supervisor's round that
-- bounds it.

-- ---------- filling ----------
-- These triggers run as the role that makes the change: if it may not write the feed, its change fails. A transaction
-- has one row for a name, whatever it changes.

CREATE OR REPLACE FUNCTION vault._feed_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO vault.change_feed (tx, name) VALUES (pg_current_xact_id(), coalesce(NEW.name, OLD.name))
    ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$;

-- For a change that may concern any name.
CREATE OR REPLACE FUNCTION vault._feed_change_of_all() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO vault.change_feed (tx, name) VALUES (pg_current_xact_id(), '') ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$;

-- The same for an installation. CREATE EXTENSION in a dump runs under the dump's row_security = off, which would be an
-- error.
CREATE OR REPLACE FUNCTION vault._feed_all() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = on AS $$
BEGIN
  INSERT INTO vault.change_feed (tx, name) VALUES (pg_current_xact_id(), '') ON CONFLICT DO NOTHING;
END $$;

-- The tables that the view sealed_versions reads. The name of a version never changes (versions_are_sealed).
CREATE OR REPLACE TRIGGER change_is_fed AFTER INSERT OR UPDATE OR DELETE ON vault.secret_versions
  FOR EACH ROW EXECUTE FUNCTION vault._feed_change();
CREATE OR REPLACE TRIGGER truncation_is_fed AFTER TRUNCATE ON vault.secret_versions
  FOR EACH STATEMENT EXECUTE FUNCTION vault._feed_change_of_all();
-- For each row: a statement that finds none, as in each round of the supervisor, changes nothing.
CREATE OR REPLACE TRIGGER change_is_fed AFTER INSERT OR UPDATE OR DELETE ON vault.service_scope
  FOR EACH ROW EXECUTE FUNCTION vault._feed_change_of_all();
CREATE OR REPLACE TRIGGER truncation_is_fed AFTER TRUNCATE ON vault.service_scope
  FOR EACH STATEMENT EXECUTE FUNCTION vault._feed_change_of_all();

-- ---------- rules ----------

-- A follower whose last poll is not below the floor relies on every row from there on.
CREATE OR REPLACE FUNCTION vault._feed_keeps() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM gone WHERE tx >= (SELECT floor FROM vault.feed_state WHERE only_row)) THEN
    RAISE EXCEPTION 'the change feed is pruned below its floor only' USING ERRCODE = '42501';
  END IF;
  RETURN NULL;
END $$;

-- Another cluster filled the feed: it says so, or its floor is an id that this cluster has not come to.
CREATE OR REPLACE FUNCTION vault._feed_is_foreign(p_state vault.feed_state) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN p_state.system_identifier <> vault._system_id() OR p_state.floor > pg_snapshot_xmax(pg_current_snapshot());
END $$;

CREATE OR REPLACE FUNCTION vault._floor_rises() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NEW.floor < OLD.floor AND NOT vault._feed_is_foreign(OLD) THEN
    RAISE EXCEPTION 'the floor of the change feed never goes down' USING ERRCODE = '42501';
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER feed_keeps AFTER DELETE ON vault.change_feed REFERENCING OLD TABLE AS gone
  FOR EACH STATEMENT EXECUTE FUNCTION vault._feed_keeps();
CREATE OR REPLACE TRIGGER feed_stays BEFORE UPDATE OR TRUNCATE ON vault.change_feed
  FOR EACH STATEMENT EXECUTE FUNCTION vault._forbid();
CREATE OR REPLACE TRIGGER floor_rises BEFORE UPDATE ON vault.feed_state
  FOR EACH ROW EXECUTE FUNCTION vault._floor_rises();
CREATE OR REPLACE TRIGGER feed_state_stays BEFORE DELETE OR TRUNCATE ON vault.feed_state
  FOR EACH STATEMENT EXECUTE FUNCTION vault._forbid();

ALTER TABLE vault.secret_versions ENABLE ALWAYS TRIGGER change_is_fed;
ALTER TABLE vault.secret_versions ENABLE ALWAYS TRIGGER truncation_is_fed;
ALTER TABLE vault.service_scope ENABLE ALWAYS TRIGGER change_is_fed;
ALTER TABLE vault.service_scope ENABLE ALWAYS TRIGGER truncation_is_fed;
ALTER TABLE vault.change_feed ENABLE ALWAYS TRIGGER feed_keeps;
ALTER TABLE vault.change_feed ENABLE ALWAYS TRIGGER feed_stays;
ALTER TABLE vault.feed_state ENABLE ALWAYS TRIGGER floor_rises;
ALTER TABLE vault.feed_state ENABLE ALWAYS TRIGGER feed_state_stays;

-- ---------- bounding ----------

-- Every ten minutes the xmin of ten minutes before becomes the floor, and then the rows below it are deleted, at most
-- p_limit a round. No transaction below an xmin is running, so no row below the floor comes later.
--
-- A feed that another cluster filled (a restored dump, pg_upgrade) has the ids of other transactions. While feed_state
-- names that cluster, no follower uses the feed. It is emptied, again p_limit rows a round, and then named for this
-- one, with a floor above this transaction: a snapshot without what is deleted here is also without this transaction,
-- so its xmin is below the floor.
CREATE OR REPLACE FUNCTION vault._tend_feed(p_limit bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- By the primary key, whatever the statistics say of a table that was empty a moment ago.
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
DECLARE
  v_system bigint := vault._system_id();
  v_state vault.feed_state;
  v_floor xid8;
  v_done bigint;
  v_last xid8;
BEGIN
  IF EXISTS (SELECT FROM vault.feed_state AS s WHERE only_row AND pruned_to = floor AND NOT vault._feed_is_foreign(s)
      AND noted_at BETWEEN clock_timestamp() - interval '10 minutes' AND clock_timestamp()) THEN
    RETURN;
  END IF;
  PERFORM vault._enter('maintenance', 'supervisor');
  SELECT * INTO v_state FROM vault.feed_state WHERE only_row FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    NULL;   -- another round does it
  ELSIF vault._feed_is_foreign(v_state) THEN
    UPDATE vault.feed_state SET floor = '18446744073709551615' WHERE only_row;
    DELETE FROM vault.change_feed WHERE ctid = ANY (ARRAY(
      SELECT ctid FROM vault.change_feed ORDER BY tx LIMIT p_limit));
    GET DIAGNOSTICS v_done = ROW_COUNT;
    IF v_done < p_limit THEN
      v_floor := (pg_current_xact_id()::text::numeric + 1)::text::xid8;
      UPDATE vault.feed_state SET system_identifier = v_system, floor = v_floor, pruned_to = v_floor,
          next_floor = v_floor, noted_at = clock_timestamp() WHERE only_row;
    END IF;
  ELSE
    IF v_state.noted_at NOT BETWEEN clock_timestamp() - interval '10 minutes' AND clock_timestamp() THEN
      UPDATE vault.feed_state SET floor = greatest(floor, next_floor),
          next_floor = greatest(next_floor, pg_snapshot_xmin(pg_current_snapshot())), noted_at = clock_timestamp()
        WHERE only_row RETURNING * INTO v_state;
    END IF;
    IF v_state.pruned_to < v_state.floor THEN
      -- From where the last round ended: the index still has the entries of deleted rows.
      WITH gone AS (
        DELETE FROM vault.change_feed WHERE ctid = ANY (ARRAY(SELECT ctid FROM vault.change_feed
            WHERE tx >= v_state.pruned_to AND tx < v_state.floor ORDER BY tx LIMIT p_limit)) RETURNING tx)
      SELECT count(*), (SELECT tx FROM gone ORDER BY tx DESC LIMIT 1) INTO v_done, v_last FROM gone;
      UPDATE vault.feed_state SET
          pruned_to = CASE WHEN v_done < p_limit THEN floor ELSE coalesce(v_last, pruned_to) END WHERE only_row;
    END IF;
  END IF;
  PERFORM vault._leave();
END $$;

-- The running transaction with the oldest id, in any database: while it runs, the xmin of snapshots does not pass that
-- id. Null on a standby, whose transactions are the primary's, and if there is none.
CREATE OR REPLACE FUNCTION vault.xmin_holder() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN NOT pg_is_in_recovery() THEN (
    SELECT CASE WHEN l.pid IS NULL
        THEN jsonb_build_object('prepared', vault._printable(p.gid, 200), 'role', vault._printable(p.owner, 64),
               'database', p.database, 'since', p.prepared)
        ELSE jsonb_build_object('pid', l.pid, 'application', vault._printable(a.application_name, 64),
               'role', vault._printable(a.usename, 64), 'database', a.datname, 'state', a.state,
               'waits_for', a.wait_event, 'since', a.xact_start) END
      -- Every transaction holds a lock on its own id, and every role may see that.
      FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND p.transaction = l.transactionid
      WHERE l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock'
        AND l.pid IS DISTINCT FROM pg_backend_pid()
      ORDER BY age(l.transactionid) DESC LIMIT 1) END
$$;
