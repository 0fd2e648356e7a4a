-- +goose Up
-- What the read path asks: the policy of secrets, once for both tables. Through the tables each had its own, and looked the caller's
-- prefixes up again, which was a tenth of a read. The barriers keep a function of the caller's from seeing other rows.
CREATE VIEW vault.readable_secrets WITH (security_barrier) AS
  SELECT id, name, current_version, rotated_at, next_rotation_at FROM vault.secrets
  WHERE deleted_at IS NULL AND (name ^@ ANY (ARRAY(SELECT prefix FROM vault.service_scope WHERE role_name = current_user))
                                OR (SELECT pg_has_role(current_user, 'vault_owner', 'USAGE')));

-- A secret that lost its versions still has a row, with nothing behind it.
CREATE VIEW vault.sealed_current WITH (security_barrier) AS
  SELECT s.name, s.current_version, s.rotated_at, s.next_rotation_at,
         v.version, v.version_id, v.fmt, v.kms_key_id, v.wrapped_dek, v.nonce, v.ciphertext, v.key_commit, v.aad, v.created_at, v.expires_at
  FROM vault.readable_secrets s LEFT JOIN vault.secret_versions v ON v.secret_id = s.id AND v.version = s.current_version;

-- A version is live while it is current or in grace; that is decided when it is read.
CREATE VIEW vault.sealed_live WITH (security_barrier) AS
  SELECT s.name, s.current_version, s.rotated_at, s.next_rotation_at,
         v.version, v.version_id, v.fmt, v.kms_key_id, v.wrapped_dek, v.nonce, v.ciphertext, v.key_commit, v.aad, v.created_at, v.expires_at
  FROM vault.readable_secrets s LEFT JOIN vault.secret_versions v ON v.secret_id = s.id AND v.removed_at IS NULL AND (v.expires_at IS NULL OR v.expires_at > now());
