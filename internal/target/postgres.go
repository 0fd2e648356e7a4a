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

// idleLimit is the time after which the server ends a session that is idle in its transaction. A worker that is
// suspended between reading the clock and sending ALTER ROLE then has no session left when it continues.
const idleLimit = 5 * time.Second

// postgresRole does one step at a role, or at a pair of them.
func (t *Targets) postgresRole(ctx context.Context, step string, s Spec, c rotation.Change) (rotation.Found, error) {
	admin, err := t.administrator(ctx, s, c)
	if err != nil {
		return 0, untouched{err}
	}
	switch step {
	case stepCheck:
		return t.checkRole(ctx, admin, s, c)
	case stepSet:
		return 0, t.setRole(ctx, admin, s, c)
	case stepTest:
		return 0, t.testRole(ctx, admin, s, c)
	}
	return 0, t.restoreRole(ctx, admin, s, c)
}

// administrator reads the connection string in the secret of via=, after the candidate was checked.
func (t *Targets) administrator(ctx context.Context, s Spec, c rotation.Change) (server, error) {
	if c.Candidate != nil {
		_, password, err := s.splitCandidate(c.Candidate)
		clear(password)
		if err != nil {
			return server{}, err
		}
	}
	text, err := t.openSecret(ctx, s.via)
	if err != nil {
		return server{}, err
	}
	defer clear(text)
	admin, err := parseServer(string(text))
	if err != nil {
		return server{}, fmt.Errorf("the value of %q %w", s.via, err)
	}
	if admin.user == "" {
		return server{}, fmt.Errorf("the value of %q names no user", s.via)
	}
	return admin, nil
}

// checkRole checks the role that Set would alter, and logs in with the value in force.
func (t *Targets) checkRole(ctx context.Context, admin server, s Spec, c rotation.Change) (rotation.Found, error) {
	role, err := s.roleToAlter(c)
	if err != nil {
		return 0, err
	}
	conn, primary, err := t.postgres.primary(ctx, admin)
	if err != nil {
		return 0, fmt.Errorf("connecting as the administrator: %w", err)
	}
	defer closeConn(ctx, conn)
	at, _, err := s.loginAt(primary)
	if err == nil {
		err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return s.checkCatalog(ctx, tx, role, at.database) })
	}
	if err == nil {
		err = checkCommits(ctx, conn)
	}
	if err != nil {
		return 0, fmt.Errorf("role %q: %w", role, primary.explain(err, false))
	}
	if s.isPair() {
		return t.checkPair(ctx, primary, s, c)
	}
	return s.findAccepted(c, func(value []byte) error {
		if err := checkPassword(value); err != nil {
			return notAccepted{err}
		}
		return t.proves(ctx, primary, s, role, value)
	})
}

// checkCommits commits a record that changes nothing, as Set will commit. A server that waits for a synchronous standby
// has made the change by the time that it is given up, and a Restore would wait in the same way.
func checkCommits(ctx context.Context, conn *pgx.Conn) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := limitSession(ctx, tx, idleLimit); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `SELECT pg_catalog.pg_logical_emit_message(true, 'hyperiondb-vault', '')`)
		return err
	})
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused) && refused.Code == "42501":
		return nil // PUBLIC may call it, unless the operator of the target took that away
	case err != nil:
		return fmt.Errorf("the target does not confirm a commit (is a synchronous standby away?): %w", err)
	}
	return nil
}

func (s Spec) checkCatalog(ctx context.Context, tx pgx.Tx, role, database string) error {
	if err := limitSession(ctx, tx, idleLimit); err != nil {
		return err
	}
	if err := checkAlterable(ctx, tx, role); err != nil || !s.isPair() {
		return err
	}
	return s.checkConnects(ctx, tx, role, database)
}

// checkPair logs in with the value in force where the next role will be tested; the password of the next role is not
// known. A value in force that is refused is accepted here: the rotation gives readers the other role.
func (t *Targets) checkPair(ctx context.Context, primary server, s Spec, c rotation.Change) (rotation.Found, error) {
	if c.Current == nil {
		return rotation.FoundNeither, nil
	}
	inForce, err := readLogin(c.Current)
	defer clear(inForce.password)
	if err != nil {
		return 0, fmt.Errorf("the value in force %w", err)
	}
	err = t.proves(ctx, primary, s, inForce.user, inForce.password)
	if errors.As(err, new(notAccepted)) {
		return rotation.FoundNeither, nil
	}
	if err != nil {
		return 0, fmt.Errorf("the value in force: %w", err)
	}
	return rotation.FoundCurrent, nil
}

