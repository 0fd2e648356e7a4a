-- +goose Up
-- What the read path asks: the policy of secrets, once for both tables. Through the tables each had its own, and looked the caller's
-- prefixes up again, which was a tenth of a read. The barrier keeps a function of the caller's from seeing other rows.
--
-- The current version, and the versions that are live: current or in grace, which is decided when they are read. A secret that lost
-- its versions still has a row, with nothing behind it.
CREATE VIEW vault.sealed_current WITH (security_barrier) AS
  SELECT s.name, s.current_version, s.rotated_at, s.next_rotation_at,
         v.version, v.version_id, v.fmt, v.kms_key_id, v.wrapped_dek, v.nonce, v.ciphertext, v.key_commit, v.aad, v.created_at, v.expires_at
  FROM vault.secrets s LEFT JOIN vault.secret_versions v ON v.secret_id = s.id AND v.version = s.current_version
  WHERE s.deleted_at IS NULL AND (s.name ^@ ANY (ARRAY(SELECT prefix FROM vault.service_scope WHERE role_name = current_user))
                                  OR (SELECT pg_has_role(current_user, 'vault_owner', 'USAGE')));
CREATE VIEW vault.sealed_live WITH (security_barrier) AS
  SELECT s.name, s.current_version, s.rotated_at, s.next_rotation_at,
         v.version, v.version_id, v.fmt, v.kms_key_id, v.wrapped_dek, v.nonce, v.ciphertext, v.key_commit, v.aad, v.created_at, v.expires_at
  FROM vault.secrets s LEFT JOIN vault.secret_versions v ON v.secret_id = s.id AND v.removed_at IS NULL AND (v.expires_at IS NULL OR v.expires_at > now())
  WHERE s.deleted_at IS NULL AND (s.name ^@ ANY (ARRAY(SELECT prefix FROM vault.service_scope WHERE role_name = current_user))
                                  OR (SELECT pg_has_role(current_user, 'vault_owner', 'USAGE')));
