-- Rotation: the supervisor enqueues what is due, a worker claims, seals and completes. A worker needs no admin token:
-- its authority is a live claim, fenced by the attempt, and covers that one secret.
--
-- A secret with a rotator takes four steps: its candidate is sealed and stored in the job (store_candidate), set at the
-- target, tested there, and finished (finish_rotation): the stored bytes become the version. After a crash, the next
-- worker with the claim finds the candidate and repeats the steps with it.

-- Whether this secret may rotate by schedule at this time.
CREATE OR REPLACE FUNCTION vault._may_rotate(s vault.secrets, p_at timestamptz) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.deleted_at IS NULL AND s.rotation_paused_at IS NULL
    AND (s.rotation_window IS NULL OR vault._in_window(s.rotation_window, p_at))
$$;

-- Claims up to p_limit jobs that may run, including jobs whose claim is older than p_stale: their worker is gone or
-- stuck, and the higher attempt fences it off. max_rotations caps the claims of all workers together. Without a cap,
-- p_ahead more are claimed for later; under a cap they would displace jobs that another worker could run. A job waits
-- while its secret is paused or outside its window, unless an operator requested it; one that has a candidate does not
-- wait for a window, because its target may have the new value already. p_stale has the bounds of vaultd's
-- claim_timeout: with less, a worker would take over jobs that another has just begun.
CREATE OR REPLACE FUNCTION vault.claim_rotations(p_worker text, p_limit int, p_stale interval, p_ahead int DEFAULT 0)
RETURNS TABLE (job_id bigint, secret text, attempt int, failures int, from_version int, generator text, rotator text,
    due_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- The plan reads the index of the queue up to the limit, regardless of the statistics of a table that was empty a
-- moment ago: with a backlog of 3,000, sorting all of it took 90 ms a claim. Only a nested loop over that index gives
-- rows in its order, so no other switch is needed.
SET enable_sort = off SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  v_cap int := (SELECT max_rotations FROM vault.config WHERE only_row);   -- by the index, as no scan is allowed
  v_limit bigint := p_limit::bigint + p_ahead;
BEGIN
  PERFORM vault._bound_length('p_worker', octet_length(p_worker), 1, 1024);
  PERFORM vault._bound('p_limit', p_limit, 0, 100000);
  PERFORM vault._bound('p_ahead', p_ahead, 0, 100000);
  PERFORM vault._bound('p_stale', p_stale, '3 seconds', '1 day');
  -- months and days of mixed signs may add up to less
  p_stale := make_interval(secs => extract(epoch FROM p_stale)::float8);
  IF v_cap IS NOT NULL THEN
    -- two workers must not count the same free places below the cap
    PERFORM vault._await_lock('vault.lock_claims', 'claiming waits');
    v_limit := least(p_limit, v_cap - (SELECT count(*) FROM vault.rotation_jobs
                                       WHERE state = 'claimed' AND claimed_at >= clock_timestamp() - p_stale)::int);
  END IF;
  IF v_limit <= 0 OR NOT EXISTS (SELECT FROM vault.rotation_jobs WHERE state IN ('queued', 'claimed')
      AND run_after <= now()) THEN
    RETURN;
  END IF;
  PERFORM vault._enter('maintenance', 'worker:' || vault._printable(p_worker, 128));
  RETURN QUERY
    UPDATE vault.rotation_jobs j SET state = 'claimed', attempt = j.attempt + 1,
        claimed_by = vault._printable(p_worker, 128),
        claimed_at = clock_timestamp(),
        -- Its worker vanished, which counts as a failure.
        failures = CASE WHEN j.state = 'claimed' THEN least(j.failures::bigint + 1, 2147483647)::int ELSE j.failures END
      FROM (SELECT k.id, s.generator, s.rotator FROM vault.rotation_jobs k JOIN vault.secrets s ON s.id = k.secret_id
              WHERE k.state IN ('queued', 'claimed') AND k.run_after <= now()
                -- the greatest attempt
                AND (k.state = 'queued' OR k.claimed_at < clock_timestamp() - p_stale) AND k.attempt < 2147483647
                AND (k.requested_by IS NOT NULL OR (s.rotation_paused_at IS NULL
                  AND (s.rotation_window IS NULL OR vault._in_window(s.rotation_window, now())
                    OR EXISTS (SELECT FROM vault.rotation_candidates c WHERE c.job_id = k.id))))
              -- The cap again, in the snapshot that selects the jobs: it may have been set since it was read.
              ORDER BY k.run_after, k.id LIMIT CASE WHEN (SELECT c.max_rotations FROM vault.config c WHERE c.only_row)
                  IS NOT DISTINCT FROM v_cap THEN v_limit ELSE 0 END
              FOR UPDATE OF k SKIP LOCKED) AS picked
      WHERE j.id = picked.id
      RETURNING j.id, j.name, j.attempt, j.failures, j.from_version, picked.generator, picked.rotator, j.due_at;
  PERFORM vault._leave();
END $$;

-- The fence: fails unless the caller holds this attempt's claim, and locks the job until the transaction ends. The
-- secret is locked before the job, as by a put.
CREATE OR REPLACE FUNCTION vault._fence(p_job bigint, p_attempt int) RETURNS vault.secrets
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s vault.secrets;
  v_held boolean;
BEGIN
  SELECT x.* INTO s FROM vault.secrets x JOIN vault.rotation_jobs j ON j.secret_id = x.id
      WHERE j.id = p_job FOR UPDATE OF x;
  -- By id alone: with a condition on the state, the index of claimed jobs could be used, and all of them read.
  SELECT state = 'claimed' AND attempt = p_attempt INTO v_held FROM vault.rotation_jobs WHERE id = p_job FOR UPDATE;
  IF v_held IS NOT TRUE OR s.deleted_at IS NOT NULL THEN
    RAISE EXCEPTION 'the claim on rotation job % (attempt %) is lost', p_job, p_attempt USING ERRCODE = 'VA002';
  END IF;
  RETURN s;
END $$;

-- Stores the candidate of a claimed job unless it has one, and returns the stored one, so that every attempt, and a
-- call whose answer was lost, gets the same.
CREATE OR REPLACE FUNCTION vault.store_candidate(p_job bigint, p_attempt int, p_sealed vault.sealed_value)
RETURNS SETOF vault.rotation_candidates
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE j vault.rotation_jobs;
BEGIN
  SELECT * INTO j FROM vault.rotation_jobs WHERE id = p_job;
  PERFORM vault._enter('rotation', 'worker:' || coalesce(j.claimed_by, 'unknown'), p_job);
  PERFORM vault._fence(p_job, p_attempt);
  IF p_sealed.version IS DISTINCT FROM j.from_version + 1 THEN
    RAISE EXCEPTION 'rotation job % makes version %, not %', p_job, j.from_version + 1, p_sealed.version
      USING ERRCODE = 'VA001';
  END IF;
  INSERT INTO vault.rotation_candidates (job_id, name, version, fmt, kms_key_id, wrapped_dek, nonce, ciphertext,
      key_commit, aad)
    SELECT p_job, j.name, p_sealed.*
    ON CONFLICT DO NOTHING;
  PERFORM vault._leave();
  RETURN QUERY SELECT * FROM vault.rotation_candidates WHERE job_id = p_job;
END $$;

-- The candidate of a claimed job; no row if it has none yet.
CREATE OR REPLACE FUNCTION vault.rotation_candidate(p_job bigint, p_attempt int) RETURNS SETOF vault.rotation_candidates
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.* FROM vault.rotation_candidates c JOIN vault.rotation_jobs j ON j.id = c.job_id
  WHERE j.id = p_job AND j.state = 'claimed' AND j.attempt = p_attempt
$$;

-- The fence, the new versions and the audit rows, in one statement for each step: a worker that stalled until its
-- claim was lost is refused here. It completes the jobs whose claims hold, and returns by request id the results of
-- those and of jobs completed before (replays). A job that it leaves out is unchanged: the claim is lost, or the secret
-- is deleted or locked by another transaction. It waits for no row lock, so that one stalled session does not delay the
-- whole batch. A value that breaks a rule fails the batch.
--
-- A job that a batch left out is completed alone, with p_wait: it waits for the lock, and the error has the reason.
--
-- It runs as maintenance, because row level security would otherwise check every row. It writes only what the fence
-- admits: all rows come from the jobs in v_done.
CREATE OR REPLACE FUNCTION vault.complete_rotations(p_jobs bigint[], p_attempts int[], p_sealed vault.sealed_value[],
    p_requests uuid[], p_wait boolean DEFAULT false) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- As claim_rotations: the statistics are those of a queue that was empty a moment ago.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  v_digests bytea[];
  v_new uuid[];       -- requests that are not replays
  v_locked bigint[];  -- secrets
  v_done bigint[];    -- jobs
  v_result jsonb;
BEGIN
  PERFORM vault._bound('the number of p_jobs', cardinality(p_jobs), 1, CASE WHEN p_wait THEN 1 ELSE 10000 END);
  IF (cardinality(p_jobs) = ALL (ARRAY[cardinality(p_attempts), cardinality(p_sealed), cardinality(p_requests)]))
      IS NOT TRUE OR array_position(p_requests, NULL) IS NOT NULL THEN
    RAISE EXCEPTION 'every array must have one element, not null in p_requests, for each of p_jobs'
      USING ERRCODE = '22023';
  END IF;
  PERFORM vault._enter('maintenance',
      'worker:' || coalesce((SELECT claimed_by FROM vault.rotation_jobs WHERE id = p_jobs[1]), 'unknown'));
  SELECT array_agg(vault._digest('rotate', j.name, sha256(g.nonce || g.ciphertext || g.wrapped_dek) ||
      convert_to(format('%s %s', g.job, g.attempt), 'UTF8')) ORDER BY g.n) INTO v_digests
    FROM unnest(p_jobs, p_attempts, p_sealed) WITH ORDINALITY
      AS g (job, attempt, version, fmt, kms_key_id, wrapped_dek, nonce, ciphertext, key_commit, aad, n)
    LEFT JOIN vault.rotation_jobs j ON j.id = g.job;
  WITH added AS (
    INSERT INTO vault.requests (id, action, digest) SELECT g.request, 'rotate', g.digest
        FROM unnest(p_requests, v_digests) AS g (request, digest)
      ON CONFLICT DO NOTHING RETURNING id)
  SELECT array_agg(id) INTO v_new FROM added;

  -- The fence. The secret is locked before the job, as everywhere.
  IF p_wait AND v_new IS NOT NULL THEN
    PERFORM vault._fence(p_jobs[1], p_attempts[1]);
  END IF;
  SELECT array_agg(id) INTO v_locked FROM (
    SELECT s.id FROM unnest(p_jobs, p_requests) AS g (job, request)
      JOIN vault.rotation_jobs j ON j.id = g.job JOIN vault.secrets s ON s.id = j.secret_id
      WHERE g.request = ANY (v_new) ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED) AS locked;
  WITH done AS (
    UPDATE vault.rotation_jobs j SET state = 'done', finished_at = clock_timestamp(), to_version = j.from_version + 1
      FROM unnest(p_jobs, p_attempts, p_requests, p_sealed) AS g (job, attempt, request, version), vault.secrets s
      -- As a CASE the state is checked for the jobs found by id. As a condition it would choose the index of all
      -- claims, which looks small in the statistics of an empty queue.
      WHERE j.id = g.job AND CASE j.state WHEN 'claimed' THEN j.attempt = g.attempt END AND g.request = ANY (v_new)
        AND g.version = j.from_version + 1
        AND s.id = j.secret_id AND s.id = ANY (v_locked) AND s.deleted_at IS NULL AND s.current_version = j.from_version
      RETURNING j.id)
  SELECT array_agg(id) INTO v_done FROM done;

  DELETE FROM vault.rotation_candidates WHERE job_id = ANY (v_done);
  UPDATE vault.secret_versions v SET expires_at = now() + s.grace_period, next_rotation_at = NULL
      FROM vault.rotation_jobs j, vault.secrets s
    WHERE j.id = ANY (v_done) AND s.id = j.secret_id AND v.name = s.name AND v.expires_at IS NULL;
  INSERT INTO vault.secret_versions (secret_id, name, version, fmt, kms_key_id, wrapped_dek, nonce, ciphertext,
      key_commit, aad, request_id, created_by, next_rotation_at)
    SELECT s.id, s.name, g.version, g.fmt, g.kms_key_id, g.wrapped_dek, g.nonce, g.ciphertext, g.key_commit, g.aad,
        g.request, 'worker:' || j.claimed_by,
           vault._next_rotation(s.name, now(), s.rotation_interval, s.rotation_window)
      FROM unnest(p_jobs, p_requests, p_sealed)
        AS g (job, request, version, fmt, kms_key_id, wrapped_dek, nonce, ciphertext, key_commit, aad)
      JOIN vault.rotation_jobs j ON j.id = g.job JOIN vault.secrets s ON s.id = j.secret_id WHERE j.id = ANY (v_done);
  UPDATE vault.secrets s SET current_version = v.version, rotated_at = now(), next_rotation_at = v.next_rotation_at
    FROM vault.rotation_jobs j JOIN vault.secret_versions v ON v.secret_id = j.secret_id AND v.version = j.to_version
    WHERE j.id = ANY (v_done) AND s.id = j.secret_id;
  INSERT INTO vault.audit_log (system_id, actor, action, secret, version, request_id, detail)
    SELECT (SELECT vault._system_id()), 'worker:' || j.claimed_by, 'rotate', j.name, j.to_version, g.request,
        jsonb_strip_nulls(jsonb_build_object('job', j.id, 'attempt', j.attempt,
        'due_at', j.due_at, 'requested_by', j.requested_by, 'rotator', split_part(s.rotator, ' ', 1)))
      FROM unnest(p_jobs, p_requests) AS g (job, request) JOIN vault.rotation_jobs j ON j.id = g.job
          JOIN vault.secrets s ON s.id = j.secret_id
      WHERE j.id = ANY (v_done);
  UPDATE vault.requests q SET result = jsonb_build_object('name', v.name, 'version', v.version, 'version_id',
      v.version_id, 'created_at', v.created_at,
      'previous_expires_at', p.expires_at, 'next_rotation_at', s.next_rotation_at)
    FROM vault.secret_versions v JOIN vault.secrets s ON s.id = v.secret_id
      LEFT JOIN vault.secret_versions p ON p.secret_id = v.secret_id AND p.version = v.version - 1
    WHERE v.request_id = ANY (v_new) AND q.id = v.request_id;
  DELETE FROM vault.requests WHERE id = ANY (v_new) AND result IS NULL;   -- of jobs left out

  INSERT INTO vault.audit_log (actor, action, secret, version, request_id)
    SELECT 'worker:' || coalesce(j.claimed_by, 'unknown'), 'rotate.replay', j.name, (q.result ->> 'version')::int, q.id
      FROM unnest(p_jobs, p_requests, v_digests) AS g (job, request, digest) JOIN vault.rotation_jobs j ON j.id = g.job
      JOIN vault.requests q ON q.id = g.request AND q.action = 'rotate' AND q.digest = g.digest
      WHERE v_new IS NULL OR g.request <> ALL (v_new);
  SELECT jsonb_build_object('done', coalesce(jsonb_object_agg(q.id, q.result), '{}')) INTO v_result
    FROM unnest(p_requests, v_digests) AS g (request, digest)
    JOIN vault.requests q ON q.id = g.request AND q.action = 'rotate' AND q.digest = g.digest;
  IF p_wait AND v_result -> 'done' = '{}' THEN
    IF v_new IS NULL THEN
      RAISE EXCEPTION 'request id % was used for something else', p_requests[1] USING ERRCODE = 'VA003';
    END IF;
    RAISE EXCEPTION 'rotation job % makes another version than %', p_jobs[1], p_sealed[1].version
      USING ERRCODE = 'VA001';
  END IF;
  PERFORM vault._leave();
  RETURN v_result;
END $$;

-- of releases that passed each sealed column on its own
DROP FUNCTION IF EXISTS vault.complete_rotation(bigint, int, int, text, bytea, bytea, bytea, bytea, text, uuid);
DROP FUNCTION IF EXISTS vault.complete_rotations(bigint[], int[], int[], text[], bytea[], bytea[], bytea[], bytea[],
    text[], uuid[]);
DROP FUNCTION IF EXISTS vault.store_candidate(bigint, int, int, text, bytea, bytea, bytea, bytea, text);
DROP FUNCTION IF EXISTS vault.claim_rotations(text, int, interval);   -- of releases without p_ahead

-- Step four of a rotation with a target: the stored candidate becomes the version. Afterwards, and in a replay, there
-- is no candidate; the replay is recognised by its id alone.
CREATE OR REPLACE FUNCTION vault.finish_rotation(p_job bigint, p_attempt int, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
DECLARE
  j vault.rotation_jobs;
  c vault.rotation_candidates;
  s vault.secrets;
  v_result jsonb;
BEGIN
  SELECT * INTO j FROM vault.rotation_jobs WHERE id = p_job;
  PERFORM vault._enter('rotation', 'worker:' || coalesce(j.claimed_by, 'unknown'), p_job);
  v_result := vault._replay(p_request, 'rotate', j.name, convert_to(format('finish %s %s', p_job, p_attempt), 'UTF8'));
  IF v_result IS NULL THEN
    s := vault._fence(p_job, p_attempt);
    SELECT * INTO c FROM vault.rotation_candidates WHERE job_id = p_job;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'rotation job % has no candidate', p_job USING ERRCODE = '22023';
    END IF;
    UPDATE vault.rotation_jobs SET state = 'done', finished_at = clock_timestamp(), to_version = c.version
        WHERE id = p_job;
    v_result := vault._add_version(s, ROW(c.version, c.fmt, c.kms_key_id, c.wrapped_dek, c.nonce, c.ciphertext,
        c.key_commit, c.aad)::vault.sealed_value, p_request, vault.tx_actor());
    DELETE FROM vault.rotation_candidates WHERE job_id = p_job;
    PERFORM vault._audit('rotate', j.name, c.version, p_request, jsonb_build_object('job', p_job, 'attempt', p_attempt,
      'due_at', j.due_at, 'requested_by', j.requested_by, 'rotator', split_part(s.rotator, ' ', 1)));
    v_result := vault._done(p_request, v_result);
  END IF;
  PERFORM vault._leave();
  RETURN v_result;
END $$;

-- p_retry_in null: no further attempt; the job is failed and stays visible until an operator retries, puts or rotates.
-- Its candidate is kept, because the target may have it.
CREATE OR REPLACE FUNCTION vault.fail_rotation(p_job bigint, p_attempt int, p_error text,
    p_retry_in interval) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  j vault.rotation_jobs;
  v_error text := vault._printable(p_error, 500);
BEGIN
  PERFORM vault._bound('p_retry_in', coalesce(p_retry_in, '0'), '0', '30 days');
  PERFORM vault._enter('maintenance', 'worker');
  UPDATE vault.rotation_jobs SET
      state = CASE WHEN p_retry_in IS NULL THEN 'failed' ELSE 'queued' END,
          failures = least(failures::bigint + 1, 2147483647)::int,
      run_after = clock_timestamp() + coalesce(p_retry_in, '0'), last_error = v_error,
      finished_at = CASE WHEN p_retry_in IS NULL THEN clock_timestamp() END
    WHERE id = p_job AND state = 'claimed' AND attempt = p_attempt RETURNING * INTO j;
  IF FOUND THEN
    PERFORM vault._enter('maintenance', 'worker:' || j.claimed_by);
    PERFORM vault._audit('rotate', j.name, j.from_version, NULL,
      jsonb_build_object('job', p_job, 'attempt', p_attempt, 'error', v_error, 'given_up', p_retry_in IS NULL),
          'failed');
  END IF;
  PERFORM vault._leave();
  RETURN j.id IS NOT NULL;
END $$;

-- Returns a claim that was not begun: a worker that stops has claimed more than it started.
CREATE OR REPLACE FUNCTION vault.release_rotation(p_job bigint, p_attempt int) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_released boolean;
BEGIN
  PERFORM vault._enter('maintenance', 'worker');
  UPDATE vault.rotation_jobs SET state = 'queued' WHERE id = p_job AND state = 'claimed' AND attempt = p_attempt;
  v_released := FOUND;
  IF v_released THEN
    PERFORM pg_notify('vault_rotation', '');
  END IF;
  PERFORM vault._leave();
  RETURN v_released;
END $$;

-- ---------- by hand ----------

CREATE OR REPLACE FUNCTION vault._job_json(j vault.rotation_jobs, p_joined boolean) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('name', j.name, 'version', j.from_version, 'job', j.id, 'state', j.state, 'joined',
      p_joined)
$$;

-- Requests a rotation now: joins the open job, or requeues the failed one with its candidate, or creates one. It runs
-- also if the secret is paused or outside its window.
CREATE OR REPLACE FUNCTION vault.request_rotation(p_name text, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s vault.secrets;
  j vault.rotation_jobs;
  v_result jsonb;
  v_joined boolean := true;
BEGIN
  PERFORM vault._require_change(p_name);
  v_result := vault._replay(p_request, 'rotation.request', p_name, '');
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  s := vault._lock_secret(p_name);
  IF s.deleted_at IS NOT NULL THEN
    RAISE EXCEPTION 'secret "%" is deleted', p_name USING ERRCODE = 'VA005';
  ELSIF s.generator IS NULL THEN
    RAISE EXCEPTION 'secret "%" has no generator, so it cannot rotate by itself', p_name USING ERRCODE = '22023';
  END IF;
  UPDATE vault.rotation_jobs SET run_after = least(run_after, now()),
      requested_by = coalesce(requested_by, vault.tx_actor())
    WHERE secret_id = s.id AND state IN ('queued', 'claimed') RETURNING * INTO j;
  IF NOT FOUND THEN
    j := vault._requeue_failed(s);
  END IF;
  IF j.id IS NULL THEN
    v_joined := false;
    INSERT INTO vault.rotation_jobs (secret_id, name, from_version, due_at, run_after, requested_by)
      VALUES (s.id, s.name, s.current_version, now(), now(), vault.tx_actor()) RETURNING * INTO j;
  END IF;
  PERFORM pg_notify('vault_rotation', '');
  PERFORM vault._audit('rotation.request', p_name, s.current_version, p_request,
      jsonb_build_object('job', j.id, 'joined', v_joined));
  RETURN vault._done(p_request, vault._job_json(j, v_joined));
END $$;

-- The failed job of the current version, queued again with no failures counted; null if there is none. Its attempt
-- keeps counting, so that a worker of an earlier attempt stays fenced off.
CREATE OR REPLACE FUNCTION vault._requeue_failed(s vault.secrets) RETURNS vault.rotation_jobs
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE vault.rotation_jobs SET state = 'queued', failures = 0, run_after = now(), finished_at = NULL,
      requested_by = vault.tx_actor()
  WHERE id = (SELECT max(id) FROM vault.rotation_jobs WHERE secret_id = s.id AND state = 'failed'
      AND from_version = s.current_version)
  RETURNING *
$$;

-- Runs a rotation now that failed for good, or that waits for its next attempt.
CREATE OR REPLACE FUNCTION vault.retry_rotation(p_name text, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s vault.secrets;
  j vault.rotation_jobs;
  v_result jsonb;
BEGIN
  PERFORM vault._require_change(p_name);
  v_result := vault._replay(p_request, 'rotation.retry', p_name, '');
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  s := vault._lock_secret(p_name);
  UPDATE vault.rotation_jobs SET run_after = now(), failures = 0, requested_by = vault.tx_actor()
    WHERE secret_id = s.id AND state = 'queued' RETURNING * INTO j;
  IF NOT FOUND THEN
    j := vault._requeue_failed(s);
  END IF;
  IF j.id IS NULL THEN
    RAISE EXCEPTION 'secret "%" has no rotation to retry', p_name USING ERRCODE = 'VA004';
  END IF;
  PERFORM pg_notify('vault_rotation', '');
  PERFORM vault._audit('rotation.retry', p_name, s.current_version, p_request, jsonb_build_object('job', j.id));
  RETURN vault._done(p_request, vault._job_json(j, true));
END $$;

-- A paused secret is neither enqueued nor claimed; a running attempt continues. A rotation on request still works.
CREATE OR REPLACE FUNCTION vault.pause_rotation(p_name text, p_request uuid, p_pause boolean) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s vault.secrets;
  v_action text := CASE WHEN p_pause THEN 'rotation.pause' ELSE 'rotation.resume' END;
  v_result jsonb;
BEGIN
  PERFORM vault._require_change(p_name);
  PERFORM vault._bound('p_pause', p_pause, false, true);
  v_result := vault._replay(p_request, v_action, p_name, '');
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  s := vault._lock_secret(p_name);
  IF s.generator IS NULL THEN
    RAISE EXCEPTION 'secret "%" has no generator, so it does not rotate by itself', p_name USING ERRCODE = '22023';
  ELSIF p_pause = (s.rotation_paused_at IS NOT NULL) THEN
    RAISE EXCEPTION 'rotation of "%" is % paused', p_name, CASE WHEN p_pause THEN 'already' ELSE 'not' END
        USING ERRCODE = 'VA001';
  END IF;
  UPDATE vault.secrets SET rotation_paused_at = CASE WHEN p_pause THEN now() END WHERE id = s.id RETURNING * INTO s;
  IF NOT p_pause THEN
    PERFORM pg_notify('vault_rotation', '');
  END IF;
  PERFORM vault._audit(v_action, p_name, s.current_version, p_request);
  RETURN vault._done(p_request, jsonb_build_object('name', s.name, 'version', s.current_version,
    'paused_at', s.rotation_paused_at, 'next_rotation_at', s.next_rotation_at));
END $$;

-- The cap on the concurrent rotations of all workers together; null = no cap, 0 = none.
CREATE OR REPLACE FUNCTION vault.set_max_rotations(p_max int, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_result jsonb;
BEGIN
  PERFORM vault._require_administer();
  v_result := vault._replay(p_request, 'rotation.limit', NULL, convert_to(format('%L', p_max), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  UPDATE vault.config SET max_rotations = p_max;
  PERFORM vault._audit('rotation.limit', NULL, NULL, p_request, jsonb_build_object('max_rotations', p_max));
  RETURN vault._done(p_request, jsonb_build_object('max_rotations', p_max));
END $$;

-- How long ended rotations and removed versions stay, in days; null leaves a setting as it is.
CREATE OR REPLACE FUNCTION vault.set_retention(p_job_days int, p_version_days int, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_result jsonb;
BEGIN
  PERFORM vault._require_administer();
  v_result := vault._replay(p_request, 'rotation.keep', NULL,
      convert_to(format('%L %L', p_job_days, p_version_days), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  ELSIF num_nonnulls(p_job_days, p_version_days) = 0 THEN
    RAISE EXCEPTION 'neither p_job_days nor p_version_days is given' USING ERRCODE = '22023';
  END IF;
  UPDATE vault.config SET keep_jobs_days = coalesce(p_job_days, keep_jobs_days),
      keep_versions_days = coalesce(p_version_days, keep_versions_days)
    RETURNING jsonb_build_object('keep_jobs_days', keep_jobs_days, 'keep_versions_days', keep_versions_days)
    INTO v_result;
  PERFORM vault._audit('rotation.keep', NULL, NULL, p_request, v_result);
  RETURN vault._done(p_request, v_result);
END $$;
