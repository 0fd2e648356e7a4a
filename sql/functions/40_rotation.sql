-- Rotation: the supervisor enqueues what is due, a worker claims, seals and completes. A worker needs no admin token: its
-- authority is a live claim, fenced by the attempt, and covers that one secret.

CREATE OR REPLACE FUNCTION vault.enqueue_due_rotations(p_limit int DEFAULT 1000) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_count int;
BEGIN
  PERFORM vault._enter('maintenance', 'supervisor');
  -- One job for a secret however many intervals went by; none while one is open, or while the last one failed for good
  -- and nobody has put a new value since.
  INSERT INTO vault.rotation_jobs (secret_id, name, from_version, due_at, run_after)
    SELECT s.id, s.name, s.current_version, s.next_rotation_at, s.next_rotation_at FROM vault.secrets s
    WHERE s.deleted_at IS NULL AND s.next_rotation_at <= now()
      AND NOT EXISTS (SELECT FROM vault.rotation_jobs j WHERE j.secret_id = s.id AND j.state IN ('queued', 'claimed'))
      AND NOT EXISTS (SELECT FROM vault.rotation_jobs j WHERE j.secret_id = s.id AND j.state = 'failed' AND j.from_version = s.current_version)
    ORDER BY s.next_rotation_at LIMIT p_limit
    ON CONFLICT (secret_id) WHERE state IN ('queued', 'claimed') DO NOTHING;
  GET DIAGNOSTICS v_count = ROW_COUNT;
  IF v_count > 0 THEN
    PERFORM pg_notify('vault_rotation', '');
  END IF;
  PERFORM vault._leave();
  RETURN v_count;
END $$;

-- Removes the sealed bytes of versions whose grace has ended; the rows stay for the history. Whether a version still
-- opens never depends on this having run.
CREATE OR REPLACE FUNCTION vault.expire_grace_versions(p_limit int DEFAULT 1000) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v record;
  v_count int := 0;
BEGIN
  PERFORM vault._enter('maintenance', 'supervisor');
  FOR v IN SELECT secret_id, name, version FROM vault.secret_versions
      WHERE expires_at <= now() AND removed_at IS NULL ORDER BY expires_at LIMIT p_limit FOR UPDATE SKIP LOCKED LOOP
    UPDATE vault.secret_versions SET wrapped_dek = NULL, nonce = NULL, ciphertext = NULL, key_commit = NULL, removed_at = now()
      WHERE secret_id = v.secret_id AND version = v.version;
    PERFORM vault._audit('expire', v.name, v.version, NULL);
    v_count := v_count + 1;
  END LOOP;
  PERFORM vault._leave();
  RETURN v_count;
END $$;

-- Purges what was deleted and can no longer be restored, and forgets answered requests after a week.
CREATE OR REPLACE FUNCTION vault.purge_deleted(p_limit int DEFAULT 1000) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s vault.secrets;
  v_count int := 0;
BEGIN
  PERFORM vault._enter('maintenance', 'supervisor');
  FOR s IN SELECT * FROM vault.secrets WHERE deleted_at IS NOT NULL AND restore_until <= now()
      ORDER BY restore_until LIMIT p_limit FOR UPDATE SKIP LOCKED LOOP
    PERFORM vault._purge(s, NULL);
    v_count := v_count + 1;
  END LOOP;
  DELETE FROM vault.requests WHERE id IN (SELECT id FROM vault.requests WHERE at < now() - interval '7 days' LIMIT p_limit);
  PERFORM vault._leave();
  RETURN v_count;
END $$;

