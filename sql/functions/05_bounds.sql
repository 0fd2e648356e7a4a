-- Bounds of the arguments of functions that granted roles may call. Any program may have such a role, so an argument
-- that is null, negative, infinite or enormous gets an error that names it, before anything is locked or written.

-- With the bounds false and true, it refuses only null.
CREATE OR REPLACE FUNCTION vault._bound(p_name text, p_value anycompatible, p_least anycompatible, p_most anycompatible)
RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_value IS NULL OR p_value < p_least OR p_value > p_most THEN
    RAISE EXCEPTION '% is %: it must be % to %', p_name, coalesce(left(p_value::text, 64), 'null'), p_least, p_most
      USING ERRCODE = '22023';
  END IF;
END $$;

CREATE OR REPLACE FUNCTION vault._bound_length(p_name text, p_bytes int, p_least int, p_most int) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_bytes IS NULL THEN
    RAISE EXCEPTION '% is null: it must have % to % bytes', p_name, p_least, p_most USING ERRCODE = '22023';
  ELSIF p_bytes NOT BETWEEN p_least AND p_most THEN
    RAISE EXCEPTION '% has % bytes: it must have % to %', p_name, p_bytes, p_least, p_most USING ERRCODE = '22023';
  END IF;
END $$;
