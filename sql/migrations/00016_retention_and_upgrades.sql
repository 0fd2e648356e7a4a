-- +goose Up
-- How long history stays that no read and no rotation needs: rotation jobs that have ended, and versions whose sealed
-- bytes were removed. Days, so that no interval of mixed signs is in them. A job stays for a day at least: after that
-- no worker that stalled in it asks again. So does a version: its request is in vault.requests for a week anyway.
ALTER TABLE vault.config
  ADD COLUMN keep_jobs_days      int NOT NULL DEFAULT 30
    CONSTRAINT keep_jobs_days_range CHECK (keep_jobs_days BETWEEN 1 AND 3650),
  ADD COLUMN keep_versions_days  int NOT NULL DEFAULT 400
    CONSTRAINT keep_versions_days_range CHECK (keep_versions_days BETWEEN 1 AND 3650);

CREATE INDEX versions_removed ON vault.secret_versions (removed_at) WHERE removed_at IS NOT NULL;

-- schema_version is what binaries up to version 13 compare with their own, and stop if it differs. From here on it is
-- the oldest version of a binary that works on the schema, and installed_version is the schema's own. Migrate sets
-- migrated_at with every installation; an older binary's migrate does not, and a trigger stops it.
ALTER TABLE vault.config
  ADD COLUMN installed_version  int,
  ADD COLUMN migrated_at        timestamptz;

-- of vaults that were set up with version 13 before it said so
ALTER TABLE vault.access_epoch
  SET (fillfactor = 10, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);

-- The vaultds that the primary has heard of, each process once.
CREATE TABLE vault.daemons (
  id              uuid PRIMARY KEY,
  node            text COLLATE "C" NOT NULL CONSTRAINT daemon_node_length CHECK (octet_length(node) BETWEEN 1 AND 255),
  version         text NOT NULL CONSTRAINT daemon_version_length CHECK (octet_length(version) BETWEEN 1 AND 128),
  commit          text NOT NULL CONSTRAINT daemon_commit_length CHECK (octet_length(commit) <= 128),
  schema_version  int NOT NULL,
  role_name       name NOT NULL DEFAULT session_user,
  since           timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
