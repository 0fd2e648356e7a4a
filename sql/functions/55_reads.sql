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
  -- What the node's spool before this one had beyond its position is in no log, until vaultd ship-spool ships its
  -- folder. Boots of version 5 are derived ones (spool.derived), which say themselves what they follow.
  IF p_boot::text !~ '^.{14}5' THEN
    INSERT INTO vault.audit_log (actor, node, action, outcome, detail)
      SELECT 'role:' || session_user, p_node, 'audit.spool', 'failed', jsonb_build_object('boot', p_boot, 'after', boot,
          'after_next', next_seq,
          'reason', 'another spool of this node began; what the one before has not shipped is not in the log')
        FROM vault.audit_spools WHERE node = p_node AND boot <> p_boot AND boot::text !~ '^.{14}5'
        ORDER BY shipped_at DESC NULLS LAST LIMIT 1;
  END IF;
  INSERT INTO vault.audit_spools (node, boot, next_seq, role_name, role_oid, system_id)
    SELECT p_node, p_boot, 1, rolname, oid, vault._system_id() FROM pg_roles WHERE rolname = session_user
    ON CONFLICT DO NOTHING;
END $$;

DROP FUNCTION IF EXISTS vault._insert_shipped(text, uuid, bigint, text[]), vault._record_shipped(text, uuid, bigint,
    text[]);

-- Inserts events of a spool with their numbers, as a row each. An impossible time (none, not finite, older than a
-- spool keeps a record, more than a minute in the future) is replaced by that of arrival, and the claimed one is kept
-- in detail. An unreadable event is recorded as unreadable, so that it does not stop the others.
--
-- Every read passes through this function, so its cost matters: the event is parsed once, and _printable, a regular
-- expression for each column, is called only if the JSON has an escape or the text a control character.
CREATE OR REPLACE FUNCTION vault._insert_shipped(p_node text, p_boot uuid, p_seqs bigint[], p_events text[])
  RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_now timestamptz := clock_timestamp();
  v_least timestamptz := v_now - interval '401 days';        -- the greatest audit_max_age plus a day
  v_most timestamptz := v_now + interval '1 minute';
  v_done boolean;
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
    FROM (SELECT seq, event,
            event !~ (E'[\\u007f-\\u009f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff]'
              || E'|\\\\[^"\\\\/]') AS plain
          FROM unnest(p_seqs, p_events) AS r (seq, event)) AS r,
      LATERAL json_to_record(event::json) AS e (at timestamptz, actor text, client inet, action text, secret text,
          version int, outcome text,
                                                request_id text, detail jsonb),
      LATERAL (SELECT coalesce(translate(request_id, '0123456789abcdef',
          '0000000000000000') = '00000000-0000-0000-0000-000000000000', false) AS uuid) AS u
    ORDER BY seq
    RETURNING CASE WHEN audit_log.actor ^@ 'app:' AND audit_log.outcome <> 'denied'
        THEN audit_log.detail ->> 'credential' END AS credential, audit_log.at, audit_log.client)
  SELECT vault._note_use(array_agg(credential), array_agg(at), array_agg(client)) INTO v_done FROM (
    SELECT DISTINCT ON (credential) credential, at, client FROM stored WHERE credential IS NOT NULL
      ORDER BY credential, at DESC) AS used;
END $$;

-- Notes the last use of credentials of apps. A row that another batch is updating gets the next use; a minute is how
-- precise the column is.
CREATE OR REPLACE FUNCTION vault._note_use(p_credentials text[], p_ats timestamptz[], p_clients inet[]) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_credentials IS NULL THEN
    RETURN false;
  END IF;
  WITH due AS (
    SELECT u.credential_id, used.at, used.client
      FROM (SELECT CASE WHEN credential ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN credential::uuid END AS id,
              at, client FROM unnest(p_credentials, p_ats, p_clients) AS r (credential, at, client)) AS used
      JOIN vault.app_use u ON u.credential_id = used.id
      WHERE u.last_used_at IS NULL OR u.last_used_at < used.at - interval '60 seconds'
      FOR UPDATE OF u SKIP LOCKED)
  UPDATE vault.app_use u SET last_used_at = due.at, last_client = due.client FROM due
    WHERE u.credential_id = due.credential_id;
  RETURN true;
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

