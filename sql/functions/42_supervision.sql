-- The supervisor's rounds: they enqueue rotations that are due, end graces, purge and forget. What fails is recorded,
-- for one secret, version or month or for a part as a whole, and does not stop the rest.

-- ---------- failures of rounds ----------

-- Records that a part of a round failed, as a whole (subject '') or for one secret, version or month; a null error: it
-- works again. Runs in a transaction of maintenance.
CREATE OR REPLACE FUNCTION vault._note_round(p_part text, p_subject text, p_code text, p_error text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_error IS NOT NULL THEN
    INSERT INTO vault.round_failures AS f (part, subject, code, error)
        VALUES (p_part, p_subject, p_code, vault._printable(p_error, 500))
      ON CONFLICT (part, subject) DO UPDATE SET last_at = clock_timestamp(), times = f.times + 1, code = EXCLUDED.code,
          error = EXCLUDED.error;
  ELSIF EXISTS (SELECT FROM vault.round_failures WHERE part = p_part AND subject = p_subject) THEN
    DELETE FROM vault.round_failures WHERE part = p_part AND subject = p_subject;
  END IF;
END $$;

-- For the rounds of daemons; a null error: it works again. Writes only changes, and a lasting failure once a minute.
CREATE OR REPLACE FUNCTION vault.report_round(p_part text, p_error text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_part IS NULL OR p_part NOT IN ('supervise', 'claim', 'seal') THEN
    RAISE EXCEPTION 'a daemon reports on its rounds of supervise, claim and seal' USING ERRCODE = '22023';
  ELSIF EXISTS (SELECT FROM vault.round_failures WHERE part = p_part AND subject = ''
      AND (p_error IS NULL OR last_at > clock_timestamp() - interval '1 minute'))
      = (p_error IS NOT NULL) THEN
    RETURN;
  END IF;
  PERFORM vault._enter('maintenance', 'supervisor');
  PERFORM vault._note_round(p_part, '', '', p_error);
  PERFORM vault._leave();
END $$;

-- Does a part of a round for all subjects at once; if that fails, one by one, so that one failing subject does not stop
-- the others. Subjects that failed before are always done alone. p_do takes the ids as $1. Returns the number of rows
-- done. Runs in a transaction of maintenance.
CREATE OR REPLACE FUNCTION vault._do_each(p_part text, p_ids text[], p_names text[], p_do text) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_before text[] := (SELECT coalesce(array_agg(subject), '{}') FROM vault.round_failures WHERE part = p_part
      AND subject <> '');
  v_alone text[];
  v_names text[];
  v_n int := 0;
  v_count int;
BEGIN
  IF v_before = '{}' AND p_ids IS NULL THEN   -- most rounds: p_do would be planned, to do nothing
    RETURN 0;
  END IF;
  IF v_before <> '{}' THEN   -- subjects that no longer wait are not failures
    DELETE FROM vault.round_failures WHERE part = p_part AND subject = ANY (v_before)
        AND subject <> ALL (coalesce(p_names, '{}'));
  END IF;
  BEGIN
    EXECUTE p_do USING (SELECT coalesce(array_agg(id), '{}') FROM unnest(p_ids, p_names) AS u (id, name)
        WHERE name <> ALL (v_before));
    GET DIAGNOSTICS v_n = ROW_COUNT;
    SELECT array_agg(id), array_agg(name) INTO v_alone, v_names FROM unnest(p_ids, p_names) AS u (id, name)
        WHERE name = ANY (v_before);
  EXCEPTION WHEN OTHERS THEN
    v_n := 0;
    v_alone := p_ids;
    v_names := p_names;
  END;
  FOR i IN 1..coalesce(cardinality(v_alone), 0) LOOP
    BEGIN
      EXECUTE p_do USING ARRAY[v_alone[i]];
      GET DIAGNOSTICS v_count = ROW_COUNT;
      v_n := v_n + v_count;
      PERFORM vault._note_round(p_part, v_names[i], '', NULL);
    EXCEPTION WHEN OTHERS THEN
      PERFORM vault._note_round(p_part, v_names[i], SQLSTATE, SQLERRM);
    END;
  END LOOP;
  RETURN v_n;
END $$;

-- How many rows beyond its limit a part selects: those that failed stay at the front, and must not displace others.
CREATE OR REPLACE FUNCTION vault._failed_before(p_part text) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*) FROM vault.round_failures WHERE part = p_part AND subject <> ''
$$;

-- ---------- rounds ----------

CREATE OR REPLACE FUNCTION vault.enqueue_due_rotations(p_limit int DEFAULT 1000) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- The plan reads the index of what is due, and that of the queue for each row, regardless of the statistics of a queue
-- that was empty a moment ago: otherwise the third 5,000 of a backlog took 18 s. The queue is read by sub-selects,
-- because a join may read a whole index for each row.
SET enable_sort = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
  v_ids text[];
  v_names text[];
  v_count int;
BEGIN
  PERFORM vault._bound('p_limit', p_limit, 0, 1000000);
  PERFORM vault._enter('maintenance', 'supervisor');
  -- One job a secret, however many intervals have passed; none while one is open, or while the last one failed for good
  -- and no new value was put since. A secret that is locked, or that another round enqueues, is left for the next
  -- round, so that one stalled session does not stop all rotations.
  SELECT array_agg(due.id::text), array_agg(due.name) INTO v_ids, v_names FROM (
    SELECT s.id, s.name FROM vault.secrets s
    WHERE s.deleted_at IS NULL AND s.next_rotation_at <= now() AND s.rotation_paused_at IS NULL
      -- as _may_rotate, without a call for each row
      AND (s.rotation_window IS NULL OR vault._in_window(s.rotation_window, now()))
      AND (SELECT count(*) FROM vault.rotation_jobs j WHERE j.secret_id = s.id AND j.state IN ('queued', 'claimed')) = 0
      AND (SELECT count(*) FROM vault.rotation_jobs j WHERE j.secret_id = s.id AND j.state = 'failed'
          AND j.from_version = s.current_version) = 0
    ORDER BY s.next_rotation_at LIMIT p_limit + vault._failed_before('enqueue')
    FOR NO KEY UPDATE OF s SKIP LOCKED) AS due;
  v_count := vault._do_each('enqueue', v_ids, v_names, $do$
    INSERT INTO vault.rotation_jobs (secret_id, name, from_version, due_at, run_after)
      SELECT s.id, s.name, s.current_version, s.next_rotation_at, s.next_rotation_at FROM vault.secrets s
          WHERE s.id = ANY ($1::bigint[])
      ON CONFLICT (secret_id) WHERE state IN ('queued', 'claimed') DO NOTHING $do$);
  IF v_count > 0 THEN
    PERFORM pg_notify('vault_rotation', '');
  END IF;
  PERFORM vault._leave();
  RETURN v_count;
END $$;

-- Removes the sealed bytes of versions whose grace has ended; the rows stay for the history. Whether a version can
-- still be read does not depend on this.
CREATE OR REPLACE FUNCTION vault.expire_grace_versions(p_limit int DEFAULT 1000) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_ids text[];
  v_names text[];
  v_count int;
BEGIN
  PERFORM vault._bound('p_limit', p_limit, 0, 1000000);
  PERFORM vault._enter('maintenance', 'supervisor');
  SELECT array_agg(over.version_id::text), array_agg(over.name) INTO v_ids, v_names FROM (
    SELECT version_id, name FROM vault.secret_versions
      WHERE expires_at <= now() AND removed_at IS NULL ORDER BY expires_at
          LIMIT p_limit + vault._failed_before('expire') FOR UPDATE SKIP LOCKED) AS over;
  v_count := vault._do_each('expire', v_ids, v_names, $do$
    WITH removed AS (
      UPDATE vault.secret_versions v SET wrapped_dek = NULL, nonce = NULL, ciphertext = NULL, key_commit = NULL,
          removed_at = now()
        WHERE v.version_id = ANY ($1::uuid[]) RETURNING v.name, v.version)
    INSERT INTO vault.audit_log (system_id, actor, action, secret, version)
      SELECT (SELECT vault._system_id()), (SELECT vault.tx_actor()), 'expire', name, version FROM removed $do$);
  PERFORM vault._leave();
  RETURN v_count;
END $$;

-- Purges deleted secrets that can no longer be restored.
CREATE OR REPLACE FUNCTION vault.purge_deleted(p_limit int DEFAULT 1000) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_ids text[];
  v_names text[];
  v_count int;
BEGIN
  PERFORM vault._bound('p_limit', p_limit, 0, 1000000);
  PERFORM vault._enter('maintenance', 'supervisor');
  SELECT array_agg(gone.id::text), array_agg(gone.name) INTO v_ids, v_names FROM (
    SELECT id, name FROM vault.secrets WHERE deleted_at IS NOT NULL AND restore_until <= now()
      ORDER BY restore_until LIMIT p_limit + vault._failed_before('purge') FOR UPDATE SKIP LOCKED) AS gone;
  v_count := vault._do_each('purge', v_ids, v_names,
      'SELECT vault._purge(s, NULL) FROM vault.secrets s WHERE s.id = ANY ($1::bigint[])');
  PERFORM vault._leave();
  RETURN v_count;
END $$;

-- Deletes what only the audit log still needs, and returns the largest number of rows of one kind: answered requests
-- after a week; after keep_jobs_days rotations that ended, also failed ones that a new value has overtaken; after
-- keep_versions_days versions whose sealed bytes were removed. A limit of rows of each kind.
CREATE OR REPLACE FUNCTION vault._forget_history(p_limit int) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  c vault.config;
  v_count int;
  v_most int;
BEGIN
  SELECT * INTO c FROM vault.config;
  PERFORM vault._enter('maintenance', 'supervisor');
  DELETE FROM vault.requests WHERE id IN (SELECT id FROM vault.requests WHERE at < now() - interval '7 days'
      LIMIT p_limit);
  GET DIAGNOSTICS v_most = ROW_COUNT;
  DELETE FROM vault.rotation_jobs WHERE id IN (SELECT id FROM vault.rotation_jobs
    WHERE state IN ('done', 'superseded') AND finished_at < now() - make_interval(days => c.keep_jobs_days)
    LIMIT p_limit);
  GET DIAGNOSTICS v_count = ROW_COUNT;
  v_most := greatest(v_most, v_count);
  DELETE FROM vault.rotation_jobs WHERE id IN (
    SELECT j.id FROM vault.rotation_jobs j JOIN vault.secrets s ON s.id = j.secret_id
    WHERE j.state = 'failed' AND j.from_version < s.current_version
      AND j.finished_at < now() - make_interval(days => c.keep_jobs_days) LIMIT p_limit);
  GET DIAGNOSTICS v_count = ROW_COUNT;
  v_most := greatest(v_most, v_count);
  DELETE FROM vault.secret_versions WHERE version_id IN (SELECT version_id FROM vault.secret_versions
    WHERE removed_at < now() - make_interval(days => c.keep_versions_days) ORDER BY removed_at LIMIT p_limit
    FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS v_count = ROW_COUNT;
  PERFORM vault._settle_scopes();
  PERFORM vault._leave();
  RETURN greatest(v_most, v_count);
END $$;

DROP FUNCTION IF EXISTS vault._forget(int);   -- of releases that kept every version

-- Records the secrets that wait because their window cannot be read: the server has lost its time zone. Each window in
-- use is tested once, however many secrets have it.
CREATE OR REPLACE FUNCTION vault._check_windows(p_limit int) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
DECLARE
  v_bad text[];
  v_waiting text[];
BEGIN
  WITH RECURSIVE used (w) AS (
    SELECT min(rotation_window) FROM vault.secrets WHERE rotation_window IS NOT NULL
    UNION ALL
    SELECT (SELECT min(s.rotation_window) FROM vault.secrets s WHERE s.rotation_window > w) FROM used
        WHERE w IS NOT NULL)
  SELECT array_agg(w) INTO v_bad FROM used WHERE w IS NOT NULL AND vault._in_window(w, now()) IS NULL;
  IF v_bad IS NULL AND NOT EXISTS (SELECT FROM vault.round_failures WHERE part = 'window') THEN
    RETURN;
  END IF;
  PERFORM vault._enter('maintenance', 'supervisor');
  SELECT coalesce(array_agg(name), '{}') INTO v_waiting FROM (
    SELECT name FROM vault.secrets WHERE rotation_window = ANY (v_bad) AND rotation_interval IS NOT NULL
        AND deleted_at IS NULL LIMIT p_limit) AS s;
  DELETE FROM vault.round_failures WHERE part = 'window' AND subject <> ALL (v_waiting);
  PERFORM vault._note_round('window', name, '22023',
      format('its window "%s" cannot be read: this server has no time zone "%s"',
    rotation_window, substr(rotation_window, 13))) FROM vault.secrets WHERE name = ANY (v_waiting);
  PERFORM vault._leave();
END $$;

-- One round of the supervisor, for pg_cron and for vaultd. On a standby it does nothing. Two may run at once. A count
-- equal to p_limit means that more may be waiting. A failing part does not stop the others: its error is recorded, for
-- vault.status() and for the caller.
CREATE OR REPLACE FUNCTION vault.supervise(p_limit int DEFAULT 10000) RETURNS jsonb
-- pg_cron calls it in a session of its own, where row_security = off would be an error.
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = on
SET jit = off
-- A part that waits longer for another session fails, and is made by the next round.
SET lock_timeout = '5s' AS $$
DECLARE
  v_done jsonb := '{"primary": true, "enqueued": 0, "expired": 0, "purged": 0, "forgotten": 0, "failed": {}}';
  v_part text;
  v_code text;
  v_error text;
  v_failing text[];
BEGIN
  PERFORM vault._bound('p_limit', p_limit, 0, 1000000);
  IF pg_is_in_recovery() THEN
    RETURN jsonb_build_object('primary', false);
  END IF;
  v_failing := (SELECT coalesce(array_agg(part), '{}') FROM vault.round_failures WHERE subject = '');
  FOREACH v_part IN ARRAY ARRAY['heartbeat', 'partitions', 'windows', 'enqueue', 'expire', 'purge', 'forget', 'feed']
      LOOP
    v_error := NULL;
    BEGIN
      CASE v_part
        WHEN 'heartbeat' THEN PERFORM vault.beat();
        WHEN 'partitions' THEN PERFORM vault._audit_partitions();
        WHEN 'windows' THEN PERFORM vault._check_windows(p_limit);
        WHEN 'enqueue' THEN v_done := v_done || jsonb_build_object('enqueued', vault.enqueue_due_rotations(p_limit));
        WHEN 'expire' THEN v_done := v_done || jsonb_build_object('expired', vault.expire_grace_versions(p_limit));
        WHEN 'purge' THEN v_done := v_done || jsonb_build_object('purged', vault.purge_deleted(p_limit));
        WHEN 'forget' THEN v_done := v_done || jsonb_build_object('forgotten', vault._forget_history(p_limit));
        -- Its rows are small, and a round a minute has to keep up with a thousand changes a second.
        WHEN 'feed' THEN PERFORM vault._tend_feed(10 * p_limit::bigint);
      END CASE;
    EXCEPTION WHEN OTHERS THEN
      v_code := SQLSTATE;
      v_error := SQLERRM;
      v_done := jsonb_set(v_done, ARRAY['failed', v_part], to_jsonb(vault._printable(v_error, 500)));
    END;
    CONTINUE WHEN v_error IS NULL AND v_part <> ALL (v_failing);   -- nothing to note
    BEGIN
      PERFORM vault._enter('maintenance', 'supervisor');
      PERFORM vault._note_round(v_part, '', v_code, v_error);
      PERFORM vault._leave();
    EXCEPTION WHEN lock_not_available THEN
      NULL;   -- another round notes the same, and has not ended
    END;
  END LOOP;
  PERFORM vault._enter('maintenance', 'supervisor');
  UPDATE vault.heartbeat SET supervised_at = clock_timestamp()
    WHERE only_row IN (SELECT h.only_row FROM vault.heartbeat h FOR UPDATE SKIP LOCKED);
  PERFORM vault._leave();
  RETURN v_done;
END $$;
