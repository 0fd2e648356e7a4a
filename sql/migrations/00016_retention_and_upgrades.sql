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

-- Where the vault is: the system identifier of the server and the oid of the database, as vault._settle_scopes() found
-- them. A dump that is restored elsewhere has another place in it, and there oids are those of other roles. Null, of a
-- vault that has just come to this version, counts as another place: it may be such a dump.
ALTER TABLE vault.config ADD COLUMN home text;

-- The groups that roles were granted. Memberships belong to the cluster: a dump of a database has none, and what
-- pg_dumpall of 15 writes is refused in part by 16 and newer, because a grant comes before the right to grant it. Grants
-- of earlier versions: a worker or auditor that has no prefix is not known here. role_id is an oid and not a regrole, so
-- that a cluster that lacks a role takes all rows of a dump; vault._settle_scopes() finds the roles by name there.
CREATE TABLE vault.group_grants (
  role_id     oid,   -- null: the vault was restored, and there was no role of this name since
  role_name   name NOT NULL,
  group_name  name NOT NULL CONSTRAINT granted_group
              CHECK (group_name IN ('vault_service', 'vault_worker', 'vault_auditor')),
  CONSTRAINT granted_once UNIQUE (role_id, group_name)
);
INSERT INTO vault.group_grants (role_id, role_name, group_name)
  SELECT DISTINCT r.oid, r.rolname, g.name
    FROM vault.service_scope s JOIN pg_roles r ON r.oid = s.role_id AND r.rolname = s.role_name
    CROSS JOIN (VALUES ('vault_service'::name), ('vault_worker'), ('vault_auditor')) AS g (name)
    WHERE g.name = 'vault_service'
      OR EXISTS (SELECT FROM pg_auth_members m WHERE m.roleid = g.name::text::regrole AND m.member = r.oid);
