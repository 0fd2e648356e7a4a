-- Apps: the readers that vaultd knows by name, their rules and their credentials. Every change takes an admin token.
--
-- A token with a scope changes only apps of which every pattern lies inside the scope. An app without a rule has no
-- such pattern, and its credentials would gain what is allowed to it later: only a token without a scope changes it.

-- Whether every name that a pattern covers begins with the scope.
CREATE OR REPLACE FUNCTION vault._pattern_within(p_pattern text, p_scope text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN starts_with(CASE WHEN right(p_pattern, 1) = '*' THEN left(p_pattern, -1) ELSE p_pattern END, p_scope);
END $$;

CREATE OR REPLACE FUNCTION vault.tx_may_allow(p_pattern text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM vault.tx_context c
    WHERE c.xid = pg_current_xact_id_if_assigned() AND c.pid = pg_backend_pid() AND c.kind = 'admin'
      AND vault._pattern_within(p_pattern, c.scope));
END $$;

CREATE OR REPLACE FUNCTION vault.tx_may_change_app(p_app text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM vault.tx_context c
    WHERE c.xid = pg_current_xact_id_if_assigned() AND c.pid = pg_backend_pid() AND c.kind = 'admin'
      AND (c.scope = '' OR NOT EXISTS (
        SELECT FROM vault.app_rules r WHERE r.app = p_app AND NOT vault._pattern_within(r.pattern, c.scope))));
END $$;

-- ---------- checks ----------
CREATE OR REPLACE FUNCTION vault._require_admin() RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF vault.tx_kind() IS DISTINCT FROM 'admin' THEN
    RAISE EXCEPTION 'no admin token in this transaction' USING ERRCODE = '42501';
  END IF;
END $$;

-- Locks the app until the transaction ends, so that no other change adds a pattern after the scope was compared.
CREATE OR REPLACE FUNCTION vault._require_app(p_app text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
DECLARE
  v_scope text := (SELECT scope FROM vault.tx_context WHERE xid = pg_current_xact_id_if_assigned()
    AND pid = pg_backend_pid() AND kind = 'admin');
  v_locked boolean;
  v_outside text;
BEGIN
  IF v_scope IS NULL THEN
    RAISE EXCEPTION 'no admin token in this transaction' USING ERRCODE = '42501';
  END IF;
  PERFORM FROM vault.apps WHERE name = p_app FOR UPDATE;   -- finds no row that the policy does not let it change
  v_locked := FOUND;
  SELECT pattern INTO v_outside FROM vault.app_rules WHERE app = p_app AND NOT vault._pattern_within(pattern, v_scope)
    ORDER BY pattern LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'the scope of % does not cover the pattern "%" of app "%"', vault.tx_actor(), v_outside, p_app
      USING ERRCODE = '42501';
  ELSIF NOT v_locked THEN
    RAISE EXCEPTION 'no app named "%"', vault._printable(p_app, 64) USING ERRCODE = 'VA004';
  ELSIF v_scope <> '' AND NOT EXISTS (SELECT FROM vault.app_rules WHERE app = p_app) THEN
    RAISE EXCEPTION '% has a scope: app "%" has no rule, and takes a token without one', vault.tx_actor(), p_app
      USING ERRCODE = '42501';
  END IF;
END $$;

-- Adds rules, or replaces the actions of those that are there. True: something is different now.
CREATE OR REPLACE FUNCTION vault._set_rules(p_app text, p_rules jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_rule record;
  v_had text[];
  v_changed boolean := false;
BEGIN
  IF (jsonb_typeof(p_rules) = 'array') IS NOT TRUE OR jsonb_array_length(p_rules) > 64 THEN
    RAISE EXCEPTION 'p_rules is a list of at most 64 rules' USING ERRCODE = '22023';
  END IF;
  FOR v_rule IN
      SELECT e ->> 'pattern' AS pattern, e -> 'actions' AS actions FROM jsonb_array_elements(p_rules) AS e
      ORDER BY 1 LOOP
    IF (jsonb_typeof(v_rule.actions) = 'array') IS NOT TRUE OR v_rule.pattern IS NULL THEN
      RAISE EXCEPTION 'a rule has a pattern and a list of actions' USING ERRCODE = '22023';
    ELSIF NOT vault.tx_may_allow(v_rule.pattern) THEN
      RAISE EXCEPTION 'the scope of % does not cover the pattern "%"', vault.tx_actor(),
        vault._printable(v_rule.pattern, 255) USING ERRCODE = '42501';
    ELSIF EXISTS (SELECT FROM jsonb_array_elements(v_rule.actions) AS a
        WHERE jsonb_typeof(a) <> 'string' OR a #>> '{}' NOT IN ('read', 'verify', 'list')) THEN
      RAISE EXCEPTION 'an action is read, verify or list' USING ERRCODE = '22023';
    END IF;
    -- each once, in one order
    v_rule.actions := (SELECT jsonb_agg(a) FROM unnest(ARRAY['read', 'verify', 'list']) AS a WHERE v_rule.actions ? a);
    SELECT actions INTO v_had FROM vault.app_rules WHERE app = p_app AND pattern = v_rule.pattern;
    CONTINUE WHEN to_jsonb(v_had) = v_rule.actions;
    INSERT INTO vault.app_rules (app, pattern, actions)
      VALUES (p_app, v_rule.pattern, ARRAY(SELECT jsonb_array_elements_text(v_rule.actions)))
      ON CONFLICT (app, pattern) DO UPDATE SET actions = EXCLUDED.actions;
    v_changed := true;
  END LOOP;
  IF (SELECT count(*) FROM vault.app_rules WHERE app = p_app) > 64 THEN
    RAISE EXCEPTION 'an app has at most 64 rules' USING ERRCODE = '22023';
  END IF;
  RETURN v_changed;
END $$;

-- Adds one credential. p_credential has id, kind, and token_sha256 (hexadecimal) or match; networks and expires_at are
-- optional. Returns it without the fingerprint.
CREATE OR REPLACE FUNCTION vault._add_credential(p_app text, p_credential jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  c vault.app_credentials;
  v_network text;
  v_constraint text;
BEGIN
  IF (jsonb_typeof(p_credential) = 'object') IS NOT TRUE THEN
    RAISE EXCEPTION 'a credential is an object' USING ERRCODE = '22023';
  ELSIF p_credential - ARRAY['id', 'kind', 'token_sha256', 'match', 'networks', 'expires_at'] <> '{}' THEN
    RAISE EXCEPTION 'a credential has a field that it does not take' USING ERRCODE = '22023';
  ELSIF octet_length(p_credential::text) > 8192 THEN
    RAISE EXCEPTION 'a credential has at most 8192 bytes' USING ERRCODE = '22023';
  ELSIF jsonb_typeof(p_credential -> 'networks') <> 'array' THEN
    RAISE EXCEPTION 'networks is a list' USING ERRCODE = '22023';
  ELSIF (p_credential ->> 'kind' IN ('token', 'cert', 'unix')) IS NOT TRUE THEN
    RAISE EXCEPTION 'the kind of a credential is token, cert or unix' USING ERRCODE = '22023';
  ELSIF p_credential ->> 'token_sha256' !~ E'\\A[0-9a-f]{64}\\Z' THEN
    RAISE EXCEPTION 'token_sha256 is 64 hexadecimal digits' USING ERRCODE = '22023';
  END IF;
  BEGIN
    c.id := (p_credential ->> 'id')::uuid;
    c.expires_at := (p_credential ->> 'expires_at')::timestamptz;
    c.networks := ARRAY(SELECT n::cidr
      FROM jsonb_array_elements_text(p_credential -> 'networks') WITH ORDINALITY AS e (n, i) ORDER BY i);
  EXCEPTION WHEN invalid_text_representation OR datetime_field_overflow OR invalid_datetime_format THEN
    RAISE EXCEPTION 'a credential has an id, a network or a time that is none' USING ERRCODE = '22023';
  END;
  -- cidr also reads "10" as 10.0.0.0/8.
  SELECT n INTO v_network FROM jsonb_array_elements_text(p_credential -> 'networks') AS n
    WHERE n !~ E'\\A([0-9]+\\.[0-9]+\\.[0-9]+\\.[0-9]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(/[0-9]+)?\\Z' LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'network "%" is none: 10.0.0.0/8', vault._printable(v_network, 64) USING ERRCODE = '22023';
  ELSIF c.id IS NULL THEN
    RAISE EXCEPTION 'a credential has an id' USING ERRCODE = '22023';
  ELSIF c.expires_at <= now() THEN
    RAISE EXCEPTION 'a credential cannot expire in the past' USING ERRCODE = '22023';
  ELSIF c.expires_at >= timestamptz '9999-01-01 UTC' THEN
    RAISE EXCEPTION 'a credential expires before the year 9999, or never (null)' USING ERRCODE = '22023';
  END IF;
  -- Addresses are compared as IPv4 where they are mapped into IPv6: such a network would match none.
  SELECT host(n) INTO v_network FROM unnest(c.networks) AS n WHERE n <<= cidr '::ffff:0:0/96' LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'network % is IPv4 mapped into IPv6: write it as IPv4', v_network USING ERRCODE = '22023';
  END IF;
  -- The oldest revoked one makes room.
  IF (SELECT count(*) FROM vault.app_credentials WHERE app = p_app) >= 64 THEN
    DELETE FROM vault.app_use WHERE credential_id = (SELECT id FROM vault.app_credentials
      WHERE app = p_app AND revoked_at IS NOT NULL ORDER BY revoked_at, id LIMIT 1);
    DELETE FROM vault.app_credentials WHERE id = (SELECT id FROM vault.app_credentials
      WHERE app = p_app AND revoked_at IS NOT NULL ORDER BY revoked_at, id LIMIT 1);
    IF NOT FOUND THEN
      RAISE EXCEPTION 'app "%" has 64 credentials: revoke one first', p_app USING ERRCODE = '22023';
    END IF;
  END IF;
  BEGIN
    INSERT INTO vault.app_credentials (id, app, kind, token_sha256, match, networks, created_by, expires_at)
      VALUES (c.id, p_app, p_credential ->> 'kind', decode(p_credential ->> 'token_sha256', 'hex'),
        p_credential ->> 'match', c.networks, vault.tx_actor(), c.expires_at);
  EXCEPTION WHEN unique_violation THEN
    GET STACKED DIAGNOSTICS v_constraint = CONSTRAINT_NAME;
    IF v_constraint = 'app_credentials_live_match' THEN
      RAISE EXCEPTION '"%" is a credential of app "%"', p_credential ->> 'match',
        (SELECT app FROM vault.app_credentials WHERE match = p_credential ->> 'match' AND revoked_at IS NULL)
        USING ERRCODE = 'VA001';
    END IF;
    RAISE EXCEPTION 'this credential exists' USING ERRCODE = 'VA001';
  END;
  INSERT INTO vault.app_use (credential_id) VALUES (c.id);
  RETURN p_credential - 'token_sha256';
END $$;

-- ---------- changes ----------
CREATE OR REPLACE FUNCTION vault.create_app(p_name text, p_rules jsonb, p_credentials jsonb, p_request uuid)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_result jsonb;
  v_credentials jsonb := '[]';
  v_credential jsonb;
BEGIN
  PERFORM vault._require_admin();
  PERFORM vault._bound_length('p_name', octet_length(p_name), 1, 64);
  PERFORM vault._bound_length('p_rules', octet_length(p_rules::text), 2, 65536);
  PERFORM vault._bound_length('p_credentials', octet_length(p_credentials::text), 2, 65536);
  v_result := vault._replay(p_request, 'app.create', NULL,
      convert_to(format('%L %L %L', p_name, p_rules, p_credentials), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  IF jsonb_typeof(p_credentials) <> 'array' OR jsonb_array_length(p_credentials) > 8 THEN
    RAISE EXCEPTION 'p_credentials is a list of at most 8 credentials' USING ERRCODE = '22023';
  ELSIF jsonb_typeof(p_rules) <> 'array' THEN
    RAISE EXCEPTION 'p_rules is a list' USING ERRCODE = '22023';
  ELSIF jsonb_array_length(p_rules) = 0 AND NOT vault.tx_may_administer() THEN
    RAISE EXCEPTION '% has a scope: it makes no app without a rule', vault.tx_actor() USING ERRCODE = '42501';
  ELSIF (SELECT count(*) FROM vault.apps) >= 10000 THEN
    RAISE EXCEPTION 'a vault has at most 10000 apps' USING ERRCODE = '22023';
  END IF;
  BEGIN
    INSERT INTO vault.apps (name, created_by) VALUES (p_name, vault.tx_actor());
  EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'an app named "%" exists', p_name USING ERRCODE = 'VA001';
  END;
  PERFORM vault._set_rules(p_name, p_rules);
  FOR v_credential IN SELECT e FROM jsonb_array_elements(p_credentials) AS e LOOP
    v_credentials := v_credentials || vault._add_credential(p_name, v_credential);
  END LOOP;
  v_result := vault._app_json(p_name);
  PERFORM vault._audit('app.create', NULL, NULL, p_request,
    jsonb_build_object('app', p_name, 'rules', v_result -> 'rules', 'credentials', v_credentials));
  RETURN vault._done(p_request, v_result);
END $$;

-- What every change returns: the app with its rules, and its credentials without their fingerprints.
CREATE OR REPLACE FUNCTION vault._app_json(p_app text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('name', a.name, 'created_at', a.created_at, 'created_by', a.created_by,
    'disabled_at', a.disabled_at,
    'rules', (SELECT coalesce(jsonb_agg(jsonb_build_object('pattern', r.pattern, 'actions', r.actions)
        ORDER BY r.pattern), '[]') FROM vault.app_rules r WHERE r.app = a.name),
    'credentials', (SELECT coalesce(jsonb_agg(to_jsonb(c) - ARRAY['token_sha256', 'app']
          ORDER BY c.created_at, c.id), '[]')
        FROM vault.app_credentials c WHERE c.app = a.name))
    FROM vault.apps a WHERE a.name = p_app
$$;

CREATE OR REPLACE FUNCTION vault.allow_app(p_app text, p_rules jsonb, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_result jsonb;
BEGIN
  PERFORM vault._require_admin();
  PERFORM vault._bound_length('p_app', octet_length(p_app), 1, 64);
  PERFORM vault._bound_length('p_rules', octet_length(p_rules::text), 3, 65536);
  v_result := vault._replay(p_request, 'app.allow', NULL, convert_to(format('%L %L', p_app, p_rules), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  PERFORM vault._require_app(p_app);
  PERFORM vault._set_rules(p_app, p_rules);
  PERFORM vault._audit('app.allow', NULL, NULL, p_request, jsonb_build_object('app', p_app, 'rules', p_rules));
  RETURN vault._done(p_request, vault._app_json(p_app));
END $$;

CREATE OR REPLACE FUNCTION vault.disallow_app(p_app text, p_patterns text[], p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_result jsonb;
  v_absent text;
BEGIN
  PERFORM vault._require_admin();
  PERFORM vault._bound_length('p_app', octet_length(p_app), 1, 64);
  PERFORM vault._bound('the number of p_patterns', cardinality(p_patterns), 1, 64);
  PERFORM vault._bound_length('a pattern', octet_length(p), 1, 255) FROM unnest(p_patterns) AS p;
  v_result := vault._replay(p_request, 'app.disallow', NULL, convert_to(format('%L %L', p_app, p_patterns), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  PERFORM vault._require_app(p_app);
  SELECT p INTO v_absent FROM unnest(p_patterns) AS p
    WHERE NOT EXISTS (SELECT FROM vault.app_rules WHERE app = p_app AND pattern = p) LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'app "%" has no rule "%"', p_app, vault._printable(v_absent, 255) USING ERRCODE = 'VA004';
  END IF;
  DELETE FROM vault.app_rules WHERE app = p_app AND pattern = ANY (p_patterns);
  PERFORM vault._ends_at_once();
  PERFORM vault._audit('app.disallow', NULL, NULL, p_request, jsonb_build_object('app', p_app, 'patterns', p_patterns));
  RETURN vault._done(p_request, vault._app_json(p_app));
END $$;

-- What takes access away takes effect at COMMIT, without waiting for a standby: the client waits afterwards, with
-- vault.revocation_holds().
CREATE OR REPLACE FUNCTION vault._ends_at_once() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'local', true);
END $$;

CREATE OR REPLACE FUNCTION vault.set_app_enabled(p_app text, p_enabled boolean, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_result jsonb;
  v_action text := CASE WHEN p_enabled THEN 'app.enable' ELSE 'app.disable' END;
BEGIN
  PERFORM vault._require_admin();
  PERFORM vault._bound_length('p_app', octet_length(p_app), 1, 64);
  PERFORM vault._bound('p_enabled', p_enabled, false, true);
  v_result := vault._replay(p_request, v_action, NULL, convert_to(p_app, 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  PERFORM vault._require_app(p_app);
  IF (SELECT disabled_at IS NULL FROM vault.apps WHERE name = p_app) <> p_enabled THEN
    UPDATE vault.apps SET disabled_at = CASE WHEN NOT p_enabled THEN now() END WHERE name = p_app;
  END IF;
  IF NOT p_enabled THEN
    PERFORM vault._ends_at_once();
  END IF;
  PERFORM vault._audit(v_action, NULL, NULL, p_request, jsonb_build_object('app', p_app));
  RETURN vault._done(p_request, vault._app_json(p_app));
END $$;

CREATE OR REPLACE FUNCTION vault.delete_app(p_app text, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_result jsonb;
  v_app jsonb;
BEGIN
  PERFORM vault._require_admin();
  PERFORM vault._bound_length('p_app', octet_length(p_app), 1, 64);
  v_result := vault._replay(p_request, 'app.delete', NULL, convert_to(p_app, 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  PERFORM vault._require_app(p_app);
  v_app := vault._app_json(p_app);
  -- The rules go last but one: they say whether the token may change the rest.
  DELETE FROM vault.app_use WHERE credential_id IN (SELECT id FROM vault.app_credentials WHERE app = p_app);
  DELETE FROM vault.app_credentials WHERE app = p_app;
  DELETE FROM vault.app_rules WHERE app = p_app;
  DELETE FROM vault.apps WHERE name = p_app;
  PERFORM vault._ends_at_once();
  PERFORM vault._audit('app.delete', NULL, NULL, p_request, jsonb_build_object('app', p_app, 'rules', v_app -> 'rules',
    'credentials', (SELECT jsonb_agg(c -> 'id') FROM jsonb_array_elements(v_app -> 'credentials') AS c)));
  RETURN vault._done(p_request, v_app);
END $$;

CREATE OR REPLACE FUNCTION vault.add_app_credential(p_app text, p_credential jsonb, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_result jsonb;
  v_shown jsonb;
BEGIN
  PERFORM vault._require_admin();
  PERFORM vault._bound_length('p_app', octet_length(p_app), 1, 64);
  PERFORM vault._bound_length('p_credential', octet_length(p_credential::text), 2, 8192);
  v_result := vault._replay(p_request, 'app.token', NULL, convert_to(format('%L %L', p_app, p_credential), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  PERFORM vault._require_app(p_app);
  v_shown := vault._add_credential(p_app, p_credential);
  PERFORM vault._audit('app.token', NULL, NULL, p_request, jsonb_build_object('app', p_app, 'credential', v_shown));
  RETURN vault._done(p_request, vault._app_json(p_app));
END $$;

-- Ends one credential, or with null all of the app's. A revocation is final.
CREATE OR REPLACE FUNCTION vault.revoke_app_credential(p_app text, p_id uuid, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_result jsonb;
  v_ids uuid[];
BEGIN
  PERFORM vault._require_admin();
  PERFORM vault._bound_length('p_app', octet_length(p_app), 1, 64);
  v_result := vault._replay(p_request, 'app.revoke', NULL, convert_to(format('%L %L', p_app, p_id), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  PERFORM vault._require_app(p_app);
  v_ids := ARRAY(SELECT id FROM vault.app_credentials
    WHERE app = p_app AND (p_id IS NULL OR id = p_id) AND revoked_at IS NULL ORDER BY id);
  IF v_ids = '{}' THEN
    RAISE EXCEPTION 'app "%" has no live credential%', p_app, coalesce(' ' || p_id, '') USING ERRCODE = 'VA004';
  END IF;
  UPDATE vault.app_credentials SET revoked_at = now() WHERE id = ANY (v_ids);
  PERFORM vault._ends_at_once();
  PERFORM vault._audit('app.revoke', NULL, NULL, p_request, jsonb_build_object('app', p_app, 'credentials', v_ids));
  RETURN vault._done(p_request, vault._app_json(p_app) || jsonb_build_object('revoked', v_ids));
END $$;