CREATE OR REPLACE FUNCTION vault._record_shipped(p_node text, p_boot uuid, p_seqs bigint[], p_events text[])
  RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_event text;
BEGIN
  -- The functions are asked only about events that may be such.
  IF EXISTS (SELECT FROM unnest(p_events) AS event WHERE length(event) > 4000 AND vault._too_deep(event)
      OR event ~ E'[:,[\\s]-?[0-9.]+[eE]' AND vault._has_exponent(event)) THEN
    RAISE data_exception;
  END IF;
  PERFORM vault._insert_shipped(p_node, p_boot, p_seqs, p_events);
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
        PERFORM vault._insert_shipped(p_node, p_boot, p_seqs[i:i], ARRAY[v_event]);
      EXCEPTION WHEN data_exception THEN   -- most likely of its time
        PERFORM vault._insert_shipped(p_node, p_boot, p_seqs[i:i],
            ARRAY[(v_event::jsonb - 'at' || jsonb_build_object('detail',
          coalesce(nullif(v_event::jsonb -> 'detail', 'null'), '{}')
              || jsonb_build_object('claimed_at', left(v_event::jsonb ->> 'at', 64))))::text]);
      END;
    EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
      INSERT INTO vault.audit_log (actor, node, action, outcome, detail)
        VALUES ('role:' || session_user, p_node, 'audit.unreadable', 'failed',
            jsonb_build_object('boot', p_boot, 'seq', p_seqs[i],
          'reason', vault._printable(SQLERRM, 200), 'event', vault._printable(v_event, 1000)));
    END;
  END LOOP;
END $$;

-- Locks the spool's row, which it makes first if need be. Records before p_first_seq that are reported as lost are put
-- on record as a gap. The caller is in a context of the vault's until vault._close_spool.
CREATE OR REPLACE FUNCTION vault._open_spool(p_node text, p_boot uuid, p_first_seq bigint, p_lost boolean,
    p_previous bytea) RETURNS vault.audit_spools
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_spool vault.audit_spools;
BEGIN
  PERFORM vault._enter('maintenance', 'vaultd');
  IF NOT EXISTS (SELECT FROM vault.audit_spools WHERE node = p_node AND boot = p_boot) THEN
    PERFORM vault._begin_spool(p_node, p_boot);
  END IF;
  -- an earlier attempt may still be committing
  SELECT * INTO v_spool FROM vault.audit_spools WHERE node = p_node AND boot = p_boot FOR UPDATE;
  PERFORM vault._check_spool(v_spool);   -- an error releases the row
  IF v_spool.role_name IS DISTINCT FROM session_user THEN
    INSERT INTO vault.audit_log (actor, node, action, detail) VALUES ('role:' || session_user, p_node, 'audit.spool',
      jsonb_strip_nulls(jsonb_build_object('boot', p_boot, 'from_role', v_spool.role_name, 'to_role', session_user)));
  END IF;
  IF p_first_seq > v_spool.next_seq AND p_lost THEN
    INSERT INTO vault.audit_log (actor, node, action, outcome, detail)
      VALUES ('vaultd', p_node, 'audit.gap', 'failed',
              jsonb_build_object('boot', p_boot, 'from', v_spool.next_seq, 'to', p_first_seq - 1, 'lost',
                  p_first_seq - v_spool.next_seq));
    v_spool.next_seq := p_first_seq;
    v_spool.last_hash := p_previous;
    v_spool.gaps := v_spool.gaps + 1;
  END IF;
  RETURN v_spool;
END $$;

-- Stores the position that a batch reached, and returns it.
CREATE OR REPLACE FUNCTION vault._close_spool(s vault.audit_spools) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE vault.audit_spools SET next_seq = s.next_seq, last_hash = s.last_hash, gaps = s.gaps,
      shipped_at = clock_timestamp(),
      (role_name, role_oid, system_id) = (SELECT rolname, oid, vault._system_id() FROM pg_roles
          WHERE rolname = session_user)
    WHERE node = s.node AND boot = s.boot;
  PERFORM vault._leave();
  RETURN jsonb_build_object('next_seq', s.next_seq, 'last_hash', encode(s.last_hash, 'hex'), 'gaps', s.gaps);
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
  v_spool := vault._open_spool(v_node, p_boot, p_first_seq, p_lost, p_previous[1]);
  IF p_first_seq > v_spool.next_seq THEN
    PERFORM vault._leave();
    RETURN vault._spool_position(v_node, p_boot);
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

  IF p_first_seq + v_count > v_spool.next_seq THEN
    PERFORM vault._record_shipped(v_node, p_boot,
        ARRAY(SELECT generate_series(v_spool.next_seq, p_first_seq + v_count - 1)),
        p_events[v_spool.next_seq - p_first_seq + 1:]);
    v_spool.next_seq := p_first_seq + v_count;
    v_spool.last_hash := v_hashes[v_count];
  END IF;
  RETURN vault._close_spool(v_spool);
