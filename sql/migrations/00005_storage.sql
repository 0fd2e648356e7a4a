-- +goose Up
-- What vault.status() counts, it counts in an index.
CREATE INDEX secrets_paused ON vault.secrets (rotation_paused_at) WHERE rotation_paused_at IS NOT NULL AND deleted_at IS NULL;
