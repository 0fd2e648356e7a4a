-- The write API of secrets. Each function checks the right, looks for a replay, makes the change, writes the audit row
-- and stores the result. Errors: VA001 conflict, VA003 request id reused, VA004 not found, VA005 deleted, 42501 not
-- allowed, 22023 bad argument.

-- Up to a tenth earlier than a whole interval, always the same for a name, so that many secrets made on one day spread
-- out. With a window it is the first minute from then on at which the window is open. A window that cannot be read does
-- not move the time: the secret waits, and the supervisor reports it.
CREATE OR REPLACE FUNCTION vault._next_rotation(p_name text, p_from timestamptz, p_interval interval,
    p_window text) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  h bytea := sha256(convert_to(p_name, 'UTF8'));
  v_due timestamptz := p_from + p_interval * (1 - 0.1 * (get_byte(h, 0) * 256 + get_byte(h, 1)) / 65536.0);
BEGIN
  RETURN CASE WHEN p_window IS NULL OR v_due IS NULL THEN v_due
      ELSE coalesce(vault._window_opens(p_window, v_due), v_due) END;
END $$;

-- of releases whose rotations could be due outside windows
DROP FUNCTION IF EXISTS vault._next_rotation(text, timestamptz, interval);

-- An interval that is positive from any date, and bounded: '-120 months 3651 days' compares as 51 days, and is in the
-- past.
CREATE OR REPLACE FUNCTION vault._plain_interval(p_interval interval, p_least interval) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT p_interval BETWEEN p_least AND interval '3650 days'
      AND least(extract(year FROM p_interval), extract(month FROM p_interval),
    extract(day FROM p_interval), extract(hour FROM p_interval), extract(minute FROM p_interval),
        extract(second FROM p_interval)) >= 0
$$;

CREATE OR REPLACE FUNCTION vault._check_intervals(p_rotation interval, p_grace interval) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT vault._plain_interval(p_rotation, '1 minute') THEN
    RAISE EXCEPTION 'a rotation interval is 1 minute to 3650 days, with no part of it negative' USING ERRCODE = '22023';
  ELSIF NOT vault._plain_interval(p_grace, '0') THEN
    RAISE EXCEPTION 'a grace period is 0 to 3650 days, with no part of it negative' USING ERRCODE = '22023';
  END IF;
END $$;

CREATE OR REPLACE FUNCTION vault._lock_secret(p_name text) RETURNS vault.secrets
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE s vault.secrets;
BEGIN
  SELECT * INTO s FROM vault.secrets WHERE name = p_name FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'no secret "%"', left(p_name, 255) USING ERRCODE = 'VA004';
  END IF;
  RETURN s;
END $$;

-- A new value makes an open rotation pointless: the worker that holds its claim is refused when it completes.
-- Candidates are deleted with it, also those of failed jobs: they were meant to follow the version that is no longer
-- current. They are found by their index: their table is empty when its statistics are taken, and has the dead rows of
-- every rotation since.
CREATE OR REPLACE FUNCTION vault._supersede_job(p_secret_id bigint, p_version int) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off AS $$
BEGIN
  IF EXISTS (SELECT FROM vault.rotation_jobs WHERE secret_id = p_secret_id) THEN
    DELETE FROM vault.rotation_candidates WHERE job_id IN (SELECT id FROM vault.rotation_jobs
        WHERE secret_id = p_secret_id);
    UPDATE vault.rotation_jobs SET state = 'superseded', finished_at = clock_timestamp(), to_version = p_version
      WHERE secret_id = p_secret_id AND state IN ('queued', 'claimed');
  END IF;
END $$;

