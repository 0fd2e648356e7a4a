-- Rules that hold for every role, including the owner and (by ENABLE ALWAYS, also under session_replication_role =
-- replica) a superuser who makes a mistake.

CREATE OR REPLACE FUNCTION vault._forbid() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION '% on %.% is forbidden', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = '42501';
END $$;

CREATE OR REPLACE FUNCTION vault._sealed_versions() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    -- A version that can be opened goes with its secret only. Its number is not used again: secrets.current_version,
    -- from which the next one counts, never goes down.
    IF NOT vault.tx_is_purging(OLD.name)
        AND (OLD.removed_at < now() - interval '1 day' AND vault.tx_kind() = 'maintenance') IS NOT TRUE THEN
      RAISE EXCEPTION 'versions are deleted by a purge only, or after they were removed' USING ERRCODE = '42501';
    END IF;
    RETURN OLD;
  END IF;
  IF ROW(NEW.secret_id, NEW.name, NEW.version, NEW.version_id, NEW.fmt, NEW.aad, NEW.request_id, NEW.created_at,
      NEW.created_by)
     IS DISTINCT FROM ROW(OLD.secret_id, OLD.name, OLD.version, OLD.version_id, OLD.fmt, OLD.aad, OLD.request_id,
         OLD.created_at, OLD.created_by) THEN
    RAISE EXCEPTION 'the identity of a version never changes' USING ERRCODE = '42501';
  END IF;
  IF NEW.removed_at IS DISTINCT FROM OLD.removed_at THEN
    -- The sealed bytes may only be removed, together, and not before their time.
    IF OLD.removed_at IS NOT NULL OR OLD.expires_at IS NULL OR OLD.expires_at > now() THEN
      RAISE EXCEPTION 'version % of "%" is not expired', OLD.version, OLD.name USING ERRCODE = '42501';
    END IF;
  ELSIF ROW(NEW.nonce, NEW.ciphertext, NEW.key_commit) IS DISTINCT FROM ROW(OLD.nonce, OLD.ciphertext, OLD.key_commit)
      THEN
    -- kms_key_id and wrapped_dek may: rewrap
    RAISE EXCEPTION 'sealed columns never change' USING ERRCODE = '42501';
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION vault._grace_prolonged() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'the grace of a version is never prolonged' USING ERRCODE = '42501';
END $$;

-- A target may have the value of a candidate already: it becomes the version unchanged, or is deleted.
CREATE OR REPLACE FUNCTION vault._sealed_candidates() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF to_jsonb(NEW) - ARRAY['kms_key_id', 'wrapped_dek'] IS DISTINCT
      FROM to_jsonb(OLD) - ARRAY['kms_key_id', 'wrapped_dek'] THEN
    -- kms_key_id and wrapped_dek may: rewrap
    RAISE EXCEPTION 'a candidate never changes' USING ERRCODE = '42501';
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION vault._secrets_move_forward() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NEW.current_version >= OLD.current_version AND NEW.name = OLD.name AND NEW.id = OLD.id
      AND (NEW.current_version = OLD.current_version OR EXISTS (SELECT FROM vault.secret_versions
        WHERE name = NEW.name AND version = NEW.current_version AND expires_at IS NULL)) THEN
    RETURN NEW;
  ELSIF NEW.current_version < OLD.current_version THEN
    RAISE EXCEPTION 'current_version never goes down' USING ERRCODE = '42501';
  ELSIF NEW.name IS DISTINCT FROM OLD.name OR NEW.id IS DISTINCT FROM OLD.id THEN
    RAISE EXCEPTION 'a secret is never renamed: its name is sealed into every version' USING ERRCODE = '42501';
  ELSE
    RAISE EXCEPTION 'version % of "%" is not its current version', NEW.current_version, NEW.name
        USING ERRCODE = '42501';
  END IF;
END $$;

-- secret_versions copies next_rotation_at and deleted_at, so a read needs one table. A new version is inserted with
-- them; this trigger copies every later change, also one made by hand.
CREATE OR REPLACE FUNCTION vault._tell_versions() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE vault.secret_versions SET next_rotation_at = NEW.next_rotation_at
    WHERE name = NEW.name AND expires_at IS NULL AND next_rotation_at IS DISTINCT FROM NEW.next_rotation_at;
  IF NEW.deleted_at IS DISTINCT FROM OLD.deleted_at THEN
    UPDATE vault.secret_versions SET deleted_at = NEW.deleted_at WHERE name = NEW.name AND removed_at IS NULL;
  END IF;
  RETURN NULL;
