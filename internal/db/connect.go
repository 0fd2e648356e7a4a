package db

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	vaultsql "github.com/hyperiondb/vault/sql"
)

const (
	connectTimeout = 5 * time.Second // for one host, if the connection string sets none
	// Connections are replaced, so that a changed schema or role is noticed. The health check runs as rarely: it takes all
	// idle connections, so that requests meanwhile open new ones, and it leaves the least used in front, whose backends
	// have not mapped the data yet. A changed schema is also noticed when a connection is used.
	connMaxLifetime = 30 * time.Minute
	// cachedStatements is more than a session has. pgx makes room for them when it connects: 512, its default, take 37 kB.
	cachedStatements = 128
)

// Options of a pool.
type Options struct {
	URL             string // a libpq connection string or URL; "" = libpq's environment and service files
	ApplicationName string
	MaxConns        int    // 0 = 4
	Fence           *Fence // nil: old primaries are not detected
	Brief           bool   // few statements a connection, so they are neither prepared nor described
	// of a Reader's Current, LiveVersions and Version, including the wait for a shared query; 0 = a statement's
	ReadTimeout time.Duration
	// for a process that repeats its statements: each is planned once for any arguments
	PlanOnce bool
	// for a process whose goroutines all begin at once: for half a second they share the connections that there are
	ShareAtStart bool
	Siblings     *Siblings // the other pools of this process, which release idle connections; nil = none
	ReadOnly     bool      // the server refuses every change of these sessions
	// of a Writer: a Reader with the same options, which lends its connection to the primary while it does not use it
	Reader *Reader
	// of a Writer: the server that WaitForRotations listens on; "" = URL. It needs a connection without a pooler
	ListenURL string
}

// Config is the one row of vault.config.
type Config struct {
	ClusterID     uuid.UUID
	DefaultKMSKey string // "" if none was set
	SchemaVersion int    // of the schema

	compatibleSince int // the oldest version of a binary that works on it
}

// Reader reads from one node, a primary or a standby.
type Reader struct {
	pool    *pool
	fence   *Fence
	current *coalescer[readResult]
	live    *coalescer[readResult]
	missing *coalescer[readResult] // for names that the others have no row for
	epoch   *coalescer[uuid.UUID]
}

// Writer calls the write API on the primary.
type Writer struct {
	pool   *pool
	fence  *Fence
	listen *pgx.ConnConfig

	recording bool // writes only audit records; the failpoints of changes do not apply
}

// NewReader makes a pool that connects when first used.
func NewReader(ctx context.Context, o Options) (*Reader, error) {
	pool, err := newPool(ctx, o, nil)
	if err != nil {
		return nil, err
	}
	limit := o.ReadTimeout
	if limit == 0 {
		limit = pool.limit
	}
	return &Reader{pool: pool, fence: o.Fence, current: shared(pool, limit, current), live: shared(pool, limit, live),
		missing: shared(pool, limit, missing), epoch: sharedEpoch(pool)}, nil
}

// NewWriter makes a pool that connects, when first used, to the one host of the connection string that is read-write
// and not an old primary.
func NewWriter(ctx context.Context, o Options) (*Writer, error) {
	pool, err := newPool(ctx, o, o.Fence.admit)
	if err != nil {
		return nil, err
	}
	listen := pool.Config().ConnConfig
	if o.ListenURL != "" {
		o.URL = o.ListenURL
		if listen, err = primaryConfig(o); err != nil {
			pool.Close()
			return nil, err
		}
	}
	if o.Reader != nil {
		pool.lender = &lender{pool: o.Reader.pool.Pool, admit: o.Fence.admit,
			limit: pool.Config().ConnConfig.ConnectTimeout}
	}
	return &Writer{pool: pool, fence: o.Fence, listen: listen}, nil
}

// Close waits until every connection is back and closed.
func (r *Reader) Close() { r.pool.Close() }

// Close waits until every connection is back and closed.
func (w *Writer) Close() { w.pool.Close() }

// Config reads the cluster id and the default KMS key.
func (r *Reader) Config(ctx context.Context) (Config, error) {
	return queryConfig(ctx, r.pool)
}

// Config reads the cluster id and the default KMS key.
func (w *Writer) Config(ctx context.Context) (Config, error) {
	return queryConfig(ctx, w.pool)
}

// ClusterID is that of the database that the last connection was made to; it asks if there was none.
func (r *Reader) ClusterID(ctx context.Context) (uuid.UUID, error) { return r.pool.clusterID(ctx) }

// ClusterID is that of the database that the last connection was made to; it asks if there was none.
func (w *Writer) ClusterID(ctx context.Context) (uuid.UUID, error) { return w.pool.clusterID(ctx) }

