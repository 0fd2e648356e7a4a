-- The CHECK constraints of this release, and the function that restores them in a database where they differ: one that
-- was set up with standard_conforming_strings = off, where literals lose their backslashes, or that was changed by
-- hand.

CREATE OR REPLACE FUNCTION vault._checks() RETURNS TABLE (relation text, rule text, expression text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  VALUES
    ('admin_tokens', 'token_fingerprint_length', $c$(octet_length(token_sha256) = 32)$c$),
    ('admin_tokens', 'token_name_grammar', $c$(name ~ E'\\A[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\\Z'::text)$c$),
    ('admin_tokens', 'token_scope_length', $c$(octet_length(scope) <= 255)$c$),
    ('access_epoch', 'epoch_has_one_row', $c$only_row$c$),
    ('app_credentials', 'anonymous_has_none', $c$app <> 'anonymous'$c$),
    ('app_credentials', 'credential_expires',
      $c$expires_at BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC'$c$),
    ('app_credentials', 'credential_fingerprint_length', $c$octet_length(token_sha256) = 32$c$),
    ('app_credentials', 'credential_kind', $c$kind IN ('token', 'cert', 'unix')$c$),
    ('app_credentials', 'credential_match_grammar', $c$octet_length(match) <= 2048
        AND match ~ CASE kind
          WHEN 'cert' THEN E'\\A(spiffe://[a-z0-9._-]{1,255}(/(?!\\.\\.?(/|\\Z))[A-Za-z0-9._-]+)+'
            || E'|dns:(?=.{1,253}\\Z)[a-z0-9_-]{1,63}(\\.[a-z0-9_-]{1,63})*'
            || E'|cn:[!-~]([ -~]{0,62}[!-~])?)\\Z'
          ELSE E'\\A(uid:(0|[1-9][0-9]{0,9})'
            || E'|unit:(?=.{1,255}\\Z)(?!@)[A-Za-z0-9:_.@\\\\-]*[A-Za-z0-9:_.\\\\-]'
            || E'\\.(service|socket|mount|swap))\\Z' END
        AND CASE WHEN match ~ E'\\Auid:[0-9]{1,10}\\Z' THEN substr(match, 5)::bigint <= 4294967295 ELSE true END$c$),
    ('app_credentials', 'credential_networks', $c$cardinality(networks) <= 16
        AND coalesce(array_ndims(networks), 1) = 1 AND array_position(networks, NULL) IS NULL$c$),
    ('app_credentials', 'token_or_match',
      $c$(kind = 'token') = (token_sha256 IS NOT NULL) AND (kind = 'token') = (match IS NULL)$c$),
    ('app_credentials', 'unix_has_no_networks', $c$kind <> 'unix' OR networks = '{}'$c$),
    ('app_rules', 'rule_actions', $c$actions <@ ARRAY['read', 'verify', 'list']
        AND coalesce(array_ndims(actions), 0) = 1
        AND cardinality(actions) = ('read' = ANY (actions))::int + ('verify' = ANY (actions))::int
          + ('list' = ANY (actions))::int$c$),
    ('app_rules', 'rule_pattern_grammar', $c$octet_length(pattern) BETWEEN 1 AND 255
        AND pattern ~ E'\\A(\\*|[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_][A-Za-z0-9_-]*)*([./]\\*)?)\\Z'$c$),
    ('apps', 'app_name_grammar', $c$name ~ E'\\A[a-z0-9][a-z0-9_.-]{0,63}\\Z'$c$),
    ('audit_leaves', 'leaves_length', $c$((octet_length(leaves) > 0) AND ((octet_length(leaves) % 48) = 0))$c$),
    ('audit_log', 'audit_earlier', $c$
  num_nulls(since, reads, ago, back, requests, reader, actors, clients, versions, details) = 10
  OR num_nulls(since, reads, ago, back, requests, reader, actors, clients, versions, details) = 0
    AND reads BETWEEN 2 AND 1000 AND cardinality(ago) = reads - 1 AND cardinality(back) = reads - 1
    AND cardinality(requests) = reads - 1 AND cardinality(reader) = reads - 1
    AND cardinality(actors) BETWEEN 1 AND reads - 1 AND cardinality(clients) = cardinality(actors)
    AND cardinality(versions) = cardinality(actors) AND cardinality(details) = cardinality(actors)
    AND array_position(ago, NULL) IS NULL AND array_position(back, NULL) IS NULL
    AND array_position(reader, NULL) IS NULL AND array_position(actors, NULL) IS NULL
    AND since = at - ago[reads - 1] * interval '1 microsecond' AND since BETWEEN at - interval '1 minute' AND at
    AND date_trunc('month', since AT TIME ZONE 'UTC') = date_trunc('month', at AT TIME ZONE 'UTC')
    AND outcome = 'ok'$c$),
    ('audit_log', 'audit_outcome', $c$(outcome = ANY (ARRAY['ok'::text, 'denied'::text, 'failed'::text]))$c$),
    ('audit_prunes', 'prune_month_is_a_first', $c$(EXTRACT(day FROM month) = (1)::numeric)$c$),
    ('audit_prunes', 'prune_rows_positive', $c$(rows > 0)$c$),
    ('audit_prunes', 'prune_sha256_length', $c$(octet_length(exported_sha256) = 32)$c$),
    ('audit_seals', 'seal_hash_length', $c$(octet_length(hash) = 32)$c$),
    ('audit_seals', 'seal_id_positive', $c$(id > 0)$c$),
    ('audit_seals', 'seal_ids_in_order', $c$(last_id >= first_id)$c$),
    ('audit_seals', 'seal_key_id_length', $c$((octet_length(key_id) >= 1) AND (octet_length(key_id) <= 255))$c$),
    ('audit_seals', 'seal_marks_length', $c$(octet_length(marks) = (4 * rows))$c$),
    ('audit_seals', 'seal_month_is_a_first', $c$(EXTRACT(day FROM month) = (1)::numeric)$c$),
    ('audit_seals', 'seal_previous_length', $c$(octet_length(previous) = 32)$c$),
    ('audit_seals', 'seal_root_length', $c$(octet_length(root) = 32)$c$),
    ('audit_seals', 'seal_rows_positive', $c$(rows > 0)$c$),
    ('audit_seals', 'seal_signature_length',
      $c$((octet_length(signature) >= 1) AND (octet_length(signature) <= 512))$c$),
    ('audit_seals', 'seal_window', $c$(to_tx > from_tx)$c$),
    ('audit_spools', 'spool_hash_length', $c$(octet_length(last_hash) = 32)$c$),
    ('audit_spools', 'spool_node_length', $c$((octet_length(node) >= 1) AND (octet_length(node) <= 255))$c$),
    ('config', 'config_has_one_row', $c$only_row$c$),
    ('config', 'keep_jobs_days_range', $c$keep_jobs_days BETWEEN 1 AND 3650$c$),
    ('config', 'keep_versions_days_range', $c$keep_versions_days BETWEEN 1 AND 3650$c$),
    ('config', 'max_rotations_range', $c$((max_rotations >= 0) AND (max_rotations <= 100000))$c$),
    ('daemons', 'daemon_commit_length', $c$octet_length(commit) <= 128$c$),
    ('daemons', 'daemon_node_length', $c$octet_length(node) BETWEEN 1 AND 255$c$),
    ('daemons', 'daemon_version_length', $c$octet_length(version) BETWEEN 1 AND 128$c$),
    ('feed_state', 'feed_state_has_one_row', $c$only_row$c$),
    ('group_grants', 'granted_group',
      $c$group_name IN ('vault_service', 'vault_worker', 'vault_auditor')$c$),
    ('heartbeat', 'heartbeat_has_one_row', $c$only_row$c$),
    ('rotation_candidates', 'candidate_aad_is_name_and_version', $c$(aad = ((name || ':'::text) || version))$c$),
    ('rotation_candidates', 'candidate_ciphertext_length',
      $c$((octet_length(ciphertext) >= (1 + 16)) AND (octet_length(ciphertext) <= (65536 + 16)))$c$),
    ('rotation_candidates', 'candidate_key_commit_length', $c$(octet_length(key_commit) = 32)$c$),
    ('rotation_candidates', 'candidate_kms_key_id_length',
      $c$((octet_length(kms_key_id) >= 1) AND (octet_length(kms_key_id) <= 2048))$c$),
    ('rotation_candidates', 'candidate_nonce_length', $c$(octet_length(nonce) = 24)$c$),
    ('rotation_candidates', 'candidate_version_positive', $c$(version > 0)$c$),
    ('rotation_candidates', 'candidate_wrapped_dek_length',
      $c$((octet_length(wrapped_dek) >= 1) AND (octet_length(wrapped_dek) <= 6144))$c$),
    ('rotation_jobs', 'job_state',
      $c$(state = ANY (ARRAY['queued'::text, 'claimed'::text, 'done'::text, 'superseded'::text,
        'failed'::text]))$c$),
    ('rotation_jobs', 'job_times', $c$due_at BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC'
        AND run_after BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC'
        AND coalesce(claimed_at BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC', true)$c$),
    ('round_failures', 'round_part_length', $c$octet_length(part) BETWEEN 1 AND 64$c$),
    ('round_failures', 'round_subject_length', $c$octet_length(subject) <= 255$c$),
    ('secret_versions', 'aad_is_name_and_version', $c$(aad = ((name || ':'::text) || version))$c$),
    ('secret_versions', 'ciphertext_length',
      $c$((octet_length(ciphertext) >= (1 + 16)) AND (octet_length(ciphertext) <= (65536 + 16)))$c$),
    ('secret_versions', 'key_commit_length', $c$(octet_length(key_commit) = 32)$c$),
    ('secret_versions', 'kms_key_id_length',
      $c$((octet_length(kms_key_id) >= 1) AND (octet_length(kms_key_id) <= 2048))$c$),
    ('secret_versions', 'nonce_length', $c$(octet_length(nonce) = 24)$c$),
    ('secret_versions', 'removed_only_after_expiry', $c$((removed_at IS NULL) OR (removed_at >= expires_at))$c$),
    ('secret_versions', 'sealed_whole_or_removed',
      $c$(((removed_at IS NULL) = (wrapped_dek IS NOT NULL))
        AND ((removed_at IS NULL) = (nonce IS NOT NULL))
        AND ((removed_at IS NULL) = (ciphertext IS NOT NULL))
        AND ((removed_at IS NULL) = (key_commit IS NOT NULL)))$c$),
    ('secret_versions', 'version_positive', $c$(version > 0)$c$),
    ('secret_versions', 'wrapped_dek_length',
      $c$((octet_length(wrapped_dek) >= 1) AND (octet_length(wrapped_dek) <= 6144))$c$),
    ('secrets', 'automatic_has_generator', $c$((kind = 'automatic'::text) = (generator IS NOT NULL))$c$),
    ('secrets', 'deleted_is_restorable', $c$((deleted_at IS NULL) = (restore_until IS NULL))$c$),
    ('secrets', 'due_only_with_interval', $c$((rotation_interval IS NULL) = (next_rotation_at IS NULL))$c$),
    ('secrets', 'grace_period_plain', $c$least(extract(year FROM grace_period), extract(month FROM grace_period),
        extract(day FROM grace_period), extract(hour FROM grace_period), extract(minute FROM grace_period),
        extract(second FROM grace_period)) >= 0$c$),
    ('secrets', 'grace_period_range',
      $c$((grace_period >= '00:00:00'::interval) AND (grace_period <= '3650 days'::interval))$c$),
    ('secrets', 'manual_has_no_interval', $c$((kind = 'automatic'::text) OR (rotation_interval IS NULL))$c$),
    ('secrets', 'rotation_interval_plain', $c$least(extract(year FROM rotation_interval),
        extract(month FROM rotation_interval),
        extract(day FROM rotation_interval), extract(hour FROM rotation_interval),
            extract(minute FROM rotation_interval),
        extract(second FROM rotation_interval)) >= 0$c$),
    ('secrets', 'rotation_interval_range',
      $c$((rotation_interval >= '00:01:00'::interval) AND (rotation_interval <= '3650 days'::interval))$c$),
    ('secrets', 'rotation_window_grammar', $c$rotation_window ~
      E'\\A([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9] [A-Za-z0-9_+/-]{1,64}\\Z'$c$),
    ('secrets', 'rotator_has_generator', $c$((rotator IS NULL) OR (generator IS NOT NULL))$c$),
    ('secrets', 'secret_generator_length',
      $c$((octet_length(generator) >= 1) AND (octet_length(generator) <= 255))$c$),
    ('secrets', 'secret_kind', $c$(kind = ANY (ARRAY['manual'::text, 'automatic'::text]))$c$),
    ('secrets', 'secret_name_grammar',
      $c$octet_length(name) BETWEEN 1 AND 255
        AND name ~ E'\\A[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_][A-Za-z0-9_-]*)*\\Z'$c$),
    ('secrets', 'secret_rotator_length', $c$((octet_length(rotator) >= 1) AND (octet_length(rotator) <= 2048))$c$),
    ('secrets', 'secret_times', $c$next_rotation_at BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC'
        AND coalesce(restore_until BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC'
          AND deleted_at BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC', true)$c$),
    ('service_scope', 'scope_prefix_length', $c$(octet_length(prefix) <= 255)$c$),
    ('tx_context', 'tx_context_kind',
      $c$(kind = ANY (ARRAY['admin'::text, 'owner'::text, 'rotation'::text, 'maintenance'::text]))$c$),
    ('tx_context', 'tx_context_says_who',
      $c$(((kind IS NULL) = (actor IS NULL)) AND ((kind = 'admin'::text) = (token_id IS NOT NULL)))$c$)
$$;

-- Called by migrate, as the owner. The server rewrites expressions, so each is compared with the same constraint of an
-- empty copy of the table. A rule that existing rows break is added for new rows only, and "holds" is false.
CREATE OR REPLACE FUNCTION vault._mend_checks() RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_relation text; v_rules text; v_rule record; v_holds boolean; v_mended jsonb := '[]';
BEGIN
  FOR v_relation, v_rules IN SELECT relation, string_agg(format('CONSTRAINT %I CHECK (%s)', rule, expression), ', ')
                               FROM vault._checks() GROUP BY relation LOOP
    EXECUTE format('CREATE TABLE vault._checks_probe (LIKE vault.%I, %s)', v_relation, v_rules);
    FOR v_rule IN SELECT c.rule, c.expression, pg_get_expr(have.conbin, have.conrelid) AS was, have.oid IS NULL OR
                      pg_get_expr(have.conbin, have.conrelid) <> pg_get_expr(want.conbin, want.conrelid) AS differs
                    FROM vault._checks() c
                    JOIN pg_constraint want ON want.conrelid = 'vault._checks_probe'::regclass AND want.conname = c.rule
                    LEFT JOIN pg_constraint have ON have.conrelid = format('vault.%I', v_relation)::regclass
                      AND have.conname = c.rule AND have.contype = 'c'
                    WHERE c.relation = v_relation AND (have.oid IS NULL OR NOT have.convalidated
                      OR pg_get_expr(have.conbin, have.conrelid) <> pg_get_expr(want.conbin, want.conrelid)) LOOP
      IF v_rule.differs THEN
        EXECUTE format('ALTER TABLE vault.%I DROP CONSTRAINT IF EXISTS %I, ADD CONSTRAINT %I CHECK (%s) NOT VALID',
                       v_relation, v_rule.rule, v_rule.rule, v_rule.expression);
      END IF;
      BEGIN
        EXECUTE format('ALTER TABLE vault.%I VALIDATE CONSTRAINT %I', v_relation, v_rule.rule);
        v_holds := true;
      EXCEPTION WHEN check_violation THEN
        v_holds := false;
      END;
      v_mended := v_mended || jsonb_build_object('table', v_relation, 'rule', v_rule.rule,
                                                 'was', coalesce(v_rule.was, ''), 'holds', v_holds);
    END LOOP;
    DROP TABLE vault._checks_probe;
  END LOOP;
  RETURN v_mended;
END $$;
