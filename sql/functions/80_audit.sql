-- The audit log by month, and the seals over it.

-- ---------- partitions ----------

-- Sessions use vault.audit_log, whose policies apply. A session that names a partition meets that partition's own
-- policies, which allow no writes; triggers of TRUNCATE are not inherited.
CREATE OR REPLACE FUNCTION vault._protect_audit_partition(p_partition regclass) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', p_partition);
  EXECUTE format('DROP POLICY IF EXISTS owner_reads ON %s', p_partition);
  EXECUTE format('CREATE POLICY owner_reads ON %s FOR SELECT TO vault_owner USING (true)', p_partition);
  EXECUTE format('CREATE OR REPLACE TRIGGER audit_is_never_truncated BEFORE TRUNCATE ON %s
    FOR EACH STATEMENT EXECUTE FUNCTION vault._forbid()', p_partition);
  EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER audit_is_never_truncated', p_partition);
END $$;

-- Creates the partition of a month unless it exists. It uses ATTACH, because CREATE TABLE ... PARTITION OF would block
-- readers and writers of every month until it has its lock.
CREATE OR REPLACE FUNCTION vault._audit_partition(p_month date) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
  v_month timestamp := date_trunc('month', p_month::timestamp);
  v_name text := 'audit_log_' || to_char(v_month, 'YYYY_MM');
BEGIN
  IF EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'vault.audit_log'::regclass
      AND inhrelid = to_regclass('vault.' || v_name)) THEN
    RETURN false;
  END IF;
  EXECUTE format('CREATE TABLE vault.%I (LIKE vault.audit_log INCLUDING ALL) WITH (toast_tuple_target = 4080)', v_name);
  EXECUTE format('ALTER TABLE vault.audit_log ATTACH PARTITION vault.%I FOR VALUES FROM (%L) TO (%L)',
    v_name, v_month AT TIME ZONE 'UTC', (v_month + interval '1 month') AT TIME ZONE 'UTC');
  PERFORM vault._protect_audit_partition(('vault.' || v_name)::regclass);
  RETURN true;
END $$;

