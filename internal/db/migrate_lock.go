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

	preparations = 20 // attempts, each of which lost against another migration
)

// Tests shorten these.
var (
	// migrationPatience is how long a statement of a migration waits for a lock: every read of that table waits
	// behind it.
	migrationPatience = "10s"
	// otherPatience is how long a migration waits for another one, which may have much to do.
	otherPatience = "60s"
)

// prepareSchema makes the roles, the schema, and in it the table whose lock serialises migrations: on an empty
// database there is nothing to lock that a stranger could not. Two at once do no harm; the one that loses finds
// everything there.
func prepareSchema(ctx context.Context, conn *pgx.Conn) error {
	// Within DO, as IF NOT EXISTS would be a notice at every migration.
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

// lostRace: another session made the same role, schema or table at the same time, or granted the same membership.
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

// lockMigration begins the transaction that keeps other migrations waiting, for as long as it is open.
func lockMigration(ctx context.Context, conn *pgx.Conn) (pgx.Tx, error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return nil, classify(err)
	}
	// It is idle while the tables are migrated over other connections.
	_, err = tx.Exec(ctx, `SET LOCAL ROLE vault_owner; SET LOCAL idle_in_transaction_session_timeout = 0;
		SET LOCAL lock_timeout = '`+otherPatience+`'; LOCK TABLE vault.lock_migration IN EXCLUSIVE MODE;
		SET LOCAL lock_timeout = '`+migrationPatience+`'; RESET ROLE`)
	if err != nil {
		return nil, whatWaits(ctx, conn, tx, classify(err))
	}
	return tx, nil
}

// stateWithin asks for the state where a table that is missing would end the transaction. No savepoint: the
// configuration is to have the transaction's own id, as its audit row has.
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

// whatWaits commits, or, after an error, rolls back; of one that says that a lock was not to be had, it finds out who
// holds it.
func whatWaits(ctx context.Context, conn *pgx.Conn, tx pgx.Tx, err error) error {
	if err == nil {
		return classify(tx.Commit(ctx))
	}
	_ = tx.Rollback(context.WithoutCancel(ctx)) // the session ends soon
	var e *Error
	if !errors.As(err, &e) || e.Code != lockNotAvailable {
		return err
	}
	holder, found := oldestUser(ctx, conn)
	if !found {
		return err
	}
	return &Error{Kind: ErrBusy, Code: e.Code, Text: "migrating waits for " + holder}
}

// oldestUser is the transaction that has used a table of the vault longest, in words.
func oldestUser(ctx context.Context, conn *pgx.Conn) (text string, found bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := conn.QueryRow(ctx, `SELECT format('%s, which uses %s', CASE WHEN l.pid IS NULL THEN 'a prepared transaction'
			ELSE format('the transaction of pid %s (%L, role %L%s)', l.pid, a.application_name, a.usename, ', since ' || a.xact_start) END,
			l.relation::regclass)
		FROM pg_locks l JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() AND c.relkind IN ('r', 'p')
		  AND c.relnamespace = to_regnamespace('vault')
		  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		ORDER BY l.mode = 'ExclusiveLock' AND c.relname = 'lock_migration' DESC, a.xact_start, l.pid LIMIT 1`).Scan(&text)
	return text, err == nil
}
