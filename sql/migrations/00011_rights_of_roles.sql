-- +goose Up
-- A prefix belongs to a role, not to a name: a role that is dropped and created again has another oid and does not
-- inherit it. regrole follows a rename, and a dump has the name, which finds the role on another cluster.
ALTER TABLE vault.service_scope ADD COLUMN role_id regrole;
ALTER TABLE vault.service_scope ALTER COLUMN role_id TYPE regrole USING to_regrole(quote_ident(role_name));
ALTER TABLE vault.service_scope NO FORCE ROW LEVEL SECURITY;
DELETE FROM vault.service_scope WHERE role_id IS NULL;
ALTER TABLE vault.service_scope FORCE ROW LEVEL SECURITY,
  DROP CONSTRAINT service_scope_pkey, ADD PRIMARY KEY (role_id, prefix);

CREATE OR REPLACE VIEW vault.sealed_versions WITH (security_barrier) AS
  SELECT name, version, version_id, fmt, kms_key_id, wrapped_dek, nonce, ciphertext, key_commit, aad,
    created_at, expires_at, next_rotation_at
  FROM vault.secret_versions
  WHERE removed_at IS NULL AND deleted_at IS NULL
    AND (name ^@ ANY (ARRAY(SELECT prefix FROM vault.service_scope
                            WHERE role_id = (SELECT quote_ident(current_user)::regrole)))
         OR (SELECT pg_has_role(current_user, 'vault_owner', 'USAGE')));

-- The end of a token, in a table other than admin_tokens and without a unique index, so that a revocation waits for no
-- other transaction, whatever rows that has locked or inserted.
CREATE TABLE vault.token_revocations (
  token_id    uuid NOT NULL,
  revoked_at  timestamptz NOT NULL DEFAULT now(),
  tx          xid8 NOT NULL DEFAULT pg_current_xact_id()   -- a token that revokes itself can commit that
);
CREATE INDEX token_revocations_token ON vault.token_revocations (token_id);

-- Every token has its row from the beginning, or its first use would wait for another first use that does not commit.
ALTER TABLE vault.admin_token_use ALTER COLUMN last_used_at DROP NOT NULL, NO FORCE ROW LEVEL SECURITY;
INSERT INTO vault.admin_token_use SELECT id, NULL FROM vault.admin_tokens ON CONFLICT DO NOTHING;
ALTER TABLE vault.admin_token_use FORCE ROW LEVEL SECURITY;

-- Refusals in a minute, of one role at one address: those beyond the first few have no audit row of their own.
CREATE TABLE vault.refusals (
  minute   timestamptz NOT NULL,
  db_role  name NOT NULL,
  client   text NOT NULL,                                  -- '' over a unix socket
  refused  int NOT NULL,
  guesses  int NOT NULL,                                   -- of those, wrong proofs
  PRIMARY KEY (minute, db_role, client)
);

-- A wrong proof rolls back what its transaction wrote, but not what it took from a sequence. The first sequence counts
-- all of them, the second those of its minute: the minute's number times a million, plus the count.
CREATE SEQUENCE vault.wrong_proofs;
CREATE SEQUENCE vault.wrong_proofs_minute;
