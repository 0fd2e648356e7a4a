-- What released numbers once stood for. Numbers and contents of migrations are frozen since version 13. Before that,
-- some changed: version 6 was two views that a read asked, which are 7 in another form now; 11 was 12; 3 had seals
-- without marks. A vault that was set up with those has the numbers in its list of migrations, and not what they stand
-- for today. Each migration from 6 to 13 makes something that no other does, and by that the list is corrected here,
-- before the migrations that are missing. On any other vault, this changes nothing.
DO $$
DECLARE
  v_version int;
  v_there boolean;
BEGIN
  IF to_regclass('vault.config') IS NULL THEN
    RETURN;
  END IF;
  IF to_regclass('vault.audit_seals') IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attribute
      WHERE attrelid = to_regclass('vault.audit_seals') AND attname = 'marks' AND NOT attisdropped) THEN
    -- No program made seals of that form.
    ALTER TABLE vault.audit_seals ADD COLUMN marks bytea NOT NULL
        CONSTRAINT seal_marks_length CHECK (octet_length(marks) = 4 * rows);
    DROP TABLE vault.audit_leaves;
    CREATE TABLE vault.audit_leaves (
      seal    bigint NOT NULL REFERENCES vault.audit_seals,
      prune   bigint NOT NULL,
      leaves  bytea NOT NULL
              CONSTRAINT leaves_length CHECK (octet_length(leaves) > 0 AND octet_length(leaves) % 48 = 0),
      PRIMARY KEY (seal, prune)
    );
  END IF;
  IF to_regclass('vault.sealed_current') IS NOT NULL THEN
    DROP VIEW vault.sealed_current, vault.sealed_live;
    IF to_regclass('vault.readable_secrets') IS NOT NULL THEN
      DROP VIEW vault.readable_secrets;
    END IF;
  END IF;
  FOR v_version, v_there IN VALUES
      (6, EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'vault.secret_versions'::regclass
        AND attname = 'next_rotation_at' AND NOT attisdropped)),
      (7, to_regclass('vault.sealed_versions') IS NOT NULL),
      (8, coalesce(pg_get_indexdef(to_regclass('vault.rotation_jobs_queue')) ~ 'run_after IS NOT NULL', false)),
      (9, to_regclass('vault.round_failures') IS NOT NULL),
      (10, to_regclass('vault.lock_claims') IS NOT NULL),
      (11, to_regclass('vault.token_revocations') IS NOT NULL),
      (12, to_regtype('vault.sealed_value') IS NOT NULL),
      (13, to_regclass('vault.apps') IS NOT NULL) LOOP
    IF NOT v_there THEN
      DELETE FROM vault.goose_db_version WHERE version_id = v_version;
    ELSIF NOT EXISTS (SELECT FROM vault.goose_db_version WHERE version_id = v_version) THEN
      INSERT INTO vault.goose_db_version (version_id, is_applied) VALUES (v_version, true);
    END IF;
  END LOOP;
END $$;