// proves logs in with a password that readers have, or that an earlier attempt has set. A server that accepts the
// password and then refuses the session for another reason has proven it, except for a missing database, which means
// that login= is wrong. MD5 is accepted for a password that will be replaced.
func (t *Targets) proves(ctx context.Context, primary server, s Spec, role string, password []byte) error {
	err := t.logIn(ctx, primary, s, role, password, scramOrMD5)
	var r *refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r) && r.proven && r.code != noDatabase:
		return nil
	case errors.As(err, &r) && r.code == wrongPassword:
		return notAccepted{err}
	}
	return err
}

const (
	wrongPassword = "28P01" // invalid_password
	noDatabase    = "3D000" // invalid_catalog_name
)

func (t *Targets) setRole(ctx context.Context, admin server, s Spec, c rotation.Change) error {
	role, password, err := s.splitCandidate(c.Candidate)
	defer clear(password)
	if err == nil && s.isPair() && inUse(role, c) {
		err = fmt.Errorf("role %q is the one in use: the value was changed after this rotation began", role)
	}
	if err != nil {
		return untouched{err}
	}
	return t.alterRole(ctx, admin, role, password, c)
}

func inUse(role string, c rotation.Change) bool {
	inForce, err := readLogin(c.Current)
	defer clear(inForce.password)
	return err == nil && inForce.user == role && !bytes.Equal(c.Current, c.Candidate)
}

// testRole proves the candidate. A single role logged in before with the value in force, so if it now has no connection
// left, or no right to connect, readers still get its new password. Of a pair the next role has not logged in yet, and
// readers have one that works: here the login has to succeed.
func (t *Targets) testRole(ctx context.Context, admin server, s Spec, c rotation.Change) error {
	role, password, err := s.splitCandidate(c.Candidate)
	defer clear(password)
	if err != nil {
		return err
	}
	if s.login == "" && len(admin.hosts) > 1 {
		conn, primary, err := t.postgres.primary(ctx, admin)
		if err != nil {
			return fmt.Errorf("connecting as the administrator: %w", err)
		}
		closeConn(ctx, conn)
		admin = primary
	}
	err = t.logIn(ctx, admin, s, role, password, scram)
	if r := new(refusal); errors.As(err, &r) && r.proven && !s.isPair() {
		return nil
	}
	return err
}

// restoreRole sets the password that readers have again. Of a pair the role of readers was not changed.
func (t *Targets) restoreRole(ctx context.Context, admin server, s Spec, c rotation.Change) error {
	if s.isPair() {
		return nil
	}
	if err := checkPassword(c.Current); err != nil {
		return fmt.Errorf("the value in force: %w", err)
	}
	return t.alterRole(ctx, admin, s.roles[0], c.Current, c)
}

// loginAt returns the server at which Test logs in, and a condition on it if there are several.
func (s Spec) loginAt(admin server) (server, pgconn.ValidateConnectFunc, error) {
	if s.login == "" {
		return admin, isPrimary, nil // a standby may not know the new password yet
	}
	at, err := parseServer(s.login)
	if err != nil {
		return server{}, nil, fmt.Errorf("login= %w", err)
	}
	return at, nil, nil
}

// logIn proves that the password works, a new one by SCRAM only: a server that trusts every login proves nothing, and
// one that asks for the password itself does not get it.
func (t *Targets) logIn(ctx context.Context, admin server, s Spec, role string, password []byte, methods string) error {
	at, validate, err := s.loginAt(admin)
	if err != nil {
		return err
	}
	at.user, at.password = role, string(password)
	conn, err := t.postgres.connect(ctx, at, methods, validate)
	if err == nil {
		closeConn(ctx, conn)
		return nil
	}
	if strings.Contains(err.Error(), "authentication method requirement") {
		return fmt.Errorf("logging in as %q: %w: pg_hba.conf must ask this login for scram-sha-256; "+
			"login= names another server for it", role, err)
	}
	return fmt.Errorf("logging in as %q: %w", role, err)
}

