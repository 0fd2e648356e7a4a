-- The audit log by month, and the seals over it.

-- ---------- partitions ----------

-- A partition is reached through vault.audit_log, whose policies then hold. Whoever names it himself meets its own: nobody
-- writes, and triggers of TRUNCATE are not inherited.
CREATE OR REPLACE FUNCTION vault._protect_audit_partition(p_partition regclass) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', p_partition);
  EXECUTE format('DROP POLICY IF EXISTS owner_reads ON %s', p_partition);
  EXECUTE format('CREATE POLICY owner_reads ON %s FOR SELECT TO vault_owner USING (true)', p_partition);
  EXECUTE format('CREATE OR REPLACE TRIGGER audit_is_never_truncated BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION vault._forbid()', p_partition);
  EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER audit_is_never_truncated', p_partition);
END $$;

-- Makes the partition of a month unless it is there. ATTACH, because CREATE TABLE ... PARTITION OF would shut readers and
-- writers of every month out until it has its lock.
CREATE OR REPLACE FUNCTION vault._audit_partition(p_month date) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
  v_month timestamp := date_trunc('month', p_month::timestamp);
  v_name text := 'audit_log_' || to_char(v_month, 'YYYY_MM');
BEGIN
  IF to_regclass('vault.' || v_name) IS NOT NULL THEN
    RETURN false;
  END IF;
  EXECUTE format('CREATE TABLE vault.%I (LIKE vault.audit_log INCLUDING ALL)', v_name);
  EXECUTE format('ALTER TABLE vault.audit_log ATTACH PARTITION vault.%I FOR VALUES FROM (%L) TO (%L)',
    v_name, v_month AT TIME ZONE 'UTC', (v_month + interval '1 month') AT TIME ZONE 'UTC');
  PERFORM vault._protect_audit_partition(('vault.' || v_name)::regclass);
  RETURN true;
END $$;

-- Rows that came before their month's partition move into it, unchanged.
CREATE OR REPLACE FUNCTION vault._audit_empty_default() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE m timestamp;
BEGIN
  ALTER TABLE vault.audit_log DETACH PARTITION vault.audit_log_default;
  FOR m IN SELECT DISTINCT date_trunc('month', at AT TIME ZONE 'UTC') FROM vault.audit_log_default LOOP
    PERFORM vault._audit_partition(m::date);
  END LOOP;
  INSERT INTO vault.audit_log SELECT * FROM vault.audit_log_default;
  ALTER TABLE vault.audit_log_default DISABLE TRIGGER audit_is_never_truncated;
  TRUNCATE vault.audit_log_default;
  ALTER TABLE vault.audit_log_default ENABLE ALWAYS TRIGGER audit_is_never_truncated;
  ALTER TABLE vault.audit_log ATTACH PARTITION vault.audit_log_default DEFAULT;
END $$;

-- The partitions of this month and the next two. What goes wrong (a long reader that keeps its lock, most likely) is the
-- next round's: until then the default partition takes the rows.
CREATE OR REPLACE FUNCTION vault._audit_partitions() RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
  v_made int := 0;
BEGIN
  IF EXISTS (SELECT FROM vault.audit_log_default) THEN
    PERFORM vault._audit_empty_default();
  END IF;
  FOR i IN 0..2 LOOP
    v_made := v_made + vault._audit_partition((v_month + make_interval(months => i))::date)::int;
  END LOOP;
  RETURN v_made;
EXCEPTION WHEN OTHERS THEN
  RAISE WARNING 'vault: making partitions of the audit log: %', SQLERRM;
  RETURN 0;
END $$;

SELECT vault._protect_audit_partition(inhrelid::regclass) FROM pg_inherits WHERE inhparent = 'vault.audit_log'::regclass;
