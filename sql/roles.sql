-- The four group roles. Run as the owner of the database: a superuser, or a role with CREATEROLE.
-- The operator creates the logins, which become members through vault.grant_service_role and its siblings.
DO $$
DECLARE r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['vault_owner', 'vault_service', 'vault_worker', 'vault_auditor'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB NOREPLICATION', r);
    ELSIF (SELECT rolsuper OR rolbypassrls OR rolcreaterole OR rolreplication OR rolcanlogin FROM pg_roles
        WHERE rolname = r) THEN
      -- A role of that name that can log in or bypass row level security is not one of the vault's.
      RAISE EXCEPTION 'role "%" exists and is a login role or has SUPERUSER, BYPASSRLS, CREATEROLE or REPLICATION', r
        USING HINT = format('ALTER ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOREPLICATION', r);
    END IF;
  END LOOP;
  -- Creating the schema for vault_owner takes membership; a superuser needs none.
  IF NOT pg_has_role(current_user, 'vault_owner', 'USAGE') THEN
    EXECUTE format('GRANT vault_owner TO %I', current_user);
  END IF;
  -- ADMIN lets the definer functions hand out membership.
  FOREACH r IN ARRAY ARRAY['vault_service', 'vault_worker', 'vault_auditor'] LOOP
    IF NOT EXISTS (SELECT FROM pg_auth_members WHERE roleid = r::regrole AND member = 'vault_owner'::regrole
        AND admin_option) THEN
      EXECUTE format('GRANT %I TO vault_owner WITH ADMIN OPTION', r);
    END IF;
  END LOOP;
  IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'vault') THEN
    CREATE SCHEMA vault AUTHORIZATION vault_owner;
  ELSIF (SELECT nspowner <> 'vault_owner'::regrole FROM pg_namespace WHERE nspname = 'vault') THEN
    RAISE EXCEPTION 'schema "vault" exists and belongs to role "%"',
        (SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'vault')
      USING HINT = 'HyperionDB Vault wants a schema "vault" of its own';
  END IF;
END $$;
-- vault.standbys() needs the right to see other roles' connections. Without it everything else works.
DO $$
BEGIN
  IF NOT pg_has_role('vault_owner', 'pg_read_all_stats', 'USAGE') THEN
    GRANT pg_read_all_stats TO vault_owner;
  END IF;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'role "%" may not grant pg_read_all_stats: waiting for standbys (--wait) takes it', current_user
    USING HINT = 'as a superuser: GRANT pg_read_all_stats TO vault_owner';
END $$;