func (p *pool) clusterID(ctx context.Context) (uuid.UUID, error) {
	if id := p.cluster.Load(); id != nil {
		return *id, nil
	}
	c, err := queryConfig(ctx, p)
	return c.ClusterID, err
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func queryConfig(ctx context.Context, q querier) (Config, error) {
	var c Config
	err := q.QueryRow(ctx, configQuery, pgx.QueryExecModeExec).
		Scan(&c.ClusterID, &c.DefaultKMSKey, &c.SchemaVersion, &c.compatibleSince)
	return c, classify(err)
}

const configQuery = `SELECT cluster_id, coalesce(default_kms_key, ''), ` + versions + ` FROM vault.config c`

// versions are the schema's version, and the oldest of a binary that works on it. A schema up to version 13 has one
// number, and works with binaries of that number only.
const versions = `coalesce((to_jsonb(c) ->> 'installed_version')::int, c.schema_version), c.schema_version`

func newPool(ctx context.Context, o Options, validate pgconn.ValidateConnectFunc) (*pool, error) {
	settings, err := o.settings()
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(settings.text())
	if err != nil {
		return nil, settings.explain(err)
	}
	settings.apply(config.ConnConfig)
	if validate != nil {
		config.ConnConfig.ValidateConnect = validate
	}
	prepare(config.ConnConfig, o)
	config.MaxConns = 4
	if o.MaxConns > 0 {
		config.MaxConns = int32(o.MaxConns)
	}
	if settings["statement_cache_capacity"] == "" {
		config.ConnConfig.StatementCacheCapacity = cachedStatements
	}
	if settings["description_cache_capacity"] == "" {
		config.ConnConfig.DescriptionCacheCapacity = cachedStatements
	}
	config.MaxConnLifetime, config.HealthCheckPeriod = connMaxLifetime, connMaxLifetime
	pooler := newPooler(o, settings["default_query_exec_mode"] != "")
	config.BeforeConnect = pooler.beforeConnect
	config.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) {
		return o.Fence.stillAdmits(conn) && pooler.stillAdmits(conn), nil
	}
	p := &pool{limit: statementTimeout + connectLimit(config.ConnConfig), siblings: o.Siblings}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		registerInfinity(conn)
		registerArrays(conn)
		pooler.afterConnect(conn)
		cluster, err := checkSchema(ctx, session{conn})
		if err == nil {
			p.cluster.Store(&cluster)
			conn.PgConn().CustomData()[madeKey] = time.Now()
		}
		return err
	}
	made, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("making a pool: %w", err)
	}
	o.Siblings.join(made)
	p.sessions = sessions{Pool: made}
	if o.ShareAtStart {
		p.start = newStart()
	}
	return p, nil
}

const madeKey = "hyperiondb-vault: made at" // in a connection's CustomData: when it was checked

// connectLimit is how long it may take to try all hosts.
func connectLimit(c *pgx.ConnConfig) time.Duration {
	return c.ConnectTimeout * time.Duration(len(hosts(c)))
}

func hosts(c *pgx.ConnConfig) map[string]bool {
	all := map[string]bool{fmt.Sprint(c.Host, c.Port): true}
	for _, f := range c.Fallbacks { // with some values of sslmode each host is listed twice
		all[fmt.Sprint(f.Host, f.Port)] = true
	}
	return all
}

// prepare is called after ValidateConnect is set, because it puts the session's settings before it.
func prepare(c *pgx.ConnConfig, o Options) {
	c.ValidateConnect = newSessionPlan(c, o).validating(c.ValidateConnect)
	c.RuntimeParams["application_name"] = o.ApplicationName
	c.OnNotice = keepWarning
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
}

func isLocal(host string) bool {
	if strings.HasPrefix(host, "/") || host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Unverified returns the first remote host of a connection string whose certificate is not verified, or "".
func Unverified(url string) (host string, err error) {
	c, err := Options{URL: url}.config(nil)
	if err != nil {
		return "", err
	}
	if !isLocal(c.Host) && !verifies(c.TLSConfig) {
		return c.Host, nil
	}
	for _, f := range c.Fallbacks {
		if !isLocal(f.Host) && !verifies(f.TLSConfig) {
			return f.Host, nil
		}
	}
	return "", nil
}

// verifies reports whether the server's certificate is verified. With sslmode=verify-ca, which compares no name, pgx
// verifies the chain in a function of its own.
func verifies(c *tls.Config) bool {
	return c != nil && (!c.InsecureSkipVerify || c.VerifyPeerCertificate != nil)
}

// checkSchema refuses a database whose schema is older than the one this binary was built for, or so much newer that
// this binary does not work on it. It returns the cluster id. It asks nothing if the fence has.
func checkSchema(ctx context.Context, s session) (uuid.UUID, error) {
	if l, known := s.PgConn().CustomData()[lineageKey].(lineage); known && l.System != "" {
		return l.ID, l.config.fits()
	}
	// the pool connects in the background, without the caller's deadline
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	read := queryConfigAndInstance
	if _, pooled := behindPooler(s.PgConn()); pooled {
		read = func(ctx context.Context, s session) (Config, error) { return queryConfig(ctx, s) }
	}
	c, err := read(ctx, s)
	if err != nil {
		return c.ClusterID, err
	}
	return c.ClusterID, c.fits()
}

func (c *Config) setVersions(schema, compatibleSince []byte) (err error) {
	if c.SchemaVersion, err = strconv.Atoi(string(schema)); err == nil {
		c.compatibleSince, err = strconv.Atoi(string(compatibleSince))
	}
	return err
}

func (c Config) fits() error {
	want := vaultsql.Version()
	switch {
	case c.SchemaVersion < want:
		return newError(ErrSchema, "the schema is at version %d, older than this binary's %d", c.SchemaVersion, want)
	case c.compatibleSince > want:
		return newerSchema(c.SchemaVersion)
	}
	return nil
}

func newerSchema(have int) error {
	return newError(ErrSchema, "the schema is at version %d, newer than this binary's %d", have, vaultsql.Version())
}

// Target names the first host and database of a connection string, for messages: never its password.
func Target(url string) string {
	c, err := Options{URL: url}.config(nil)
	if err != nil {
		return "the database"
	}
	return fmt.Sprintf("%s on %s", c.Database, c.Host)
}

// TargetString is Target as a connection string, for settings that are printed and can be read back.
func TargetString(url string) string {
	c, err := Options{URL: url}.config(nil)
	if err != nil {
		return ""
	}
	hosts := []string{c.Host}
	for _, other := range c.Fallbacks { // also one for each host with and without TLS
		if !slices.Contains(hosts, other.Host) {
			hosts = append(hosts, other.Host)
		}
	}
	return fmt.Sprintf("host='%s' dbname='%s'", quoting.Replace(strings.Join(hosts, ",")), quoting.Replace(c.Database))
}
