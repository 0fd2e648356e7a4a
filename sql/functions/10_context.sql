-- The identity of the transaction and what it may change: one row of vault.tx_context, keyed by the server's own
-- transaction id. Row level security (policies/) calls these functions for every row written, also by the owner: a
-- function below that omitted the check would write nothing.
--
-- Every SECURITY DEFINER function pins its search_path: without it, a caller's schema could put its own sha256() in
-- front. Such a function is never inlined, and one in LANGUAGE sql is parsed and planned at every call; therefore
-- functions that a change calls are in plpgsql, which keeps its plans: a put takes a fifth less of the processor.
-- Those that are one expression have it after RETURN: its names are resolved when the function is created, so nothing
-- is pinned, and PostgreSQL puts the expression in place of the call.
-- enable_seqscan = off: vault.tx_context is empty when its statistics are taken, and then gets a page of dead rows for
-- every few hundred changes.
--
-- Every function that forbids a kind of plan has jit = off too. Where nothing can replace such a plan, PostgreSQL 15 to
-- 17 add 1e10 to its cost and then compile it, which takes a third of a second. A row is therefore read by an index in
-- these functions, also from a table that has only one.

CREATE OR REPLACE FUNCTION vault.tx_kind() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
BEGIN
  RETURN (SELECT kind FROM vault.tx_context WHERE xid = pg_current_xact_id_if_assigned() AND pid = pg_backend_pid());
END $$;

CREATE OR REPLACE FUNCTION vault.tx_actor() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
BEGIN
  RETURN (SELECT actor FROM vault.tx_context WHERE xid = pg_current_xact_id_if_assigned() AND pid = pg_backend_pid());
END $$;

-- What the transaction may change, as a prefix of a name with '!' behind it, a character that no name has. With an
-- admin token it is the token's scope, in a rotation the whole name of the secret of its claimed job, in maintenance,
-- whose functions take no values from outside, ''. Null: nothing. A policy compares (SELECT vault.tx_covers()), which
-- runs once a statement, not once a row.
CREATE OR REPLACE FUNCTION vault.tx_covers() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
DECLARE
  v_covers text;
  v_job bigint;
BEGIN
  SELECT CASE kind WHEN 'admin' THEN CASE WHEN strpos(scope, '!') = 0 THEN scope END WHEN 'maintenance' THEN '' END,
      CASE kind WHEN 'rotation' THEN job_id END INTO v_covers, v_job FROM vault.tx_context
    WHERE xid = pg_current_xact_id_if_assigned() AND pid = pg_backend_pid();
  IF v_job IS NOT NULL THEN   -- a statement of its own, so that a put does not plan it
    v_covers := (SELECT name || '!' FROM vault.rotation_jobs WHERE id = v_job);
  END IF;
  RETURN v_covers;
END $$;

