-- Many changes in one transaction, for import and export. Each row goes through the function for one, so each is
-- authorised, replayed and recorded separately; either all are made, or none.

-- Takes [{"name", "sealed": a vault.sealed_value, as its literal or as an object, "request_id", "create_only",
-- "generator", "rotation_interval", "grace_period", "rotator", "window"}], and returns the results of put_version, in
-- the same order.
CREATE OR REPLACE FUNCTION vault.put_versions(p_puts jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p record;
  v_results jsonb[] := '{}';
BEGIN
  IF jsonb_typeof(p_puts) IS DISTINCT FROM 'array' OR jsonb_array_length(p_puts) NOT BETWEEN 1 AND 1000 THEN
    RAISE EXCEPTION 'put_versions takes an array of 1 to 1000 versions' USING ERRCODE = '22023';
  END IF;
  FOR p IN SELECT * FROM jsonb_to_recordset(p_puts) AS r (name text, sealed vault.sealed_value, request_id uuid,
      create_only boolean, generator text, rotation_interval interval, grace_period interval, rotator text,
      "window" text) LOOP
    v_results := v_results || vault.put_version('put', p.name, p.sealed, p.request_id, coalesce(p.create_only, false),
      p.generator, p.rotation_interval, p.grace_period, p.rotator, p."window");
  END LOOP;
  RETURN to_jsonb(v_results);
END $$;

-- Takes [{"action", "secret", "version", "outcome", "request_id", "detail"}] and calls record_read for each.
CREATE OR REPLACE FUNCTION vault.record_reads(p_reads jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF jsonb_typeof(p_reads) IS DISTINCT FROM 'array' OR jsonb_array_length(p_reads) NOT BETWEEN 1 AND 1000 THEN
    RAISE EXCEPTION 'record_reads takes an array of 1 to 1000 reads' USING ERRCODE = '22023';
  END IF;
  PERFORM vault.record_read(r.action, r.secret, r.version, r.outcome, r.request_id, r.detail)
    FROM jsonb_to_recordset(p_reads) AS r (action text, secret text, version int, outcome text, request_id uuid,
        detail jsonb);
  RETURN true;
END $$;
