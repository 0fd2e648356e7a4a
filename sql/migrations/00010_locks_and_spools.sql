-- +goose Up
-- Sessions wait for tables on which no other role has a privilege: any role that may connect can take an advisory lock.
-- Each is locked IN EXCLUSIVE MODE, which pg_dump does not wait for, and pg_locks then names the holder. The tables
-- have no rows. Migrate creates its own before the first migration.
CREATE TABLE IF NOT EXISTS vault.lock_migration (unused boolean);
CREATE TABLE vault.lock_claims (unused boolean);
CREATE TABLE vault.lock_sealing (unused boolean);

-- A spool is continued by the role that began it. The oid tells a role from another of the same name, but only in the
-- cluster that assigned it: a restored dump is in a cluster where other roles may have the oids. Null: begun before
-- roles were kept.
ALTER TABLE vault.audit_spools
  ADD COLUMN role_name  name,
  ADD COLUMN role_oid   oid,
  ADD COLUMN system_id  bigint;
-- Counted when a role begins another spool.
CREATE INDEX audit_spools_by_role ON vault.audit_spools (role_name, shipped_at);

-- Every program that shows the log prints the name. An empty database has no functions yet, and no spools.
-- +goose StatementBegin
DO $$
BEGIN
  IF to_regproc('vault._enter') IS NOT NULL THEN
    PERFORM vault._enter('maintenance', 'migrate');
    UPDATE vault.audit_spools SET node = regexp_replace(node,
        '[\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]', '?', 'g')
      WHERE node ~ '[\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]';
    PERFORM vault._leave();
  END IF;
END $$;
-- +goose StatementEnd
