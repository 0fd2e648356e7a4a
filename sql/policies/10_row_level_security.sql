-- Row level security. FORCE applies it to the owner too, and so to every SECURITY DEFINER function.
-- Policies of the read path call no function: one in a point read made it three times slower.
DO $$
DECLARE t record;
BEGIN
  FOR t IN SELECT policyname, tablename FROM pg_policies WHERE schemaname = 'vault' LOOP
    EXECUTE format('DROP POLICY %I ON vault.%I', t.policyname, t.tablename);
  END LOOP;
  FOR t IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'vault'::regnamespace AND c.relkind IN ('r', 'p')
      AND c.relname NOT LIKE 'goose%' LOOP
    EXECUTE format('ALTER TABLE vault.%I ENABLE ROW LEVEL SECURITY', t.relname);
    -- The policies read tx_context, and only migrate writes config.
    IF t.relname NOT IN ('tx_context', 'config') THEN
      EXECUTE format('ALTER TABLE vault.%I FORCE ROW LEVEL SECURITY', t.relname);
      EXECUTE format('CREATE POLICY owner_reads ON vault.%I FOR SELECT TO vault_owner USING (true)', t.relname);
    END IF;
  END LOOP;
END $$;

-- writers: the owner, in a transaction with an identity. The sub-select runs once a statement, not once a row. WITH
-- CHECK (true) is used if a trigger keeps the name, or if the answer does not depend on the row: USING has checked it.
CREATE POLICY owner_inserts ON vault.secrets FOR INSERT TO vault_owner
    WITH CHECK (starts_with(name || '!', (SELECT vault.tx_covers())));
CREATE POLICY owner_updates ON vault.secrets FOR UPDATE TO vault_owner
    USING (starts_with(name || '!', (SELECT vault.tx_covers()))) WITH CHECK (true);
CREATE POLICY owner_purges ON vault.secrets FOR DELETE TO vault_owner USING (vault.tx_is_purging(name));
CREATE POLICY owner_inserts ON vault.secret_versions FOR INSERT TO vault_owner
    WITH CHECK (starts_with(name || '!', (SELECT vault.tx_covers())));
CREATE POLICY owner_updates ON vault.secret_versions FOR UPDATE TO vault_owner
    USING (starts_with(name || '!', (SELECT vault.tx_covers()))) WITH CHECK (true);
CREATE POLICY owner_purges ON vault.secret_versions FOR DELETE TO vault_owner USING (vault.tx_is_purging(name));
CREATE POLICY owner_prunes ON vault.secret_versions FOR DELETE TO vault_owner
  USING ((SELECT vault.tx_kind()) = 'maintenance'
    AND removed_at < now() - make_interval(days => (SELECT keep_versions_days FROM vault.config WHERE only_row)));
CREATE POLICY owner_inserts ON vault.rotation_jobs FOR INSERT TO vault_owner
    WITH CHECK (starts_with(name || '!', (SELECT vault.tx_covers())));
CREATE POLICY owner_updates ON vault.rotation_jobs FOR UPDATE TO vault_owner
    USING (starts_with(name || '!', (SELECT vault.tx_covers())));
CREATE POLICY owner_purges ON vault.rotation_jobs FOR DELETE TO vault_owner USING (vault.tx_is_purging(name));
CREATE POLICY owner_prunes ON vault.rotation_jobs FOR DELETE TO vault_owner
  USING ((SELECT vault.tx_kind()) = 'maintenance' AND state IN ('done', 'superseded', 'failed')
    AND finished_at < now() - make_interval(days => (SELECT keep_jobs_days FROM vault.config WHERE only_row)));
CREATE POLICY owner_inserts ON vault.rotation_candidates FOR INSERT TO vault_owner
    WITH CHECK (vault.tx_may_change(name));
CREATE POLICY owner_deletes ON vault.rotation_candidates FOR DELETE TO vault_owner USING (vault.tx_may_change(name));
-- rewrap
CREATE POLICY owner_updates ON vault.rotation_candidates FOR UPDATE TO vault_owner
    USING (vault.tx_kind() = 'admin' AND vault.tx_may_change(name));
CREATE POLICY owner_inserts ON vault.heartbeat FOR INSERT TO vault_owner WITH CHECK (vault.tx_kind() = 'maintenance');
-- Only beat() and supervise() write it, one of them once a second. A context would double what that takes.
CREATE POLICY owner_updates ON vault.heartbeat FOR UPDATE TO vault_owner USING (true);
CREATE POLICY owner_inserts ON vault.daemons FOR INSERT TO vault_owner WITH CHECK (vault.tx_kind() = 'maintenance');
CREATE POLICY owner_updates ON vault.daemons FOR UPDATE TO vault_owner USING (vault.tx_kind() = 'maintenance');
CREATE POLICY owner_deletes ON vault.daemons FOR DELETE TO vault_owner USING (vault.tx_kind() = 'maintenance');
CREATE POLICY owner_inserts ON vault.round_failures FOR INSERT TO vault_owner
    WITH CHECK (vault.tx_kind() = 'maintenance');
