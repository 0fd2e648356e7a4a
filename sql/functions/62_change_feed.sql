-- The change feed: its triggers, and the part of the supervisor's round that bounds it.

-- Runs as the role that makes the change, like every trigger here: a change by a role that may not write the feed fails.
-- A transaction has one row for a name, whatever it changes.
CREATE OR REPLACE FUNCTION vault._feed_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO vault.change_feed (tx, name) VALUES (pg_current_xact_id(),
      CASE TG_OP WHEN 'DELETE' THEN OLD.name ELSE NEW.name END) ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$;

-- For a change that may concern any name.
CREATE OR REPLACE FUNCTION vault._feed_change_of_all() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO vault.change_feed (tx, name) VALUES (pg_current_xact_id(), '') ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$;

-- Whatever shows a change of a kept row: the view sealed_versions reads secret_versions and service_scope.
CREATE OR REPLACE TRIGGER change_is_fed AFTER INSERT OR UPDATE OR DELETE ON vault.secret_versions
  FOR EACH ROW EXECUTE FUNCTION vault._feed_change();
CREATE OR REPLACE TRIGGER truncation_is_fed AFTER TRUNCATE ON vault.secret_versions
  FOR EACH STATEMENT EXECUTE FUNCTION vault._feed_change_of_all();
CREATE OR REPLACE TRIGGER change_is_fed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON vault.service_scope
  FOR EACH STATEMENT EXECUTE FUNCTION vault._feed_change_of_all();

ALTER TABLE vault.secret_versions ENABLE ALWAYS TRIGGER change_is_fed;
ALTER TABLE vault.secret_versions ENABLE ALWAYS TRIGGER truncation_is_fed;
ALTER TABLE vault.service_scope ENABLE ALWAYS TRIGGER change_is_fed;
