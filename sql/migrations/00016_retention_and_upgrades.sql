-- +goose Up
-- How long history stays that no read and no rotation needs: rotation jobs that have ended, and versions whose sealed
-- bytes were removed. Days, so that no interval of mixed signs is in them. A job stays for a day at least: after that no
-- worker that stalled in it asks again. A version too: its request id is known for a week in vault.requests anyway.
ALTER TABLE vault.config
  ADD COLUMN keep_jobs_days      int NOT NULL DEFAULT 30
    CONSTRAINT keep_jobs_days_range CHECK (keep_jobs_days BETWEEN 1 AND 3650),
  ADD COLUMN keep_versions_days  int NOT NULL DEFAULT 400
    CONSTRAINT keep_versions_days_range CHECK (keep_versions_days BETWEEN 1 AND 3650);

CREATE INDEX versions_removed ON vault.secret_versions (removed_at) WHERE removed_at IS NOT NULL;

-- schema_version is what binaries up to version 13 compare with their own, and stop if it differs. From here on it is the
-- oldest version of a binary that works on the schema, and installed_version is the schema's own. Migrate sets
-- migrated_at with every installation; an older binary's migrate does not, and a trigger stops it.
ALTER TABLE vault.config
  ADD COLUMN installed_version  int,
  ADD COLUMN migrated_at        timestamptz;