END $$;

-- Inserts rows of several reads. The reads before the newest of a row are those of p_rows.earlier elements of the four
-- arrays, the rows one after the other. The times of a row are replaced together if the newest is impossible, as in
-- _insert_shipped; here nothing is unreadable, and what is not as it should be fails the batch.
CREATE OR REPLACE FUNCTION vault._insert_windows(p_node text, p_boot uuid, p_readers json, p_rows json,
    p_ago int[], p_back int[], p_requests uuid[], p_reader smallint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_now timestamptz := clock_timestamp();
  v_least timestamptz := v_now - interval '401 days';
  v_most timestamptz := v_now + interval '1 minute';
  v_rows bigint;
  v_used boolean;
BEGIN
  WITH readers AS MATERIALIZED (
    SELECT k, CASE WHEN actor !~ '^(client|worker|app):' AND actor <> 'vaultd' OR actor IS NULL
          THEN 'role:' || session_user ELSE vault._printable(actor, 255) END AS actor,
        client, version, nullif(vault._printable_detail(detail), '{}') AS detail, last
      FROM ROWS FROM (json_to_recordset(p_readers) AS (actor text, client inet, version int, detail jsonb,
          last timestamptz)) WITH ORDINALITY
        AS r (actor, client, version, detail, last, k)),
  windows AS MATERIALIZED (
    SELECT i, CASE WHEN at BETWEEN v_least AND v_most THEN at ELSE v_now END AS at, at AS claimed, seq, action, secret,
        request, own, earlier, readers, (sum(earlier) OVER (ORDER BY i))::int AS upto
      FROM ROWS FROM (json_to_recordset(p_rows) AS (at timestamptz, seq bigint, action text, secret text, request uuid,
          own int, earlier int, readers int[])) WITH ORDINALITY
        AS w (at, seq, action, secret, request, own, earlier, readers, i)),
  known AS (
    SELECT i, array_agg(r.actor ORDER BY n) AS actors, array_agg(r.client ORDER BY n) AS clients,
        array_agg(r.version ORDER BY n) AS versions, array_agg(r.detail ORDER BY n) AS details
      FROM windows, unnest(windows.readers) WITH ORDINALITY AS u (k, n) JOIN readers r ON r.k = u.k
      GROUP BY i),
  stored AS (
    INSERT INTO vault.audit_log (system_id, at, actor, client, node, action, secret, version, outcome, request_id,
        detail, since, reads, ago, back, requests, reader, actors, clients, versions, details)
      SELECT (SELECT vault._system_id()), w.at, o.actor, o.client, p_node, vault._printable(w.action, 32),
          vault._printable(w.secret, 255), o.version, 'ok', w.request,
          coalesce(o.detail, '{}') || jsonb_build_object('boot', p_boot, 'seq', w.seq)
            || CASE WHEN w.at <> w.claimed THEN jsonb_build_object('claimed_at', w.claimed) ELSE '{}' END,
          w.at - p_ago[w.upto] * interval '1 microsecond', w.earlier + 1, p_ago[w.upto - w.earlier + 1:w.upto],
          p_back[w.upto - w.earlier + 1:w.upto], p_requests[w.upto - w.earlier + 1:w.upto],
          p_reader[w.upto - w.earlier + 1:w.upto], k.actors, k.clients, k.versions, k.details
        FROM windows w JOIN readers o ON o.k = w.own JOIN known k ON k.i = w.i
        ORDER BY w.i
      RETURNING 1),
  used AS (
    SELECT DISTINCT ON (credential) credential, last, client
      FROM (SELECT detail ->> 'credential' AS credential, last, client FROM readers WHERE actor ^@ 'app:') AS a
      WHERE credential IS NOT NULL AND last BETWEEN v_least AND v_most
      ORDER BY credential, last DESC)
  SELECT (SELECT count(*) FROM stored), vault._note_use(array_agg(credential), array_agg(last), array_agg(client))
    INTO v_rows, v_used FROM used;
END $$;

-- Stores the records from p_first_seq to p_next_seq - 1 of a spool and returns its position: some as events
-- (p_seqs, p_events), as ship_reads does, and the others as rows of several reads each (p_readers and the following).
-- Each number occurs once. The batch begins where the spool's records end, or it is not stored; p_previous is the hash
-- of the record before and p_last that of the last one. The chain inside cannot be checked here, since the records'
-- bytes are not sent: the spool has it.
--
-- A read whose outcome is not ok, or that matched a version in its grace, is never in a row of several.
CREATE OR REPLACE FUNCTION vault.ship_windows(p_node text, p_boot uuid, p_first_seq bigint, p_next_seq bigint,
    p_lost boolean, p_previous bytea, p_last bytea, p_seqs bigint[], p_events text[], p_readers json, p_rows json,
    p_ago int[], p_back int[], p_requests uuid[], p_reader smallint[]) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_node text := vault._printable(p_node, 255);
  v_spool vault.audit_spools;
  v_earlier int := coalesce(cardinality(p_ago), 0);
BEGIN
  IF p_boot IS NULL OR p_readers IS NULL OR p_rows IS NULL THEN
    RAISE EXCEPTION 'p_boot, p_readers or p_rows is null' USING ERRCODE = '22023';
  END IF;
  PERFORM vault._bound_length('p_node', octet_length(p_node), 1, 255),
          vault._bound('p_first_seq', p_first_seq, 1, 4611686018427387904),
          vault._bound('p_next_seq', p_next_seq, 2, 4611686018427387904);
  PERFORM vault._bound('the records of a batch', p_next_seq - p_first_seq, 1, 1000000),
          vault._bound_length('p_previous', octet_length(p_previous), 32, 32),
          vault._bound_length('p_last', octet_length(p_last), 32, 32),
          vault._bound_length('p_readers', octet_length(p_readers::text), 2, 16777216),
          vault._bound_length('p_rows', octet_length(p_rows::text), 2, 67108864);
  PERFORM vault._bound_length('an event of p_events', coalesce(max(octet_length(event)), 2), 2, 16384),
          vault._bound('the bytes of p_events', coalesce(sum(octet_length(event)), 2), 2, 67108864)
    FROM unnest(p_events) AS event;
  IF coalesce(array_ndims(p_seqs), 1) <> 1 OR coalesce(array_ndims(p_events), 1) <> 1
      OR array_position(p_events, NULL) IS NOT NULL
      OR coalesce(cardinality(p_events), 0) <> coalesce(cardinality(p_seqs), 0)
      OR coalesce(array_ndims(p_ago), 1) <> 1 OR coalesce(array_ndims(p_back), 1) <> 1
      OR coalesce(array_ndims(p_requests), 1) <> 1 OR coalesce(array_ndims(p_reader), 1) <> 1
      OR coalesce(array_lower(p_ago, 1), 1) <> 1 OR coalesce(array_lower(p_back, 1), 1) <> 1
      OR coalesce(array_lower(p_requests, 1), 1) <> 1 OR coalesce(array_lower(p_reader, 1), 1) <> 1
      OR coalesce(cardinality(p_back), 0) <> v_earlier OR coalesce(cardinality(p_requests), 0) <> v_earlier
      OR coalesce(cardinality(p_reader), 0) <> v_earlier THEN
    RAISE EXCEPTION 'each event has its number, and each earlier read its time, number, request and reader'
      USING ERRCODE = '22023';
  END IF;
  IF p_readers::text ~ E'[:,[\\s]-?[0-9.]+[eE]' AND vault._has_exponent(p_readers::text) THEN
    RAISE EXCEPTION 'p_readers has a number with an exponent' USING ERRCODE = '22023';
  END IF;
  PERFORM vault._check_shipped_windows(p_first_seq, p_next_seq, p_seqs, p_readers, p_rows, p_ago, p_back, p_reader);
  v_spool := vault._open_spool(v_node, p_boot, p_first_seq, p_lost, p_previous);
  IF p_first_seq <> v_spool.next_seq THEN
    PERFORM vault._leave();
    RETURN vault._spool_position(v_node, p_boot);
  ELSIF p_previous <> coalesce(v_spool.last_hash, decode(repeat('00', 32), 'hex')) THEN
    RAISE EXCEPTION 'record % of the spool does not continue the one before', p_first_seq USING ERRCODE = 'VA003';
  END IF;
  IF cardinality(p_events) > 0 THEN
    PERFORM vault._record_shipped(v_node, p_boot, p_seqs, p_events);
  END IF;
  PERFORM vault._insert_windows(v_node, p_boot, p_readers, p_rows, p_ago, p_back, p_requests, p_reader);
  v_spool.next_seq := p_next_seq;
  v_spool.last_hash := p_last;
  RETURN vault._close_spool(v_spool);
END $$;

-- Fails unless the numbers of a batch's reads are those from p_first_seq to p_next_seq - 1, each once, and a row's
-- reads are from the newest to the oldest, at most a minute apart, by readers that it names.
CREATE OR REPLACE FUNCTION vault._check_shipped_windows(p_first_seq bigint, p_next_seq bigint, p_seqs bigint[],
    p_readers json, p_rows json, p_ago int[], p_back int[], p_reader smallint[]) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_readers int := json_array_length(p_readers);
  v_seen record;
BEGIN
  IF EXISTS (SELECT FROM json_to_recordset(p_readers) AS r (detail jsonb)
      WHERE jsonb_typeof(detail) <> 'object' OR octet_length(detail::text) > 4096 OR detail ->> 'match' = 'grace'
        OR jsonb_path_exists(detail, 'strict $.* ? (@.type() == "object" || @.type() == "array")', '{}', true)) THEN
    RAISE EXCEPTION 'the detail of a reader is a small flat object, and not of a match in grace'
      USING ERRCODE = '22023';
  END IF;
  WITH windows AS MATERIALIZED (
    SELECT seq, earlier, cardinality(readers) AS readers, (sum(earlier) OVER (ORDER BY i))::int AS upto,
        coalesce(action IN ('read', 'verify', 'describe') AND secret <> '' AND earlier BETWEEN 1 AND 999
          AND own BETWEEN 1 AND v_readers AND at IS NOT NULL AND request IS NOT NULL
          AND cardinality(readers) >= 1 AND array_position(readers, NULL) IS NULL
          AND 1 <= ALL (readers) AND v_readers >= ALL (readers), false) AS fits
      FROM ROWS FROM (json_to_recordset(p_rows) AS (seq bigint, action text, secret text, earlier int, own int,
          at timestamptz, request text, readers int[])) WITH ORDINALITY
        AS w (seq, action, secret, earlier, own, at, request, readers, i))
  SELECT count(*) AS n, count(DISTINCT seq) AS different, min(seq) AS least, max(seq) AS most,
      bool_and(fits) AS fit, coalesce(max(upto), 0) AS upto INTO v_seen
    FROM (
      SELECT seq, seq IS NOT NULL AS fits, 0 AS upto FROM unnest(p_seqs) AS seq
      UNION ALL
      SELECT seq, fits AND seq IS NOT NULL, upto FROM windows
      UNION ALL
      SELECT w.seq - p_back[j], coalesce(p_ago[j] BETWEEN CASE WHEN j > w.upto - w.earlier + 1 THEN p_ago[j - 1]
          ELSE 0 END AND 60000000 AND p_reader[j] BETWEEN 1 AND w.readers AND p_back[j] <> 0, false), 0
        FROM windows w, generate_series(w.upto - w.earlier + 1, w.upto) AS j WHERE w.fits) AS r;
  IF v_seen.upto <> coalesce(cardinality(p_ago), 0) OR v_seen.fit IS NOT TRUE THEN
    RAISE EXCEPTION 'a row has an action, a secret, a time, a request and readers, and its reads follow one another'
      USING ERRCODE = '22023';
  ELSIF v_seen.n <> p_next_seq - p_first_seq OR v_seen.different <> v_seen.n OR v_seen.least <> p_first_seq
      OR v_seen.most <> p_next_seq - 1 THEN
    RAISE EXCEPTION 'the batch has % numbers, % different ones, of the % from % to %', v_seen.n, v_seen.different,
      p_next_seq - p_first_seq, p_first_seq, p_next_seq - 1 USING ERRCODE = '22023';
  END IF;
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
