-- Rewrap: the same data key wrapped by another KMS key. No value, version or expiry changes, so readers are not
-- affected.

-- The data keys that p_kms_key_id has not wrapped, under a name (p_exact) or prefix: one page of p_limit secrets by
-- name, with all their keys. It covers live versions, also of deleted secrets that can be restored, and candidates of
-- rotations, also of failed ones. "next" is the beginning of the following page, null after the last. The ciphertext is
-- not returned. A token sees what it may change, independent of what the database role may read: before a KMS key is
-- removed, no row may be missed.
CREATE OR REPLACE FUNCTION vault.wrapped_keys(p_prefix text, p_exact boolean, p_kms_key_id text, p_after text,
    p_limit int) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- The cost of a page depends on its size only, also with a million secrets: it reads the index of the names, and for
-- each name that of the versions.
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
    SET jit = off AS $$
BEGIN
  PERFORM vault._require_change(p_prefix);
  -- Null would match no row, and the answer would be that no key is left.
  PERFORM vault._bound('p_exact', p_exact, false, true);
  PERFORM vault._bound_length('p_kms_key_id', octet_length(p_kms_key_id), 1, 2048);
  PERFORM vault._bound_length('p_after', octet_length(p_after), 0, 255);
  PERFORM vault._bound('p_limit', p_limit, 1, 10000);
  IF p_exact AND NOT EXISTS (SELECT FROM vault.secrets WHERE name = p_prefix) THEN
    RAISE EXCEPTION 'no secret "%"', left(p_prefix, 255) USING ERRCODE = 'VA004';
  END IF;
  RETURN (
    WITH page AS (
      -- Bounds that the index can use for any prefix; every character of a name sorts before "{".
      SELECT id, name FROM vault.secrets WHERE name > p_after AND name >= p_prefix
          AND name <= CASE WHEN p_exact THEN p_prefix ELSE p_prefix || '{' END AND name ^@ p_prefix
        ORDER BY name LIMIT p_limit),
    wrapped AS (
      SELECT v.name, v.version, NULL::bigint AS job, v.kms_key_id, v.wrapped_dek, v.key_commit
        FROM page p JOIN vault.secret_versions v ON v.secret_id = p.id
        WHERE v.removed_at IS NULL AND (v.expires_at IS NULL OR v.expires_at > now())
      UNION ALL
      SELECT c.name, c.version, c.job_id, c.kms_key_id, c.wrapped_dek, c.key_commit
        FROM page p JOIN vault.rotation_jobs j ON j.secret_id = p.id
            JOIN vault.rotation_candidates c ON c.job_id = j.id)
    SELECT jsonb_build_object(
      'next', (SELECT max(name) FROM page HAVING count(*) = p_limit),
      'keys', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', name, 'version', version, 'job', job, 'kms_key_id',
          kms_key_id,
                 'wrapped_dek', encode(wrapped_dek, 'base64'), 'key_commit', encode(key_commit, 'base64'))
                     ORDER BY name, version, job), '[]')
               FROM wrapped WHERE kms_key_id <> p_kms_key_id)));
END $$;

-- Replaces p_old by another wrapping: of a version, or of the candidate of a job. VA001 if p_old is no longer stored.
-- The client checks that the new one unwraps to the same key, because only it can call the KMS.
CREATE OR REPLACE FUNCTION vault.rewrap(p_name text, p_version int, p_job bigint, p_old bytea, p_kms_key_id text,
    p_wrapped_dek bytea,
    p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s vault.secrets;
  v_result jsonb;
  v_from text;
BEGIN
  PERFORM vault._require_change(p_name);
  v_result := vault._replay(p_request, 'rewrap', p_name, sha256(p_old) || sha256(p_wrapped_dek) ||
    convert_to(format('%s %L %L', p_version, p_job, p_kms_key_id), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  s := vault._lock_secret(p_name);              -- also locked to create a version or delete a candidate
  IF p_job IS NULL THEN
    SELECT kms_key_id INTO v_from FROM vault.secret_versions WHERE secret_id = s.id AND version = p_version
        AND wrapped_dek = p_old FOR UPDATE;
    UPDATE vault.secret_versions SET kms_key_id = p_kms_key_id, wrapped_dek = p_wrapped_dek
      WHERE secret_id = s.id AND version = p_version AND wrapped_dek = p_old;
  ELSE
    SELECT kms_key_id INTO v_from FROM vault.rotation_candidates WHERE job_id = p_job AND name = p_name
        AND version = p_version AND wrapped_dek = p_old;
    UPDATE vault.rotation_candidates SET kms_key_id = p_kms_key_id, wrapped_dek = p_wrapped_dek
      WHERE job_id = p_job AND name = p_name AND version = p_version AND wrapped_dek = p_old;
  END IF;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'version % of "%" has another data key by now, or none', p_version, p_name USING ERRCODE = 'VA001';
  END IF;
  PERFORM vault._audit('rewrap', p_name, p_version, p_request,
      jsonb_build_object('from', v_from, 'to', p_kms_key_id, 'job', p_job));
  RETURN vault._done(p_request, jsonb_build_object('name', p_name, 'version', p_version));
END $$;
