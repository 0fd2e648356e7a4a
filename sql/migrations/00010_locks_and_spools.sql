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
    -- Two names may become one: those keep a part of the hash of what they were.
    WITH named AS (
      SELECT node, boot, regexp_replace(node,
          '[\u0001-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]', '?', 'g') AS shown
        FROM vault.audit_spools)
    UPDATE vault.audit_spools s SET node = CASE
        WHEN EXISTS (SELECT FROM named o WHERE o.boot = n.boot AND o.shown = n.shown AND o.node <> n.node)
          THEN left(n.shown, 50) || '?' || left(encode(sha256(convert_to(n.node, 'UTF8')), 'hex'), 32)
        ELSE n.shown END
      FROM named n WHERE s.node = n.node AND s.boot = n.boot AND n.shown <> n.node;
    PERFORM vault._leave();
  END IF;
END $$;
-- +goose StatementEnd
