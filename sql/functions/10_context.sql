-- Who is this transaction, and what may it change? One row of vault.tx_context says so, keyed by the server's own
-- transaction id. Row level security (policies/) asks these functions again for every row written, the owner's too:
-- a function below that forgot to check would write nothing.
--
-- Every SECURITY DEFINER function pins its search_path: without it, a caller's schema could put its own sha256() in front.
-- Such a function is never inlined, and one in LANGUAGE sql is parsed and planned at every call; what a change calls is
-- therefore plpgsql, whose plans stay: a put takes a fifth less of the processor. enable_seqscan = off: vault.tx_context is
-- empty whenever somebody looks at its statistics, and has a page of dead rows for every few hundred changes since.

CREATE OR REPLACE FUNCTION vault.tx_kind() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  RETURN (SELECT kind FROM vault.tx_context WHERE xid = pg_current_xact_id_if_assigned() AND pid = pg_backend_pid());
END $$;

CREATE OR REPLACE FUNCTION vault.tx_actor() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  RETURN (SELECT actor FROM vault.tx_context WHERE xid = pg_current_xact_id_if_assigned() AND pid = pg_backend_pid());
END $$;

-- An admin token changes the names its scope covers; a rotation only the secret of its claimed job; maintenance anything
-- (its functions take no values from outside).
CREATE OR REPLACE FUNCTION vault.tx_may_change(p_name text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM vault.tx_context c
    WHERE c.xid = pg_current_xact_id_if_assigned() AND c.pid = pg_backend_pid()
      AND CASE c.kind
            WHEN 'admin' THEN starts_with(p_name, c.scope)
            WHEN 'rotation' THEN EXISTS (SELECT FROM vault.rotation_jobs j WHERE j.id = c.job_id AND j.name = p_name)
            WHEN 'maintenance' THEN true
            ELSE false
          END);
END $$;

-- Tokens and grants take a token without a scope, or the owner of the schema (who could take them anyway).
CREATE OR REPLACE FUNCTION vault.tx_may_administer() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
  SELECT EXISTS (
    SELECT FROM vault.tx_context c
    WHERE c.xid = pg_current_xact_id_if_assigned() AND c.pid = pg_backend_pid()
      AND (c.kind = 'owner' OR (c.kind = 'admin' AND c.scope = '')))
$$;

