-- +goose Up
-- What a round failed on: a part as a whole (subject ''), or one secret, version or month of that part. The row is
-- deleted when the part works again. It contains names of secrets, so row level security shows a service role those
-- under its prefixes.
CREATE TABLE vault.round_failures (
  part     text COLLATE "C" NOT NULL CONSTRAINT round_part_length CHECK (octet_length(part) BETWEEN 1 AND 64),
  subject  text COLLATE "C" NOT NULL DEFAULT '' CONSTRAINT round_subject_length CHECK (octet_length(subject) <= 255),
  since    timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  times    bigint NOT NULL DEFAULT 1,
  code     text NOT NULL DEFAULT '',                         -- SQLSTATE
  error    text NOT NULL,
  PRIMARY KEY (part, subject)
);

-- The heartbeat is independent of the supervisor, so it does not show that rounds are made.
ALTER TABLE vault.heartbeat ADD COLUMN supervised_at timestamptz;

-- The windows in use: few, however many secrets have one.
CREATE INDEX secrets_windows ON vault.secrets (rotation_window) WHERE rotation_window IS NOT NULL;

-- Intervals of mixed signs compare as positive and may be negative once they are added to a date. They are replaced by
-- the days and seconds that they compare as, and the log says so; times outside of 1970 to 9999 are replaced too.
-- +goose StatementBegin
DO $$
BEGIN
  IF to_regproc('vault._enter') IS NULL THEN
    RETURN;                                                  -- an empty database
  END IF;
  PERFORM vault._enter('maintenance', 'migrate');
  WITH odd AS (
    SELECT s.id, s.rotation_interval, s.grace_period, make_interval(days => (r.n / 86400)::int, secs => (r.n % 86400)::float8) AS plain_interval,
           make_interval(days => (g.n / 86400)::int, secs => (g.n % 86400)::float8) AS plain_grace
      FROM vault.secrets s,
        LATERAL (SELECT trunc(86400 * (30 * (12 * extract(year FROM s.rotation_interval) + extract(month FROM s.rotation_interval))
          + extract(day FROM s.rotation_interval)) + 3600 * extract(hour FROM s.rotation_interval) + 60 * extract(minute FROM s.rotation_interval)
          + extract(second FROM s.rotation_interval))::bigint AS n) AS r,
        LATERAL (SELECT trunc(86400 * (30 * (12 * extract(year FROM s.grace_period) + extract(month FROM s.grace_period))
          + extract(day FROM s.grace_period)) + 3600 * extract(hour FROM s.grace_period) + 60 * extract(minute FROM s.grace_period)
          + extract(second FROM s.grace_period))::bigint AS n) AS g
      WHERE least(extract(year FROM s.rotation_interval), extract(month FROM s.rotation_interval), extract(day FROM s.rotation_interval),
                  extract(hour FROM s.rotation_interval), extract(minute FROM s.rotation_interval), extract(second FROM s.rotation_interval)) < 0
         OR least(extract(year FROM s.grace_period), extract(month FROM s.grace_period), extract(day FROM s.grace_period),
                  extract(hour FROM s.grace_period), extract(minute FROM s.grace_period), extract(second FROM s.grace_period)) < 0),
  mended AS (
    UPDATE vault.secrets s SET rotation_interval = o.plain_interval, grace_period = o.plain_grace,
        next_rotation_at = CASE WHEN o.plain_interval IS NOT NULL THEN coalesce(s.rotated_at, now()) + o.plain_interval END
      FROM odd o WHERE s.id = o.id RETURNING s.name, s.rotation_interval, s.grace_period, o.rotation_interval AS was_interval, o.grace_period AS was_grace)
  INSERT INTO vault.audit_log (actor, action, secret, detail)
    SELECT 'migrate', 'update', name, jsonb_strip_nulls(jsonb_build_object('reason', 'an interval of mixed signs', 'rotation_interval', rotation_interval,
      'grace_period', grace_period, 'rotation_interval_was', was_interval, 'grace_period_was', was_grace)) FROM mended;
  UPDATE vault.secrets SET next_rotation_at = now()
    WHERE next_rotation_at IS NOT NULL AND next_rotation_at NOT BETWEEN '1970-01-01 UTC' AND '9999-12-01 UTC';
  UPDATE vault.secrets SET restore_until = least(greatest(restore_until, '1970-01-01 UTC'), '9999-12-01 UTC'),
      deleted_at = least(greatest(deleted_at, '1970-01-01 UTC'), '9999-12-01 UTC')
    WHERE NOT (restore_until BETWEEN '1970-01-01 UTC' AND '9999-12-01 UTC' AND deleted_at BETWEEN '1970-01-01 UTC' AND '9999-12-01 UTC');
  UPDATE vault.rotation_jobs SET due_at = least(greatest(due_at, '1970-01-01 UTC'), '9999-12-01 UTC'),
      run_after = CASE WHEN run_after BETWEEN '1970-01-01 UTC' AND '9999-12-01 UTC' THEN run_after ELSE now() END,
      claimed_at = least(greatest(claimed_at, '1970-01-01 UTC'), now())
    WHERE NOT (due_at BETWEEN '1970-01-01 UTC' AND '9999-12-01 UTC' AND run_after BETWEEN '1970-01-01 UTC' AND '9999-12-01 UTC'
               AND coalesce(claimed_at BETWEEN '1970-01-01 UTC' AND '9999-12-01 UTC', true));
  PERFORM vault._leave();
  SET CONSTRAINTS ALL IMMEDIATE;   -- a pending event would prevent ALTER of tx_context
  SET CONSTRAINTS ALL DEFERRED;
END $$;
-- +goose StatementEnd

ALTER TABLE vault.secrets
  ADD CONSTRAINT rotation_interval_plain CHECK (least(extract(year FROM rotation_interval), extract(month FROM rotation_interval),
    extract(day FROM rotation_interval), extract(hour FROM rotation_interval), extract(minute FROM rotation_interval),
    extract(second FROM rotation_interval)) >= 0),
  ADD CONSTRAINT grace_period_plain CHECK (least(extract(year FROM grace_period), extract(month FROM grace_period),
    extract(day FROM grace_period), extract(hour FROM grace_period), extract(minute FROM grace_period),
    extract(second FROM grace_period)) >= 0),
  ADD CONSTRAINT secret_times CHECK (next_rotation_at BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC'
    AND coalesce(restore_until BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC' AND deleted_at BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC', true));
ALTER TABLE vault.rotation_jobs
  ADD CONSTRAINT job_times CHECK (due_at BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC' AND run_after BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC'
    AND coalesce(claimed_at BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC', true));