END $$;

-- Every change of an app has another epoch, in its own transaction.
--
-- No SECURITY DEFINER: as vault_owner it would be bound by row level security, and a superuser's change by hand would
-- leave the epoch as it was.
CREATE OR REPLACE FUNCTION vault._access_changes() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE vault.access_epoch SET epoch = gen_random_uuid();
  IF NOT FOUND THEN
    RAISE EXCEPTION 'vault.access_epoch has no row that "%" may change: no daemon would notice the change', current_user
      USING ERRCODE = '42501';
  END IF;
  RETURN NULL;
END $$;

-- An epoch that was there before would make an old copy count as new.
CREATE OR REPLACE FUNCTION vault._epoch_is_new() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.epoch := gen_random_uuid();
  RETURN NEW;
END $$;

-- A revocation is final, and a credential never becomes another's.
CREATE OR REPLACE FUNCTION vault._credential_stays() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF to_jsonb(NEW) - ARRAY['revoked_at', 'expires_at'] IS DISTINCT
      FROM to_jsonb(OLD) - ARRAY['revoked_at', 'expires_at'] THEN
    RAISE EXCEPTION 'the identity of a credential never changes' USING ERRCODE = '42501';
  ELSIF OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at THEN
    RAISE EXCEPTION 'the revocation of a credential is final' USING ERRCODE = '42501';
  END IF;
  RETURN NEW;
END $$;

DROP TRIGGER IF EXISTS tx_context_ends ON vault.tx_context;   -- a constraint trigger cannot be replaced
CREATE CONSTRAINT TRIGGER tx_context_ends AFTER INSERT
    OR UPDATE OF token_id ON vault.tx_context DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION vault._tx_context_ends();

CREATE OR REPLACE TRIGGER audit_is_append_only BEFORE UPDATE
    OR DELETE ON vault.audit_log FOR EACH ROW EXECUTE FUNCTION vault._forbid();
CREATE OR REPLACE TRIGGER audit_is_never_truncated BEFORE TRUNCATE ON vault.audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION vault._forbid();
CREATE OR REPLACE TRIGGER seals_are_append_only BEFORE UPDATE
    OR DELETE ON vault.audit_seals FOR EACH ROW EXECUTE FUNCTION vault._forbid();
CREATE OR REPLACE TRIGGER seals_are_never_truncated BEFORE TRUNCATE ON vault.audit_seals
  FOR EACH STATEMENT EXECUTE FUNCTION vault._forbid();
CREATE OR REPLACE TRIGGER prunes_are_append_only BEFORE UPDATE
    OR DELETE ON vault.audit_prunes FOR EACH ROW EXECUTE FUNCTION vault._forbid();
CREATE OR REPLACE TRIGGER prunes_are_never_truncated BEFORE TRUNCATE ON vault.audit_prunes
  FOR EACH STATEMENT EXECUTE FUNCTION vault._forbid();
CREATE OR REPLACE TRIGGER leaves_are_append_only BEFORE UPDATE
    OR DELETE ON vault.audit_leaves FOR EACH ROW EXECUTE FUNCTION vault._forbid();
CREATE OR REPLACE TRIGGER leaves_are_never_truncated BEFORE TRUNCATE ON vault.audit_leaves
  FOR EACH STATEMENT EXECUTE FUNCTION vault._forbid();
-- A statement that names none of these columns cannot change them. A new version sets only expires_at and
-- next_rotation_at of the one before.
CREATE OR REPLACE TRIGGER versions_are_sealed BEFORE UPDATE OF secret_id, name, version, version_id, fmt, aad,
    request_id, created_at, created_by, nonce, ciphertext, key_commit, removed_at OR DELETE ON vault.secret_versions
  FOR EACH ROW EXECUTE FUNCTION vault._sealed_versions();
CREATE OR REPLACE TRIGGER grace_only_ends BEFORE UPDATE OF expires_at ON vault.secret_versions FOR EACH ROW
  WHEN (OLD.expires_at IS NOT NULL AND (NEW.expires_at IS NULL OR NEW.expires_at > OLD.expires_at))
  EXECUTE FUNCTION vault._grace_prolonged();
