-- Reads and verifies: those in a daemon's spool, and those of vaultctl at a terminal.

-- The position up to which one spool's records were stored. ship_reads without records returns only this, also on a
-- standby.
CREATE OR REPLACE FUNCTION vault._spool_position(p_node text, p_boot uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_spool vault.audit_spools;
BEGIN
  SELECT * INTO v_spool FROM vault.audit_spools WHERE node = p_node AND boot = p_boot;
  PERFORM vault._check_spool(v_spool);
  RETURN jsonb_build_object('next_seq', coalesce(v_spool.next_seq, 1),
    'last_hash', coalesce(encode(v_spool.last_hash, 'hex'), ''), 'gaps', coalesce(v_spool.gaps, 0));
END $$;

-- A spool may be continued by the role that began it, and by that role's members: after a change of the daemon's role,
-- GRANT the old one to the new one once. The oid identifies the role; if that role was dropped, or the spool came with
-- a dump from another cluster, the name does. A spool from before roles were kept belongs to the first role that
-- continues it.
CREATE OR REPLACE FUNCTION vault._check_spool(s vault.audit_spools) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_role name := coalesce(
    (SELECT rolname FROM pg_roles WHERE oid = s.role_oid AND s.system_id = vault._system_id()), s.role_name);
BEGIN
  IF v_role <> session_user
      AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = v_role AND pg_has_role(session_user, oid, 'MEMBER')) THEN
    RAISE EXCEPTION '%', format('role "%s" cannot go on with the spool of node "%s" (boot %s), which role "%s" began: '
      'connect as that role, or GRANT %I TO %I', session_user, s.node, s.boot, v_role, v_role, session_user)
      USING ERRCODE = '42501';
  END IF;
END $$;

