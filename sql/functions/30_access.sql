-- Admin tokens, and which database roles may use the vault.

CREATE OR REPLACE FUNCTION vault._add_token(p_id uuid, p_name text, p_sha256 bytea, p_scope text,
    p_expires_at timestamptz, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_result jsonb;
BEGIN
  v_result := vault._replay(p_request, 'token.create', p_name,
      p_sha256 || convert_to(format('%L %L', p_scope, p_expires_at), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  IF p_expires_at > timestamptz '9999-12-31 UTC' THEN
    RAISE EXCEPTION 'a token expires by the year 9999, or never' USING ERRCODE = '22023';
  ELSIF p_expires_at <= now() THEN
    RAISE EXCEPTION 'a token cannot expire in the past' USING ERRCODE = '22023';
  ELSIF p_expires_at >= '9999-01-01' THEN       -- also infinity, which clients cannot read
    RAISE EXCEPTION 'p_expires_at is %: a token expires before the year 9999, or never (null)', p_expires_at
        USING ERRCODE = '22023';
  END IF;
  BEGIN
    INSERT INTO vault.admin_tokens (id, name, token_sha256, scope, created_by, expires_at)
      VALUES (p_id, p_name, p_sha256, p_scope, vault.tx_actor(), p_expires_at);
  EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'a token named "%" exists', p_name USING ERRCODE = 'VA001';
  END;
  INSERT INTO vault.admin_token_use (token_id) VALUES (p_id);
  PERFORM vault._audit('token.create', NULL, NULL, p_request, jsonb_build_object('token', p_name, 'token_id', p_id,
    'scope', nullif(p_scope, ''), 'expires_at', p_expires_at));
  RETURN vault._done(p_request, jsonb_build_object('id', p_id, 'name', p_name, 'scope', p_scope, 'expires_at',
      p_expires_at));
END $$;

CREATE OR REPLACE FUNCTION vault.create_token(p_id uuid, p_name text, p_sha256 bytea, p_scope text,
    p_expires_at timestamptz, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM vault._require_administer();
  RETURN vault._add_token(p_id, p_name, p_sha256, p_scope, p_expires_at, p_request);
END $$;

-- The first token, also after all are lost. EXECUTE stays with vault_owner, whose members own the schema.
CREATE OR REPLACE FUNCTION vault.create_token_as_owner(p_id uuid, p_name text, p_sha256 bytea, p_expires_at timestamptz,
    p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_result jsonb;
BEGIN
  PERFORM vault._enter('owner', 'owner:' || session_user);
  v_result := vault._add_token(p_id, p_name, p_sha256, '', p_expires_at, p_request);
  PERFORM vault._leave();
  RETURN v_result;
END $$;

CREATE OR REPLACE FUNCTION vault.revoke_token(p_name text, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_result jsonb;
  v_token vault.admin_tokens;
BEGIN
  PERFORM vault._require_administer();
  v_result := vault._replay(p_request, 'token.revoke', p_name, '');
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  SELECT * INTO v_token FROM vault.admin_tokens t WHERE t.name = p_name AND t.revoked_at IS NULL
    AND NOT EXISTS (SELECT FROM vault.token_revocations r WHERE r.token_id = t.id);
  IF NOT FOUND THEN
    RAISE EXCEPTION 'no live token named "%"', left(p_name, 64) USING ERRCODE = 'VA004';
  END IF;
  -- It waits for no lock. Transactions that the token has authorised are refused when they commit.
  INSERT INTO vault.token_revocations (token_id) VALUES (v_token.id);
  -- Another revocation of the same token may hold the lock on the row without committing, so a locked row is skipped.
  UPDATE vault.admin_tokens SET revoked_at = now()
    WHERE id = (SELECT t.id FROM vault.admin_tokens t WHERE t.id = v_token.id FOR NO KEY UPDATE SKIP LOCKED);
  -- It takes effect at COMMIT, without waiting for a standby: vault.revocation_holds() does that.
  PERFORM set_config('synchronous_commit', 'local', true);
  PERFORM vault._audit('token.revoke', NULL, NULL, p_request,
      jsonb_build_object('token', p_name, 'token_id', v_token.id));
  RETURN vault._done(p_request,
    jsonb_build_object('id', v_token.id, 'name', p_name, 'scope', v_token.scope, 'revoked_at', now()));
END $$;

-- Called after a revocation has committed. Its own COMMIT waits for the same standbys as a change, and therefore writes
-- something to the WAL. Returns the transactions on this server that may change the vault and began before p_since
-- (null: this transaction): those that the token has authorised are refused when they commit, unless the session ran
-- its deferred checks before the revocation (SET CONSTRAINTS). It requires no token: the revoked one may have been the
-- last.
CREATE OR REPLACE FUNCTION vault.revocation_holds(p_since timestamptz) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_database oid := (SELECT oid FROM pg_database WHERE datname = current_database());
  v_since timestamptz := coalesce(p_since, now());
BEGIN
  PERFORM pg_logical_emit_message(true, 'vault', '');
  -- Roles and addresses of sessions are shown only shortly after a revocation.
  IF NOT EXISTS (SELECT FROM vault.token_revocations WHERE revoked_at > now() - interval '1 minute') THEN
    RETURN jsonb_build_object('since', v_since, 'open', '[]'::jsonb);
  END IF;
  RETURN (
    WITH l AS (SELECT pid, virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND database = v_database
      AND relation = 'vault.tx_context'::regclass AND mode = 'RowExclusiveLock' AND granted
      AND pid IS DISTINCT FROM pg_backend_pid())
    SELECT jsonb_build_object('since', v_since, 'open', coalesce(jsonb_agg(o), '[]')) FROM (
      SELECT a.pid, a.usename AS role, host(a.client_addr) AS client, NULL AS prepared, a.xact_start AS since
        FROM l JOIN pg_stat_activity a ON a.pid = l.pid WHERE a.xact_start < v_since OR a.xact_start IS NULL
      UNION ALL
      SELECT NULL, p.owner, NULL, p.gid, p.prepared
        FROM l JOIN pg_prepared_xacts p ON l.virtualtransaction = '-1/' || p.transaction WHERE l.pid IS NULL) AS o);
END $$;

CREATE OR REPLACE FUNCTION vault.list_tokens() RETURNS TABLE (id uuid, name text, scope text, created_at timestamptz,
    created_by text, expires_at timestamptz, revoked_at timestamptz, last_used_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM vault._require_administer();
  RETURN QUERY SELECT t.id, t.name, t.scope, t.created_at, t.created_by, t.expires_at,
      coalesce(t.revoked_at, (SELECT min(r.revoked_at) FROM vault.token_revocations r WHERE r.token_id = t.id)),
      u.last_used_at
    FROM vault.admin_tokens t LEFT JOIN vault.admin_token_use u ON u.token_id = t.id ORDER BY t.created_at, t.id;
END $$;

-- The token that has authorised this transaction.
CREATE OR REPLACE FUNCTION vault.my_token() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF vault.tx_kind() IS DISTINCT FROM 'admin' THEN
    RAISE EXCEPTION 'no admin token in this transaction' USING ERRCODE = '42501';
  END IF;
  RETURN (SELECT jsonb_build_object('id', t.id, 'name', t.name, 'scope', t.scope, 'created_at', t.created_at,
      'expires_at', t.expires_at)
    FROM vault.tx_context c JOIN vault.admin_tokens t ON t.id = c.token_id
    WHERE c.xid = pg_current_xact_id_if_assigned() AND c.pid = pg_backend_pid());
END $$;

-- Why a role may not use the vault: it could bypass row level security or the functions. Null = it may.
CREATE OR REPLACE FUNCTION vault._too_powerful(p_role name) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT why FROM (
    SELECT r.rolname <> p_role AS through, CASE WHEN r.rolsuper THEN 'SUPERUSER' WHEN r.rolbypassrls THEN 'BYPASSRLS'
        WHEN r.rolcreaterole THEN 'CREATEROLE'
                WHEN r.rolreplication THEN 'REPLICATION' END
           || CASE WHEN r.rolname = p_role THEN '' ELSE format(' through "%s"', r.rolname) END AS why
      FROM pg_roles r WHERE pg_has_role(p_role, r.oid, 'MEMBER')
    UNION ALL
    SELECT true, format('membership in "%s"', r.rolname) FROM pg_roles r
      WHERE r.rolname IN ('vault_owner', 'pg_write_all_data', 'pg_read_all_data', 'pg_execute_server_program',
                          'pg_read_server_files', 'pg_write_server_files', 'pg_create_subscription',
                          'pg_maintain')   -- may LOCK, VACUUM and CLUSTER every table, which blocks reads and changes
        AND pg_has_role(p_role, r.oid, 'MEMBER')) AS reasons
  -- its own attributes first, because a superuser is a member of every role
  WHERE why IS NOT NULL ORDER BY through, why LIMIT 1
$$;

-- Where the vault is: the server and the database.
CREATE OR REPLACE FUNCTION vault._place() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT format('%s.%s', vault._system_id(), (SELECT oid FROM pg_database WHERE datname = current_database()))
$$;

-- Deletes the grants of dropped roles, and updates the names of renamed ones: a dump has both name and regrole, and a
-- restore takes only prefixes in which they agree. In another cluster or database than before, it deletes prefixes that
-- do not agree: pg_restore makes the trigger that compares them after it has stored the rows, and the number of a
-- dropped role is another role's there. Groups are found there by the role's name; those of roles that are not there
-- are kept without a number until there is one. Returns the prefixes that were deleted.
CREATE OR REPLACE FUNCTION vault._settle_scopes() RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_gone jsonb;
  v_here text := vault._place();
  v_moved boolean := v_here IS DISTINCT FROM (SELECT home FROM vault.config WHERE only_row);
BEGIN
  IF NOT v_moved AND NOT EXISTS (   -- most rounds: one query instead of four changes of no row
      SELECT FROM (SELECT role_id, role_name FROM vault.service_scope
                   UNION ALL SELECT role_id, role_name FROM vault.group_grants) AS s
        LEFT JOIN pg_roles r ON r.oid = s.role_id
      WHERE r.rolname IS DISTINCT FROM s.role_name) THEN
    RETURN NULL;
  END IF;
  IF v_moved THEN   -- one round at a time: a round that is still open does it
    PERFORM FROM vault.config WHERE only_row FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
      RETURN NULL;
    END IF;
  END IF;
  WITH gone AS (
    DELETE FROM vault.service_scope s WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = s.role_id
        AND (r.rolname = s.role_name OR NOT v_moved))
      RETURNING s.role_name, s.prefix)
  SELECT jsonb_agg(jsonb_build_object('role', role_name, 'prefix', prefix) ORDER BY role_name, prefix) INTO v_gone
    FROM gone;
  UPDATE vault.service_scope s SET role_name = r.rolname FROM pg_roles r
    WHERE r.oid = s.role_id AND r.rolname <> s.role_name;
  IF v_moved THEN
    UPDATE vault.group_grants SET role_id = NULL WHERE role_id IS NOT NULL;
  END IF;
  DELETE FROM vault.group_grants g WHERE g.role_id IS NOT NULL
    AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = g.role_id);
  UPDATE vault.group_grants g SET role_name = r.rolname FROM pg_roles r
    WHERE r.oid = g.role_id AND r.rolname <> g.role_name;
  UPDATE vault.group_grants g SET role_id = r.oid FROM pg_roles r
    WHERE g.role_id IS NULL AND r.rolname = g.role_name
      AND NOT EXISTS (SELECT FROM vault.group_grants o WHERE o.role_id = r.oid AND o.group_name = g.group_name);
  IF v_moved THEN
    UPDATE vault.config SET home = v_here WHERE only_row;
  END IF;
  IF v_gone IS NOT NULL THEN
    PERFORM vault._audit('grant.gone', NULL, NULL, NULL, jsonb_build_object('prefixes', v_gone));
  END IF;
  RETURN v_gone;
END $$;

CREATE OR REPLACE FUNCTION vault._prefixes_of(p_role regrole) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(jsonb_agg(prefix ORDER BY prefix), '[]') FROM vault.service_scope WHERE role_id = p_role
$$;

-- Roles that were granted a group and are not its members: the cluster's roles were restored without their memberships
-- or not at all, or an administrator took them away. A role that was dropped where it was granted has lost nothing.
CREATE OR REPLACE FUNCTION vault._lost_grants() RETURNS TABLE (role_name text, group_name text, absent boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT DISTINCT g.role_name::text, g.group_name::text, r.oid IS NULL
    FROM (SELECT n.role_name, n.group_name, CASE WHEN c.home = vault._place() THEN n.role_id END AS role_id
        FROM vault.group_grants n CROSS JOIN vault.config c WHERE c.only_row) AS g
      LEFT JOIN pg_roles r ON r.rolname = g.role_name
    WHERE (g.role_id IS NULL OR g.role_id = r.oid)
      AND (r.oid IS NULL OR NOT pg_has_role(r.oid, g.group_name, 'MEMBER'))
    ORDER BY 1, 2
$$;

-- Finds the roles of what a restore has brought. If p_restore, it grants again what was lost, except to roles that
-- could bypass the vault by now, and returns that. EXECUTE stays with vault_owner.
CREATE OR REPLACE FUNCTION vault._settle_grants(p_restore boolean) RETURNS TABLE (role_name text, group_name text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM vault._enter('owner', 'owner:' || session_user);
  PERFORM FROM vault.config WHERE only_row FOR NO KEY UPDATE;   -- a round that is open may still fail
  PERFORM vault._settle_scopes();
  IF p_restore THEN
    FOR role_name, group_name IN SELECT l.role_name, l.group_name FROM vault._lost_grants() AS l
        WHERE NOT l.absent AND vault._too_powerful(l.role_name::name) IS NULL LOOP
      EXECUTE format('GRANT %I TO %I', group_name, role_name);
      PERFORM vault._audit('grant', NULL, NULL, NULL,
        jsonb_build_object('role', role_name, 'group', group_name, 'restored', true));
      RETURN NEXT;
    END LOOP;
  END IF;
  PERFORM vault._leave();
END $$;

-- Roles that an operator should look at: dropped ones that have prefixes, ones that have become too powerful since they
-- were granted access, ones that may lock every table, lost grants, and readers whose prefixes a restore has not
-- brought. It shows no prefixes, and names of roles, which every role can see, or which a restore has not brought.
CREATE OR REPLACE FUNCTION vault.odd_roles() RETURNS TABLE (role text, problem text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT DISTINCT role_name::text, 'gone' FROM vault.service_scope s
    WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = s.role_id)
  UNION ALL
  SELECT DISTINCT r.rolname::text, 'renamed' FROM vault.service_scope s JOIN pg_roles r ON r.oid = s.role_id
    WHERE r.rolname <> s.role_name
  UNION ALL
  SELECT DISTINCT r.rolname::text, vault._too_powerful(r.rolname)
    FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
    WHERE m.roleid IN ('vault_service'::regrole, 'vault_worker'::regrole, 'vault_auditor'::regrole)
      AND NOT m.admin_option
      AND vault._too_powerful(r.rolname) IS NOT NULL
  UNION ALL
  SELECT r.rolname::text, 'maintains' FROM pg_roles r JOIN pg_roles m ON m.rolname = 'pg_maintain'
    WHERE r.rolcanlogin AND NOT r.rolsuper AND pg_has_role(r.oid, m.oid, 'MEMBER')
  UNION ALL
  SELECT role_name, CASE WHEN absent THEN 'absent ' ELSE 'lost ' END || group_name FROM vault._lost_grants()
  UNION ALL
  SELECT r.rolname::text, 'unscoped' FROM vault.group_grants g JOIN pg_roles r ON r.rolname = g.role_name
    WHERE g.group_name = 'vault_service'
      AND NOT EXISTS (SELECT FROM vault.service_scope s WHERE s.role_name = g.role_name)
  ORDER BY 2, 1
$$;

CREATE OR REPLACE FUNCTION vault._grant_group(p_role name, p_group name, p_prefix text, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_role regrole := to_regrole(quote_ident(p_role));
  v_result jsonb;
  v_why text;
BEGIN
  PERFORM vault._require_administer();
  v_result := vault._replay(p_request, 'grant', NULL,
      convert_to(format('%L %L %L', p_role, p_group, p_prefix), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  IF v_role IS NULL THEN
    RAISE EXCEPTION 'no database role "%"', p_role USING ERRCODE = 'VA004';
  ELSIF p_role IN ('vault_owner', 'vault_service', 'vault_worker', 'vault_auditor') THEN
    RAISE EXCEPTION 'role "%" is one of the vault''s own', p_role USING ERRCODE = '42501';
  END IF;
  v_why := vault._too_powerful(p_role);
  IF v_why IS NOT NULL THEN
    RAISE EXCEPTION 'role "%" could bypass the vault: it has %', p_role, v_why USING ERRCODE = '42501';
  END IF;
  PERFORM vault._settle_scopes();
  EXECUTE format('GRANT %I TO %I', p_group, p_role);
  INSERT INTO vault.group_grants (role_id, role_name, group_name) VALUES (v_role, p_role, p_group)
    ON CONFLICT DO NOTHING;
  IF p_prefix IS NOT NULL THEN
    INSERT INTO vault.service_scope (role_name, prefix, role_id) VALUES (p_role, p_prefix, v_role)
      ON CONFLICT DO NOTHING;
  END IF;
  PERFORM vault._audit('grant', NULL, NULL, p_request,
    jsonb_build_object('role', p_role, 'group', p_group, 'prefix', p_prefix));
  RETURN vault._done(p_request, jsonb_build_object('role', p_role, 'group', p_group, 'prefix', p_prefix,
    'prefixes', vault._prefixes_of(v_role)));
END $$;

-- Lets a database role read the secrets whose names begin with p_prefix ('' = all) and call the write API (which
-- requires a token). Further calls add prefixes.
CREATE OR REPLACE FUNCTION vault.grant_service_role(p_role name, p_prefix text DEFAULT '',
    p_request uuid DEFAULT gen_random_uuid()) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT vault._grant_group(p_role, 'vault_service', coalesce(p_prefix, ''), p_request)
$$;

-- Lets a database role claim and complete rotations: vaultd's.
CREATE OR REPLACE FUNCTION vault.grant_worker_role(p_role name, p_request uuid DEFAULT gen_random_uuid()) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT vault._grant_group(p_role, 'vault_worker', NULL, p_request)
$$;

-- Lets a database role read the audit log.
CREATE OR REPLACE FUNCTION vault.grant_auditor_role(p_role name, p_request uuid DEFAULT gen_random_uuid()) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT vault._grant_group(p_role, 'vault_auditor', NULL, p_request)
$$;

-- Removes one prefix, or with null all access of the role. For a dropped role, removes what is left.
CREATE OR REPLACE FUNCTION vault.revoke_service_role(p_role name, p_prefix text DEFAULT NULL,
    p_request uuid DEFAULT gen_random_uuid()) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_role regrole := to_regrole(quote_ident(p_role));
  v_result jsonb;
  v_gone jsonb;
  v_count int;
  v_groups name[] := CASE WHEN p_prefix IS NULL THEN ARRAY['vault_service', 'vault_worker', 'vault_auditor']
    ELSE ARRAY['vault_service'] END;
  v_group name;
  v_grantor name;
BEGIN
  PERFORM vault._require_administer();
  v_result := vault._replay(p_request, 'grant.revoke', NULL, convert_to(format('%L %L', p_role, p_prefix), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  v_gone := vault._settle_scopes();
  DELETE FROM vault.service_scope WHERE role_id = v_role AND (p_prefix IS NULL OR prefix = p_prefix);
  GET DIAGNOSTICS v_count = ROW_COUNT;
  IF v_role IS NULL AND v_gone @> jsonb_build_array(jsonb_build_object('role', p_role)) THEN
    v_count := 1;
  END IF;
  IF v_role IS NULL AND p_prefix IS NULL THEN
    DELETE FROM vault.group_grants WHERE role_id IS NULL AND role_name = p_role;
    IF FOUND THEN
      v_count := 1;
    END IF;
  END IF;
  IF NOT EXISTS (SELECT FROM vault.service_scope WHERE role_id = v_role) THEN
    DELETE FROM vault.group_grants WHERE role_id = v_role AND group_name = ANY (v_groups);
    FOR v_group IN SELECT DISTINCT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
        WHERE m.member = v_role AND g.rolname = ANY (v_groups) LOOP
      EXECUTE format('REVOKE %I FROM %I', v_group, p_role);
      v_count := v_count + 1;
    END LOOP;
    -- From 16 on, REVOKE takes back only the revoker's own grants.
    SELECT g.rolname, by.rolname INTO v_group, v_grantor FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
      LEFT JOIN pg_roles by ON by.oid = m.grantor WHERE m.member = v_role AND g.rolname = ANY (v_groups) LIMIT 1;
    IF FOUND THEN
      RAISE EXCEPTION 'role "%" would stay a member of "%", which role "%" granted', p_role, v_group, v_grantor
        USING ERRCODE = '55000', HINT = format('as a superuser: vaultctl migrate, or REVOKE %I FROM %I GRANTED BY %I',
          v_group, p_role, v_grantor);
    END IF;
  END IF;
  IF v_count = 0 THEN
    RAISE EXCEPTION 'role "%" has no such grant', p_role USING ERRCODE = 'VA004';
  END IF;
  PERFORM vault._audit('grant.revoke', NULL, NULL, p_request, jsonb_build_object('role', p_role, 'prefix', p_prefix));
  RETURN vault._done(p_request,
    jsonb_build_object('role', p_role, 'prefix', p_prefix, 'prefixes', vault._prefixes_of(v_role)));
END $$;

-- ---------- the configuration ----------

-- The configuration that migrate and init change, as the audit log shows it.
CREATE OR REPLACE FUNCTION vault._config_json() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((SELECT jsonb_build_object('default_kms_key', default_kms_key, 'schema_version', installed_version,
    'functions_sha256', encode(functions_sha256, 'hex')) FROM vault.config), '{}')
$$;

-- The audit row of a changed configuration: each changed setting with its old and new value. EXECUTE stays with
-- vault_owner, whose members own the schema.
CREATE OR REPLACE FUNCTION vault._record_config(p_before jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_changed jsonb := (
  SELECT jsonb_object_agg(key, jsonb_build_object('from', p_before -> key, 'to', value))
      FROM jsonb_each(vault._config_json())
    WHERE value IS DISTINCT FROM coalesce(p_before -> key, 'null'));
BEGIN
  IF v_changed IS NOT NULL THEN
    PERFORM vault._enter('owner', 'owner:' || session_user);
    PERFORM vault._audit('config', NULL, NULL, NULL, v_changed);
    PERFORM vault._leave();
  END IF;
END $$;
