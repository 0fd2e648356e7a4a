-- +goose Up
-- The sealed columns of a version as one argument. No other role may use the type for a column: a table of its own would
-- keep a later release from changing the type.
CREATE TYPE vault.sealed_value AS (
  version      int,
  fmt          int,
  kms_key_id   text,
  wrapped_dek  bytea,
  nonce        bytea,
  ciphertext   bytea,
  key_commit   bytea,
  aad          text COLLATE "C"
);
REVOKE USAGE ON TYPE vault.sealed_value FROM PUBLIC;
