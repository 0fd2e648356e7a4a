-- +goose Up
-- Where a secret is used, when it may rotate, and whether it may at all just now.
ALTER TABLE vault.secrets
  ADD COLUMN rotator            text COLLATE "C" CONSTRAINT secret_rotator_length CHECK (octet_length(rotator) BETWEEN 1 AND 2048),
  ADD COLUMN rotation_window    text COLLATE "C" CONSTRAINT rotation_window_grammar
    CHECK (rotation_window ~ '\A([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9] [A-Za-z0-9_+/-]{1,64}\Z'),
  ADD COLUMN rotation_paused_at timestamptz,
  ADD CONSTRAINT rotator_has_generator CHECK (rotator IS NULL OR generator IS NOT NULL);

ALTER TABLE vault.rotation_jobs
  ADD COLUMN failures     int NOT NULL DEFAULT 0,            -- since it was enqueued or retried by hand; attempt only ever grows
  ADD COLUMN requested_by text;                              -- who asked for it by hand; such a job waits for no window
CREATE INDEX rotation_jobs_claimed ON vault.rotation_jobs (claimed_at) WHERE state = 'claimed';
CREATE INDEX rotation_jobs_secret ON vault.rotation_jobs (secret_id, id);
CREATE INDEX rotation_jobs_finished ON vault.rotation_jobs (finished_at) WHERE state IN ('done', 'superseded');

-- The value a job brings to its target, sealed before the target hears of it: whatever crashes afterwards, the next attempt
-- applies the same bytes. Apart from rotation_jobs, which service roles may read.
CREATE TABLE vault.rotation_candidates (
  job_id       bigint PRIMARY KEY REFERENCES vault.rotation_jobs ON DELETE CASCADE,
  name         text COLLATE "C" NOT NULL,
  version      int NOT NULL CONSTRAINT candidate_version_positive CHECK (version > 0),
  fmt          smallint NOT NULL,
  kms_key_id   text NOT NULL CONSTRAINT candidate_kms_key_id_length CHECK (octet_length(kms_key_id) BETWEEN 1 AND 2048),
  wrapped_dek  bytea NOT NULL CONSTRAINT candidate_wrapped_dek_length CHECK (octet_length(wrapped_dek) BETWEEN 1 AND 6144),
  nonce        bytea NOT NULL CONSTRAINT candidate_nonce_length CHECK (octet_length(nonce) = 24),
  ciphertext   bytea NOT NULL CONSTRAINT candidate_ciphertext_length CHECK (octet_length(ciphertext) BETWEEN 1 + 16 AND 65536 + 16),
  key_commit   bytea NOT NULL CONSTRAINT candidate_key_commit_length CHECK (octet_length(key_commit) = 32),
  aad          text COLLATE "C" NOT NULL CONSTRAINT candidate_aad_is_name_and_version CHECK (aad = name || ':' || version),
  stored_at    timestamptz NOT NULL DEFAULT now()
);

-- The primary says how late it is. Standbys tell from it how far behind they are, and everybody which history this is: a
-- promotion begins another timeline and with it another epoch. Two nodes promoted from one primary share the timeline's
-- number, never the epoch.
CREATE TABLE vault.heartbeat (
  only_row     boolean PRIMARY KEY DEFAULT true CONSTRAINT heartbeat_has_one_row CHECK (only_row),
  at           timestamptz NOT NULL,
  timeline     int NOT NULL,
  epoch        uuid NOT NULL DEFAULT gen_random_uuid(),
  began_at     timestamptz NOT NULL                          -- of the epoch
);

ALTER TABLE vault.config ADD COLUMN max_rotations int CONSTRAINT max_rotations_range CHECK (max_rotations BETWEEN 0 AND 100000);

-- These take more arguments now; CREATE OR REPLACE would leave the old ones beside the new.
DROP FUNCTION IF EXISTS vault.put_version(text, text, int, int, text, bytea, bytea, bytea, bytea, text, uuid, boolean, text, interval, interval);
DROP FUNCTION IF EXISTS vault.update_secret(text, uuid, text, interval, interval, boolean, boolean);
DROP FUNCTION IF EXISTS vault.claim_rotations(text, int, interval);