-- A role has at most 10,000 spools, because daemons in containers begin one at every start. If it is full, the one not
-- shipped for the longest time is deleted for a new one, if that time is over a day.
CREATE OR REPLACE FUNCTION vault._begin_spool(p_node text, p_boot uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF (SELECT count(*) FROM vault.audit_spools WHERE role_name = session_user) >= 10000 THEN
    DELETE FROM vault.audit_spools WHERE (node, boot) IN (SELECT node, boot FROM vault.audit_spools
      WHERE role_name = session_user AND shipped_at < now() - interval '1 day' ORDER BY shipped_at LIMIT 1);
    IF NOT FOUND THEN
      RAISE EXCEPTION 'role "%" has 10000 spools that were shipped within a day: it cannot begin another', session_user
        USING ERRCODE = '53400';
    END IF;
  END IF;
  INSERT INTO vault.audit_spools (node, boot, next_seq, role_name, role_oid, system_id)
    SELECT p_node, p_boot, 1, rolname, oid, vault._system_id() FROM pg_roles WHERE rolname = session_user
    ON CONFLICT DO NOTHING;
END $$;

-- Inserts the events of a spool; p_first is the number of the first. An impossible time (none, not finite, older than a
-- spool keeps a record, more than a minute in the future) is replaced by that of arrival, and the claimed one is kept
-- in detail. An unreadable event is recorded as unreadable, so that it does not stop the others.
--
-- Every read passes through this function, so its cost matters: the event is parsed once, and _printable, a regular
-- expression for each column, is called only if the JSON has an escape or the text a control character.
CREATE OR REPLACE FUNCTION vault._insert_shipped(p_node text, p_boot uuid, p_first bigint, p_events text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_now timestamptz := clock_timestamp();
  v_least timestamptz := v_now - interval '401 days';        -- the greatest audit_max_age plus a day
  v_most timestamptz := v_now + interval '1 minute';
BEGIN
  WITH stored AS (
  INSERT INTO vault.audit_log (system_id, at, actor, client, node, action, secret, version, outcome, request_id, detail)
    SELECT (SELECT vault._system_id()), CASE WHEN at BETWEEN v_least AND v_most THEN at ELSE v_now END,
           CASE WHEN actor !~ '^(client|worker|app):' AND actor <> 'vaultd' OR actor IS NULL
                  THEN 'role:' || session_user
                WHEN plain THEN left(actor, 255) ELSE vault._printable(actor, 255) END,
           client, p_node, CASE WHEN plain THEN left(action, 32) ELSE vault._printable(action, 32) END,
           CASE WHEN plain THEN left(secret, 255) ELSE vault._printable(secret, 255) END, version,
           CASE WHEN outcome IN ('ok', 'denied') THEN outcome ELSE 'failed' END,
           CASE WHEN uuid THEN request_id::uuid END,
           CASE WHEN detail IS NULL THEN '{}'
                WHEN jsonb_typeof(detail) <> 'object' THEN jsonb_build_object('detail', vault._printable_detail(detail))
                WHEN plain THEN detail ELSE vault._printable_detail(detail) END
             || jsonb_build_object('boot', p_boot, 'seq', seq)
             || CASE WHEN uuid OR request_id IS NULL THEN '{}'
                 ELSE jsonb_build_object('request', vault._printable(request_id, 64)) END
             || CASE WHEN at NOT BETWEEN v_least AND v_most THEN jsonb_build_object('claimed_at', at) ELSE '{}' END
    FROM (SELECT p_first + n - 1 AS seq, event,
            event !~ (E'[\\u007f-\\u009f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff]'
              || E'|\\\\[^"\\\\/]') AS plain
          FROM unnest(p_events) WITH ORDINALITY AS r (event, n)) AS r,
      LATERAL json_to_record(event::json) AS e (at timestamptz, actor text, client inet, action text, secret text,
          version int, outcome text,
                                                request_id text, detail jsonb),
      LATERAL (SELECT coalesce(translate(request_id, '0123456789abcdef',
          '0000000000000000') = '00000000-0000-0000-0000-000000000000', false) AS uuid) AS u
    ORDER BY seq
    RETURNING audit_log.at, audit_log.actor, audit_log.client, audit_log.outcome, audit_log.detail),
  used AS (
    SELECT DISTINCT ON (credential) credential::uuid AS id, at, client
      FROM (SELECT at, client, detail ->> 'credential' AS credential FROM stored
              WHERE actor ^@ 'app:' AND outcome <> 'denied' AND detail ? 'credential') AS a
      WHERE credential ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
      ORDER BY credential, at DESC),
  -- A row that another batch is updating gets the next use; a minute is how precise the column is.
  due AS (
    SELECT u.credential_id, used.at, used.client FROM used JOIN vault.app_use u ON u.credential_id = used.id
      WHERE u.last_used_at IS NULL OR u.last_used_at < used.at - interval '60 seconds'
      FOR UPDATE OF u SKIP LOCKED)
  UPDATE vault.app_use u SET last_used_at = due.at, last_client = due.client FROM due
    WHERE u.credential_id = due.credential_id;
END $$;

-- The nesting that readers of the log can parse, far deeper than any event of the vault's.
CREATE OR REPLACE FUNCTION vault._too_deep(p_event text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT length(p_event) > 4000 AND length(p_event) - length(translate(p_event, '[{', '')) > 1000
$$;

-- A number with an exponent, outside of strings: jsonb writes 1e131071 out, so that an event of 16 KiB would be 200 MiB
-- of text for all who read the log. No event of ours has one.
CREATE OR REPLACE FUNCTION vault._has_exponent(p_event text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT regexp_replace(p_event, E'"(?:[^"\\\\]|\\\\.)*"', '', 'g') ~ '[0-9.][eE]'
$$;

CREATE OR REPLACE FUNCTION vault._record_shipped(p_node text, p_boot uuid, p_first bigint, p_events text[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_event text;
BEGIN
  -- The functions are asked only about events that may be such.
  IF EXISTS (SELECT FROM unnest(p_events) AS event WHERE length(event) > 4000 AND vault._too_deep(event)
      OR event ~ E'[:,[\\s]-?[0-9.]+[eE]' AND vault._has_exponent(event)) THEN
    RAISE data_exception;
  END IF;
  PERFORM vault._insert_shipped(p_node, p_boot, p_first, p_events);
EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
  FOR i IN 1..cardinality(p_events) LOOP
    v_event := p_events[i];
    BEGIN
      IF vault._too_deep(v_event) THEN
        RAISE data_exception USING MESSAGE = 'it is nested too deep';
      ELSIF vault._has_exponent(v_event) THEN
        RAISE data_exception USING MESSAGE = 'it has a number with an exponent';
      END IF;
      BEGIN
        PERFORM vault._insert_shipped(p_node, p_boot, p_first + i - 1, ARRAY[v_event]);
      EXCEPTION WHEN data_exception THEN   -- most likely of its time
        PERFORM vault._insert_shipped(p_node, p_boot, p_first + i - 1,
            ARRAY[(v_event::jsonb - 'at' || jsonb_build_object('detail',
          coalesce(nullif(v_event::jsonb -> 'detail', 'null'), '{}')
              || jsonb_build_object('claimed_at', left(v_event::jsonb ->> 'at', 64))))::text]);
      END;
    EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
      INSERT INTO vault.audit_log (actor, node, action, outcome, detail)
        VALUES ('role:' || session_user, p_node, 'audit.unreadable', 'failed',
            jsonb_build_object('boot', p_boot, 'seq', p_first + i - 1,
          'reason', vault._printable(SQLERRM, 200), 'event', vault._printable(v_event, 1000)));
    END;
  END LOOP;
END $$;

-- Stores records from p_first_seq on, each with the hash of the one before, and returns the spool's position. Records
-- that are stored already are skipped, so a batch whose answer was lost can be sent again. A gap before p_first_seq is
-- accepted only if the spool reports the records in it as lost: a promoted primary may have fewer records than the
-- previous one acknowledged, and the spool may still have them. The chain is checked over the exact bytes that the node
-- hashed.
--
-- Nothing in an event is proven except db_role. An event cannot claim the actor of a token. The bounds are those of a
-- spool: an event has at most 16 KiB there (spool.MaxEvent).
CREATE OR REPLACE FUNCTION vault.ship_reads(p_node text, p_boot uuid, p_first_seq bigint, p_lost boolean,
    p_previous bytea[], p_events text[]) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_count int := cardinality(p_events);
  v_node text := vault._printable(p_node, 255);
  v_spool vault.audit_spools;
  v_hashes bytea[];
  v_last bytea;
  v_broken bigint;
BEGIN
  IF coalesce(v_count, 0) = 0 THEN
    RETURN vault._spool_position(v_node, p_boot);
  ELSIF p_boot IS NULL THEN
    RAISE EXCEPTION 'p_boot is null' USING ERRCODE = '22023';
  ELSIF v_count > 10000 OR cardinality(p_previous) IS DISTINCT FROM v_count THEN
    RAISE EXCEPTION 'a batch has at most 10000 records, each with the hash of the one before' USING ERRCODE = '22023';
  END IF;
  PERFORM vault._bound_length('p_node', octet_length(p_node), 1, 255);
  PERFORM vault._bound('p_first_seq', p_first_seq, 1, 4611686018427387904);
  PERFORM vault._bound_length('an event of p_events', max(octet_length(event)), 2, 16384),
          vault._bound('the bytes of p_events', sum(octet_length(event)), 2, 16777216),
          vault._bound_length('a hash of p_previous', min(octet_length(previous)), 32, 32),
          vault._bound_length('a hash of p_previous', max(octet_length(previous)), 32, 32)
    FROM unnest(p_previous, p_events) AS r (previous, event);
  SELECT array_agg(sha256(int8send(p_first_seq + n - 1) || previous || convert_to(event, 'UTF8'))
      ORDER BY n) INTO v_hashes
    FROM unnest(p_previous, p_events) WITH ORDINALITY AS r (previous, event, n);
  IF array_position(v_hashes, NULL) IS NOT NULL THEN
    RAISE EXCEPTION 'a batch has an event and a hash for each record' USING ERRCODE = '22023';
  END IF;
  PERFORM vault._enter('maintenance', 'vaultd');
  IF NOT EXISTS (SELECT FROM vault.audit_spools WHERE node = v_node AND boot = p_boot) THEN
    PERFORM vault._begin_spool(v_node, p_boot);
  END IF;
  -- an earlier attempt may still be committing
  SELECT * INTO v_spool FROM vault.audit_spools WHERE node = v_node AND boot = p_boot FOR UPDATE;
  PERFORM vault._check_spool(v_spool);   -- an error releases the row
  IF v_spool.role_name IS DISTINCT FROM session_user THEN
    INSERT INTO vault.audit_log (actor, node, action, detail) VALUES ('role:' || session_user, v_node, 'audit.spool',
      jsonb_strip_nulls(jsonb_build_object('boot', p_boot, 'from_role', v_spool.role_name, 'to_role', session_user)));
  END IF;

  IF p_first_seq > v_spool.next_seq THEN
    IF NOT coalesce(p_lost, false) THEN
      PERFORM vault._leave();
      RETURN vault._spool_position(v_node, p_boot);
    END IF;
    INSERT INTO vault.audit_log (actor, node, action, outcome, detail)
      VALUES ('vaultd', v_node, 'audit.gap', 'failed',
              jsonb_build_object('boot', p_boot, 'from', v_spool.next_seq, 'to', p_first_seq - 1, 'lost',
                  p_first_seq - v_spool.next_seq));
    v_spool.next_seq := p_first_seq;
    v_spool.last_hash := p_previous[1];
    v_spool.gaps := v_spool.gaps + 1;
  END IF;

  v_last := coalesce(v_spool.last_hash, decode(repeat('00', 32), 'hex'));
  SELECT min(seq) INTO v_broken
    FROM (SELECT p_first_seq + n - 1 AS seq, n, previous, before
        FROM unnest(p_previous, array_prepend(NULL::bytea, v_hashes)) WITH ORDINALITY AS r (previous, before, n)) AS r
    WHERE n <= v_count AND previous IS DISTINCT FROM CASE
      WHEN seq = v_spool.next_seq THEN v_last
      WHEN n > 1 THEN before
      ELSE previous END;                                     -- the first record that is stored already
  IF v_broken IS NOT NULL THEN
    RAISE EXCEPTION 'record % of the spool does not continue the one before', v_broken USING ERRCODE = 'VA003';
  END IF;

  PERFORM vault._record_shipped(v_node, p_boot, greatest(v_spool.next_seq, p_first_seq),
      p_events[greatest(v_spool.next_seq - p_first_seq, 0) + 1:]);

  IF p_first_seq + v_count > v_spool.next_seq THEN
    v_spool.next_seq := p_first_seq + v_count;
    v_spool.last_hash := v_hashes[v_count];
  END IF;
  UPDATE vault.audit_spools SET next_seq = v_spool.next_seq, last_hash = v_spool.last_hash, gaps = v_spool.gaps,
      shipped_at = clock_timestamp(),
      (role_name, role_oid, system_id) = (SELECT rolname, oid, vault._system_id() FROM pg_roles
          WHERE rolname = session_user)
    WHERE node = v_node AND boot = p_boot;
  PERFORM vault._leave();
  RETURN jsonb_build_object('next_seq', v_spool.next_seq, 'last_hash', encode(v_spool.last_hash, 'hex'), 'gaps',
      v_spool.gaps);
END $$;

-- vaultctl calls this before it shows or compares a value. The actor is the database role: nothing else is proven.
CREATE OR REPLACE FUNCTION vault.record_read(p_action text, p_secret text, p_version int, p_outcome text,
    p_request uuid, p_detail jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF (p_action IN ('read', 'verify')) IS NOT TRUE THEN
    RAISE EXCEPTION 'p_action is "%": record_read takes read and verify', left(p_action, 32) USING ERRCODE = '22023';
  ELSIF (p_outcome IN ('ok', 'denied', 'failed')) IS NOT TRUE THEN
    RAISE EXCEPTION 'p_outcome is "%": it is ok, denied or failed', left(p_outcome, 32) USING ERRCODE = '22023';
  END IF;
  PERFORM vault._bound_length('p_secret', octet_length(p_secret), 1, 4096);
  PERFORM vault._bound('p_version', coalesce(p_version, 1), 1, 2147483647);
  PERFORM vault._bound_length('p_detail', octet_length(p_detail::text), 2, 4096);
  PERFORM vault._audit(p_action, vault._printable(p_secret, 255), p_version, p_request,
      vault._printable_detail(p_detail), p_outcome);
  RETURN true;
END $$;

-- The uses of versions in their grace since a time, by reader, for vaultctl grace report. Row level security limits the
-- rows to those that the caller may read.
CREATE OR REPLACE FUNCTION vault.grace_report(p_name text, p_exact boolean, p_since timestamptz) RETURNS TABLE
  (secret text, version int, expires_at timestamptz, actor text, client inet, presented bigint, first_at timestamptz,
      last_at timestamptz)
LANGUAGE sql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
  SELECT v.name, v.version, v.expires_at, a.actor, a.client, a.presented, a.first_at, a.last_at
  FROM vault.secrets s JOIN vault.secret_versions v ON v.secret_id = s.id
  LEFT JOIN LATERAL (
    SELECT l.actor, l.client, count(*) AS presented, min(l.at) AS first_at, max(l.at) AS last_at FROM vault.audit_log l
    WHERE l.secret = v.name AND l.at >= coalesce(p_since, '-infinity') AND l.version = v.version AND l.outcome = 'ok'
        AND l.detail ->> 'match' = 'grace'
    GROUP BY l.actor, l.client) AS a ON true
  WHERE s.deleted_at IS NULL AND v.removed_at IS NULL AND v.expires_at > now()
    AND CASE WHEN p_exact THEN v.name = p_name ELSE starts_with(v.name, p_name) END
  ORDER BY v.name, v.version DESC, a.last_at DESC NULLS LAST
$$;

DROP FUNCTION IF EXISTS vault._readable_event(text);   -- of releases that rewrote unreadable events
