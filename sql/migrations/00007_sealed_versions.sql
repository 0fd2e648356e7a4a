-- +goose Up
-- What was there before the trigger of migration 6 is told here. Reads go on until the moment at the end when an index is replaced;
-- whoever changes a secret waits for the end of this, or this for him: secrets are locked before versions, as everywhere. An empty
-- database has no functions yet.
-- +goose StatementBegin
DO $$
BEGIN
  IF to_regproc('vault._enter') IS NOT NULL THEN
    PERFORM vault._enter('maintenance', 'migrate');
    WITH s AS MATERIALIZED (
      SELECT id, next_rotation_at, deleted_at FROM vault.secrets WHERE next_rotation_at IS NOT NULL OR deleted_at IS NOT NULL ORDER BY id FOR SHARE)
    UPDATE vault.secret_versions v SET next_rotation_at = CASE WHEN v.expires_at IS NULL THEN s.next_rotation_at END, deleted_at = s.deleted_at
      FROM s WHERE v.secret_id = s.id AND v.removed_at IS NULL AND (v.expires_at IS NULL OR s.deleted_at IS NOT NULL);
    PERFORM vault._leave();
  END IF;
END $$;
-- +goose StatementEnd
CREATE INDEX versions_live ON vault.secret_versions (name) WHERE removed_at IS NULL;
CREATE UNIQUE INDEX current_versions ON vault.secret_versions (name) WHERE expires_at IS NULL;
DROP INDEX vault.one_current_version;
ALTER INDEX vault.current_versions RENAME TO one_current_version;

-- What the read path asks: by the policy of secret_versions, without those of deleted secrets. The barrier keeps a function of the
-- caller's from seeing other rows. Which of them is current or in grace is for the query to say, when it reads.
CREATE VIEW vault.sealed_versions WITH (security_barrier) AS
  SELECT name, version, version_id, fmt, kms_key_id, wrapped_dek, nonce, ciphertext, key_commit, aad, created_at, expires_at, next_rotation_at
  FROM vault.secret_versions
  WHERE removed_at IS NULL AND deleted_at IS NULL
    AND (name ^@ ANY (ARRAY(SELECT prefix FROM vault.service_scope WHERE role_name = current_user))
         OR (SELECT pg_has_role(current_user, 'vault_owner', 'USAGE')));
