-- +goose Up
-- EXECUTE on a new function is PUBLIC by default, and only this global form revokes it: the per-schema form is a no-op.
ALTER DEFAULT PRIVILEGES FOR ROLE vault_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

CREATE TABLE vault.config (
  only_row          boolean PRIMARY KEY DEFAULT true CONSTRAINT config_has_one_row CHECK (only_row),
  cluster_id        uuid NOT NULL DEFAULT gen_random_uuid(),
  default_kms_key   text,                                    -- a URI; never one with an endpoint of its own
  schema_version    int NOT NULL DEFAULT 0,                  -- what a binary compares with its own before anything else
  functions_sha256  bytea,                                   -- which text of functions/ and policies/ is installed
  created_at        timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE vault.admin_tokens (
  id            uuid PRIMARY KEY,
  name          text COLLATE "C" NOT NULL
                CONSTRAINT token_name_grammar CHECK (name ~ '\A[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\Z'),
  token_sha256  bytea NOT NULL UNIQUE CONSTRAINT token_fingerprint_length CHECK (octet_length(token_sha256) = 32),
  scope         text COLLATE "C" NOT NULL DEFAULT ''         -- a name prefix; '' = everything, and tokens and grants too
                CONSTRAINT token_scope_length CHECK (octet_length(scope) <= 255),
  created_at    timestamptz NOT NULL DEFAULT now(),
  created_by    text NOT NULL,
  expires_at    timestamptz,
  revoked_at    timestamptz
);
CREATE UNIQUE INDEX admin_tokens_live_name ON vault.admin_tokens (name) WHERE revoked_at IS NULL;

-- Apart from admin_tokens, whose row a writer holds FOR SHARE: a touch of last_used_at must never wait for a sibling.
CREATE TABLE vault.admin_token_use (
  token_id      uuid PRIMARY KEY REFERENCES vault.admin_tokens,
  last_used_at  timestamptz NOT NULL
);

-- Who the current transaction is. A row lives from the challenge to the end of its own transaction and is never
-- committed (see tx_context_ends), so it can be neither replayed, dumped nor seen by anybody else.
CREATE UNLOGGED TABLE vault.tx_context (
  xid       xid8 PRIMARY KEY,
  pid       int NOT NULL,
  nonce     bytea DEFAULT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())),  -- a DEFAULT: never a loggable parameter
  kind      text CONSTRAINT tx_context_kind CHECK (kind IN ('admin', 'owner', 'rotation', 'maintenance')),
  token_id  uuid,
  scope     text COLLATE "C",
  job_id    bigint,
  actor     text,
  purging   text COLLATE "C",                                -- the one secret this transaction may delete rows of
  CONSTRAINT tx_context_says_who CHECK ((kind IS NULL) = (actor IS NULL) AND (kind = 'admin') = (token_id IS NOT NULL))
);

CREATE TABLE vault.secrets (
  id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name               text COLLATE "C" NOT NULL UNIQUE
                     CONSTRAINT secret_name_grammar CHECK (octet_length(name) BETWEEN 1 AND 255
                       AND name ~ '\A[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_][A-Za-z0-9_-]*)*\Z'),
  kind               text NOT NULL DEFAULT 'manual' CONSTRAINT secret_kind CHECK (kind IN ('manual', 'automatic')),
  generator          text CONSTRAINT secret_generator_length CHECK (octet_length(generator) BETWEEN 1 AND 255),
  rotation_interval  interval CONSTRAINT rotation_interval_range CHECK (rotation_interval BETWEEN '1 minute' AND '3650 days'),
  grace_period       interval NOT NULL DEFAULT '24 hours' CONSTRAINT grace_period_range CHECK (grace_period BETWEEN '0' AND '3650 days'),
  current_version    int NOT NULL DEFAULT 0,
  created_at         timestamptz NOT NULL DEFAULT now(),
  rotated_at         timestamptz,
  next_rotation_at   timestamptz,
  deleted_at         timestamptz,
  restore_until      timestamptz,
  UNIQUE (id, name),                                         -- what secret_versions refers to
  CONSTRAINT automatic_has_generator CHECK ((kind = 'automatic') = (generator IS NOT NULL)),
  CONSTRAINT manual_has_no_interval CHECK (kind = 'automatic' OR rotation_interval IS NULL),
  CONSTRAINT due_only_with_interval CHECK ((rotation_interval IS NULL) = (next_rotation_at IS NULL)),
  CONSTRAINT deleted_is_restorable CHECK ((deleted_at IS NULL) = (restore_until IS NULL))
);
CREATE UNIQUE INDEX secrets_name_nocase ON vault.secrets (lower(name));
CREATE INDEX secrets_due ON vault.secrets (next_rotation_at) WHERE deleted_at IS NULL AND next_rotation_at IS NOT NULL;
CREATE INDEX secrets_deleted ON vault.secrets (restore_until) WHERE deleted_at IS NOT NULL;

