package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyperiondb/vault/internal/rotation"
)

// idleLimit ends a session whose client fell silent in its transaction. A worker that is stopped between looking at the clock
// and sending ALTER ROLE finds its session gone when it wakes, however late.
const idleLimit = 5 * time.Second

func (t *Targets) postgresRole(ctx context.Context, step string, s Spec, c rotation.Change) error {
	role, password, err := s.takeApart(c.Candidate)
	defer clear(password)
	if err != nil {
		return err
	}
	text, err := t.openSecret(ctx, s.via)
	if err != nil {
		return err
	}
	defer clear(text)
	admin, err := parseServer(string(text))
	if err != nil {
		return fmt.Errorf("the value of %q %w", s.via, err)
	}
	if admin.user == "" {
		return fmt.Errorf("the value of %q names no user", s.via)
	}
	if step == stepTest {
		return s.logIn(ctx, admin, role, password)
	}
	if s.isPair() && inUse(role, c) {
		return fmt.Errorf("role %q is the one in use: somebody changed the value since this rotation began", role)
	}
	return alterRole(ctx, admin, role, password)
}

func inUse(role string, c rotation.Change) bool {
	inForce, err := readLogin(c.Current)
	defer clear(inForce.password)
	return err == nil && inForce.user == role && !bytes.Equal(c.Current, c.Candidate)
}

// logIn proves that the password works, and by SCRAM only: a server that lets everybody in proves nothing, and one that asks
// for the password itself is not told.
func (s Spec) logIn(ctx context.Context, at server, role string, password []byte) error {
	validate := pgconn.ValidateConnectFunc(isPrimary) // a standby may not know the new password yet
	if s.login != "" {
		var err error
		if at, err = parseServer(s.login); err != nil {
			return fmt.Errorf("login= %w", err)
		}
		validate = nil
	}
	at.user, at.password = role, string(password)
	conn, err := at.connect(ctx, "scram-sha-256", validate)
	if err == nil {
		closing(ctx, conn)
		return nil
	}
	if strings.Contains(err.Error(), "authentication method requirement") {
		return fmt.Errorf("logging in as %q: %w: pg_hba.conf must ask this login for scram-sha-256; login= names another way in", role, err)
	}
	return fmt.Errorf("logging in as %q: %w", role, err)
}

// alterRole gives the role its password, in one short transaction whose commit is the commit point of Set.
func alterRole(ctx context.Context, admin server, role string, password []byte) error {
	verifier, err := newVerifier(password)
	if err != nil {
		return err
	}
	conn, err := admin.connect(ctx, "", isPrimary)
	if err != nil {
		return fmt.Errorf("connecting as the administrator: %w", err)
	}
	defer closing(ctx, conn)
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if err := limitSession(ctx, tx, idleLimit); err != nil {
			return err
		}
		if err := checkAlterable(ctx, tx, role); err != nil {
			return err
		}
		if err := inTime(ctx); err != nil {
			return err
		}
		// ALTER ROLE takes no parameters; a verifier holds letters, digits and $+/=: only.
		_, err := tx.Exec(ctx, fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", pgx.Identifier{role}.Sanitize(), verifier))
		return err
	})
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused) && refused.Code == "42501":
		return fmt.Errorf("altering role %q: %w; the administrator needs CREATEROLE and, from PostgreSQL 16, ADMIN OPTION on the role",
			role, admin.explain(err))
	case err != nil:
		return fmt.Errorf("altering role %q: %w", role, admin.explain(err))
	}
	return nil
}

// isPrimary names the schema of what it calls: in the administrator's session the target's owner chooses the search_path, and with
// it what a bare name means.
func isPrimary(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, `SELECT pg_catalog.pg_is_in_recovery()`).ReadAll()
	if err == nil && string(results[0].Rows[0][0]) == "t" {
		return errors.New("server is in standby mode")
	}
	return err
}

// limitSession bounds the transaction on the server's side, and gives it the schemas that the statements after it mean. With remote_apply the change is where the vault's own writes are:
// on every synchronous standby; with asynchronous commit it could be lost after we were told that it was done.
func limitSession(ctx context.Context, tx pgx.Tx, limit time.Duration) error {
	_, err := tx.Exec(ctx, `SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
		pg_catalog.set_config('idle_in_transaction_session_timeout', $1, true),
		pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('lock_timeout', $1, true),
		pg_catalog.set_config('synchronous_commit', 'remote_apply', true)`, fmt.Sprintf("%dms", limit.Milliseconds()))
	return err
}

// checkAlterable refuses the roles that nobody means: a superuser's login is not to hang on a rotation, and an administrator who
// changes his own password locks the next attempt out, as the connection string still has the old one.
func checkAlterable(ctx context.Context, tx pgx.Tx, role string) error {
	var super, login, self bool
	err := tx.QueryRow(ctx, `SELECT rolsuper, rolcanlogin, rolname IN (session_user, current_user) FROM pg_catalog.pg_roles WHERE rolname = $1`, role).
		Scan(&super, &login, &self)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errors.New("there is no such role")
	case err != nil:
		return err
	case self:
		return errors.New("it is the role that the administrator's connection logs in as; the next attempt would be locked out")
	case super:
		return errors.New("it is a superuser")
	case !login:
		return errors.New("it may not log in (NOLOGIN)")
	}
	return nil
}

// inTime looks at both clocks: the monotonic one stands still while a machine is suspended.
func inTime(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Round(0).Before(deadline.Round(0)) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}
