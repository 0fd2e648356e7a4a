package db

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// setting is a setting that ALTER DATABASE and ALTER ROLE can change, and the value that the vault's statements need.
type setting struct {
	name, value string
	yields      bool // to the connection string
}

// sessionSettings are set before a connection sends anything else. With another search_path, a database's owner chooses
// which functions, operators and types a superuser's statement uses (CVE-2018-1058). The others change how a literal is
// parsed, what a policy does, how a value is printed, which messages arrive, or how long a statement may take.
var sessionSettings = []setting{
	{name: "search_path", value: "pg_catalog, pg_temp"},
	{name: "standard_conforming_strings", value: "on"},
	{name: "default_transaction_isolation", value: "read committed"}, // a standby has no serializable
	{name: "default_transaction_deferrable", value: "off"},
	{name: "row_security", value: "on"}, // off: an error if a policy hides a row
	{name: "client_encoding", value: "UTF8"},
	{name: "TimeZone", value: "UTC"},
	{name: "DateStyle", value: "ISO, MDY"},
	{name: "IntervalStyle", value: "postgres"},
	{name: "bytea_output", value: "hex"},
	{name: "extra_float_digits", value: "1"},
	{name: "client_min_messages", value: "notice"}, // a commit that waited for no standby raises a warning
	{name: "array_nulls", value: "on"},
	{name: "transform_null_equals", value: "off"},
	{name: "quote_all_identifiers", value: "off"},
	{name: "check_function_bodies", value: "on"},
	{name: "exit_on_error", value: "off"},
	{name: "jit", value: "off"}, // compiling takes longer than any statement here
	{name: "plan_cache_mode", value: "auto"},
	{name: "restrict_nonsystem_relation_kind", value: ""}, // reads query a view
	{name: "idle_session_timeout", value: "0", yields: true},
	{name: "idle_in_transaction_session_timeout", value: "0", yields: true},
	{name: "statement_timeout", value: "0", yields: true}, // the client limits every statement
	{name: "lock_timeout", value: "0", yields: true},
	{name: "transaction_timeout", value: "0", yields: true},
}

// sessionPlan has the settings of the connections of one Options.
type sessionPlan struct {
	given    map[string]bool // timeouts that the connection string sets
	planOnce bool
	readOnly bool
}

func newSessionPlan(c *pgx.ConnConfig, o Options) sessionPlan {
	p := sessionPlan{given: map[string]bool{}, planOnce: o.PlanOnce && !o.Brief &&
		c.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement, readOnly: o.ReadOnly}
	for _, s := range sessionSettings {
		_, set := c.RuntimeParams[s.name]
		p.given[s.name] = s.yields && (set || strings.Contains(c.RuntimeParams["options"], s.name))
	}
	return p
}

// settings is a query that sets them, for the session or for a transaction, if the condition holds. It passes over
// settings that the server does not have. Every name in it is qualified, because the search_path is not set yet. It has
// one call for a list of rows, because a server analyses every call of a new session for the first time.
func (p sessionPlan) settings(transaction bool, condition string) string {
	var rows []string
	add := func(name, value string) { rows = append(rows, fmt.Sprintf("('%s', '%s')", name, value)) }
	for _, s := range sessionSettings {
		if p.given[s.name] {
			continue
		}
		if s.name == "plan_cache_mode" && p.planOnce && !transaction {
			// Without this, a statement with an array argument is planned at every execution.
			s.value = "force_generic_plan"
		}
		add(s.name, s.value)
	}
	if p.readOnly && transaction {
		add("transaction_read_only", "on")
	} else if p.readOnly {
		add("default_transaction_read_only", "on")
	}
	return fmt.Sprintf("SELECT pg_catalog.set_config(name, value, %t) FROM (VALUES %s) AS s (name, value) WHERE %s"+
		" AND pg_catalog.current_setting(name, true) IS NOT NULL", transaction, strings.Join(rows, ", "), condition)
}

// Keys of a connection's CustomData.
const (
	pinKey       = "hyperiondb-vault: settings of a transaction"  // only set behind a pooler
	openKey      = "hyperiondb-vault: beginning of a transaction" // the same, with unlimited
	describedKey = "hyperiondb-vault: described"
)

// unlimited comes before the settings, in a statement that takes no time. A pooler's session keeps the
// statement_timeout that its role had when it began, also after ALTER ROLE took that back, and a short one would cancel
// the settings, among them the one that ends it.
const unlimited = `SET LOCAL statement_timeout = 0; SET LOCAL jit = off; `

const beginPlain = `BEGIN ISOLATION LEVEL READ COMMITTED` // explicit: a standby may refuse the default level

