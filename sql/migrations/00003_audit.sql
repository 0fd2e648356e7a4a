-- +goose Up
-- The audit log by month, the seals over it, what was pruned of it, and how far each node's reads have arrived.

-- Transaction ids begin anew when a dump is restored into another cluster; (system_id, tx) does not repeat.
-- +goose StatementBegin
CREATE FUNCTION vault._system_id() RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT system_identifier FROM pg_control_system() $$;
-- +goose StatementEnd

ALTER TABLE vault.audit_log RENAME TO audit_log_before;
CREATE SEQUENCE vault.audit_log_ids;                         -- no identity column: on a partitioned table that takes PostgreSQL 17

CREATE TABLE vault.audit_log (
  id          bigint NOT NULL DEFAULT nextval('vault.audit_log_ids'),
  system_id   bigint NOT NULL DEFAULT vault._system_id(),    -- whose transaction id tx is; 0 = written before there were seals
  tx          xid8 NOT NULL DEFAULT pg_current_xact_id(),
  at          timestamptz NOT NULL DEFAULT clock_timestamp(),-- when it happened
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),-- when it arrived here: reads are shipped afterwards
  actor       text NOT NULL,                                 -- token:NAME, worker:ID, supervisor, client:ADDRESS, owner:ROLE or role:ROLE (unproven)
  db_role     name NOT NULL DEFAULT session_user,
  client      inet DEFAULT inet_client_addr(),               -- null over a unix socket
  node        text DEFAULT nullif(current_setting('cluster_name'), ''),
  action      text NOT NULL,
  secret      text COLLATE "C",
  version     int,
  outcome     text NOT NULL DEFAULT 'ok' CONSTRAINT audit_outcome CHECK (outcome IN ('ok', 'denied', 'failed')),
  request_id  uuid,
  detail      jsonb NOT NULL DEFAULT '{}',
  CONSTRAINT audit_log_key PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
ALTER SEQUENCE vault.audit_log_ids OWNED BY vault.audit_log.id;

