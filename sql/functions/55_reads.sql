-- Reads and verifies: those a daemon recorded in its own spool, and those of somebody at a terminal.

-- How far one spool's records have arrived. Without records that is all it does, and it works on a standby too.
CREATE OR REPLACE FUNCTION vault._spool_position(p_node text, p_boot uuid) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('next_seq', coalesce(s.next_seq, 1), 'last_hash', coalesce(encode(s.last_hash, 'hex'), ''), 'gaps', coalesce(s.gaps, 0))
  FROM (SELECT) AS nobody LEFT JOIN vault.audit_spools s ON s.node = p_node AND s.boot = p_boot
$$;

-- Takes {"lost": bool, "records": [{"previous": hex, "event": text}]} and answers where the spool stands then. What it has
-- already it does not take again, so a batch whose answer was lost can be sent once more. What begins behind the next number
-- it takes only from a spool that says that what is between is lost: a primary that was promoted may have less than the one
-- before acknowledged, and the spool may still have it. The chain is checked over the very bytes that the node hashed.
--
-- Nothing in an event is proven; what is, is db_role. An event cannot claim to be somebody who holds a token.
CREATE OR REPLACE FUNCTION vault.ship_reads(p_node text, p_boot uuid, p_first_seq bigint, p_records jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_spool vault.audit_spools;
  v_previous bytea[];
  v_events text[];
  v_hashes bytea[];
  v_last bytea;
  v_broken bigint;
BEGIN
  IF coalesce(jsonb_array_length(p_records -> 'records'), 0) = 0 THEN
    RETURN vault._spool_position(p_node, p_boot);
  ELSIF p_first_seq < 1 OR jsonb_array_length(p_records -> 'records') > 10000 THEN
    RAISE EXCEPTION 'a batch begins with record 1 or later, and has at most 10000' USING ERRCODE = '22023';
  END IF;
  PERFORM vault._enter('maintenance', 'vaultd');
  INSERT INTO vault.audit_spools (node, boot, next_seq) VALUES (p_node, p_boot, 1) ON CONFLICT DO NOTHING;
  SELECT * INTO v_spool FROM vault.audit_spools WHERE node = p_node AND boot = p_boot FOR UPDATE;   -- an earlier try may still be committing

  IF p_first_seq > v_spool.next_seq THEN
    IF NOT coalesce((p_records ->> 'lost')::boolean, false) THEN
      PERFORM vault._leave();
      RETURN vault._spool_position(p_node, p_boot);
    END IF;
    INSERT INTO vault.audit_log (actor, node, action, outcome, detail)
      VALUES ('vaultd', vault._printable(p_node, 255), 'audit.gap', 'failed',
              jsonb_build_object('boot', p_boot, 'from', v_spool.next_seq, 'to', p_first_seq - 1, 'lost', p_first_seq - v_spool.next_seq));
    v_spool.next_seq := p_first_seq;
    v_spool.last_hash := decode(p_records -> 'records' -> 0 ->> 'previous', 'hex');
    v_spool.gaps := v_spool.gaps + 1;
  END IF;

  SELECT array_agg(previous ORDER BY n), array_agg(event ORDER BY n),
         array_agg(sha256(int8send(p_first_seq + n - 1) || previous || convert_to(event, 'UTF8')) ORDER BY n)
    INTO v_previous, v_events, v_hashes
    FROM (SELECT n, decode(r ->> 'previous', 'hex') AS previous, r ->> 'event' AS event
          FROM jsonb_array_elements(p_records -> 'records') WITH ORDINALITY AS x (r, n)) AS r;
  v_last := coalesce(v_spool.last_hash, decode(repeat('00', 32), 'hex'));
  SELECT min(p_first_seq + n - 1) INTO v_broken FROM generate_subscripts(v_events, 1) AS n
    WHERE v_previous[n] IS DISTINCT FROM CASE
      WHEN p_first_seq + n - 1 = v_spool.next_seq THEN v_last
      WHEN n > 1 THEN v_hashes[n - 1]
      ELSE v_previous[n] END;                                -- the first of what is here already
  IF v_broken IS NOT NULL THEN
    RAISE EXCEPTION 'record % of the spool does not continue the one before', v_broken USING ERRCODE = 'VA003';
  END IF;

  INSERT INTO vault.audit_log (at, actor, client, node, action, secret, version, outcome, request_id, detail)
    SELECT least(at, clock_timestamp() + interval '1 minute'),
           CASE WHEN e ->> 'actor' ~ '^(client|worker):' OR e ->> 'actor' = 'vaultd' THEN vault._printable(e ->> 'actor', 255) ELSE 'role:' || session_user END,
           (e ->> 'client')::inet, vault._printable(p_node, 255), vault._printable(e ->> 'action', 32), vault._printable(e ->> 'secret', 255),
           (e ->> 'version')::int, CASE WHEN e ->> 'outcome' IN ('ok', 'denied') THEN e ->> 'outcome' ELSE 'failed' END,
           CASE WHEN uuid THEN (e ->> 'request_id')::uuid END,
           coalesce(e -> 'detail', '{}') || jsonb_strip_nulls(jsonb_build_object('boot', p_boot, 'seq', seq,
             'request', CASE WHEN NOT uuid THEN vault._printable(e ->> 'request_id', 64) END,
             'claimed_at', CASE WHEN at > clock_timestamp() + interval '1 minute' THEN at END))
    FROM (SELECT seq, e, (e ->> 'at')::timestamptz AS at,
                 coalesce(e ->> 'request_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$', false) AS uuid
          FROM (SELECT p_first_seq + n - 1 AS seq, v_events[n]::jsonb AS e FROM generate_subscripts(v_events, 1) AS n) AS s) AS s
    WHERE seq >= v_spool.next_seq ORDER BY seq;

  IF p_first_seq + array_length(v_events, 1) > v_spool.next_seq THEN
    v_spool.next_seq := p_first_seq + array_length(v_events, 1);
    v_spool.last_hash := v_hashes[array_length(v_hashes, 1)];
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
