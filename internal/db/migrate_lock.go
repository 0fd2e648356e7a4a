package db

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	vaultsql "github.com/hyperiondb/vault/sql"
)

const (
	lockNotAvailable = "55P03" // SQLSTATE lock_not_available
	deadlockDetected = "40P01"

	preparations = 20 // attempts, if each loses a race against another migration
)

// migrationLockTimeout is how long a statement of a migration waits for a lock, while every read of the table waits
// behind it. It is shorter than PostgreSQL's deadlock_timeout, so that of a migration and a daemon that wait for each
// other, the migration ends its wait first.
const migrationLockTimeout = "400ms"

// writersTimeout is how long a migration waits for the transactions of daemons that are under way: rounds of the
// supervisor, sealing, shipping. It is shorter than deadlock_timeout too. Reads use few of these tables.
const writersTimeout = "900ms"

// Tests shorten these.
var (
	// migrationPatience is how long a migration begins again after a lock that it did not get.
	migrationPatience = 30 * time.Second
	// otherMigrationTimeout is how long a migration waits for another one, which may have much to do.
	otherMigrationTimeout = "60s"
)

// prepareSchema creates the roles, the schema, and the table whose lock serialises migrations: in an empty database,
// anything else could also be locked by other roles. Two may run at once; the slower one finds everything done.
func prepareSchema(ctx context.Context, conn *pgx.Conn) error {
	// Within DO, because IF NOT EXISTS would raise a notice at every migration.
	const makeLock = `DO $$
BEGIN
  SET LOCAL ROLE vault_owner;
  IF to_regclass('vault.lock_migration') IS NULL THEN
    CREATE TABLE vault.lock_migration (unused boolean);
  END IF;
END $$`
	for attempt := 1; ; attempt++ {
		err := run(ctx, conn, vaultsql.File{Name: "roles.sql", Text: vaultsql.Roles})
		if err == nil {
			err = run(ctx, conn, vaultsql.File{Name: "lock.sql", Text: makeLock})
		}
		if !lostRace(err) || attempt == preparations {
			return err
		}
	}
}

// lostRace reports whether another session created the same role, schema or table at the same time, or granted the same
// membership.
func lostRace(err error) bool {
	var e *Error
	return errors.As(err, &e) && slices.Contains([]string{
		"23505", // unique_violation
		"42710", // duplicate_object
		"42P06", // duplicate_schema
		"42P07", // duplicate_table
		"40P01", // deadlock_detected
		"XX000", // "tuple concurrently updated"
	}, e.Code)
}

// lockMigration begins the transaction that excludes other migrations while it is open.
func lockMigration(ctx context.Context, conn *pgx.Conn) (pgx.Tx, error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return nil, classify(err)
	}
	_, err = tx.Exec(ctx, `SET LOCAL ROLE vault_owner; SET LOCAL lock_timeout = '`+otherMigrationTimeout+`';
		LOCK TABLE vault.lock_migration IN EXCLUSIVE MODE;
		SET LOCAL lock_timeout = '`+migrationLockTimeout+`'; RESET ROLE`)
	if err != nil {
		return nil, commitOrExplain(ctx, conn, tx, classify(err))
	}
	return tx, nil
}

// lockTables locks the tables that are there in one order, that of their names, until the transaction ends. Definitions
// and migrations touch tables in another order than daemons do; the transaction that has all locks waits for none.
func lockTables(ctx context.Context, tx pgx.Tx, mode string) error {
	_, err := tx.Exec(ctx, `SET LOCAL ROLE vault_owner; DO $$
DECLARE v_tables text := (SELECT string_agg(format('vault.%I', relname), ', ' ORDER BY relname) FROM pg_class
  WHERE relnamespace = 'vault'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
    AND relname <> 'lock_migration' AND relname NOT LIKE 'goose%');
BEGIN
  IF v_tables IS NOT NULL THEN
    EXECUTE 'LOCK TABLE ' || v_tables || ' IN `+mode+` MODE';
  END IF;
END $$`)
	return classify(err)
}

// lockWriters waits for the transactions of daemons that are under way, and keeps new ones waiting before they hold
// what the migration needs. A transaction that writes reads the heartbeat, and often the configuration, then takes the
// lock of its round, if any, and that of tx_context, and then others in any order. Were tx_context locked first, later
// transactions would wait for it while they hold a lock of the heartbeat, whose policies the migration replaces.
func lockWriters(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `SET LOCAL ROLE vault_owner; SET LOCAL lock_timeout = '`+writersTimeout+`';
DO $$
DECLARE v_name text;
BEGIN
  FOREACH v_name IN ARRAY ARRAY['heartbeat', 'config', 'lock_claims', 'lock_sealing', 'tx_context'] LOOP
    IF to_regclass('vault.' || v_name) IS NOT NULL THEN   -- old schemas do not have all
      EXECUTE format('LOCK TABLE vault.%I IN %s MODE', v_name,
        CASE WHEN v_name IN ('heartbeat', 'config') THEN 'ACCESS EXCLUSIVE' ELSE 'SHARE ROW EXCLUSIVE' END);
    END IF;
  END LOOP;
END $$; SET LOCAL lock_timeout = '`+migrationLockTimeout+`'`)
	return classify(err)
}

// stateWithin reads the state within a transaction, which an error about a missing table would end. It uses no
// savepoint, so that the configuration row has the transaction's own id, as its audit row has.
func stateWithin(ctx context.Context, tx pgx.Tx) (MigrationState, error) {
	var there bool
	if err := tx.QueryRow(ctx, `SELECT to_regclass('vault.config') IS NOT NULL`).Scan(&there); err != nil {
		return MigrationState{}, classify(err)
	}
	if !there {
		return MigrationState{Want: vaultsql.Version()}, nil
	}
	return migrationState(ctx, tx)
}

// commitOrExplain commits, or rolls back after an error. If the error is that a lock was not available, it names the
// holder.
func commitOrExplain(ctx context.Context, conn *pgx.Conn, tx pgx.Tx, err error) error {
	if err == nil {
		return classify(tx.Commit(ctx))
	}
	_ = tx.Rollback(context.WithoutCancel(ctx)) // the session ends soon
	var e *Error
	if !errors.As(err, &e) || e.Code != lockNotAvailable && e.Code != deadlockDetected {
		return err
	}
	holder, found := oldestUser(ctx, conn)
	if !found {
		holder = "a transaction that has just ended"
	}
	return &Error{Kind: ErrBusy, Code: e.Code, Text: "migrating waits for " + holder}
}

// oldestUser describes the transaction that has used a table of the vault longest.
func oldestUser(ctx context.Context, conn *pgx.Conn) (text string, found bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := conn.QueryRow(ctx, `SELECT format('%s, which uses %s', CASE WHEN l.pid IS NULL THEN 'a prepared transaction'
			ELSE format('the transaction of pid %s (%L, role %L%s)', l.pid, a.application_name, a.usename,
				', since ' || a.xact_start) END,
			l.relation::regclass)
		FROM pg_locks l JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() AND c.relkind IN ('r', 'p')
		  AND c.relnamespace = to_regnamespace('vault')
		  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		ORDER BY l.mode = 'ExclusiveLock' AND c.relname = 'lock_migration' DESC, a.xact_start, l.pid LIMIT 1`).Scan(&text)
	return text, err == nil
}
