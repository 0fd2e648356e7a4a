-- pg_dump carries the rows of an extension's tables and not its script: at a restore CREATE EXTENSION inserts a config
-- row, and then the dumped one arrives. The vault's own columns (its cluster id is sealed into every data key) come
-- from the dump; the installed schema version comes from the script's row, because it may be newer. A row with a key
-- belongs to a vault, and a second one is a unique violation.
CREATE OR REPLACE FUNCTION vault._config_is_restored() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_made vault.config;
BEGIN
  DELETE FROM vault.config WHERE default_kms_key IS NULL RETURNING * INTO v_made;
  IF FOUND THEN
    NEW.schema_version := v_made.schema_version;
    NEW.installed_version := v_made.installed_version;
    NEW.migrated_at := v_made.migrated_at;
    NEW.functions_sha256 := v_made.functions_sha256;
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER config_is_restored BEFORE INSERT ON vault.config
  FOR EACH ROW EXECUTE FUNCTION vault._config_is_restored();

ALTER TABLE vault.config ENABLE ALWAYS TRIGGER config_is_restored;

-- Binaries of version 13 work on newer schemas, and take them for their own: their migrate would install its functions
-- over newer tables. It ends in this error, and all that it did is rolled back.
CREATE OR REPLACE FUNCTION vault._config_moves_forward() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NEW.migrated_at IS NOT DISTINCT FROM OLD.migrated_at THEN
    RAISE EXCEPTION 'the schema is at version %, newer than this program', OLD.installed_version
      USING ERRCODE = '55000', HINT = 'the vaultctl of that release migrates it';
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER config_moves_forward BEFORE UPDATE OF functions_sha256 ON vault.config FOR EACH ROW
  WHEN (OLD.migrated_at IS NOT NULL AND NEW.functions_sha256 IS NOT NULL
    AND NEW.functions_sha256 IS DISTINCT FROM OLD.functions_sha256)
  EXECUTE FUNCTION vault._config_moves_forward();
ALTER TABLE vault.config ENABLE ALWAYS TRIGGER config_moves_forward;

-- A dump has a role's name in both columns, and a number where regrole has no name, which may be the oid of another
-- role in the new cluster. A row of an older schema has only the name. If the columns do not agree, the role was
-- dropped or renamed, and the row is left out.
CREATE OR REPLACE FUNCTION vault._scope_is_bound() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.role_id := coalesce(NEW.role_id, to_regrole(quote_ident(NEW.role_name)));
  IF NOT EXISTS (SELECT FROM pg_roles WHERE oid = NEW.role_id AND rolname = NEW.role_name) THEN
    RAISE WARNING 'prefix "%" is skipped: its role "%" was dropped or renamed', NEW.prefix, NEW.role_name
      USING HINT = 'vaultctl grant ROLE';
    RETURN NULL;
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER scope_is_bound BEFORE INSERT ON vault.service_scope
  FOR EACH ROW EXECUTE FUNCTION vault._scope_is_bound();

ALTER TABLE vault.service_scope ENABLE ALWAYS TRIGGER scope_is_bound;

-- The number in a dumped grant is one of the cluster that it comes from. If there is no role of its name, the grant is
-- kept: vaultctl names it, and grants it when there is one.
CREATE OR REPLACE FUNCTION vault._grant_is_bound() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.role_id := to_regrole(quote_ident(NEW.role_name));
  RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER grant_is_bound BEFORE INSERT ON vault.group_grants
  FOR EACH ROW EXECUTE FUNCTION vault._grant_is_bound();

ALTER TABLE vault.group_grants ENABLE ALWAYS TRIGGER grant_is_bound;