-- Rows leave for good only while the purge function holds its own name up.
CREATE OR REPLACE FUNCTION vault.tx_is_purging(p_name text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
  SELECT vault.tx_may_change(p_name) AND EXISTS (
    SELECT FROM vault.tx_context c
    WHERE c.xid = pg_current_xact_id_if_assigned() AND c.pid = pg_backend_pid() AND c.purging = p_name)
$$;

CREATE OR REPLACE FUNCTION vault._require_change(p_name text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE v_scope text := (SELECT scope FROM vault.tx_context WHERE xid = pg_current_xact_id_if_assigned() AND pid = pg_backend_pid() AND kind = 'admin');
BEGIN
  IF v_scope IS NULL THEN
    RAISE EXCEPTION 'no admin token in this transaction' USING ERRCODE = '42501';
  ELSIF starts_with(p_name, v_scope) IS NOT TRUE THEN
    RAISE EXCEPTION 'the scope of % does not cover "%"', vault.tx_actor(), left(p_name, 255) USING ERRCODE = '42501';
  END IF;
END $$;

CREATE OR REPLACE FUNCTION vault._require_administer() RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF vault.tx_kind() IS NULL THEN
    RAISE EXCEPTION 'no admin token in this transaction' USING ERRCODE = '42501';
  ELSIF NOT vault.tx_may_administer() THEN
    RAISE EXCEPTION '% has a scope: tokens and grants take a token without one', vault.tx_actor() USING ERRCODE = '42501';
  END IF;
END $$;

-- ---------- challenge and proof ----------
-- The shape of SCRAM (RFC 5802, section 3): the server keeps fingerprint = SHA-256(token secret) and sends a nonce; the
-- client answers proof = secret XOR HMAC-SHA-256(fingerprint, nonce); the server undoes the XOR and hashes. The secret
-- itself is in no statement, parameter or log, and the fingerprint alone proves nothing.

CREATE OR REPLACE FUNCTION vault._xor(a bytea, b bytea) RETURNS bytea   -- of 32 bytes, eight at a time
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN int8send((('x' || encode(substr(a, 1, 8), 'hex'))::bit(64) # ('x' || encode(substr(b, 1, 8), 'hex'))::bit(64))::bigint)
    || int8send((('x' || encode(substr(a, 9, 8), 'hex'))::bit(64) # ('x' || encode(substr(b, 9, 8), 'hex'))::bit(64))::bigint)
    || int8send((('x' || encode(substr(a, 17, 8), 'hex'))::bit(64) # ('x' || encode(substr(b, 17, 8), 'hex'))::bit(64))::bigint)
    || int8send((('x' || encode(substr(a, 25, 8), 'hex'))::bit(64) # ('x' || encode(substr(b, 25, 8), 'hex'))::bit(64))::bigint);
END $$;

CREATE OR REPLACE FUNCTION vault._hmac_sha256(p_key bytea, p_message bytea) RETURNS bytea   -- RFC 2104; a key of 32 bytes
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  inner_pad bytea := decode(repeat('36', 32), 'hex');
  outer_pad bytea := decode(repeat('5c', 32), 'hex');
BEGIN
  RETURN sha256(vault._xor(p_key, outer_pad) || outer_pad || sha256(vault._xor(p_key, inner_pad) || inner_pad || p_message));
END $$;

CREATE OR REPLACE FUNCTION vault.challenge() RETURNS bytea
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE v_nonce bytea;
BEGIN
  INSERT INTO vault.tx_context AS c (xid, pid) VALUES (pg_current_xact_id(), pg_backend_pid())
    ON CONFLICT (xid) DO UPDATE SET pid = EXCLUDED.pid, nonce = DEFAULT, kind = NULL, token_id = NULL, scope = NULL,
                                    job_id = NULL, actor = NULL, purging = NULL
    RETURNING c.nonce INTO v_nonce;
  RETURN v_nonce;
END $$;

CREATE OR REPLACE FUNCTION vault.authorize_proof(p_token_id uuid, p_proof bytea) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  v_nonce bytea;
  v_token vault.admin_tokens;
  v_pad bytea;
  v_secret bytea;
  v_why text;
BEGIN
  SELECT nonce INTO v_nonce FROM vault.tx_context
    WHERE xid = pg_current_xact_id_if_assigned() AND pid = pg_backend_pid() AND kind IS NULL;
  -- FOR SHARE: a revoke waits for us to end, we wait for a revoke that came first.
  SELECT * INTO v_token FROM vault.admin_tokens WHERE id = p_token_id FOR SHARE;
  IF v_nonce IS NOT NULL AND v_token.id IS NOT NULL AND octet_length(p_proof) = 32 THEN
    v_pad := vault._hmac_sha256(v_token.token_sha256, v_nonce);
    v_secret := vault._xor(p_proof, v_pad);
  END IF;
  -- Why it is refused is said only to somebody who has proven the token.
  v_why := CASE
    WHEN v_pad IS NULL OR sha256(v_secret) IS DISTINCT FROM v_token.token_sha256 THEN 'unknown token'
    WHEN v_token.revoked_at IS NOT NULL THEN 'revoked'
    WHEN v_token.expires_at <= clock_timestamp() THEN 'expired'
  END;
  IF v_why IS NOT NULL THEN
    RAISE LOG 'vault: admin token refused: % role=% client=%', v_why, session_user, inet_client_addr();  -- outlives the rollback
    RAISE EXCEPTION 'admin token refused: %', v_why USING ERRCODE = '28000';
  END IF;
  UPDATE vault.tx_context SET nonce = NULL, kind = 'admin', token_id = v_token.id, scope = v_token.scope,
                              actor = 'token:' || v_token.name
    WHERE xid = pg_current_xact_id();
  -- Asked first: even an INSERT that does nothing waits for a sibling that is just touching the row.
  IF NOT EXISTS (SELECT FROM vault.admin_token_use WHERE token_id = v_token.id) THEN
    INSERT INTO vault.admin_token_use VALUES (v_token.id, now()) ON CONFLICT DO NOTHING;
  ELSIF EXISTS (SELECT FROM vault.admin_token_use WHERE token_id = v_token.id AND last_used_at < now() - interval '1 minute') THEN
    UPDATE vault.admin_token_use SET last_used_at = now() WHERE token_id = (
      SELECT u.token_id FROM vault.admin_token_use u
      WHERE u.token_id = v_token.id AND u.last_used_at < now() - interval '1 minute' FOR UPDATE SKIP LOCKED);
  END IF;
  RETURN 'token:' || v_token.name;
END $$;

-- Contexts of the definer functions themselves: rotation and maintenance. Each ends with the function that opened it.
CREATE OR REPLACE FUNCTION vault._enter(p_kind text, p_actor text, p_job bigint DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO vault.tx_context (xid, pid, nonce, kind, actor, job_id)
    VALUES (pg_current_xact_id(), pg_backend_pid(), NULL, p_kind, p_actor, p_job)
    ON CONFLICT (xid) DO UPDATE SET pid = EXCLUDED.pid, nonce = NULL, kind = EXCLUDED.kind, actor = EXCLUDED.actor,
                                    job_id = EXCLUDED.job_id, token_id = NULL, scope = NULL, purging = NULL;
END $$;

CREATE OR REPLACE FUNCTION vault._leave() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  DELETE FROM vault.tx_context WHERE xid = pg_current_xact_id_if_assigned();
END $$;

-- Deferred: runs at commit, so that no context row is ever committed.
CREATE OR REPLACE FUNCTION vault._tx_context_ends() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  DELETE FROM vault.tx_context WHERE xid = NEW.xid;
  RETURN NULL;
END $$;

-- ---------- audit ----------
CREATE OR REPLACE FUNCTION vault._system_id() RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN (SELECT system_identifier FROM pg_control_system()); END $$;

CREATE OR REPLACE FUNCTION vault._printable(p_text text, p_max int) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  -- Control characters (C0, DEL, C1) would reach a terminal that shows the log.
  SELECT regexp_replace(left(p_text, p_max), E'[\\u0001-\\u001f\\u007f-\\u009f]', '?', 'g')
$$;

CREATE OR REPLACE FUNCTION vault._audit(p_action text, p_secret text, p_version int, p_request uuid,
                                        p_detail jsonb DEFAULT '{}', p_outcome text DEFAULT 'ok') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO vault.audit_log (actor, action, secret, version, outcome, request_id, detail)
    VALUES (coalesce(vault.tx_actor(), 'role:' || session_user), p_action, p_secret, p_version, p_outcome, p_request,
            jsonb_strip_nulls(p_detail));
END $$;

-- The row of a refused attempt rolls back with it; the client therefore reports the refusal in a transaction of its own.
-- Nothing here is proven: the actor is the database role, what the client claimed stands in detail.
CREATE OR REPLACE FUNCTION vault.record_refusal(p_action text, p_secret text, p_reason text, p_token_id uuid, p_request uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT vault._audit(vault._printable(p_action, 32), vault._printable(p_secret, 255), NULL, p_request,
    jsonb_build_object('reason', vault._printable(p_reason, 200), 'claimed_token_id', p_token_id,
                       'claimed_token', (SELECT name FROM vault.admin_tokens WHERE id = p_token_id)), 'denied')
$$;

-- ---------- replay ----------
CREATE OR REPLACE FUNCTION vault._digest(p_action text, p_secret text, p_asked bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN sha256(convert_to(p_action || ' ' || coalesce(p_secret, '') || ' ', 'UTF8') || p_asked);
END $$;

-- Returns null for a request seen for the first time, else the result it had. A request that is being committed by a
-- connection we lost makes the INSERT wait until that is decided. The replay writes an audit row, so its own commit is
-- as durable as the first one's.
CREATE OR REPLACE FUNCTION vault._replay(p_request uuid, p_action text, p_secret text, p_asked bytea) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_digest bytea := vault._digest(p_action, p_secret, p_asked);
  v_seen vault.requests;
BEGIN
  INSERT INTO vault.requests (id, action, digest) VALUES (p_request, p_action, v_digest) ON CONFLICT DO NOTHING;
  IF FOUND THEN
    RETURN NULL;
  END IF;
  SELECT * INTO v_seen FROM vault.requests WHERE id = p_request;
  IF v_seen.action IS DISTINCT FROM p_action OR v_seen.digest IS DISTINCT FROM v_digest THEN
    RAISE EXCEPTION 'request id % was used for something else', p_request USING ERRCODE = 'VA003';
  END IF;
  PERFORM vault._audit(p_action || '.replay', p_secret, (v_seen.result ->> 'version')::int, p_request);
  RETURN v_seen.result;
END $$;

CREATE OR REPLACE FUNCTION vault._done(p_request uuid, p_result jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE vault.requests SET result = p_result WHERE id = p_request;
  RETURN p_result;
END $$;