CREATE POLICY owner_updates ON vault.round_failures FOR UPDATE TO vault_owner USING (vault.tx_kind() = 'maintenance');
CREATE POLICY owner_deletes ON vault.round_failures FOR DELETE TO vault_owner USING (vault.tx_kind() = 'maintenance');
CREATE POLICY owner_inserts ON vault.admin_tokens FOR INSERT TO vault_owner WITH CHECK (vault.tx_may_administer());
CREATE POLICY owner_updates ON vault.admin_tokens FOR UPDATE TO vault_owner USING (vault.tx_may_administer());
-- no UPDATE or DELETE: a revocation is final
CREATE POLICY owner_inserts ON vault.token_revocations FOR INSERT TO vault_owner
  WITH CHECK (vault.tx_may_administer());
CREATE POLICY owner_inserts ON vault.admin_token_use FOR INSERT TO vault_owner WITH CHECK (vault.tx_may_administer());
CREATE POLICY owner_updates ON vault.admin_token_use FOR UPDATE TO vault_owner USING (vault.tx_kind() = 'admin');
CREATE POLICY owner_inserts ON vault.service_scope FOR INSERT TO vault_owner WITH CHECK (vault.tx_may_administer());
CREATE POLICY owner_updates ON vault.service_scope FOR UPDATE TO vault_owner   -- a role's new name
  USING (vault.tx_kind() = 'maintenance' OR vault.tx_may_administer());
CREATE POLICY owner_deletes ON vault.service_scope FOR DELETE TO vault_owner
  USING (vault.tx_kind() = 'maintenance' OR vault.tx_may_administer());
CREATE POLICY owner_inserts ON vault.group_grants FOR INSERT TO vault_owner WITH CHECK (vault.tx_may_administer());
CREATE POLICY owner_updates ON vault.group_grants FOR UPDATE TO vault_owner
  USING (vault.tx_kind() = 'maintenance' OR vault.tx_may_administer());
CREATE POLICY owner_deletes ON vault.group_grants FOR DELETE TO vault_owner
  USING (vault.tx_kind() = 'maintenance' OR vault.tx_may_administer());
CREATE POLICY owner_inserts ON vault.refusals FOR INSERT TO vault_owner WITH CHECK (true);
CREATE POLICY owner_updates ON vault.refusals FOR UPDATE TO vault_owner USING (true);
CREATE POLICY owner_prunes ON vault.refusals FOR DELETE TO vault_owner USING (minute < now() - interval '1 day');
-- Any transaction with an identity. What tx_covers() knows comes first: a put asks for that anyway, and then the other
-- function is not called.
CREATE POLICY owner_inserts ON vault.requests FOR INSERT TO vault_owner
    WITH CHECK ((SELECT vault.tx_covers()) IS NOT NULL OR (SELECT vault.tx_kind()) IS NOT NULL);
CREATE POLICY owner_updates ON vault.requests FOR UPDATE TO vault_owner
    USING ((SELECT vault.tx_actor()) IS NOT NULL) WITH CHECK (true);
CREATE POLICY owner_prunes ON vault.requests FOR DELETE TO vault_owner USING ((SELECT vault.tx_kind()) = 'maintenance');
-- no UPDATE or DELETE
CREATE POLICY owner_appends ON vault.audit_log FOR INSERT TO vault_owner WITH CHECK (true);
CREATE POLICY owner_appends ON vault.audit_seals FOR INSERT TO vault_owner WITH CHECK (vault.tx_kind() = 'maintenance');
CREATE POLICY owner_appends ON vault.audit_prunes FOR INSERT TO vault_owner WITH CHECK (vault.tx_may_administer());
CREATE POLICY owner_appends ON vault.audit_leaves FOR INSERT TO vault_owner WITH CHECK (vault.tx_may_administer());
CREATE POLICY owner_inserts ON vault.audit_spools FOR INSERT TO vault_owner
    WITH CHECK (vault.tx_kind() = 'maintenance');
CREATE POLICY owner_deletes ON vault.audit_spools FOR DELETE TO vault_owner USING (vault.tx_kind() = 'maintenance');
CREATE POLICY owner_updates ON vault.audit_spools FOR UPDATE TO vault_owner USING (vault.tx_kind() = 'maintenance');

-- apps: an admin token whose scope covers every pattern of the app, before and after.
CREATE POLICY owner_inserts ON vault.apps FOR INSERT TO vault_owner WITH CHECK (vault.tx_kind() = 'admin');
CREATE POLICY owner_updates ON vault.apps FOR UPDATE TO vault_owner USING (vault.tx_may_change_app(name));
CREATE POLICY owner_deletes ON vault.apps FOR DELETE TO vault_owner USING (vault.tx_may_change_app(name));
CREATE POLICY owner_inserts ON vault.app_rules FOR INSERT TO vault_owner
    WITH CHECK (vault.tx_may_change_app(app) AND vault.tx_may_allow(pattern));
CREATE POLICY owner_updates ON vault.app_rules FOR UPDATE TO vault_owner
    USING (vault.tx_may_change_app(app)) WITH CHECK (vault.tx_may_allow(pattern));