CREATE OR REPLACE FUNCTION vault.tx_may_change(p_name text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN coalesce(starts_with(p_name || '!', vault.tx_covers()), false);
END $$;

-- Tokens and grants require a token without a scope, or the owner of the schema (who could change them directly).
CREATE OR REPLACE FUNCTION vault.tx_may_administer() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
  SELECT EXISTS (
    SELECT FROM vault.tx_context c
    WHERE c.xid = pg_current_xact_id_if_assigned() AND c.pid = pg_backend_pid()
      AND (c.kind = 'owner' OR (c.kind = 'admin' AND c.scope = '')))
$$;

-- Rows can be deleted only while the purge function has set their name in tx_context.
CREATE OR REPLACE FUNCTION vault.tx_is_purging(p_name text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
  SELECT vault.tx_may_change(p_name) AND EXISTS (
    SELECT FROM vault.tx_context c
    WHERE c.xid = pg_current_xact_id_if_assigned() AND c.pid = pg_backend_pid() AND c.purging = p_name)
$$;

-- Returns the actor.
CREATE OR REPLACE FUNCTION vault._changer(p_name text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
DECLARE
  v_scope text;
  v_actor text;
BEGIN
  SELECT scope, actor INTO v_scope, v_actor FROM vault.tx_context
    WHERE xid = pg_current_xact_id_if_assigned() AND pid = pg_backend_pid() AND kind = 'admin';
  IF starts_with(p_name, v_scope) THEN
    RETURN v_actor;
  ELSIF v_scope IS NULL THEN
    RAISE EXCEPTION 'no admin token in this transaction' USING ERRCODE = '42501';
  END IF;
  RAISE EXCEPTION 'the scope of % does not cover "%"', v_actor, left(p_name, 255) USING ERRCODE = '42501';
END $$;

CREATE OR REPLACE FUNCTION vault._require_change(p_name text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM vault._changer(p_name);
END $$;

CREATE OR REPLACE FUNCTION vault._require_administer() RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF vault.tx_kind() IS NULL THEN
    RAISE EXCEPTION 'no admin token in this transaction' USING ERRCODE = '42501';
  ELSIF NOT vault.tx_may_administer() THEN
    RAISE EXCEPTION '% has a scope: tokens and grants take a token without one', vault.tx_actor()
        USING ERRCODE = '42501';
  END IF;
END $$;

-- ---------- challenge and proof ----------
-- The shape of SCRAM (RFC 5802, section 3): the server keeps fingerprint = SHA-256(token secret) and sends a nonce; the
-- client answers proof = secret XOR HMAC-SHA-256(fingerprint, nonce); the server undoes the XOR and hashes. The secret
-- itself is in no statement, parameter or log, and the fingerprint alone proves nothing.

-- bit_send puts the number of bits in front, in four bytes.
CREATE OR REPLACE FUNCTION vault._xor(a bytea, b bytea) RETURNS bytea   -- of 32 bytes
LANGUAGE sql IMMUTABLE
RETURN substr(bit_send(('x' || encode(a, 'hex'))::bit(256) # ('x' || encode(b, 'hex'))::bit(256)), 5);

-- RFC 2104; a key of 32 bytes
CREATE OR REPLACE FUNCTION vault._hmac_sha256(p_key bytea, p_message bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE
RETURN sha256(vault._xor(p_key, decode(repeat('5c', 32), 'hex')) || decode(repeat('5c', 32), 'hex')
  || sha256(vault._xor(p_key, decode(repeat('36', 32), 'hex')) || decode(repeat('36', 32), 'hex') || p_message));

-- Role and address are known before a proof. After so many wrong proofs in a minute, the next one costs no transaction
-- id; the token stays valid from any other role or address. The sequence counts the wrong proofs of all roles in the
-- minute of the last one, and is read without a plan: as long as it is low, no role can have reached its limit.
CREATE OR REPLACE FUNCTION vault.challenge() RETURNS bytea
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
DECLARE v_nonce bytea;
BEGIN
  IF pg_sequence_last_value('vault.wrong_proofs_minute') % 1000000 > 300 THEN
    IF EXISTS (SELECT FROM vault.refusals
        WHERE minute = date_trunc('minute', clock_timestamp()) AND db_role = session_user
          AND client = coalesce(host(inet_client_addr()), '') AND guesses >= 600) THEN
      RAISE EXCEPTION 'too many wrong admin tokens from role "%" at this address: wait a minute', session_user
        USING ERRCODE = '53400';
    END IF;
  END IF;
  INSERT INTO vault.tx_context (xid, pid) VALUES (pg_current_xact_id(), pg_backend_pid())
    ON CONFLICT (xid) DO NOTHING RETURNING nonce INTO v_nonce;
  IF NOT FOUND THEN   -- another challenge in the same transaction
    UPDATE vault.tx_context SET pid = pg_backend_pid(), nonce = DEFAULT, kind = NULL, token_id = NULL, scope = NULL,
                                job_id = NULL, actor = NULL, purging = NULL
      WHERE xid = pg_current_xact_id() RETURNING nonce INTO v_nonce;
  END IF;
  RETURN v_nonce;
END $$;

DROP FUNCTION IF EXISTS vault._token_ended(vault.admin_tokens, boolean);   -- of releases that had read the row before

-- Why a token is no longer valid; null = it is. It takes no lock on the token's row, so that a revocation does not
-- wait. p_committing: the transaction that revokes its own token may still commit. Two revocations of one token may be
-- open: the other one counts, even if this transaction has revoked it too.
CREATE OR REPLACE FUNCTION vault._token_ended(p_token uuid, p_committing boolean) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
DECLARE
  v_revoked timestamptz;
  v_expires timestamptz;
  v_mine boolean;
BEGIN
  SELECT revoked_at, expires_at, (SELECT bool_and(tx = pg_current_xact_id()) FROM vault.token_revocations
                                  WHERE token_id = p_token)
    INTO v_revoked, v_expires, v_mine FROM vault.admin_tokens WHERE id = p_token;
  RETURN CASE WHEN NOT FOUND THEN 'unknown token'
              WHEN v_mine IS FALSE OR v_mine AND NOT p_committing OR v_mine IS NULL AND v_revoked IS NOT NULL
                THEN 'revoked'
              WHEN v_expires <= clock_timestamp() THEN 'expired' END;
END $$;

CREATE OR REPLACE FUNCTION vault._refuse_token(p_why text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- The log line remains after the rollback.
  RAISE LOG 'vault: admin token refused: % role=% client=%', p_why, session_user, inet_client_addr();
  RAISE EXCEPTION 'admin token refused: %', p_why USING ERRCODE = '28000';
END $$;

-- Counts a wrong proof in sequences, which a rollback does not reset. From the 601st of a minute on, over all sessions,
-- each takes the session one second. A right proof does not come here.
CREATE OR REPLACE FUNCTION vault._count_wrong_proof() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_minute bigint := extract(epoch FROM clock_timestamp())::bigint / 60;
BEGIN
  PERFORM nextval('vault.wrong_proofs');
  -- A sequence that is read as a table is scanned, which the caller forbids.
  IF coalesce(pg_sequence_last_value('vault.wrong_proofs_minute'), 0) / 1000000 < v_minute THEN
    PERFORM setval('vault.wrong_proofs_minute', v_minute * 1000000);
  END IF;
  IF nextval('vault.wrong_proofs_minute') % 1000000 > 600 THEN
    PERFORM pg_sleep(1);
  END IF;
END $$;

CREATE OR REPLACE FUNCTION vault.authorize_proof(p_token_id uuid, p_proof bytea) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
DECLARE t record;
BEGIN
  -- Any other level keeps its first snapshot to the end, and would not see at COMMIT that the token was revoked.
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'an admin token takes a transaction of isolation level read committed, not %',
      current_setting('transaction_isolation') USING ERRCODE = '25001';
  END IF;
  SELECT a.id, a.name, a.scope, a.token_sha256, c.nonce, u.last_used_at INTO t
    FROM vault.tx_context c JOIN vault.admin_tokens a ON a.id = p_token_id
      LEFT JOIN vault.admin_token_use u ON u.token_id = p_token_id
    WHERE c.xid = pg_current_xact_id_if_assigned() AND c.pid = pg_backend_pid() AND c.kind IS NULL;
  -- The reason is given only to a client that has proven the token. Without a challenge, the nonce is null.
  IF (octet_length(p_proof) = 32 AND sha256(vault._xor(p_proof, vault._hmac_sha256(t.token_sha256, t.nonce)))
      = t.token_sha256) IS NOT TRUE THEN
    PERFORM vault._count_wrong_proof();
    PERFORM vault._refuse_token('unknown token');
  END IF;
  IF vault._token_ended(t.id, false) IS NOT NULL THEN
    PERFORM vault._refuse_token(vault._token_ended(t.id, false));
  END IF;
  -- A prepared transaction could be committed after the token has ended. PostgreSQL prepares none that has exported a
  -- snapshot.
  IF current_setting('max_prepared_transactions')::int > 0 THEN
    PERFORM pg_export_snapshot();
  END IF;
  UPDATE vault.tx_context SET nonce = NULL, kind = 'admin', token_id = t.id, scope = t.scope, actor = 'token:' || t.name
    WHERE xid = pg_current_xact_id();
  -- Only if it is more than a minute old, and without waiting for a transaction that is updating the row.
  IF (t.last_used_at >= now() - interval '1 minute') IS NOT TRUE THEN
    UPDATE vault.admin_token_use SET last_used_at = now() WHERE token_id = (
      SELECT u.token_id FROM vault.admin_token_use u WHERE u.token_id = t.id FOR UPDATE SKIP LOCKED);
  END IF;
  RETURN 'token:' || t.name;
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
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
SET jit = off AS $$
BEGIN
  DELETE FROM vault.tx_context WHERE xid = pg_current_xact_id_if_assigned();
END $$;

-- Deferred: runs at commit. For the INSERT of a context row, it deletes the row, so that none is ever committed. For
-- the UPDATE that authorised the transaction, it checks the token again, so that a transaction whose token was revoked
-- or has expired meanwhile does not commit. That event keeps the token's id, so later changes of the row (another
-- challenge, a maintenance function) do not matter. Both events are of one constraint: SET CONSTRAINTS cannot have the
-- check made early and keep the row.
CREATE OR REPLACE FUNCTION vault._tx_context_ends() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    DELETE FROM vault.tx_context WHERE xid = NEW.xid;
  END IF;
  IF NEW.token_id IS NOT NULL AND vault._token_ended(NEW.token_id, true) IS NOT NULL THEN
    PERFORM vault._refuse_token(vault._token_ended(NEW.token_id, true));
  END IF;
  RETURN NULL;
END $$;

-- ---------- audit ----------
CREATE OR REPLACE FUNCTION vault._system_id() RETURNS bigint
LANGUAGE sql STABLE
RETURN (pg_control_system()).system_identifier;

CREATE OR REPLACE FUNCTION vault._printable(p_text text, p_max int) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  -- Control characters (C0, DEL, C1) would reach the terminal that shows the log. Characters that change the direction
  -- of writing or have no width would make one name look like another.
  SELECT regexp_replace(left(p_text, p_max),
    E'[\\u0001-\\u001f\\u007f-\\u009f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff]', '?', 'g')
$$;

-- The same for all text in a detail. In JSON a control character is an escape, after an even number of other
-- backslashes, or is inside a string.
CREATE OR REPLACE FUNCTION vault._printable_detail(p_detail jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT vault._printable(regexp_replace(p_detail::text,
    E'(?<!\\\\)((?:\\\\\\\\)*)\\\\(?:[bfnrt]|u00[01][0-9a-f])', E'\\1?', 'g'), 2147483647)::jsonb
$$;

-- For whom a session makes a change: the address that it reports in vault.client (vaultd reports the client of an HTTP
-- request), or that of the session. A reported address is as credible as the role that reports it, so the row then has
-- the session's own as "via".
CREATE OR REPLACE FUNCTION vault._client() RETURNS inet
LANGUAGE sql STABLE
RETURN coalesce(nullif(current_setting('vault.client', true), '')::inet, inet_client_addr());

CREATE OR REPLACE FUNCTION vault._via() RETURNS jsonb
LANGUAGE sql STABLE
RETURN CASE WHEN coalesce(current_setting('vault.client', true), '') = '' THEN '{}'::jsonb
  ELSE jsonb_build_object('via', coalesce(host(inet_client_addr()), 'local')) END;

CREATE OR REPLACE FUNCTION vault._audit(p_action text, p_secret text, p_version int, p_request uuid,
                                        p_detail jsonb DEFAULT '{}', p_outcome text DEFAULT 'ok') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO vault.audit_log (actor, client, action, secret, version, outcome, request_id, detail)
    VALUES (coalesce(vault.tx_actor(), 'role:' || session_user), vault._client(), p_action, p_secret, p_version,
            p_outcome, p_request, jsonb_strip_nulls(p_detail) || vault._via());
END $$;

-- The row of a refused attempt rolls back with it, so the client reports the refusal in a transaction of its own.
-- Nothing in it is proven: the actor is the database role, and what the client claimed is in detail.
--
-- A role has 60 such rows a minute from one address. Further refusals are counted, with a row at 100 and at 1000;
-- beyond 1000 nothing is written, so that a client cannot fill the log.
CREATE OR REPLACE FUNCTION vault.record_refusal(p_action text, p_secret text, p_reason text, p_token_id uuid,
    p_request uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
  v_minute timestamptz := date_trunc('minute', clock_timestamp());
  v_client text := coalesce(host(inet_client_addr()), '');
  v_count int;
BEGIN
  PERFORM vault._bound_length('p_action', octet_length(p_action), 1, 1024);
  IF EXISTS (SELECT FROM vault.refusals
      WHERE minute = v_minute AND db_role = session_user AND client = v_client AND refused >= 1000) THEN
    RETURN;
  END IF;
  INSERT INTO vault.refusals AS r (minute, db_role, client, refused, guesses)
    VALUES (v_minute, session_user, v_client, 1,
      (p_reason IS NOT DISTINCT FROM 'admin token refused: unknown token')::int)
    ON CONFLICT (minute, db_role, client) DO UPDATE SET refused = r.refused + 1, guesses = r.guesses + EXCLUDED.guesses
    RETURNING refused INTO v_count;
  IF v_count = 1 THEN
    DELETE FROM vault.refusals WHERE minute < now() - interval '1 day';
  END IF;
  IF v_count <= 60 OR v_count IN (100, 1000) THEN
    PERFORM vault._audit(vault._printable(p_action, 32), vault._printable(p_secret, 255), NULL, p_request,
      jsonb_build_object('reason', vault._printable(p_reason, 200), 'claimed_token_id', p_token_id,
        'claimed_token', (SELECT name FROM vault.admin_tokens WHERE id = p_token_id),
        'refused_this_minute', CASE WHEN v_count >= 60 THEN v_count END), 'denied');
  END IF;
END $$;

-- ---------- replay ----------
CREATE OR REPLACE FUNCTION vault._digest(p_action text, p_secret text, p_asked bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN sha256(convert_to(p_action || ' ' || coalesce(p_secret, '') || ' ', 'UTF8') || p_asked);
END $$;

-- Returns null for a new request, else its stored result. The replay writes an audit row, so its own commit is as
-- durable as the first one.
CREATE OR REPLACE FUNCTION vault._replayed(p_request uuid, p_action text, p_secret text, p_digest bytea) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_seen vault.requests;
BEGIN
  IF p_request IS NULL THEN
    RAISE EXCEPTION 'p_request is null: a change has a request id' USING ERRCODE = '22023';
  ELSIF p_digest IS NULL THEN
    RAISE EXCEPTION 'a required argument of % is null', p_action USING ERRCODE = '22023';
  END IF;
  SELECT * INTO v_seen FROM vault.requests WHERE id = p_request;
  IF NOT FOUND THEN
    RETURN NULL;
  ELSIF v_seen.action IS DISTINCT FROM p_action OR v_seen.digest IS DISTINCT FROM p_digest THEN
    RAISE EXCEPTION 'request id % was used for something else', p_request USING ERRCODE = 'VA003';
  END IF;
  PERFORM vault._audit(p_action || '.replay', p_secret, (v_seen.result ->> 'version')::int, p_request);
  RETURN v_seen.result;
END $$;

-- The same, and a new request is stored. If a lost connection's transaction is still committing the same request, the
-- INSERT waits for its outcome.
CREATE OR REPLACE FUNCTION vault._replay(p_request uuid, p_action text, p_secret text, p_asked bytea) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_digest bytea := vault._digest(p_action, p_secret, p_asked);
BEGIN
  IF p_request IS NOT NULL AND v_digest IS NOT NULL THEN
    INSERT INTO vault.requests (id, action, digest) VALUES (p_request, p_action, v_digest) ON CONFLICT DO NOTHING;
    IF FOUND THEN
      RETURN NULL;
    END IF;
  END IF;
  RETURN vault._replayed(p_request, p_action, p_secret, v_digest);
END $$;

CREATE OR REPLACE FUNCTION vault._done(p_request uuid, p_result jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE vault.requests SET result = p_result WHERE id = p_request;
  RETURN p_result;
END $$;
