-- Reads and verifies: those a daemon recorded in its own spool, and those of somebody at a terminal.

-- How far one spool's records have arrived. Without records that is all it does, and it works on a standby too.
CREATE OR REPLACE FUNCTION vault._spool_position(p_node text, p_boot uuid) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('next_seq', coalesce(s.next_seq, 1), 'last_hash', coalesce(encode(s.last_hash, 'hex'), ''), 'gaps', coalesce(s.gaps, 0))
  FROM (SELECT) AS nobody LEFT JOIN vault.audit_spools s ON s.node = p_node AND s.boot = p_boot
$$;

-- Takes records from p_first_seq on, each with the hash of the one before, and answers where the spool stands then. What it has
-- already it does not take again, so a batch whose answer was lost can be sent once more. What begins behind the next number
-- it takes only from a spool that says that what is between is lost: a primary that was promoted may have less than the one
-- before acknowledged, and the spool may still have it. The chain is checked over the very bytes that the node hashed.
--
-- Nothing in an event is proven; what is, is db_role. An event cannot claim to be somebody who holds a token.
--
-- Every read passes here, so it counts what one costs: the event is taken apart once, and _printable, which is a regular
-- expression for each column, is asked only where JSON has an escape or the text a control character.
CREATE OR REPLACE FUNCTION vault.ship_reads(p_node text, p_boot uuid, p_first_seq bigint, p_lost boolean, p_previous bytea[], p_events text[]) RETURNS jsonb
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
    RETURN vault._spool_position(p_node, p_boot);
  ELSIF p_first_seq < 1 OR v_count > 10000 OR cardinality(p_previous) IS DISTINCT FROM v_count THEN
    RAISE EXCEPTION 'a batch begins with record 1 or later, and has at most 10000, each with the hash of the one before' USING ERRCODE = '22023';
  END IF;
  SELECT array_agg(sha256(int8send(p_first_seq + n - 1) || previous || convert_to(event, 'UTF8')) ORDER BY n) INTO v_hashes
    FROM unnest(p_previous, p_events) WITH ORDINALITY AS r (previous, event, n);
  IF array_position(v_hashes, NULL) IS NOT NULL THEN
    RAISE EXCEPTION 'a batch has an event and a hash for each record' USING ERRCODE = '22023';
  END IF;
  PERFORM vault._enter('maintenance', 'vaultd');
  INSERT INTO vault.audit_spools (node, boot, next_seq) VALUES (p_node, p_boot, 1) ON CONFLICT DO NOTHING;
  SELECT * INTO v_spool FROM vault.audit_spools WHERE node = p_node AND boot = p_boot FOR UPDATE;   -- an earlier try may still be committing

  IF p_first_seq > v_spool.next_seq THEN
    IF NOT coalesce(p_lost, false) THEN
      PERFORM vault._leave();
      RETURN vault._spool_position(p_node, p_boot);
    END IF;
    INSERT INTO vault.audit_log (actor, node, action, outcome, detail)
      VALUES ('vaultd', v_node, 'audit.gap', 'failed',
              jsonb_build_object('boot', p_boot, 'from', v_spool.next_seq, 'to', p_first_seq - 1, 'lost', p_first_seq - v_spool.next_seq));
    v_spool.next_seq := p_first_seq;
    v_spool.last_hash := p_previous[1];
    v_spool.gaps := v_spool.gaps + 1;
  END IF;

  v_last := coalesce(v_spool.last_hash, decode(repeat('00', 32), 'hex'));
  SELECT min(seq) INTO v_broken
    FROM (SELECT p_first_seq + n - 1 AS seq, n, previous, before FROM unnest(p_previous, array_prepend(NULL::bytea, v_hashes)) WITH ORDINALITY AS r (previous, before, n)) AS r
    WHERE n <= v_count AND previous IS DISTINCT FROM CASE
      WHEN seq = v_spool.next_seq THEN v_last
      WHEN n > 1 THEN before
      ELSE previous END;                                     -- the first of what is here already
  IF v_broken IS NOT NULL THEN
    RAISE EXCEPTION 'record % of the spool does not continue the one before', v_broken USING ERRCODE = 'VA003';
  END IF;

  INSERT INTO vault.audit_log (system_id, at, actor, client, node, action, secret, version, outcome, request_id, detail)
    SELECT (SELECT vault._system_id()), least(at, clock_timestamp() + interval '1 minute'),
           CASE WHEN actor !~ '^(client|worker):' AND actor <> 'vaultd' OR actor IS NULL THEN 'role:' || session_user
                WHEN plain THEN left(actor, 255) ELSE vault._printable(actor, 255) END,
           client, v_node, CASE WHEN plain THEN left(action, 32) ELSE vault._printable(action, 32) END,
           CASE WHEN plain THEN left(secret, 255) ELSE vault._printable(secret, 255) END, version,
           CASE WHEN outcome IN ('ok', 'denied') THEN outcome ELSE 'failed' END,
           CASE WHEN uuid THEN request_id::uuid END,
           coalesce(detail, '{}') || jsonb_build_object('boot', p_boot, 'seq', seq)
             || CASE WHEN uuid OR request_id IS NULL THEN '{}' ELSE jsonb_build_object('request', vault._printable(request_id, 64)) END
             || CASE WHEN at > clock_timestamp() + interval '1 minute' THEN jsonb_build_object('claimed_at', at) ELSE '{}' END
    FROM (SELECT p_first_seq + n - 1 AS seq, event, event !~ E'[\\u007f-\\u009f]|\\\\[^"\\\\/]' AS plain FROM unnest(p_events) WITH ORDINALITY AS r (event, n)) AS r,
      LATERAL json_to_record(event::json) AS e (at timestamptz, actor text, client inet, action text, secret text, version int, outcome text,
                                                request_id text, detail jsonb),
      LATERAL (SELECT coalesce(translate(request_id, '0123456789abcdef', '0000000000000000') = '00000000-0000-0000-0000-000000000000', false) AS uuid) AS u
    WHERE seq >= v_spool.next_seq ORDER BY seq;

  IF p_first_seq + v_count > v_spool.next_seq THEN
    v_spool.next_seq := p_first_seq + v_count;
    v_spool.last_hash := v_hashes[v_count];
  END IF;
  UPDATE vault.audit_spools SET next_seq = v_spool.next_seq, last_hash = v_spool.last_hash, gaps = v_spool.gaps, shipped_at = clock_timestamp()
    WHERE node = p_node AND boot = p_boot;
  PERFORM vault._leave();
  RETURN jsonb_build_object('next_seq', v_spool.next_seq, 'last_hash', encode(v_spool.last_hash, 'hex'), 'gaps', v_spool.gaps);