-- A window is "HH:MM-HH:MM Zone": a time of day in a zone of the tz database, over midnight if it ends before it
-- begins. It is open while the local clock shows a time within it. If the clock is put forward over all of it, it opens
-- later by as much, because it would otherwise be closed all day. Null: the window cannot be read, because the server
-- no longer has its zone.
--
-- A day's window is skipped by the clock if neither its first nor its last minute exists on that day; PostgreSQL reads
-- such a time by the clock before the change, which is as much later.
CREATE OR REPLACE FUNCTION vault._in_window(p_window text, p_at timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_zone text;
  v_begins time;
  v_length interval;   -- less than a day
  v_local timestamp;
  v_begin timestamp;
  v_last timestamp;
BEGIN
  IF p_window IS NULL OR p_at IS NULL THEN
    RETURN NULL;
  END IF;
  v_zone := substr(p_window, 13);
  v_begins := substr(p_window, 1, 5)::time;
  v_length := vault._later(v_begins, substr(p_window, 7, 5)::time);
  v_local := p_at AT TIME ZONE v_zone;
  IF vault._later(v_begins, v_local::time) < v_length THEN
    RETURN true;
  END IF;
  FOR d IN 0..1 LOOP
    v_begin := date_trunc('day', v_local) - make_interval(days => d) + v_begins;
    v_last := v_begin + v_length - interval '1 minute';
    IF v_begin AT TIME ZONE v_zone AT TIME ZONE v_zone <> v_begin
        AND v_last AT TIME ZONE v_zone AT TIME ZONE v_zone <> v_last
        AND p_at >= v_begin AT TIME ZONE v_zone AND p_at < v_begin AT TIME ZONE v_zone + v_length THEN
      RETURN true;
    END IF;
  END LOOP;
  RETURN false;
EXCEPTION WHEN data_exception THEN   -- the reads are in the body: an error in DECLARE is not caught here
  RETURN NULL;
END $$;

-- The time from one time of day to the next occurrence of the other.
CREATE OR REPLACE FUNCTION vault._later(p_from time, p_to time) RETURNS interval
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT p_to - p_from + CASE WHEN p_to < p_from THEN interval '24 hours' ELSE interval '0' END
$$;

-- The first moment from p_at on at which a window is open: p_at itself, or the beginning of a minute. Null if the
-- window cannot be read. If the clock is changed between p_at and the next beginning of the window, every minute is
-- tested.
CREATE OR REPLACE FUNCTION vault._window_opens(p_window text, p_at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_zone text;
  v_day timestamp;
  v_opens timestamptz;
BEGIN
  IF vault._in_window(p_window, p_at) IS NOT FALSE THEN
    RETURN CASE WHEN vault._in_window(p_window, p_at) THEN p_at END;
  END IF;
  v_zone := substr(p_window, 13);
  v_day := date_trunc('day', p_at AT TIME ZONE v_zone) + substr(p_window, 1, 5)::interval;
  FOR d IN -1..3 LOOP
    v_opens := (v_day + make_interval(days => d)) AT TIME ZONE v_zone;
    EXIT WHEN v_opens > p_at AND vault._in_window(p_window, v_opens);
  END LOOP;
  IF v_opens - p_at <> v_opens AT TIME ZONE v_zone - p_at AT TIME ZONE v_zone THEN
    v_opens := (SELECT m FROM generate_series(date_trunc('minute', p_at) + interval '1 minute', v_opens,
        interval '1 minute') AS m
                WHERE vault._in_window(p_window, m) LIMIT 1);
  END IF;
  RETURN v_opens;
EXCEPTION WHEN data_exception THEN
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION vault._check_window(p_window text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_window = '' OR p_window IS NULL THEN
    RETURN;
  ELSIF p_window !~ E'\\A([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9] [A-Za-z0-9_+/-]{1,64}\\Z'
      OR substr(p_window, 1, 5) = substr(p_window, 7, 5) THEN
    RAISE EXCEPTION 'a window is two different times of day and a time zone, as in "02:00-05:00 Europe/Berlin"'
        USING ERRCODE = '22023';
  END IF;
  -- Not every text that PostgreSQL accepts: "5" and POSIX specifications are zones too, with an unexpected sign.
  IF NOT EXISTS (SELECT FROM pg_timezone_names WHERE name = substr(p_window, 13)) THEN
    RAISE EXCEPTION 'no time zone "%"', substr(p_window, 13) USING ERRCODE = '22023';
  END IF;
END $$;

-- The only place that creates a version, beside complete_rotations. The caller holds the lock on the secret's row.
CREATE OR REPLACE FUNCTION vault._add_version(s vault.secrets, p_sealed vault.sealed_value, p_request uuid,
    p_actor text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_id uuid;
  v_created timestamptz;
  v_previous_expires timestamptz;
  v_next timestamptz;
BEGIN
  IF p_sealed.version IS DISTINCT FROM s.current_version + 1 THEN
    RAISE EXCEPTION 'secret "%" is at version %, not at %', s.name, s.current_version, p_sealed.version - 1
        USING ERRCODE = 'VA001';
  END IF;
  UPDATE vault.secret_versions SET expires_at = now() + s.grace_period, next_rotation_at = NULL
    WHERE name = s.name AND expires_at IS NULL RETURNING expires_at INTO v_previous_expires;
  IF s.rotation_interval IS NOT NULL THEN
    v_next := vault._next_rotation(s.name, now(), s.rotation_interval, s.rotation_window);
  END IF;
  INSERT INTO vault.secret_versions (secret_id, name, version, fmt, kms_key_id, wrapped_dek, nonce, ciphertext,
      key_commit, aad, request_id, created_by, next_rotation_at)
    SELECT s.id, s.name, p_sealed.*, p_request, p_actor, v_next
    RETURNING version_id, created_at INTO v_id, v_created;
  UPDATE vault.secrets SET current_version = p_sealed.version, rotated_at = now(), next_rotation_at = v_next
    WHERE id = s.id;
  RETURN jsonb_build_object('name', s.name, 'version', p_sealed.version, 'version_id', v_id, 'created_at', v_created,
    'previous_expires_at', v_previous_expires, 'next_rotation_at', v_next);
END $$;

-- A worker opens the secret that a rotator names by via= or key= with its own rights, so the author of the rotator must
-- have the right to change that secret too. Workers accept only the canonical form, words with one space between, so
-- this finds every name.
CREATE OR REPLACE FUNCTION vault._check_rotator(p_rotator text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM vault._require_change(opened[1]) FROM regexp_matches(p_rotator, '(?:^| )(?:via|key)=([^ ]*)', 'g') AS opened;
END $$;

-- False: another transaction has just created it.
CREATE OR REPLACE FUNCTION vault._create_secret(p_name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO vault.secrets (name) VALUES (p_name) ON CONFLICT (name) DO NOTHING;
  RETURN FOUND;
EXCEPTION WHEN unique_violation THEN
  RAISE EXCEPTION 'a secret named "%" exists: names may not differ by case alone',
    (SELECT name FROM vault.secrets WHERE lower(name) = lower(p_name)) USING ERRCODE = 'VA001';
END $$;

-- p_action: put, rotate or rollback, for the audit log. p_create_only: refuse a name that exists. Null keeps a setting
-- (or takes its default), '' removes a rotator or a window, and a generator makes the secret automatic. The grace of a
-- rotate applies once: "end the old value now" must not cut off the clients at every later rotation.
CREATE OR REPLACE FUNCTION vault.put_version(p_action text, p_name text, p_sealed vault.sealed_value,
    p_request uuid, p_create_only boolean DEFAULT false, p_generator text DEFAULT NULL,
    p_rotation_interval interval DEFAULT NULL, p_grace_period interval DEFAULT NULL, p_rotator text DEFAULT NULL,
    p_window text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s vault.secrets;
  v_actor text := vault._changer(p_name);
  v_settings boolean := num_nonnulls(p_generator, p_rotation_interval, p_grace_period, p_rotator, p_window) > 0;
  v_digest bytea := sha256(convert_to(p_action || ' ' || p_name || ' ', 'UTF8') ||   -- as _digest, without the call
    sha256(p_sealed.nonce || p_sealed.ciphertext || p_sealed.wrapped_dek) ||
    convert_to(format('%s %s %L %L %L %L %L', p_sealed.version, p_create_only, p_generator, p_rotation_interval,
        p_grace_period, p_rotator, p_window), 'UTF8'));
  v_result jsonb;
  v_created boolean;   -- null: the secret was there
BEGIN
  IF v_settings THEN
    PERFORM vault._check_intervals(p_rotation_interval, p_grace_period);
    PERFORM vault._check_window(p_window);
    PERFORM vault._check_rotator(p_rotator);
  END IF;
  IF (p_action IN ('put', 'rotate', 'rollback') AND p_sealed.version >= 1
      AND p_sealed.fmt BETWEEN 1 AND 32767) IS NOT TRUE THEN
    PERFORM vault._bound('p_sealed.version', p_sealed.version, 1, 2147483647);
    PERFORM vault._bound('p_sealed.fmt', p_sealed.fmt, 1, 32767);
    RAISE EXCEPTION 'put_version cannot record the action "%"', left(p_action, 32) USING ERRCODE = '22023';
  END IF;

  -- The lock also waits for a lost connection's transaction that is still committing the same request. After it, that
  -- request is there.
  SELECT * INTO s FROM vault.secrets WHERE name = p_name FOR UPDATE;
  LOOP
    IF p_request IS NULL OR v_digest IS NULL OR EXISTS (SELECT FROM vault.requests WHERE id = p_request) THEN
      RETURN vault._replayed(p_request, p_action, p_name, v_digest);
    END IF;
    EXIT WHEN s.id IS NOT NULL;
    IF p_action = 'put' THEN
      v_created := vault._create_secret(p_name);
    END IF;
    s := vault._lock_secret(p_name);
  END LOOP;
  IF p_create_only AND v_created IS NOT TRUE OR s.deleted_at IS NOT NULL THEN
    IF p_create_only AND v_created IS NOT TRUE THEN
      RAISE EXCEPTION 'secret "%" exists', p_name USING ERRCODE = 'VA001';
    END IF;
    RAISE EXCEPTION 'secret "%" is deleted', p_name USING ERRCODE = 'VA005';
  END IF;
  IF v_settings THEN
    IF p_rotation_interval IS NOT NULL AND coalesce(p_generator, s.generator) IS NULL THEN
      RAISE EXCEPTION 'secret "%" has no generator, so it cannot rotate by itself', p_name USING ERRCODE = '22023';
    ELSIF p_rotator <> '' AND coalesce(p_generator, s.generator) IS NULL THEN
      RAISE EXCEPTION 'secret "%" has no generator, so a rotator would have nothing to set', p_name
          USING ERRCODE = '22023';
    END IF;
    UPDATE vault.secrets SET
        kind = CASE WHEN coalesce(p_generator, generator) IS NULL THEN 'manual' ELSE 'automatic' END,
        generator = coalesce(p_generator, generator),
        rotation_interval = coalesce(p_rotation_interval, rotation_interval),
        next_rotation_at = CASE WHEN coalesce(p_rotation_interval, rotation_interval) IS NOT NULL THEN now() END,
        grace_period = CASE WHEN p_action = 'put' THEN coalesce(p_grace_period, grace_period) ELSE grace_period END,
        rotator = nullif(coalesce(p_rotator, rotator), ''),
        rotation_window = nullif(coalesce(p_window, rotation_window), '')
      WHERE id = s.id RETURNING * INTO s;
    s.grace_period := coalesce(p_grace_period, s.grace_period);   -- of this rotate only; later ones use the setting
  END IF;
  IF s.generator IS NOT NULL THEN   -- without one there is neither an open job nor a candidate
    PERFORM vault._supersede_job(s.id, p_sealed.version);
  END IF;
  v_result := vault._add_version(s, p_sealed, p_request, v_actor);
  INSERT INTO vault.audit_log (actor, client, action, secret, version, request_id, detail)
    VALUES (v_actor, vault._client(), p_action, p_name, p_sealed.version, p_request,
      jsonb_strip_nulls(jsonb_build_object('kms_key_id', p_sealed.kms_key_id, 'generator', p_generator,
        'rotation_interval', p_rotation_interval, 'grace_period', p_grace_period, 'rotator', p_rotator,
        'window', p_window)) || vault._via());
  INSERT INTO vault.requests (id, action, digest, result) VALUES (p_request, p_action, v_digest, v_result)
    ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN   -- at the same time, for another secret
    RAISE EXCEPTION 'request id % was used for something else', p_request USING ERRCODE = 'VA003';
  END IF;
  RETURN v_result;
END $$;

-- of releases that passed each sealed column on its own
DROP FUNCTION IF EXISTS vault.put_version(text, text, int, int, text, bytea, bytea, bytea, bytea, text, uuid,
    boolean, text, interval, interval, text, text);
DROP FUNCTION IF EXISTS vault._add_version(vault.secrets, int, int, text, bytea, bytea, bytea, bytea, text, uuid);
-- of releases in which it looked up the actor
DROP FUNCTION IF EXISTS vault._add_version(vault.secrets, vault.sealed_value, uuid);

-- Null keeps a setting, '' removes a rotator or a window. p_manual: the vault stops rotating the secret and drops its
-- generator. p_no_rotation: it keeps the generator, but rotates only on request.
CREATE OR REPLACE FUNCTION vault.update_secret(p_name text, p_request uuid, p_generator text,
    p_rotation_interval interval,
    p_grace_period interval, p_manual boolean DEFAULT false, p_no_rotation boolean DEFAULT false,
        p_rotator text DEFAULT NULL,
    p_window text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s vault.secrets;
  v_result jsonb;
  v_interval interval;
BEGIN
  PERFORM vault._require_change(p_name);
  PERFORM vault._check_intervals(p_rotation_interval, p_grace_period);
  PERFORM vault._check_window(p_window);
  PERFORM vault._check_rotator(p_rotator);
  PERFORM vault._bound('p_manual', p_manual, false, true);
  PERFORM vault._bound('p_no_rotation', p_no_rotation, false, true);
  v_result := vault._replay(p_request, 'update', p_name, convert_to(format('%L %L %L %s %s %L %L',
    p_generator, p_rotation_interval, p_grace_period, p_manual, p_no_rotation, p_rotator, p_window), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  s := vault._lock_secret(p_name);
  IF s.deleted_at IS NOT NULL THEN
    RAISE EXCEPTION 'secret "%" is deleted', p_name USING ERRCODE = 'VA005';
  ELSIF p_manual AND (p_generator IS NOT NULL OR p_rotation_interval IS NOT NULL OR p_rotator <> '') THEN
    RAISE EXCEPTION 'a manual secret has neither a generator nor a rotation interval nor a rotator'
        USING ERRCODE = '22023';
  ELSIF p_rotation_interval IS NOT NULL AND coalesce(p_generator, s.generator) IS NULL THEN
    RAISE EXCEPTION 'secret "%" has no generator, so it cannot rotate by itself', p_name USING ERRCODE = '22023';
  ELSIF p_rotator <> '' AND coalesce(p_generator, s.generator) IS NULL THEN
    RAISE EXCEPTION 'secret "%" has no generator, so a rotator would have nothing to set', p_name
        USING ERRCODE = '22023';
  END IF;
  v_interval := CASE WHEN NOT p_manual AND NOT p_no_rotation
      THEN coalesce(p_rotation_interval, s.rotation_interval) END;
  UPDATE vault.secrets SET
      kind = CASE WHEN p_manual OR coalesce(p_generator, generator) IS NULL THEN 'manual' ELSE 'automatic' END,
      generator = CASE WHEN NOT p_manual THEN coalesce(p_generator, generator) END,
      rotation_interval = v_interval,
      -- An edited interval counts from the last new value, so a shorter one may be due at once.
      next_rotation_at = CASE WHEN v_interval IS NOT DISTINCT FROM rotation_interval
                                AND coalesce(p_window, rotation_window, '') = coalesce(rotation_window, '')
                                    THEN next_rotation_at
                              ELSE vault._next_rotation(name, coalesce(rotated_at, now()), v_interval,
                                  nullif(coalesce(p_window, rotation_window), '')) END,
      grace_period = coalesce(p_grace_period, grace_period),
      rotator = CASE WHEN NOT p_manual THEN nullif(coalesce(p_rotator, rotator), '') END,
      rotation_window = nullif(coalesce(p_window, rotation_window), '')
    WHERE id = s.id RETURNING * INTO s;
  -- A job that an operator requested stays open, as long as there is a generator.
  IF s.generator IS NULL OR (s.rotation_interval IS NULL AND NOT EXISTS (
      SELECT FROM vault.rotation_jobs WHERE secret_id = s.id AND state IN ('queued', 'claimed')
          AND requested_by IS NOT NULL)) THEN
    PERFORM vault._supersede_job(s.id, NULL);
  END IF;
  PERFORM vault._audit('update', p_name, NULL, p_request, jsonb_build_object('generator', p_generator,
    'rotation_interval', p_rotation_interval, 'grace_period', p_grace_period, 'manual', nullif(p_manual, false),
    'no_rotation', nullif(p_no_rotation, false), 'rotator', p_rotator, 'window', p_window));
  RETURN vault._done(p_request, jsonb_build_object('name', s.name, 'version', s.current_version, 'next_rotation_at',
      s.next_rotation_at));
END $$;

CREATE OR REPLACE FUNCTION vault.delete_secret(p_name text, p_request uuid, p_window interval) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s vault.secrets;
  v_result jsonb;
BEGIN
  PERFORM vault._require_change(p_name);
  v_result := vault._replay(p_request, 'delete', p_name, convert_to(format('%L', p_window), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  IF vault._plain_interval(p_window, '0') IS NOT TRUE THEN
    RAISE EXCEPTION 'a deleted secret stays restorable for 0 to 3650 days' USING ERRCODE = '22023';
  END IF;
  s := vault._lock_secret(p_name);
  IF s.deleted_at IS NOT NULL THEN
    RAISE EXCEPTION 'secret "%" is deleted', p_name USING ERRCODE = 'VA005';
  END IF;
  UPDATE vault.secrets SET deleted_at = now(), restore_until = now() + p_window WHERE id = s.id RETURNING * INTO s;
  PERFORM vault._supersede_job(s.id, NULL);
  PERFORM vault._audit('delete', p_name, s.current_version, p_request,
      jsonb_build_object('restore_until', s.restore_until));
  RETURN vault._done(p_request, jsonb_build_object('name', s.name, 'version', s.current_version, 'restore_until',
      s.restore_until));
END $$;

CREATE OR REPLACE FUNCTION vault.restore_secret(p_name text, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s vault.secrets;
  v_result jsonb;
BEGIN
  PERFORM vault._require_change(p_name);
  v_result := vault._replay(p_request, 'restore', p_name, '');
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  s := vault._lock_secret(p_name);
  IF s.deleted_at IS NULL THEN
    RAISE EXCEPTION 'secret "%" is not deleted', p_name USING ERRCODE = 'VA001';
  ELSIF s.restore_until <= now() THEN           -- this decides, even if the purge has not run yet
    RAISE EXCEPTION 'no secret "%": it can no longer be restored', p_name USING ERRCODE = 'VA004';
  END IF;
  UPDATE vault.secrets SET deleted_at = NULL, restore_until = NULL WHERE id = s.id;
  PERFORM vault._audit('restore', p_name, s.current_version, p_request);
  RETURN vault._done(p_request, jsonb_build_object('name', s.name, 'version', s.current_version, 'next_rotation_at',
      s.next_rotation_at));
END $$;

CREATE OR REPLACE FUNCTION vault._purge(s vault.secrets, p_request uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE vault.tx_context SET purging = s.name WHERE xid = pg_current_xact_id();
  DELETE FROM vault.rotation_jobs WHERE secret_id = s.id;
  DELETE FROM vault.secret_versions WHERE secret_id = s.id;
  DELETE FROM vault.secrets WHERE id = s.id;
  UPDATE vault.tx_context SET purging = NULL WHERE xid = pg_current_xact_id();
  PERFORM vault._audit('purge', s.name, s.current_version, p_request);
END $$;

CREATE OR REPLACE FUNCTION vault.purge_secret(p_name text, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s vault.secrets;
  v_result jsonb;
BEGIN
  PERFORM vault._require_change(p_name);
  v_result := vault._replay(p_request, 'purge', p_name, '');
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  s := vault._lock_secret(p_name);
  PERFORM vault._purge(s, p_request);
  RETURN vault._done(p_request, jsonb_build_object('name', s.name, 'version', s.current_version));
END $$;

-- Ends the grace of one superseded version (null: of all) now. The versions stay in the history.
CREATE OR REPLACE FUNCTION vault.end_grace(p_name text, p_version int, p_request uuid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s vault.secrets;
  v_result jsonb;
  v_ended int[];
BEGIN
  PERFORM vault._require_change(p_name);
  v_result := vault._replay(p_request, 'grace.end', p_name, convert_to(format('%L', p_version), 'UTF8'));
  IF v_result IS NOT NULL THEN
    RETURN v_result;
  END IF;
  s := vault._lock_secret(p_name);
  WITH ended AS (
    UPDATE vault.secret_versions SET expires_at = now()
      WHERE secret_id = s.id AND expires_at > now() AND (p_version IS NULL OR version = p_version) RETURNING version)
  SELECT array_agg(version ORDER BY version) INTO v_ended FROM ended;
  IF v_ended IS NULL THEN
    RAISE EXCEPTION '%', CASE WHEN p_version IS NULL THEN format('secret "%s" has no version in grace', p_name)
                              ELSE format('version %s of "%s" is not in grace', p_version, p_name) END
                                  USING ERRCODE = 'VA004';
  END IF;
  PERFORM vault._audit('grace.end', p_name, v, p_request) FROM unnest(v_ended) AS v;
  RETURN vault._done(p_request, jsonb_build_object('name', s.name, 'version', s.current_version, 'ended_versions',
      to_jsonb(v_ended)));
END $$;

-- Moves rotations that an earlier release made due outside their windows.
DO $$
BEGIN
  PERFORM vault._enter('maintenance', 'migrate');
  UPDATE vault.secrets SET next_rotation_at = vault._window_opens(rotation_window, next_rotation_at) WHERE id IN (
    SELECT id FROM vault.secrets WHERE rotation_window IS NOT NULL AND next_rotation_at > now()
      AND vault._in_window(rotation_window, next_rotation_at) IS FALSE FOR UPDATE SKIP LOCKED);
  PERFORM vault._leave();
  SET CONSTRAINTS ALL IMMEDIATE;   -- a pending event would prevent ALTER of tx_context
  SET CONSTRAINTS ALL DEFERRED;
END $$;