CREATE POLICY owner_deletes ON vault.app_rules FOR DELETE TO vault_owner USING (vault.tx_may_change_app(app));
CREATE POLICY owner_inserts ON vault.app_credentials FOR INSERT TO vault_owner
    WITH CHECK (vault.tx_may_change_app(app));
CREATE POLICY owner_updates ON vault.app_credentials FOR UPDATE TO vault_owner USING (vault.tx_may_change_app(app));
CREATE POLICY owner_deletes ON vault.app_credentials FOR DELETE TO vault_owner USING (vault.tx_may_change_app(app));
CREATE POLICY owner_inserts ON vault.app_use FOR INSERT TO vault_owner WITH CHECK (vault.tx_kind() = 'admin');
CREATE POLICY owner_updates ON vault.app_use FOR UPDATE TO vault_owner
    USING ((SELECT vault.tx_kind()) = 'maintenance');
CREATE POLICY owner_deletes ON vault.app_use FOR DELETE TO vault_owner USING (vault.tx_kind() = 'admin');
-- A trigger makes every new epoch random, so an UPDATE costs the daemons a read and decides nothing.
CREATE POLICY owner_updates ON vault.access_epoch FOR UPDATE TO vault_owner USING (true);
-- A change by hand has its row in the feed too. A row of a later transaction would be named by every poll until then.
CREATE POLICY owner_inserts ON vault.change_feed FOR INSERT TO vault_owner WITH CHECK (tx = pg_current_xact_id());
CREATE POLICY owner_prunes ON vault.change_feed FOR DELETE TO vault_owner
    USING ((SELECT vault.tx_kind()) = 'maintenance');
CREATE POLICY owner_updates ON vault.feed_state FOR UPDATE TO vault_owner
    USING ((SELECT vault.tx_kind()) = 'maintenance') WITH CHECK (true);

-- readers: service roles see the names their prefixes cover. The sub-selects are uncorrelated: each runs once a query.
-- quote_ident, because a cast to regrole parses its text as SQL: "App" would be app, and a role named 16384 would be
-- that oid.
CREATE POLICY service_reads ON vault.config FOR SELECT TO vault_owner, vault_service, vault_worker, vault_auditor
    USING (true);
CREATE POLICY service_reads ON vault.heartbeat FOR SELECT TO vault_service, vault_worker, vault_auditor USING (true);
CREATE POLICY all_read ON vault.daemons FOR SELECT TO vault_service, vault_worker, vault_auditor USING (true);
CREATE POLICY service_reads_own ON vault.service_scope FOR SELECT TO vault_service
  USING (role_id = (SELECT quote_ident(current_user)::regrole));
CREATE POLICY service_reads ON vault.secrets FOR SELECT TO vault_service
  USING (name ^@ ANY (ARRAY(SELECT prefix FROM vault.service_scope
                            WHERE role_id = (SELECT quote_ident(current_user)::regrole))));
CREATE POLICY service_reads ON vault.secret_versions FOR SELECT TO vault_service
  USING (name ^@ ANY (ARRAY(SELECT prefix FROM vault.service_scope
                            WHERE role_id = (SELECT quote_ident(current_user)::regrole))));
CREATE POLICY service_reads ON vault.rotation_jobs FOR SELECT TO vault_service
  USING (name ^@ ANY (ARRAY(SELECT prefix FROM vault.service_scope
                            WHERE role_id = (SELECT quote_ident(current_user)::regrole))));
CREATE POLICY service_reads ON vault.round_failures FOR SELECT TO vault_service
  USING (subject = '' OR part = 'partitions'
    OR subject ^@ ANY (ARRAY(SELECT prefix FROM vault.service_scope
                             WHERE role_id = (SELECT quote_ident(current_user)::regrole))));
CREATE POLICY all_read ON vault.round_failures FOR SELECT TO vault_worker, vault_auditor
  USING (subject = '' OR part = 'partitions');
-- Each daemon judges by all apps, whatever prefixes its role has. Fingerprints of tokens prove nothing.
CREATE POLICY service_reads ON vault.apps FOR SELECT TO vault_service USING (true);
CREATE POLICY service_reads ON vault.app_rules FOR SELECT TO vault_service USING (true);
CREATE POLICY service_reads ON vault.app_credentials FOR SELECT TO vault_service USING (true);
CREATE POLICY service_reads ON vault.app_use FOR SELECT TO vault_service USING (true);
CREATE POLICY service_reads ON vault.access_epoch FOR SELECT TO vault_service USING (true);
CREATE POLICY service_reads ON vault.feed_state FOR SELECT TO vault_service USING (true);
CREATE POLICY auditor_reads ON vault.audit_log FOR SELECT TO vault_auditor USING (true);
-- hashes and counts
CREATE POLICY all_read ON vault.audit_seals FOR SELECT TO vault_service, vault_worker, vault_auditor USING (true);
CREATE POLICY auditor_reads ON vault.audit_prunes FOR SELECT TO vault_auditor USING (true);
CREATE POLICY auditor_reads ON vault.audit_leaves FOR SELECT TO vault_auditor USING (true);
CREATE POLICY auditor_reads ON vault.audit_spools FOR SELECT TO vault_auditor USING (true);