// alterRole sets the role's password in one short transaction. Its commit is the commit point of Set, and of Restore:
// the claim is checked after the change and before the commit, so that no other attempt can alter the role in between.
func (t *Targets) alterRole(ctx context.Context, admin server, role string, password []byte, c rotation.Change) error {
	verifier, err := newVerifier(password)
	if err != nil {
		return untouched{err}
	}
	conn, _, err := t.postgres.primary(ctx, admin)
	if err != nil {
		return untouched{fmt.Errorf("connecting as the administrator: %w", err)}
	}
	defer closeConn(ctx, conn)
	tx, err := conn.Begin(ctx)
	if err == nil {
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // has no effect after a commit
		err = prepareAlter(ctx, tx, role, verifier, c)
	}
	if err != nil {
		return untouched{admin.explainAltering(role, err)}
	}
	err = tx.Commit(ctx)
	switch {
	case err == nil:
		return nil
	case errors.As(err, new(*pgconn.PgError)):
		return untouched{admin.explainAltering(role, err)}
	}
	return admin.explainAltering(role, err) // it may have been committed
}

func prepareAlter(ctx context.Context, tx pgx.Tx, role, verifier string, c rotation.Change) error {
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
	if _, err := tx.Exec(ctx, fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", pgx.Identifier{role}.Sanitize(),
		verifier)); err != nil {
		return err
	}
	if c.Held != nil {
		return c.Held(ctx)
	}
	return nil
}

func (s server) explainAltering(role string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("altering role %q: %w", role, err)
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "42501" {
		return fmt.Errorf("altering role %q: %w; the administrator needs CREATEROLE and, from PostgreSQL 16, "+
			"ADMIN OPTION on the role", role, s.explain(err, false))
	}
	return fmt.Errorf("altering role %q: %w", role, s.explain(err, false))
}

// limitSession bounds the transaction on the server's side, and replaces the search_path of the target's database,
// whose owner may have put operators there for an administrator to run. With remote_apply the commit waits for every
// synchronous standby, as the vault's own writes do; with asynchronous commit a confirmed change could be lost.
func limitSession(ctx context.Context, tx pgx.Tx, limit time.Duration) error {
	_, err := tx.Exec(ctx, `SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),
		pg_catalog.set_config('idle_in_transaction_session_timeout', $1, true),
		pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('lock_timeout', $1, true),
		pg_catalog.set_config('synchronous_commit', 'remote_apply', true)`, fmt.Sprintf("%dms", limit.Milliseconds()))
	return err
}

// checkAlterable refuses roles that must not rotate: a superuser, and the administrator's own role, whose new password
// would lock the next attempt out, since the connection string still has the old one. A role whose password has expired
// cannot log in with any: PostgreSQL answers as for a wrong one.
func checkAlterable(ctx context.Context, tx pgx.Tx, role string) error {
	var super, login, self, expired bool
	var until string
	err := tx.QueryRow(ctx, `SELECT rolsuper, rolcanlogin, rolname IN (session_user, current_user),
		coalesce(rolvaliduntil <= pg_catalog.now(), false),
		coalesce(rolvaliduntil::pg_catalog.text, '') FROM pg_catalog.pg_roles WHERE rolname = $1`, role).
		Scan(&super, &login, &self, &expired, &until)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errors.New("there is no such role")
	case err != nil:
		return err
	case self:
		return never{errors.New("it is the role that the administrator's connection logs in as; " +
			"the next attempt would be locked out")}
	case super:
		return never{errors.New("it is a superuser")}
	case !login:
		return errors.New("it may not log in (NOLOGIN)")
	case expired:
		return fmt.Errorf("its password has expired (VALID UNTIL %s)", until)
	}
	return nil
}

// checkConnects refuses a role of a pair that could not connect once readers have it. With login= its sessions are not
// counted: a pooler gives the test one that it has already.
func (s Spec) checkConnects(ctx context.Context, tx pgx.Tx, role, database string) error {
	var may bool
	var limit, used int
	err := tx.QueryRow(ctx, `SELECT r.rolconnlimit, coalesce((
		SELECT pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT')
		FROM pg_catalog.pg_database d WHERE d.datname = $2), true),
		(SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a WHERE a.usesysid = r.oid)
		FROM pg_catalog.pg_roles r WHERE r.rolname = $1`, role, database).Scan(&limit, &may, &used)
	switch {
	case err != nil:
		return err
	case limit == 0:
		return errors.New("it may have no connection (CONNECTION LIMIT 0)")
	case limit > 0 && used >= limit && s.login == "":
		return fmt.Errorf("it has no connection left (CONNECTION LIMIT %d)", limit)
	case !may:
		return fmt.Errorf("it has no CONNECT on database %q", database)
	}
	return nil
}

// inTime checks the deadline by the wall clock as well: the monotonic one stops while a machine is suspended.
func inTime(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Round(0).Before(deadline.Round(0)) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}