CREATE OR REPLACE TRIGGER versions_are_never_truncated BEFORE TRUNCATE ON vault.secret_versions
  FOR EACH STATEMENT EXECUTE FUNCTION vault._forbid();
CREATE OR REPLACE TRIGGER candidates_are_sealed BEFORE UPDATE ON vault.rotation_candidates
  FOR EACH ROW EXECUTE FUNCTION vault._sealed_candidates();
CREATE OR REPLACE TRIGGER secrets_move_forward BEFORE UPDATE ON vault.secrets
  FOR EACH ROW EXECUTE FUNCTION vault._secrets_move_forward();
CREATE OR REPLACE TRIGGER versions_are_told AFTER UPDATE ON vault.secrets FOR EACH ROW
  WHEN (NEW.deleted_at IS DISTINCT FROM OLD.deleted_at
        OR NEW.next_rotation_at IS DISTINCT FROM OLD.next_rotation_at AND NEW.current_version = OLD.current_version)
  EXECUTE FUNCTION vault._tell_versions();

CREATE OR REPLACE TRIGGER credential_stays BEFORE UPDATE ON vault.app_credentials
  FOR EACH ROW EXECUTE FUNCTION vault._credential_stays();
CREATE OR REPLACE TRIGGER epoch_changes AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON vault.apps
  FOR EACH STATEMENT EXECUTE FUNCTION vault._access_changes();
CREATE OR REPLACE TRIGGER epoch_changes AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON vault.app_rules
  FOR EACH STATEMENT EXECUTE FUNCTION vault._access_changes();
CREATE OR REPLACE TRIGGER epoch_changes AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON vault.app_credentials
  FOR EACH STATEMENT EXECUTE FUNCTION vault._access_changes();
CREATE OR REPLACE TRIGGER epoch_is_new BEFORE UPDATE ON vault.access_epoch
  FOR EACH ROW EXECUTE FUNCTION vault._epoch_is_new();
CREATE OR REPLACE TRIGGER epoch_stays BEFORE DELETE OR TRUNCATE ON vault.access_epoch
  FOR EACH STATEMENT EXECUTE FUNCTION vault._forbid();

ALTER TABLE vault.tx_context ENABLE ALWAYS TRIGGER tx_context_ends;
ALTER TABLE vault.audit_log ENABLE ALWAYS TRIGGER audit_is_append_only;
ALTER TABLE vault.audit_log ENABLE ALWAYS TRIGGER audit_is_never_truncated;
ALTER TABLE vault.audit_seals ENABLE ALWAYS TRIGGER seals_are_append_only;
ALTER TABLE vault.audit_seals ENABLE ALWAYS TRIGGER seals_are_never_truncated;
ALTER TABLE vault.audit_prunes ENABLE ALWAYS TRIGGER prunes_are_append_only;
ALTER TABLE vault.audit_prunes ENABLE ALWAYS TRIGGER prunes_are_never_truncated;
ALTER TABLE vault.audit_leaves ENABLE ALWAYS TRIGGER leaves_are_append_only;
ALTER TABLE vault.audit_leaves ENABLE ALWAYS TRIGGER leaves_are_never_truncated;
ALTER TABLE vault.secret_versions ENABLE ALWAYS TRIGGER versions_are_sealed;
ALTER TABLE vault.secret_versions ENABLE ALWAYS TRIGGER grace_only_ends;
ALTER TABLE vault.secret_versions ENABLE ALWAYS TRIGGER versions_are_never_truncated;
ALTER TABLE vault.rotation_candidates ENABLE ALWAYS TRIGGER candidates_are_sealed;
ALTER TABLE vault.secrets ENABLE ALWAYS TRIGGER secrets_move_forward;
ALTER TABLE vault.secrets ENABLE ALWAYS TRIGGER versions_are_told;
ALTER TABLE vault.app_credentials ENABLE ALWAYS TRIGGER credential_stays;
ALTER TABLE vault.apps ENABLE ALWAYS TRIGGER epoch_changes;
ALTER TABLE vault.app_rules ENABLE ALWAYS TRIGGER epoch_changes;
ALTER TABLE vault.app_credentials ENABLE ALWAYS TRIGGER epoch_changes;
ALTER TABLE vault.access_epoch ENABLE ALWAYS TRIGGER epoch_is_new;
ALTER TABLE vault.access_epoch ENABLE ALWAYS TRIGGER epoch_stays;