CREATE TABLE vault.secret_versions (
  secret_id    bigint NOT NULL,
  name         text COLLATE "C" NOT NULL,                    -- here too, so that its policy needs no look at secrets
  version      int NOT NULL CONSTRAINT version_positive CHECK (version > 0),
  version_id   uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
  fmt          smallint NOT NULL,
  kms_key_id   text NOT NULL CONSTRAINT kms_key_id_length CHECK (octet_length(kms_key_id) BETWEEN 1 AND 2048),
  wrapped_dek  bytea CONSTRAINT wrapped_dek_length CHECK (octet_length(wrapped_dek) BETWEEN 1 AND 6144),
  nonce        bytea CONSTRAINT nonce_length CHECK (octet_length(nonce) = 24),
  ciphertext   bytea CONSTRAINT ciphertext_length CHECK (octet_length(ciphertext) BETWEEN 1 + 16 AND 65536 + 16),
  key_commit   bytea CONSTRAINT key_commit_length CHECK (octet_length(key_commit) = 32),
  aad          text COLLATE "C" NOT NULL CONSTRAINT aad_is_name_and_version CHECK (aad = name || ':' || version),
  request_id   uuid NOT NULL UNIQUE,
  created_at   timestamptz NOT NULL DEFAULT now(),
  created_by   text NOT NULL,
  expires_at   timestamptz,                                  -- null = current; else opens and verifies until then
  removed_at   timestamptz,                                  -- the sealed bytes went; the row stays for the history
  PRIMARY KEY (secret_id, version),
  FOREIGN KEY (secret_id, name) REFERENCES vault.secrets (id, name),
  CONSTRAINT sealed_whole_or_removed CHECK (
    (removed_at IS NULL) = (wrapped_dek IS NOT NULL) AND (removed_at IS NULL) = (nonce IS NOT NULL) AND
    (removed_at IS NULL) = (ciphertext IS NOT NULL) AND (removed_at IS NULL) = (key_commit IS NOT NULL)),
  CONSTRAINT removed_only_after_expiry CHECK (removed_at IS NULL OR removed_at >= expires_at)
);
ALTER TABLE vault.secret_versions ALTER COLUMN ciphertext SET STORAGE EXTERNAL;  -- ciphertext does not compress
CREATE UNIQUE INDEX one_current_version ON vault.secret_versions (secret_id) WHERE expires_at IS NULL;
CREATE INDEX versions_to_remove ON vault.secret_versions (expires_at) WHERE removed_at IS NULL AND expires_at IS NOT NULL;

CREATE TABLE vault.rotation_jobs (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  secret_id     bigint NOT NULL REFERENCES vault.secrets ON DELETE CASCADE,
  name          text COLLATE "C" NOT NULL,
  from_version  int NOT NULL,
  state         text NOT NULL DEFAULT 'queued'
                CONSTRAINT job_state CHECK (state IN ('queued', 'claimed', 'done', 'superseded', 'failed')),
  attempt       int NOT NULL DEFAULT 0,                      -- the fence: only the newest attempt may complete
  due_at        timestamptz NOT NULL,
  run_after     timestamptz NOT NULL,                        -- due_at, later after a failed attempt
  claimed_by    text,
  claimed_at    timestamptz,
  finished_at   timestamptz,
  to_version    int,
  last_error    text,
  created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX one_open_job ON vault.rotation_jobs (secret_id) WHERE state IN ('queued', 'claimed');
CREATE INDEX rotation_jobs_failed ON vault.rotation_jobs (secret_id) WHERE state = 'failed';
CREATE INDEX rotation_jobs_queue ON vault.rotation_jobs (run_after, id) WHERE state IN ('queued', 'claimed');

-- One row per change that was asked for: an answer to COMMIT that got lost is resolved by asking again with the same id.
CREATE TABLE vault.requests (
  id        uuid PRIMARY KEY,
  at        timestamptz NOT NULL DEFAULT now(),
  action    text NOT NULL,
  digest    bytea NOT NULL,                                  -- of all that was asked, so that an id cannot be reused
  result    jsonb
);
CREATE INDEX requests_at ON vault.requests (at);

CREATE TABLE vault.service_scope (
  role_name  name NOT NULL,
  prefix     text COLLATE "C" NOT NULL CONSTRAINT scope_prefix_length CHECK (octet_length(prefix) <= 255),
  PRIMARY KEY (role_name, prefix)
);

CREATE TABLE vault.audit_log (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tx          xid8 NOT NULL DEFAULT pg_current_xact_id(),
  at          timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor       text NOT NULL,                                 -- token:NAME, worker:ID, supervisor, owner:ROLE or role:ROLE (unproven)
  db_role     name NOT NULL DEFAULT session_user,
  client      inet DEFAULT inet_client_addr(),               -- null over a unix socket
  node        text DEFAULT nullif(current_setting('cluster_name'), ''),
  action      text NOT NULL,
  secret      text COLLATE "C",
  version     int,
  outcome     text NOT NULL DEFAULT 'ok' CONSTRAINT audit_outcome CHECK (outcome IN ('ok', 'denied', 'failed')),
  request_id  uuid,
  detail      jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_at ON vault.audit_log (at);
CREATE INDEX audit_log_secret ON vault.audit_log (secret, id) WHERE secret IS NOT NULL;