-- Claims up to p_limit jobs that may run, and jobs whose claim is older than p_stale: their worker is gone or stuck, and
-- the higher attempt shuts it out.
CREATE OR REPLACE FUNCTION vault.claim_rotations(p_worker text, p_limit int, p_stale interval)
RETURNS TABLE (job_id bigint, secret text, attempt int, from_version int, generator text, due_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM vault._enter('maintenance', 'worker:' || vault._printable(p_worker, 128));
  RETURN QUERY
    UPDATE vault.rotation_jobs j SET state = 'claimed', attempt = j.attempt + 1, claimed_by = vault._printable(p_worker, 128),
        claimed_at = clock_timestamp()
      FROM (SELECT k.id, s.generator FROM vault.rotation_jobs k JOIN vault.secrets s ON s.id = k.secret_id
              WHERE (k.state = 'queued' AND k.run_after <= now())
                 OR (k.state = 'claimed' AND k.claimed_at < clock_timestamp() - p_stale)
              ORDER BY k.run_after, k.id LIMIT p_limit FOR UPDATE OF k SKIP LOCKED) AS picked
      WHERE j.id = picked.id
      RETURNING j.id, j.name, j.attempt, j.from_version, picked.generator, j.due_at;
  PERFORM vault._leave();
END $$;

CREATE OR REPLACE FUNCTION vault.complete_rotation(p_job bigint, p_attempt int, p_fmt int, p_kms_key_id text, p_wrapped_dek bytea,
    p_nonce bytea, p_ciphertext bytea, p_key_commit bytea, p_aad text, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  j vault.rotation_jobs;
  s vault.secrets;
  v_result jsonb;
BEGIN
  SELECT * INTO j FROM vault.rotation_jobs WHERE id = p_job;
  PERFORM vault._enter('rotation', 'worker:' || coalesce(j.claimed_by, 'unknown'), p_job);
  v_result := vault._replay(p_request, 'rotate', j.name, sha256(p_nonce || p_ciphertext || p_wrapped_dek) ||
    convert_to(format('%s %s', p_job, p_attempt), 'UTF8'));
  IF v_result IS NULL THEN
    SELECT * INTO s FROM vault.secrets WHERE id = j.secret_id FOR UPDATE;     -- secret before job, as a put locks them
    -- The fence, in the same transaction as the new version: a worker that stalled past its claim is refused here.
    UPDATE vault.rotation_jobs SET state = 'done', finished_at = clock_timestamp(), to_version = from_version + 1
      WHERE id = p_job AND state = 'claimed' AND attempt = p_attempt;
    IF NOT FOUND OR s.deleted_at IS NOT NULL THEN
      RAISE EXCEPTION 'the claim on rotation job % (attempt %) is lost', p_job, p_attempt USING ERRCODE = 'VA002';
    END IF;
    v_result := vault._add_version(s, j.from_version + 1, p_fmt, p_kms_key_id, p_wrapped_dek, p_nonce, p_ciphertext, p_key_commit, p_aad, p_request);
    PERFORM vault._audit('rotate', j.name, j.from_version + 1, p_request, jsonb_build_object('job', p_job, 'attempt', p_attempt, 'due_at', j.due_at));
    v_result := vault._done(p_request, v_result);
  END IF;
  PERFORM vault._leave();
  RETURN v_result;
END $$;

-- p_retry_in null: enough attempts, the job is failed and stays visible until somebody puts or rotates.
CREATE OR REPLACE FUNCTION vault.fail_rotation(p_job bigint, p_attempt int, p_error text, p_retry_in interval) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  j vault.rotation_jobs;
  v_error text := vault._printable(p_error, 500);
BEGIN
  PERFORM vault._enter('maintenance', 'worker');
  UPDATE vault.rotation_jobs SET
      state = CASE WHEN p_retry_in IS NULL THEN 'failed' ELSE 'queued' END,
      run_after = clock_timestamp() + coalesce(p_retry_in, '0'), last_error = v_error,
      finished_at = CASE WHEN p_retry_in IS NULL THEN clock_timestamp() END
    WHERE id = p_job AND state = 'claimed' AND attempt = p_attempt RETURNING * INTO j;
  IF FOUND THEN
    PERFORM vault._enter('maintenance', 'worker:' || j.claimed_by);
    PERFORM vault._audit('rotate', j.name, j.from_version, NULL,
      jsonb_build_object('job', p_job, 'attempt', p_attempt, 'error', v_error, 'given_up', p_retry_in IS NULL), 'failed');
  END IF;
  PERFORM vault._leave();
  RETURN j.id IS NOT NULL;
END $$;