// begin sends the first statement of a connection, and detects a pooler (see [pooler]). A session of our own gets its
// settings for good. A pooler's session is left unchanged, because another program may use it next and our next
// statement may run in another one: there, every transaction has its settings.
func (p sessionPlan) begin(ctx context.Context, conn *pgconn.PgConn) error {
	pid := fmt.Sprintf("pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) %d", conn.PID())
	first := unlimited
	if p.given["statement_timeout"] {
		first = ""
	}
	results, err := conn.Exec(ctx,
		fmt.Sprintf("%s; %sSELECT %s, pg_catalog.current_setting('session_replication_role'); %s; COMMIT", beginPlain, first,
			pid, p.settings(false, pid))).ReadAll()
	if err != nil {
		return fmt.Errorf("setting up the session: %w", err)
	}
	row := results[len(results)-3].Rows[0]
	if role := string(row[1]); role != "origin" { // only a superuser can change it
		return newError(ErrInvalid,
			"the setting session_replication_role is %q for this role or database, and triggers would not run", role)
	}
	if string(row[0]) != "t" {
		pin := p.settings(true, "true")
		conn.CustomData()[pinKey], conn.CustomData()[openKey] = pin, first+pin
		conn.CustomData()[describedKey] = map[string]bool{}
	}
	return nil
}

// behindPooler returns the settings of a transaction if a pooler assigns the connection's sessions.
func behindPooler(conn *pgconn.PgConn) (pin string, pooled bool) {
	pin, pooled = conn.CustomData()[pinKey].(string)
	return pin, pooled
}

// opening is the settings of a transaction behind a pooler, as statements of the simple protocol.
func opening(conn *pgconn.PgConn) string { return conn.CustomData()[openKey].(string) }

// pinned runs f with the session's settings: behind a pooler in a transaction, in which f only reads.
func pinned(ctx context.Context, conn *pgconn.PgConn, f func() error) error {
	if _, pooled := behindPooler(conn); !pooled {
		return f()
	}
	if _, err := conn.Exec(ctx, beginPlain+"; "+opening(conn)).ReadAll(); err != nil {
		return err
	}
	err := f()
	if conn.IsClosed() {
		return err
	}
	_, ended := conn.Exec(ctx, `ROLLBACK`).ReadAll()
	return errors.Join(err, ended)
}

// validating is the ValidateConnect of every connection: it sets the settings first, then calls validate.
func (p sessionPlan) validating(validate pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		if err := p.begin(ctx, conn); err != nil || validate == nil {
			return err
		}
		return pinned(ctx, conn, func() error { return validate(ctx, conn) })
	}
}

// session is a connection whose statements run with the settings they need. Every single statement outside of a
// transaction goes through it.
type session struct{ *pgx.Conn }

func (s session) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	pin, pooled := behindPooler(s.PgConn())
	if !pooled {
		return s.Conn.Query(ctx, sql, args...)
	}
	if !s.described(sql, args) {
		return s.describe(ctx, pin, sql, args)
	}
	batch := &pgx.Batch{}
	batch.Queue(beginPlain)
	batch.Queue(pin)
	batch.Queue(sql, args...)
	batch.Queue(`COMMIT`)
	answers := s.SendBatch(ctx, batch)
	for range 2 {
		if _, err := answers.Exec(); err != nil {
			return nil, s.ended(ctx, sql, errors.Join(err, answers.Close()))
		}
	}
	rows, err := answers.Query()
	end := func(failed error) error {
		if failed == nil {
			_, failed = answers.Exec()
		}
		if err := answers.Close(); failed == nil {
			failed = err
		}
		return s.ended(ctx, sql, failed)
	}
	if err != nil {
		return nil, end(err)
	}
	return &pinnedRows{Rows: rows, end: end}, nil
}

// described reports whether pgx knows the parameter types of a statement. pgx requests them at the first use, before
// anything else in a batch, and that must run with our settings too: a type can be another role's, with a check that
// runs when a parameter is parsed.
func (s session) described(sql string, args []any) bool {
	return !choosesMode(args) && s.PgConn().CustomData()[describedKey].(map[string]bool)[sql]
}

// choosesMode reports whether the arguments choose a query mode. A batch has no mode, and such a statement is sent
// before it is known whether the connection's own mode fits the pooler.
func choosesMode(args []any) bool {
	if len(args) == 0 {
		return false
	}
	_, chosen := args[0].(pgx.QueryExecMode)
	return chosen
}

// describe sends one statement in a transaction of several round trips.
func (s session) describe(ctx context.Context, pin, sql string, args []any) (pgx.Rows, error) {
	if err := s.open(ctx, pin, !choosesMode(args)); err != nil {
		return nil, s.ended(ctx, sql, err)
	}
	rows, err := s.Conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, s.ended(ctx, sql, err)
	}
	return &pinnedRows{Rows: rows, end: func(failed error) error {
		if failed == nil {
			_, failed = s.PgConn().Exec(ctx, `COMMIT`).ReadAll()
		}
		if failed == nil {
			s.PgConn().CustomData()[describedKey].(map[string]bool)[sql] = true
		}
		return s.ended(ctx, sql, failed)
	}}, nil
}

