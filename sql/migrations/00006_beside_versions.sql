-- +goose Up
-- What a read tells of a secret stands beside its versions, so that it is one look into one table: when it is next rotated, beside
-- the current one, and that it is deleted. When a version came to be says when the secret was rotated. Whatever changes a secret says
-- it there. The functions, installed behind the migrations, have new versions bring it along, and a trigger that leaves these out.
-- +goose StatementBegin
CREATE FUNCTION vault._tell_versions() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE vault.secret_versions SET next_rotation_at = NEW.next_rotation_at
    WHERE name = NEW.name AND expires_at IS NULL AND next_rotation_at IS DISTINCT FROM NEW.next_rotation_at;
  IF NEW.deleted_at IS DISTINCT FROM OLD.deleted_at THEN
    UPDATE vault.secret_versions SET deleted_at = NEW.deleted_at WHERE name = NEW.name AND removed_at IS NULL;
  END IF;
  RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER versions_are_told AFTER UPDATE ON vault.secrets FOR EACH ROW
  WHEN (NEW.next_rotation_at IS DISTINCT FROM OLD.next_rotation_at OR NEW.deleted_at IS DISTINCT FROM OLD.deleted_at)
  EXECUTE FUNCTION vault._tell_versions();
ALTER TABLE vault.secret_versions ADD COLUMN next_rotation_at timestamptz, ADD COLUMN deleted_at timestamptz;
