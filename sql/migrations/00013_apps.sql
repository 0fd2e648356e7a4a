-- +goose Up
-- The readers of the vault with an identity of their own: apps, what each may do, and how it proves that it is one.
-- vaultd judges requests over a copy of the first three tables; access_epoch tells it that its copy is old.
CREATE TABLE vault.apps (
  name         text COLLATE "C" PRIMARY KEY
               CONSTRAINT app_name_grammar CHECK (name ~ E'\\A[a-z0-9][a-z0-9_.-]{0,63}\\Z'),
  created_at   timestamptz NOT NULL DEFAULT now(),
  created_by   text NOT NULL,
  disabled_at  timestamptz                                 -- no credential of it is taken meanwhile
);

-- A pattern is a name, a prefix that ends in /* or .*, or * for every name. Rules only allow.
CREATE TABLE vault.app_rules (
  app      text COLLATE "C" NOT NULL REFERENCES vault.apps,
  pattern  text COLLATE "C" NOT NULL CONSTRAINT rule_pattern_grammar CHECK (octet_length(pattern) BETWEEN 1 AND 255
             AND pattern ~ E'\\A(\\*|[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_][A-Za-z0-9_-]*)*([./]\\*)?)\\Z'),
  actions  text[] NOT NULL CONSTRAINT rule_actions CHECK (actions <@ ARRAY['read', 'verify', 'list']
             AND coalesce(array_ndims(actions), 0) = 1
             AND cardinality(actions) = ('read' = ANY (actions))::int + ('verify' = ANY (actions))::int
               + ('list' = ANY (actions))::int),
  PRIMARY KEY (app, pattern)
);

-- A token is stored as the SHA-256 of 256 random bits. The others are compared with what the client's certificate or
-- the kernel says: one live credential each.
CREATE TABLE vault.app_credentials (
  id            uuid PRIMARY KEY,
  app           text COLLATE "C" NOT NULL REFERENCES vault.apps
                CONSTRAINT anonymous_has_none CHECK (app <> 'anonymous'),   -- the app of clients without a credential
  kind          text NOT NULL CONSTRAINT credential_kind CHECK (kind IN ('token', 'cert', 'unix')),
  token_sha256  bytea UNIQUE CONSTRAINT credential_fingerprint_length CHECK (octet_length(token_sha256) = 32),
  match         text COLLATE "C" CONSTRAINT credential_match_grammar CHECK (octet_length(match) <= 2048
    AND match ~ CASE kind
      WHEN 'cert' THEN E'\\A(spiffe://[a-z0-9._-]{1,255}(/(?!\\.\\.?(/|\\Z))[A-Za-z0-9._-]+)+'
        || E'|dns:(?=.{1,253}\\Z)[a-z0-9_-]{1,63}(\\.[a-z0-9_-]{1,63})*'
        || E'|cn:[!-~]([ -~]{0,62}[!-~])?)\\Z'
      ELSE E'\\A(uid:(0|[1-9][0-9]{0,9})'
        || E'|unit:(?=.{1,255}\\Z)(?!@)[A-Za-z0-9:_.@\\\\-]*[A-Za-z0-9:_.\\\\-]'
        || E'\\.(service|socket|mount|swap))\\Z' END
    AND CASE WHEN match ~ E'\\Auid:[0-9]{1,10}\\Z' THEN substr(match, 5)::bigint <= 4294967295 ELSE true END),
  networks      cidr[] NOT NULL DEFAULT '{}'                -- where the client's address lies; none: anywhere
                CONSTRAINT credential_networks CHECK (cardinality(networks) <= 16
                  AND coalesce(array_ndims(networks), 1) = 1 AND array_position(networks, NULL) IS NULL),
  created_at    timestamptz NOT NULL DEFAULT now(),
  created_by    text NOT NULL,
  expires_at    timestamptz CONSTRAINT credential_expires CHECK (expires_at BETWEEN '1970-01-01 UTC' AND '9999-12-31 UTC'),
  revoked_at    timestamptz,
  CONSTRAINT token_or_match CHECK ((kind = 'token') = (token_sha256 IS NOT NULL) AND (kind = 'token') = (match IS NULL)),
  -- A client on a unix socket has no address.
  CONSTRAINT unix_has_no_networks CHECK (kind <> 'unix' OR networks = '{}')
);
CREATE INDEX app_credentials_of ON vault.app_credentials (app);
CREATE UNIQUE INDEX app_credentials_live_match ON vault.app_credentials (match) WHERE revoked_at IS NULL;

-- Apart from app_credentials, so that a use changes no epoch. Every credential has its row from the beginning.
CREATE TABLE vault.app_use (
  credential_id  uuid PRIMARY KEY,
  last_used_at   timestamptz,
  last_client    inet
);

-- A random value that every change of the three tables replaces. No counter: after a lost asynchronous failover the
-- same number would stand for two states.
CREATE TABLE vault.access_epoch (
  only_row  boolean PRIMARY KEY DEFAULT true CONSTRAINT epoch_has_one_row CHECK (only_row),
  epoch     uuid NOT NULL DEFAULT gen_random_uuid()
)
-- Every read scans this table. A page that counts as full early is pruned by the next access, so old versions of the
-- row do not pile up: after 4,000 changes of apps a read cost the server four times as much.
WITH (fillfactor = 10, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);
INSERT INTO vault.access_epoch DEFAULT VALUES;