// open begins a transaction in a round trip of its own. It also describes the settings, for later batches: on a standby
// whose sessions are serializable, no statement can be described outside of it.
func (s session) open(ctx context.Context, pin string, describe bool) error {
	_, err := s.PgConn().Exec(ctx, beginPlain+"; "+opening(s.PgConn())).ReadAll()
	if err != nil || !describe || s.described(pin, nil) {
		return err
	}
	rows, err := s.Conn.Query(ctx, pin)
	if err != nil {
		return err
	}
	rows.Close()
	s.PgConn().CustomData()[describedKey].(map[string]bool)[pin] = rows.Err() == nil
	return rows.Err()
}

// ended rolls back a failed transaction, and forgets the descriptions that pgx forgets after an error.
func (s session) ended(ctx context.Context, sql string, err error) error {
	if err != nil {
		delete(s.PgConn().CustomData()[describedKey].(map[string]bool), sql)
		rollback(ctx, s.Conn)
	}
	return err
}

func (s session) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if _, pooled := behindPooler(s.PgConn()); !pooled {
		return s.Conn.QueryRow(ctx, sql, args...)
	}
	rows, err := s.Query(ctx, sql, args...)
	return oneRow{rows, err}
}

func (s session) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if _, pooled := behindPooler(s.PgConn()); !pooled {
		return s.Conn.Exec(ctx, sql, args...)
	}
	rows, err := s.Query(ctx, sql, args...)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	rows.Close()
	return rows.CommandTag(), rows.Err()
}

// beginQuery is the first query of a transaction with these options.
func (s session) beginQuery(o pgx.TxOptions) pgx.TxOptions {
	if _, pooled := behindPooler(s.PgConn()); !pooled {
		return o
	}
	level := o.IsoLevel
	if level == "" {
		level = pgx.ReadCommitted
	}
	return pgx.TxOptions{BeginQuery: fmt.Sprintf("BEGIN ISOLATION LEVEL %s %s; %s", level, o.AccessMode,
		opening(s.PgConn()))}
}

// pinnedRows ends its transaction when all rows are read, or when it is closed.
type pinnedRows struct {
	pgx.Rows
	end  func(failed error) error
	done bool
	err  error
}

func (r *pinnedRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *pinnedRows) Close() {
	r.Rows.Close()
	if !r.done {
		r.done, r.err = true, r.end(r.Rows.Err())
	}
}

func (r *pinnedRows) Err() error {
	if r.done {
		return r.err
	}
	return r.Rows.Err()
}

type oneRow struct {
	rows pgx.Rows
	err  error
}

func (r oneRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

// sessions are those of a pool.
type sessions struct {
	*pgxpool.Pool
	start  *start  // nil: callers do not wait for each other
	lender *lender // nil: the pool has connections of its own only
}

// Acquire is the pool's. At the start it waits for a connection that is in use.
func (s sessions) Acquire(ctx context.Context) (*pgxpool.Conn, error) {
	if s.lender != nil {
		if conn := s.lender.lend(ctx); conn != nil {
			return conn, nil
		}
	}
	if s.start != nil {
		defer s.start.turn(ctx, s.Pool)()
	}
	return s.Pool.Acquire(ctx)
}

func (s sessions) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	conn, err := s.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := session{conn.Conn()}.Query(ctx, sql, args...)
	if err != nil {
		conn.Release()
		return nil, err
	}
	return &releasedRows{Rows: rows, conn: conn}, nil
}

func (s sessions) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := s.Query(ctx, sql, args...)
	return oneRow{rows, err}
}

func (s sessions) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	conn, err := s.Acquire(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer conn.Release()
	return session{conn.Conn()}.Exec(ctx, sql, args...)
}

// Reset is the pool's, and also that of the pool that lends.
func (s sessions) Reset() {
	s.Pool.Reset()
	if s.lender != nil {
		s.lender.pool.Reset()
	}
}

// Begin and BeginTx of pgxpool do not set the settings.
func (sessions) Begin(context.Context) (pgx.Tx, error)                  { panic("use inTx") }
func (sessions) BeginTx(context.Context, pgx.TxOptions) (pgx.Tx, error) { panic("use inTx") }

// releasedRows releases its connection when all rows are read, or when it is closed.
type releasedRows struct {
	pgx.Rows
	conn *pgxpool.Conn
}

func (r *releasedRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *releasedRows) Close() {
	r.Rows.Close()
	if r.conn != nil {
		r.conn.Release()
		r.conn = nil
	}
}
