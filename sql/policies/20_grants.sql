-- The whole surface: only the owner can use what is not granted here.
REVOKE ALL ON ALL TABLES IN SCHEMA vault FROM PUBLIC, vault_service, vault_worker, vault_auditor;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA vault FROM PUBLIC, vault_service, vault_worker, vault_auditor;
GRANT USAGE ON SCHEMA vault TO vault_service, vault_worker, vault_auditor;

GRANT SELECT ON vault.config, vault.heartbeat, vault.round_failures, vault.daemons
    TO vault_service, vault_worker, vault_auditor;
GRANT SELECT ON vault.secrets, vault.secret_versions, vault.sealed_versions, vault.rotation_jobs,
    vault.service_scope, vault.apps, vault.app_rules, vault.app_credentials, vault.app_use, vault.access_epoch,
    vault.changed_names, vault.feed_state TO vault_service;
GRANT SELECT ON vault.audit_log, vault.audit_prunes, vault.audit_leaves, vault.audit_spools TO vault_auditor;
GRANT SELECT ON vault.audit_seals TO vault_service, vault_worker, vault_auditor;

GRANT EXECUTE ON FUNCTION vault.replication_lag() TO vault_service, vault_worker, vault_auditor;
GRANT EXECUTE ON FUNCTION vault.sealing_lag() TO vault_service, vault_worker, vault_auditor;
GRANT EXECUTE ON FUNCTION vault.standbys(pg_lsn) TO vault_service;
GRANT EXECUTE ON FUNCTION vault.ship_reads(text, uuid, bigint, boolean, bytea[], text[]),
    vault.ship_windows(text, uuid, bigint, bigint, boolean, bytea, bytea, bigint[], text[], json, json, int[], int[],
      uuid[], smallint[]),
    vault.record_read(text, text, int, text, uuid, jsonb) TO vault_service;
GRANT EXECUTE ON FUNCTION vault.put_versions(jsonb), vault.record_reads(jsonb) TO vault_service;
GRANT EXECUTE ON FUNCTION vault.grace_report(text, boolean, timestamptz) TO vault_auditor;
GRANT EXECUTE ON FUNCTION vault.status(), vault.health() TO vault_service, vault_worker, vault_auditor;
GRANT EXECUTE ON FUNCTION vault.replication(), vault._too_powerful(name) TO vault_service, vault_worker, vault_auditor;
GRANT EXECUTE ON FUNCTION vault.my_token(), vault.xmin_holder() TO vault_service;
GRANT EXECUTE ON FUNCTION vault.report_daemon(uuid, text, text, text, int), vault.forget_daemon(uuid) TO vault_service;
GRANT EXECUTE ON FUNCTION vault.odd_roles() TO vault_service, vault_worker, vault_auditor;
GRANT EXECUTE ON FUNCTION
  vault.challenge(), vault.authorize_proof(uuid, bytea), vault.record_refusal(text, text, text, uuid, uuid),
  vault.put_version(text, text, vault.sealed_value, uuid, boolean, text, interval, interval, text, text),
  vault.update_secret(text, uuid, text, interval, interval, boolean, boolean, text, text),
      vault.end_grace(text, int, uuid),
  vault.request_rotation(text, uuid), vault.retry_rotation(text, uuid), vault.pause_rotation(text, uuid, boolean),
      vault.set_max_rotations(int, uuid), vault.set_retention(int, int, uuid),
  vault.delete_secret(text, uuid, interval), vault.restore_secret(text, uuid), vault.purge_secret(text, uuid),
  vault.wrapped_keys(text, boolean, text, text, int), vault.rewrap(text, int, bigint, bytea, text, bytea, uuid),
  vault.create_token(uuid, text, bytea, text, timestamptz, uuid), vault.revoke_token(text, uuid), vault.list_tokens(),
      vault.revocation_holds(timestamptz),
  vault.grant_service_role(name, text, uuid), vault.grant_worker_role(name, uuid), vault.grant_auditor_role(name, uuid),
  vault.revoke_service_role(name, text, uuid),
  vault.create_app(text, jsonb, jsonb, uuid), vault.allow_app(text, jsonb, uuid),
      vault.disallow_app(text, text[], uuid), vault.set_app_enabled(text, boolean, uuid), vault.delete_app(text, uuid),
  vault.add_app_credential(text, jsonb, uuid), vault.revoke_app_credential(text, uuid, uuid),
  vault.prepare_audit_prune(), vault.prune_audit(date, text, bigint, bigint, bytea, bigint[], bytea[], uuid)
  TO vault_service;
GRANT EXECUTE ON FUNCTION
  vault.supervise(int), vault.beat(), vault.enqueue_due_rotations(int), vault.expire_grace_versions(int),
      vault.purge_deleted(int),
  vault.claim_rotations(text, int, interval, int), vault.report_round(text, text),
  vault.complete_rotations(bigint[], int[], vault.sealed_value[], uuid[], boolean),
  vault.store_candidate(bigint, int, vault.sealed_value), vault.rotation_candidate(bigint, int),
  vault.finish_rotation(bigint, int, uuid), vault.release_rotation(bigint, int),
  vault.fail_rotation(bigint, int, text, interval),
  vault.next_audit_window(int), vault.audit_window(bigint, xid8, xid8), vault.add_audit_seal(vault.audit_seals)
  TO vault_worker;
