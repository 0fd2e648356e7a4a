package db

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Examination describes one connection and its server. It needs no vault in the database.
type Examination struct {
	Host       string
	Hosts      int  // that the connection string names
	Local      bool // a unix socket or loopback
	Encrypted  bool
	Verified   bool // the server's certificate was
	Pooled     bool // a pooler assigns the server's sessions
	Role       string
	Name       string // cluster_name, the node's name in status and in the log; "" = none
	Version    int    // 180001
	Recovering bool
	Skew       time.Duration // the server's clock minus ours, minus half of the round trip
	Schema     MigrationState

	// Of a vault whose schema fits.
	TooPowerful string // why the role could bypass the vault; "" = it cannot
	OddRoles    []OddRole
	BeatAt      *time.Time
	BeatAge     time.Duration // by the server's clock
}

// OddRole is a database role that an operator should look at: "gone" and "renamed" have prefixes, "maintains" may lock
// every table, "lost GROUP" is not a member of what it was granted, "absent GROUP" does not exist and was granted it,
// "unscoped" has none of the prefixes that it was granted, and any other problem is why a role with access could bypass
// the vault.
type OddRole struct{ Role, Problem string }

// Oldest and newest PostgreSQL that the vault is tested with.
const (
	OldestServer = oldestServer / 10000
	NewestServer = 18
)

// Examine connects to a node, or to the primary, without a pool: often it examines why a pool cannot connect.
func Examine(ctx context.Context, o Options, primary bool) (Examination, error) {
	var validate pgconn.ValidateConnectFunc
	if primary {
		validate = o.Fence.admit
	}
	config, err := o.config(validate)
	if err != nil {
		return Examination{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit(config)+statementTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return Examination{}, classify(err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	e, err := examine(ctx, session{conn})
	e.Hosts = len(hosts(config))
	return e, err
}

func examine(ctx context.Context, conn session) (Examination, error) {
	var e Examination
	e.examineConnection(conn.Conn)
	_, e.Pooled = behindPooler(conn.PgConn())
	sentAt := time.Now()
	var clock time.Time
	err := conn.QueryRow(ctx,
		`SELECT clock_timestamp(), session_user::text, current_setting('server_version_num')::int, pg_is_in_recovery(),
			current_setting('cluster_name')`,
		pgx.QueryExecModeExec).Scan(&clock, &e.Role, &e.Version, &e.Recovering, &e.Name)
	if err != nil {
		return e, classify(err)
	}
	e.Skew = clock.Sub(sentAt.Add(time.Since(sentAt) / 2))
	if e.Schema, err = migrationState(ctx, conn); err != nil || e.Schema.Have != e.Schema.Want {
		return e, err
	}
	var tooPowerful *string
	if err := conn.QueryRow(ctx, `SELECT vault._too_powerful(session_user)`,
		pgx.QueryExecModeExec).Scan(&tooPowerful); err != nil {
		return e, classify(err)
	}
	e.TooPowerful = deref(tooPowerful)
	if e.OddRoles, err = oddRoles(ctx, conn); err != nil {
		return e, err
	}
	var age *float64
	err = conn.QueryRow(ctx,
		`SELECT max(at), extract(epoch FROM clock_timestamp() - max(at))::float8 FROM vault.heartbeat`,
		pgx.QueryExecModeExec).
		Scan(&e.BeatAt, &age)
	e.BeatAge = time.Duration(deref(age) * float64(time.Second))
	return e, classify(err)
}

func oddRoles(ctx context.Context, conn session) ([]OddRole, error) {
	return Collect(ctx, conn, pgx.RowToStructByPos[OddRole], `SELECT role, problem FROM vault.odd_roles()`,
		pgx.QueryExecModeExec)
}

// examineConnection examines the network connection to the server.
func (e *Examination) examineConnection(conn *pgx.Conn) {
	line := conn.PgConn().Conn()
	e.Host = line.RemoteAddr().String()
	if e.Host == "" || e.Host == "@" {
		e.Host = conn.Config().Host
	}
	e.Local = line.RemoteAddr().Network() == "unix"
	if host, _, err := net.SplitHostPort(e.Host); err == nil {
		e.Local = net.ParseIP(host).IsLoopback()
	}
	secured, ok := line.(*tls.Conn)
	e.Encrypted = ok
	if ok {
		e.Verified = len(secured.ConnectionState().VerifiedChains) > 0 || verifies(conn.Config().TLSConfig)
	}
}

// Replica is a standby as its primary sees it. Without pg_read_all_stats for vault_owner every field is nil.
type Replica struct {
	Name       *string
	State      *string
	SyncState  *string
	LagBytes   *int64
	LagSeconds *float64 // nil also if nothing is left to replay
}

// Replicas lists the standbys that stream from the primary.
func (w *Writer) Replicas(ctx context.Context) ([]Replica, error) {
	return Collect(ctx, w.pool, func(row pgx.CollectableRow) (Replica, error) {
		var r Replica
		err := row.Scan(&r.Name, &r.State, &r.SyncState, &r.LagBytes, &r.LagSeconds)
		return r, err
	}, `SELECT standby, state, sync_state, lag_bytes, lag_seconds FROM vault.replication()`)
}

// Status asks the primary for its state.
func (w *Writer) Status(ctx context.Context) (Status, error) {
	var s Status
	err := w.pool.QueryRow(ctx, `SELECT vault.status()`).Scan(&s)
	return s, classify(err)
}

// NewestName is the live secret with the newest current version; "" if this role sees none.
func (r *Reader) NewestName(ctx context.Context) (string, error) {
	names, err := Collect(ctx, r.pool, pgx.RowTo[string], `SELECT s.name FROM vault.secrets s
		JOIN vault.secret_versions v ON v.secret_id = s.id AND v.version = s.current_version
		WHERE s.deleted_at IS NULL ORDER BY v.created_at DESC LIMIT 1`)
	if err != nil || len(names) == 0 {
		return "", err
	}
	return names[0], nil
}
