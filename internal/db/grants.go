package db

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// LostGrant is a role that was granted a group of the vault and is not its member. A dump of the database has what was
// granted; memberships are the cluster's.
type LostGrant struct {
	Role  string `json:"role"`
	Group string `json:"group"` // vault_service, vault_worker or vault_auditor
}

// adoptGrants makes vault_owner the grantor of what was granted, as the grant functions do. From PostgreSQL 16 on, only
// the grantor, or a role that has all its rights, can take a membership back, and a restore or pg_upgrade from 15 makes
// a superuser the grantor. A role that may not do this leaves them: vault.revoke_service_role refuses then.
const adoptGrants = `DO $$
DECLARE g record;
BEGIN
  IF current_setting('server_version_num')::int < 160000 THEN
    RETURN;
  END IF;
  FOR g IN SELECT r.rolname AS role, m.roleid::regrole AS granted, m.grantor::regrole AS grantor
      FROM vault.group_grants l JOIN pg_roles r ON r.oid = l.role_id JOIN pg_auth_members m ON m.member = r.oid
      WHERE m.roleid = l.group_name::text::regrole AND m.grantor <> 'vault_owner'::regrole AND NOT m.admin_option LOOP
    EXECUTE format('GRANT %s TO %I GRANTED BY vault_owner', g.granted, g.role);
    EXECUTE format('REVOKE %s FROM %I GRANTED BY %s', g.granted, g.role, g.grantor);
  END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
  NULL;
END $$`

// SettleGrants makes vault_owner the grantor of all grants, and returns those that were lost: if restore is set, after
// it has granted them again, those of roles that could bypass the vault. It takes the owner of the database, and a
// schema that Migrate has brought to this version.
func (o Options) SettleGrants(ctx context.Context, restore bool) ([]LostGrant, error) {
	conn, err := connectOwner(ctx, o)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var lost []LostGrant
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if restore {
			_, err := tx.Exec(ctx, `SET LOCAL ROLE vault_owner; SELECT vault._restore_grants(); RESET ROLE`)
			if err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, adoptGrants); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SET LOCAL ROLE vault_owner`); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT role_name, group_name FROM vault._lost_grants()`)
		if err != nil {
			return err
		}
		lost, err = pgx.CollectRows(rows, pgx.RowToStructByPos[LostGrant])
		return err
	})
	return lost, classify(err)
}
