-- +goose Up
-- Which names changed, for daemons that keep sealed rows in memory. A daemon asks for the rows from the xmin of the
-- snapshot of its last answer on: a transaction that this snapshot did not see has an id of at least that. The order of
-- ids is not that of commits, so no other mark would do.
CREATE TABLE vault.change_feed (
  tx    xid8 NOT NULL,                                       -- the transaction that made the change
  name  text COLLATE "C" NOT NULL,                           -- '' = any name may have changed
  PRIMARY KEY (tx, name)
)
-- Rows are kept for ten to twenty minutes. Truncating the file would take a lock that a standby's reads conflict with.
WITH (autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_scale_factor = 0.1, vacuum_truncate = off);

-- What a daemon polls: every row of the feed, with the name only if the role may read it. A poll takes a bounded
-- number of rows; if a policy left rows out, it would pass over any number of other roles' names first. The view needs
-- no security_barrier, because no row is left out: a caller's function gets the name, or null.
CREATE VIEW vault.changed_names AS
  SELECT tx, CASE WHEN name = '' OR (SELECT pg_has_role(current_user, 'vault_owner', 'USAGE'))
      OR name ^@ ANY (ARRAY(SELECT prefix FROM vault.service_scope
                            WHERE role_id = (SELECT quote_ident(current_user)::regrole))) THEN name END AS name
  FROM vault.change_feed;

-- Rows below the floor may be gone. The feed is for the cluster that it names: after a restore elsewhere or a
-- pg_upgrade, the ids of its rows are not those of the new cluster's transactions.
CREATE TABLE vault.feed_state (
  only_row           boolean PRIMARY KEY DEFAULT true CONSTRAINT feed_state_has_one_row CHECK (only_row),
  system_identifier  bigint NOT NULL,
  floor              xid8 NOT NULL,
  pruned_to          xid8 NOT NULL,                          -- no row is below it; the floor once all is pruned
  next_floor         xid8 NOT NULL,                          -- the xmin at noted_at
  noted_at           timestamptz NOT NULL
)
-- Every poll reads this table: old versions of the row are pruned early, as in access_epoch.
WITH (fillfactor = 10, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);
INSERT INTO vault.feed_state (system_identifier, floor, pruned_to, next_floor, noted_at)
  SELECT s.system_identifier, x.now, x.now, x.now, clock_timestamp()
    FROM pg_control_system() AS s, pg_snapshot_xmin(pg_current_snapshot()) AS x (now);
