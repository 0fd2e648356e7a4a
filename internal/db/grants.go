package db

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// LostGrant is a role that was granted a group of the vault and is not its member. A dump of the database has what was
// granted; roles and memberships are the cluster's.
type LostGrant struct {
	Role   string `json:"role"`
	Group  string `json:"group"`            // vault_service, vault_worker or vault_auditor
	Absent bool   `json:"absent,omitempty"` // the cluster has no such role
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

// Grants are what SettleGrants found and did.
type Grants struct {
	Restored []LostGrant `json:"restored_grants,omitempty"`
	Lost     []LostGrant `json:"lost_grants,omitempty"`      // still
	Unscoped []string    `json:"without_prefixes,omitempty"` // roles that may read, and have no prefix
}

// SettleGrants finds the roles of what a restore has brought, makes vault_owner the grantor of their groups, and
// returns the grants that were lost. If restore is set, it grants these again, except to roles that could bypass the
// vault or are absent. It takes the owner of the database, and a schema that Migrate has brought to this version.
func (o Options) SettleGrants(ctx context.Context, restore bool) (Grants, error) {
	conn, err := connectOwner(ctx, o)
	if err != nil {
		return Grants{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var g Grants
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
		const asOwner, asCaller = `SET LOCAL ROLE vault_owner`, `RESET ROLE`
		if _, err = tx.Exec(ctx, asOwner); err != nil {
			return err
		}
		if g.Restored, err = queryGrants(ctx, tx, `SELECT *, false FROM vault._settle_grants($1)`, restore); err != nil {
			return err
		}
		for _, text := range []string{asCaller, adoptGrants, asOwner} {
			if _, err = tx.Exec(ctx, text); err != nil {
				return err
			}
		}
		if g.Lost, err = queryGrants(ctx, tx, `SELECT * FROM vault._lost_grants()`); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT role FROM vault.odd_roles() WHERE problem = 'unscoped'`)
		if err != nil {
			return err
		}
		g.Unscoped, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return g, classify(err)
}

func queryGrants(ctx context.Context, tx pgx.Tx, query string, args ...any) ([]LostGrant, error) {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[LostGrant])
}

// LostGrants returns the grants that were lost, and changes nothing. Every role with access to the vault may call it,
// on a standby too.
func (o Options) LostGrants(ctx context.Context) ([]LostGrant, error) {
	conn, err := connectAny(ctx, o)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return Collect(ctx, session{conn}, pgx.RowToStructByPos[LostGrant],
		`SELECT role, split_part(problem, ' ', 2), problem LIKE 'absent %' FROM vault.odd_roles()
			WHERE problem LIKE 'lost %' OR problem LIKE 'absent %'`, pgx.QueryExecModeExec)
}