END $$;

-- What vaultctl calls before it shows or compares a value. The reader is the database role: nothing else is proven.
CREATE OR REPLACE FUNCTION vault.record_read(p_action text, p_secret text, p_version int, p_outcome text, p_request uuid, p_detail jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_action NOT IN ('read', 'verify') OR octet_length(p_detail::text) > 4096 THEN
    RAISE EXCEPTION 'record_read takes read and verify, and a short detail' USING ERRCODE = '22023';
  END IF;
  PERFORM vault._audit(p_action, vault._printable(p_secret, 255), p_version, p_request, p_detail, p_outcome);
  RETURN true;
END $$;

-- Who presented which version of which secret while it was in grace, since some time. For vaultctl grace report; the rows are
-- those that the caller may read.
CREATE OR REPLACE FUNCTION vault.grace_report(p_name text, p_exact boolean, p_since timestamptz) RETURNS TABLE
  (secret text, version int, expires_at timestamptz, actor text, client inet, presented bigint, first_at timestamptz, last_at timestamptz)
LANGUAGE sql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
  SELECT v.name, v.version, v.expires_at, a.actor, a.client, a.presented, a.first_at, a.last_at
  FROM vault.secrets s JOIN vault.secret_versions v ON v.secret_id = s.id
  LEFT JOIN LATERAL (
    SELECT l.actor, l.client, count(*) AS presented, min(l.at) AS first_at, max(l.at) AS last_at FROM vault.audit_log l
    WHERE l.secret = v.name AND l.at >= p_since AND l.version = v.version AND l.outcome = 'ok' AND l.detail ->> 'match' = 'grace'
    GROUP BY l.actor, l.client) AS a ON true
  WHERE s.deleted_at IS NULL AND v.removed_at IS NULL AND v.expires_at > now()
    AND CASE WHEN p_exact THEN v.name = p_name ELSE starts_with(v.name, p_name) END
  ORDER BY v.name, v.version DESC, a.last_at DESC NULLS LAST
$$;
