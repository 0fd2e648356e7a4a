-- +goose Up
-- Reads of one secret in one window are one row of the audit log: the newest read is the row itself, as if it were
-- alone, and those before it are in arrays. All of these columns are null in a row of one event.
ALTER TABLE vault.audit_log
  ADD COLUMN since     timestamptz,                          -- of the first read; at is that of the newest
  ADD COLUMN reads     int,                                  -- how many, with the newest
  -- Of each read before the newest, from the newer to the older:
  ADD COLUMN ago       int[],                                -- microseconds before at
  ADD COLUMN back      int[],                                -- its number in the spool, counted back from the newest's
  ADD COLUMN requests  uuid[],
  ADD COLUMN reader    smallint[],                           -- which of the readers below
  -- The readers, each another combination:
  ADD COLUMN actors    text[],
  ADD COLUMN clients   inet[],
  ADD COLUMN versions  int[],
  ADD COLUMN details   jsonb[];

-- The span of a row is bounded, so that a search need not look further for the older reads of newer rows.
ALTER TABLE vault.audit_log ADD CONSTRAINT audit_earlier CHECK (
  num_nulls(since, reads, ago, back, requests, reader, actors, clients, versions, details) = 10
  OR num_nulls(since, reads, ago, back, requests, reader, actors, clients, versions, details) = 0
    AND reads BETWEEN 2 AND 1000 AND cardinality(ago) = reads - 1 AND cardinality(back) = reads - 1
    AND cardinality(requests) = reads - 1 AND cardinality(reader) = reads - 1
    AND cardinality(actors) BETWEEN 1 AND reads - 1 AND cardinality(clients) = cardinality(actors)
    AND cardinality(versions) = cardinality(actors) AND cardinality(details) = cardinality(actors)
    AND array_position(ago, NULL) IS NULL AND array_position(back, NULL) IS NULL
    AND array_position(reader, NULL) IS NULL AND array_position(actors, NULL) IS NULL
    AND since = at - ago[reads - 1] * interval '1 microsecond' AND since BETWEEN at - interval '1 minute' AND at
    AND date_trunc('month', since AT TIME ZONE 'UTC') = date_trunc('month', at AT TIME ZONE 'UTC')
    AND outcome = 'ok');

-- What a page finds the rows with that began before it and end after it, and those with several readers.
CREATE INDEX audit_log_spans ON vault.audit_log (at, since, id) WHERE since IS NOT NULL;

-- Request ids are random and compress badly; without them a row of some hundred reads stays in its page, where a search
-- finds times and readers.
ALTER TABLE vault.audit_log ALTER COLUMN requests SET STORAGE EXTERNAL, ALTER COLUMN ago SET STORAGE MAIN,
  ALTER COLUMN back SET STORAGE MAIN, ALTER COLUMN reader SET STORAGE MAIN;
-- +goose StatementBegin
DO $$
DECLARE p regclass;
BEGIN
  FOR p IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'vault.audit_log'::regclass LOOP
    EXECUTE format('ALTER TABLE %s SET (toast_tuple_target = 4080)', p);
  END LOOP;
END $$;
-- +goose StatementEnd