CREATE INDEX audit_log_by_time ON vault.audit_log (at, id);
CREATE INDEX audit_log_by_secret ON vault.audit_log (secret, at, id) WHERE secret IS NOT NULL;
CREATE INDEX audit_log_by_actor ON vault.audit_log (actor, at, id);
CREATE INDEX audit_log_by_client ON vault.audit_log (client inet_ops, at, id) WHERE client IS NOT NULL;
CREATE INDEX audit_log_refusals ON vault.audit_log (at, id) WHERE outcome <> 'ok';
CREATE INDEX audit_log_by_request ON vault.audit_log (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX audit_log_by_tx ON vault.audit_log (system_id, tx, id);  -- what the sealer and the verifier walk along

-- Months are made by vault.supervise(), never by this file: at a restore CREATE EXTENSION would make a table that the dump
-- brings too. What finds no month waits in the default partition until supervise() has made it one.
CREATE TABLE vault.audit_log_default PARTITION OF vault.audit_log DEFAULT;

-- +goose StatementBegin
DO $$
DECLARE m timestamp;
BEGIN
  FOR m IN SELECT DISTINCT date_trunc('month', at AT TIME ZONE 'UTC') FROM vault.audit_log_before LOOP
    EXECUTE format('CREATE TABLE vault.%I PARTITION OF vault.audit_log FOR VALUES FROM (%L) TO (%L)',
      'audit_log_' || to_char(m, 'YYYY_MM'), m AT TIME ZONE 'UTC', (m + interval '1 month') AT TIME ZONE 'UTC');
  END LOOP;
END $$;
-- +goose StatementEnd
-- A dump may have brought these rows from another cluster already: their system is unknown.
INSERT INTO vault.audit_log (id, system_id, tx, at, recorded_at, actor, db_role, client, node, action, secret, version, outcome, request_id, detail)
  SELECT id, 0, tx, at, at, actor, db_role, client, node, action, secret, version, outcome, request_id, detail FROM vault.audit_log_before;
SELECT setval('vault.audit_log_ids', max(id)) FROM vault.audit_log_before HAVING max(id) IS NOT NULL;
DROP TABLE vault.audit_log_before;

-- One seal covers the rows of one month that one window of transaction ids wrote: from_tx <= tx < to_tx. All seals are one
-- chain in the order of their ids, which have no gap; internal/audit/seal says what is hashed and signed.
CREATE TABLE vault.audit_seals (
  id         bigint PRIMARY KEY CONSTRAINT seal_id_positive CHECK (id > 0),
  system_id  bigint NOT NULL,
  month      date NOT NULL CONSTRAINT seal_month_is_a_first CHECK (extract(day FROM month) = 1),
  from_tx    xid8 NOT NULL,
  to_tx      xid8 NOT NULL CONSTRAINT seal_window CHECK (to_tx > from_tx),
  rows       bigint NOT NULL CONSTRAINT seal_rows_positive CHECK (rows > 0),
  first_id   bigint NOT NULL,
  last_id    bigint NOT NULL CONSTRAINT seal_ids_in_order CHECK (last_id >= first_id),
  root       bytea NOT NULL CONSTRAINT seal_root_length CHECK (octet_length(root) = 32),
  previous   bytea NOT NULL UNIQUE CONSTRAINT seal_previous_length CHECK (octet_length(previous) = 32),  -- UNIQUE: a chain never forks
  hash       bytea NOT NULL UNIQUE CONSTRAINT seal_hash_length CHECK (octet_length(hash) = 32),
  key_id     text COLLATE "C" NOT NULL CONSTRAINT seal_key_id_length CHECK (octet_length(key_id) BETWEEN 1 AND 255),
  signature  bytea NOT NULL CONSTRAINT seal_signature_length CHECK (octet_length(signature) BETWEEN 1 AND 512),
  sealed_at  timestamptz NOT NULL,
  marks      bytea NOT NULL                                  -- four bytes of each leaf hash: which row of a broken seal it was
             CONSTRAINT seal_marks_length CHECK (octet_length(marks) = 4 * rows)
);
CREATE INDEX audit_seals_by_window ON vault.audit_seals (system_id, to_tx);
CREATE INDEX audit_seals_by_month ON vault.audit_seals (month, id);

-- What was dropped of a month, up to which of its seals, and the SHA-256 of the file it went to.
CREATE TABLE vault.audit_prunes (
  id               bigint PRIMARY KEY,
  month            date NOT NULL CONSTRAINT prune_month_is_a_first CHECK (extract(day FROM month) = 1),
  action           text COLLATE "C",                         -- null = every row
  rows             bigint NOT NULL CONSTRAINT prune_rows_positive CHECK (rows > 0),
  last_seal        bigint NOT NULL REFERENCES vault.audit_seals,
  exported_sha256  bytea NOT NULL CONSTRAINT prune_sha256_length CHECK (octet_length(exported_sha256) = 32),
  pruned_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
  pruned_by        text NOT NULL
);

-- The leaf hashes of rows that were pruned by their action, those of one seal in the order of (tx, id), 48 bytes each (tx, id,
-- hash): with them the root of the seal is still computed from the rows that stayed.
CREATE TABLE vault.audit_leaves (
  seal    bigint NOT NULL REFERENCES vault.audit_seals,
  prune   bigint NOT NULL,                                   -- of audit_prunes, which comes after in a dump
  leaves  bytea NOT NULL CONSTRAINT leaves_length CHECK (octet_length(leaves) > 0 AND octet_length(leaves) % 48 = 0),
  PRIMARY KEY (seal, prune)
);

-- How far the reads that a node recorded in its own spool have arrived.
CREATE TABLE vault.audit_spools (
  node        text COLLATE "C" NOT NULL CONSTRAINT spool_node_length CHECK (octet_length(node) BETWEEN 1 AND 255),
  boot        uuid NOT NULL,
  next_seq    bigint NOT NULL,
  last_hash   bytea CONSTRAINT spool_hash_length CHECK (octet_length(last_hash) = 32),
  shipped_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  gaps        bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (node, boot)
);