-- Moves rows that arrived before their month's partition into it, unchanged: those of the months from p_from to
-- p_until. Others stay, because a row can claim any time, and a partition for every month of some row would have no
-- bound.
CREATE OR REPLACE FUNCTION vault._audit_empty_default(p_from timestamptz, p_until timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
  m timestamp;
  v_others boolean;
BEGIN
  IF NOT EXISTS (SELECT FROM vault.audit_log_default WHERE at >= p_from AND at < p_until) THEN
    RETURN;
  END IF;
  ALTER TABLE vault.audit_log DETACH PARTITION vault.audit_log_default;
  FOR m IN SELECT DISTINCT date_trunc('month', at AT TIME ZONE 'UTC') FROM vault.audit_log_default WHERE at >= p_from
      AND at < p_until LOOP
    PERFORM vault._audit_partition(m::date);
  END LOOP;
  INSERT INTO vault.audit_log SELECT * FROM vault.audit_log_default WHERE at >= p_from AND at < p_until;
  v_others := EXISTS (SELECT FROM vault.audit_log_default WHERE at < p_from OR at >= p_until);
  IF v_others THEN
    CREATE TABLE vault.audit_log_others (LIKE vault.audit_log_default);
    INSERT INTO vault.audit_log_others SELECT * FROM vault.audit_log_default WHERE at < p_from OR at >= p_until;
  END IF;
  ALTER TABLE vault.audit_log_default DISABLE TRIGGER audit_is_never_truncated;
  TRUNCATE vault.audit_log_default;
  ALTER TABLE vault.audit_log_default ENABLE ALWAYS TRIGGER audit_is_never_truncated;
  ALTER TABLE vault.audit_log ATTACH PARTITION vault.audit_log_default DEFAULT;
  IF v_others THEN
    INSERT INTO vault.audit_log SELECT * FROM vault.audit_log_others;
    DROP TABLE vault.audit_log_others;
  END IF;
END $$;

DROP FUNCTION IF EXISTS vault._audit_empty_default();        -- of releases that made a partition for each row's month

-- The months around this one: those of the reads that may still be shipped, and the next two.
CREATE OR REPLACE FUNCTION vault._audit_near(OUT first timestamptz, OUT until timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT (m - interval '14 months') AT TIME ZONE 'UTC', (m + interval '3 months') AT TIME ZONE 'UTC'
      FROM date_trunc('month', now() AT TIME ZONE 'UTC') AS m
$$;

-- Creates the partitions of this month and the next two. A failure (most likely a long reader that keeps its lock) is
-- recorded for its month and repeated in the next round: until then the default partition takes the rows.
CREATE OR REPLACE FUNCTION vault._audit_partitions() RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
  v_subjects text[] := '{default}';
  v_made int := 0;
BEGIN
  PERFORM vault._enter('maintenance', 'supervisor');
  FOR i IN 0..3 LOOP
    BEGIN
      IF i = 0 THEN
        PERFORM vault._audit_empty_default(n.first, n.until) FROM vault._audit_near() AS n;
      ELSE
        v_subjects[i + 1] := to_char(v_month + make_interval(months => i - 1), 'YYYY-MM');
        v_made := v_made + vault._audit_partition((v_month + make_interval(months => i - 1))::date)::int;
      END IF;
      PERFORM vault._note_round('partitions', v_subjects[i + 1], '', NULL);
    EXCEPTION WHEN OTHERS THEN
      RAISE WARNING 'vault: making partitions of the audit log: %', SQLERRM;
      PERFORM vault._note_round('partitions', v_subjects[i + 1], SQLSTATE, SQLERRM);
    END;
  END LOOP;
  DELETE FROM vault.round_failures WHERE part = 'partitions' AND subject NOT IN ('', 'default')
      AND subject <> ALL (v_subjects);
  PERFORM vault._leave();
  RETURN v_made;
END $$;

-- The month under which a row is sealed, from 0001-01 to 9999-12: earlier and later times, -infinity and infinity too,
-- count as the first or the last.
CREATE OR REPLACE FUNCTION vault._audit_month(p_at timestamptz) RETURNS date
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT date_trunc('month', greatest(least(p_at AT TIME ZONE 'UTC', timestamp '9999-12-31'),
      timestamp '0001-01-01'))::date
$$;

-- The first moment of such a month and the last.
CREATE OR REPLACE FUNCTION vault._audit_month_from(p_month date) RETURNS timestamptz
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN p_month > date '0001-01-01' THEN p_month::timestamp AT TIME ZONE 'UTC'
      ELSE timestamptz '-infinity' END
$$;

CREATE OR REPLACE FUNCTION vault._audit_month_to(p_month date) RETURNS timestamptz
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN p_month < date '9999-12-01'
      THEN (p_month + interval '1 month') AT TIME ZONE 'UTC' - interval '1 microsecond' ELSE timestamptz 'infinity' END
$$;

-- ---------- seals ----------

-- The hash that the first seal follows.
CREATE OR REPLACE FUNCTION vault._audit_genesis() RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT sha256(convert_to('hyperiondb-vault/audit-chain/1', 'UTF8') || E'\\x00'::bytea || uuid_send(cluster_id))
      FROM vault.config
$$;

-- The next closed window of transaction ids, at most p_limit rows unless one transaction wrote more; no row on a
-- standby, while another sealer runs, or if nothing waits. Two rules make it complete. No transaction below the
-- snapshot's xmin writes any more, so the window does not close over a running transaction. And the lock keeps rows
-- from moving between partitions until the end of this transaction, because a snapshot taken before a move would find
-- them in neither.
CREATE OR REPLACE FUNCTION vault.next_audit_window(p_limit int)
RETURNS TABLE (system_id bigint, from_tx xid8, to_tx xid8, last_id bigint, last_hash bytea, sealed_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  v_here bigint := vault._system_id();
  v_horizon xid8;
  v_first xid8;
  v_cut xid8;
BEGIN
  PERFORM vault._bound('p_limit', p_limit, 1, 100000);
  IF pg_is_in_recovery() THEN
    RETURN;
  ELSIF NOT vault._try_lock('vault.lock_sealing') THEN
    -- A sealer takes a few seconds.
    IF (vault.sealing_lag() ->> 'seconds')::float8 > 60
        OR (vault._lock_holder('vault.lock_sealing') ->> 'since')::timestamptz < clock_timestamp() - interval '1 minute'
            THEN
      RAISE EXCEPTION 'sealing waits for %', vault._lock_holder_text('vault.lock_sealing') USING ERRCODE = 'VA006';
    END IF;
    RETURN;
  END IF;
  LOCK TABLE vault.audit_log IN ACCESS SHARE MODE;
  v_horizon := pg_snapshot_xmin(pg_current_snapshot());
  system_id := (SELECT min(l.system_id) FROM vault.audit_log l);
  WHILE system_id IS NOT NULL LOOP
    from_tx := coalesce((SELECT s.to_tx FROM vault.audit_seals s WHERE s.system_id = system_id ORDER BY s.to_tx DESC
        LIMIT 1), '0');
    -- No transaction of another system runs here: all that a dump brought has closed.
    v_first := (SELECT l.tx FROM vault.audit_log l WHERE l.system_id = system_id AND l.tx >= from_tx
                  AND (system_id <> v_here OR l.tx < v_horizon) ORDER BY l.tx LIMIT 1);
    IF v_first IS NOT NULL THEN
      v_cut := (SELECT l.tx FROM vault.audit_log l WHERE l.system_id = system_id AND l.tx >= from_tx
                  AND (system_id <> v_here OR l.tx < v_horizon) ORDER BY l.tx, l.id OFFSET p_limit LIMIT 1);
      to_tx := CASE
        WHEN v_cut > v_first THEN v_cut
        WHEN v_cut = v_first THEN vault._next_tx(v_first)
        WHEN system_id = v_here THEN v_horizon
        ELSE vault._next_tx((SELECT l.tx FROM vault.audit_log l WHERE l.system_id = system_id ORDER BY l.tx DESC
            LIMIT 1))
      END;
      -- Each seal is of one month and is signed: a window with rows of many months ends before the transaction that
      -- brings the next month.
      v_cut := (SELECT min(r.tx) FILTER (WHERE r.months > 12 AND r.tx > v_first) FROM (
        SELECT x.tx, count(*) OVER (ORDER BY x.tx) AS months FROM (
          SELECT min(l.tx::text::numeric)::text::xid8 AS tx FROM vault.audit_log l WHERE l.system_id = system_id
              AND l.tx >= v_first AND l.tx < to_tx
            GROUP BY vault._audit_month(l.at)) AS x) AS r);
      to_tx := coalesce(v_cut, to_tx);
      SELECT s.id, s.hash INTO last_id, last_hash FROM vault.audit_seals s ORDER BY s.id DESC LIMIT 1;
      IF NOT FOUND THEN
        last_id := 0;
        last_hash := vault._audit_genesis();
      END IF;
      sealed_at := clock_timestamp();
      RETURN NEXT;
      RETURN;
    END IF;
    system_id := (SELECT min(l.system_id) FROM vault.audit_log l WHERE l.system_id > system_id);
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION vault._next_tx(p_tx xid8) RETURNS xid8
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT (p_tx::text::numeric + 1)::text::xid8 $$;

-- The rows of a window, for the transaction that requested it.
CREATE OR REPLACE FUNCTION vault.audit_window(p_system bigint, p_from xid8, p_to xid8) RETURNS SETOF vault.audit_log
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT * FROM vault.audit_log WHERE system_id = p_system AND tx >= p_from AND tx < p_to
  ORDER BY vault._audit_month(at), tx, id
$$;

-- Appends a seal: the next of the chain, over a window that has closed and begins where its system's last one ended.
-- The verifier, which has the key, checks the signature.
CREATE OR REPLACE FUNCTION vault.add_audit_seal(p_seal vault.audit_seals) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_last vault.audit_seals;
  v_until xid8;
  v_same boolean;
  v_rows record;
BEGIN
  PERFORM vault._await_lock('vault.lock_sealing', 'a seal waits');
  LOCK TABLE vault.audit_log IN ACCESS SHARE MODE;
  SELECT * INTO v_last FROM vault.audit_seals ORDER BY id DESC LIMIT 1;
  v_until := coalesce((SELECT to_tx FROM vault.audit_seals WHERE system_id = p_seal.system_id ORDER BY to_tx DESC
      LIMIT 1), '0');
  v_same := v_last.id IS NOT NULL AND v_last.system_id = p_seal.system_id AND v_last.from_tx = p_seal.from_tx
      AND v_last.to_tx = p_seal.to_tx
    AND v_last.month < p_seal.month;
  SELECT count(*) AS n, min(id) AS first_id, max(id) AS last_id INTO v_rows FROM vault.audit_log
    WHERE system_id = p_seal.system_id AND tx >= p_seal.from_tx AND tx < p_seal.to_tx
      AND at BETWEEN vault._audit_month_from(p_seal.month) AND vault._audit_month_to(p_seal.month);
  IF p_seal.id IS DISTINCT FROM coalesce(v_last.id, 0) + 1 OR p_seal.previous IS DISTINCT
      FROM coalesce(v_last.hash, vault._audit_genesis()) THEN
    RAISE EXCEPTION 'seal % is not the next of the chain', p_seal.id USING ERRCODE = 'VA001';
  ELSIF NOT v_same AND p_seal.from_tx IS DISTINCT FROM v_until
      OR p_seal.system_id = vault._system_id() AND p_seal.to_tx > pg_snapshot_xmin(pg_current_snapshot()) THEN
    RAISE EXCEPTION 'seal % is not over the next window', p_seal.id USING ERRCODE = 'VA001';
  ELSIF ROW(p_seal.rows, p_seal.first_id, p_seal.last_id) IS DISTINCT
      FROM ROW(v_rows.n, v_rows.first_id, v_rows.last_id) THEN
    RAISE EXCEPTION 'seal % is not over the rows of its window', p_seal.id USING ERRCODE = 'VA001';
  END IF;
  -- A value that a verifier cannot read would stay in the chain for ever.
  PERFORM vault._bound('sealed_at', p_seal.sealed_at, now() - interval '1 hour',
      clock_timestamp() + interval '1 minute');
  IF p_seal.key_id <> vault._printable(p_seal.key_id, 2147483647) THEN
    RAISE EXCEPTION 'the key_id of seal % has control characters', p_seal.id USING ERRCODE = '22023';
  END IF;
  PERFORM vault._enter('maintenance', 'sealer');
  INSERT INTO vault.audit_seals SELECT p_seal.*;
  PERFORM vault._leave();
END $$;

-- ---------- growth ----------

-- Moves rows from the default partition to their months before a month is exported and dropped: near months, and the
-- oldest after 1970, up to ten years of them.
CREATE OR REPLACE FUNCTION vault.prepare_audit_prune() RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_first timestamptz;
  v_until timestamptz;
  v_oldest timestamp;
BEGIN
  PERFORM vault._require_administer();
  SELECT first, until INTO v_first, v_until FROM vault._audit_near();
  PERFORM vault._audit_empty_default(v_first, v_until);
  v_oldest := (SELECT date_trunc('month', min(at) AT TIME ZONE 'UTC') FROM vault.audit_log_default
               WHERE at >= timestamptz '1970-01-01 UTC' AND at < v_first);
  PERFORM vault._audit_empty_default(v_oldest AT TIME ZONE 'UTC',
      least((v_oldest + interval '10 years') AT TIME ZONE 'UTC', v_first));
  RETURN '{}';
END $$;

-- Drops a past month of the log (p_action null: its partition), or its rows of one action: all of them are sealed, and
-- the file with this SHA-256 has them. The seals stay, and for single rows their leaf hashes, seal by seal.
CREATE OR REPLACE FUNCTION vault.prune_audit(p_month date, p_action text, p_rows bigint, p_last_seal bigint,
    p_exported_sha256 bytea,
    p_seals bigint[], p_leaves bytea[], p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s' AS $$
DECLARE
  v_result jsonb;
  v_month text := to_char(p_month, 'YYYY-MM');
  v_name text := 'audit_log_' || to_char(p_month, 'YYYY_MM');
  v_partition regclass := (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'vault.audit_log'::regclass
      AND inhrelid = to_regclass('vault.' || v_name));
  v_found record;
  v_last bigint;
  v_prune bigint;
BEGIN
  PERFORM vault._require_administer();
  v_result := vault._replay(p_request, 'audit.prune', NULL,
      convert_to(format('%s %L %s %s ', p_month, p_action, p_rows, p_last_seal), 'UTF8') || p_exported_sha256);
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  PERFORM vault._bound('p_month', p_month, '0001-01-01', '9998-12-31');   -- partitions are named without an era
  IF p_month >= date_trunc('month', now() AT TIME ZONE 'UTC') OR extract(day FROM p_month) <> 1 THEN
    RAISE EXCEPTION '% is not a month that has passed', p_month USING ERRCODE = '22023';
  ELSIF p_action LIKE 'audit.%' THEN
    RAISE EXCEPTION 'rows of the actions "audit.*" are pruned with their whole month only' USING ERRCODE = '22023';
  ELSIF v_partition IS NULL THEN
    RAISE EXCEPTION 'there is no audit log of %', v_month USING ERRCODE = 'VA004';
  END IF;
  PERFORM vault._await_lock('vault.lock_sealing', 'pruning waits');   -- excludes sealing
  LOCK TABLE vault.audit_log IN ACCESS EXCLUSIVE MODE;
  EXECUTE format('SELECT count(*) FILTER (WHERE $1 IS NULL OR action = $1) AS n,
      coalesce(bool_or(tx >= coalesce((SELECT to_tx
      FROM vault.audit_seals s
      WHERE s.system_id = l.system_id ORDER BY to_tx DESC LIMIT 1), ''0'')), false) AS unsealed
      FROM %s l', v_partition) INTO v_found USING p_action;
  v_last := (SELECT max(id) FROM vault.audit_seals WHERE month = p_month);
  IF v_found.unsealed THEN
    RAISE EXCEPTION 'the audit log of % has rows that are not sealed', v_month USING ERRCODE = 'VA001';
  ELSIF v_found.n IS DISTINCT FROM p_rows OR v_last IS DISTINCT FROM p_last_seal THEN
    RAISE EXCEPTION 'the audit log of % has % rows to prune and was exported with %', v_month, v_found.n, p_rows
        USING ERRCODE = 'VA001';
  ELSIF p_action IS NOT NULL AND p_rows * 48 IS DISTINCT FROM (SELECT sum(octet_length(x)) FROM unnest(p_leaves) AS x)
      THEN
    RAISE EXCEPTION 'there is not one leaf hash for each of the % rows', p_rows USING ERRCODE = '22023';
  END IF;
  v_prune := coalesce((SELECT max(id) FROM vault.audit_prunes), 0) + 1;
  v_result := jsonb_strip_nulls(jsonb_build_object('id', v_prune, 'month', v_month, 'action', p_action, 'rows', p_rows,
      'last_seal', p_last_seal,
    'exported_sha256', encode(p_exported_sha256, 'hex')));
  INSERT INTO vault.audit_prunes (id, month, action, rows, last_seal, exported_sha256, pruned_by)
    VALUES (v_prune, p_month, p_action, p_rows, p_last_seal, p_exported_sha256, vault.tx_actor());
  EXECUTE format('ALTER TABLE vault.audit_log DETACH PARTITION %s', v_partition);
  IF p_action IS NOT NULL THEN
    INSERT INTO vault.audit_leaves SELECT s, v_prune, l FROM unnest(p_seals, p_leaves) AS u (s, l);
    EXECUTE format('ALTER TABLE vault.%I RENAME TO audit_log_pruned', v_name);
    PERFORM vault._audit_partition(p_month);
    INSERT INTO vault.audit_log SELECT * FROM vault.audit_log_pruned WHERE action <> p_action;
    v_name := 'audit_log_pruned';
  END IF;
  EXECUTE format('DROP TABLE vault.%I', v_name);
  PERFORM vault._audit('audit.prune', NULL, NULL, p_request, v_result);
  RETURN vault._done(p_request, v_result);
END $$;

SELECT vault._protect_audit_partition(inhrelid::regclass) FROM pg_inherits
    WHERE inhparent = 'vault.audit_log'::regclass;
