-- pg_dump carries the rows of an extension's tables and not its script: at a restore CREATE EXTENSION makes a config row,
-- and then the dumped one arrives. What is the vault's own (its cluster id is sealed into every data key) comes from the
-- dump; which schema is installed only the script knows, which may be newer. A row with a key is somebody's vault, and a
-- second one a unique violation.
CREATE OR REPLACE FUNCTION vault._config_is_restored() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_made vault.config;
BEGIN
  DELETE FROM vault.config WHERE default_kms_key IS NULL RETURNING * INTO v_made;
  IF FOUND THEN
    NEW.schema_version := v_made.schema_version;
    NEW.functions_sha256 := v_made.functions_sha256;
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER config_is_restored BEFORE INSERT ON vault.config FOR EACH ROW EXECUTE FUNCTION vault._config_is_restored();

ALTER TABLE vault.config ENABLE ALWAYS TRIGGER config_is_restored;
