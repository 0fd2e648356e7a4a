package db

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgservicefile"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	vaultsql "github.com/hyperiondb/vault/sql"
)

const (
	connectTimeout = 5 * time.Second // for one host, unless the connection string says otherwise
	// So that a changed schema or role is noticed. It is noticed when a connection is used, too, so the pool looks at idle ones as
	// rarely: for each look it takes all of them, so that whoever asks meanwhile opens another, and then it hands out those that
	// were used least, whose backends have yet to map what is read.
	connMaxLifetime = 30 * time.Minute
)

// Options of a pool.
type Options struct {
	URL             string // a libpq connection string or URL; "" = libpq's environment and service files
	ApplicationName string
	MaxConns        int           // 0 = 4
	Fence           *Fence        // nil: an old primary is not told from a new one
	Brief           bool          // few statements a connection: they are described, as behind a pooler, not prepared
	ReadTimeout     time.Duration // of a Reader's Current, LiveVersions and Version, waiting for others included; 0 = a statement's
	PlanOnce        bool          // the same statements for a long time: each is planned once for any arguments, not for each set of them
	ListenURL       string        // of a Writer: where WaitForRotations listens; "" = URL. It takes a connection without a pooler
}

// Config is the one row of vault.config.
type Config struct {
	ClusterID     uuid.UUID
	DefaultKMSKey string // "" if none was set
	SchemaVersion int
}

// Reader reads from one node, whether primary or standby.
type Reader struct {
	pool    *pool
	fence   *Fence
	current *coalescer[sealed]
	live    *coalescer[sealed]
	lost    *coalescer[sealed] // of names of which the others found nothing
}

// Writer calls the write API on the primary.
type Writer struct {
	pool   *pool
	fence  *Fence
	listen *pgx.ConnConfig

	recording bool // it only records what happened elsewhere, which is none of the steps that failpoints name
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
	return &Reader{pool: pool, fence: o.Fence, current: shared(pool, limit, current), live: shared(pool, limit, live), lost: shared(pool, limit, lost)}, nil
}

// NewWriter makes a pool that connects, when first used, to the one host of the connection string that is read-write and
// not an old primary.
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

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func queryConfig(ctx context.Context, q querier) (Config, error) {
	var c Config
	err := q.QueryRow(ctx, `SELECT cluster_id, coalesce(default_kms_key, ''), schema_version FROM vault.config`, pgx.QueryExecModeExec).
		Scan(&c.ClusterID, &c.DefaultKMSKey, &c.SchemaVersion)
	return c, classify(err)
}

func newPool(ctx context.Context, o Options, validate pgconn.ValidateConnectFunc) (*pool, error) {
	config, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, newError(ErrInvalid, "reading the connection string: %s", redact(err))
	}
	if validate != nil {
		config.ConnConfig.ValidateConnect = validate
	}
	if err := prepare(config.ConnConfig, o); err != nil {
		return nil, err
	}
	config.MaxConns = 4
	if o.MaxConns > 0 {
		config.MaxConns = int32(o.MaxConns)
	}
	config.MaxConnLifetime, config.HealthCheckPeriod = connMaxLifetime, connMaxLifetime
	pooler := newPooler(o)
	config.BeforeConnect = pooler.beforeConnect
	config.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) {
		return o.Fence.keeps(conn) && pooler.keeps(conn), nil
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		pooler.afterConnect(conn)
		return checkSchema(ctx, session{conn})
	}
	made, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, newError(ErrInvalid, "reading the connection string: %s", redact(err))
	}
	return &pool{sessions: sessions{made}, limit: statementTimeout + connectLimit(config.ConnConfig)}, nil
}

// connectLimit is how long it may take to find the host that will do.
func connectLimit(c *pgx.ConnConfig) time.Duration {
	return c.ConnectTimeout * time.Duration(len(hosts(c)))
}

func hosts(c *pgx.ConnConfig) map[string]bool {
	all := map[string]bool{fmt.Sprint(c.Host, c.Port): true}
	for _, f := range c.Fallbacks { // each host twice with some kinds of sslmode
		all[fmt.Sprint(f.Host, f.Port)] = true
	}
	return all
}

// prepare is called when ValidateConnect is what it is to be: the session's settings go before it.
func prepare(c *pgx.ConnConfig, o Options) error {
	c.ValidateConnect = newSessionPlan(c, o).validating(c.ValidateConnect)
	c.RuntimeParams["application_name"] = o.ApplicationName
	c.DialFunc = dialer().DialContext
	c.OnNotice = hearWarning
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	given, err := sslmodeGiven(o.URL)
	if err != nil {
		return err
	}
	if !given {
		return requireVerifiedTLS(&c.Config, o.URL)
	}
	return nil
}

// requireVerifiedTLS raises libpq's default of sslmode (prefer, which anybody in the middle can talk down to nothing) to
// verify-full for remote hosts.
func requireVerifiedTLS(c *pgconn.Config, url string) error {
	remote := !isLocal(c.Host)
	for _, f := range c.Fallbacks {
		remote = remote || !isLocal(f.Host)
	}
	if !remote {
		return nil
	}
	strict, err := pgconn.ParseConfig(withVerifyFull(url))
	if err != nil {
		return newError(ErrInvalid, "reading the connection string: %s", redact(err))
	}
	c.TLSConfig, c.Fallbacks = strict.TLSConfig, strict.Fallbacks
	return nil
}

func withVerifyFull(url string) string {
	switch {
	case strings.HasPrefix(url, "postgres://"), strings.HasPrefix(url, "postgresql://"):
		base, fragment, _ := strings.Cut(url, "#")
		separator := "?"
		if strings.Contains(base, "?") {
			separator = "&"
		}
		_ = fragment // libpq knows none
		return base + separator + "sslmode=verify-full"
	default:
		return url + " sslmode=verify-full"
	}
}

func isLocal(host string) bool {
	if strings.HasPrefix(host, "/") || host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

var sslmodeSetting = regexp.MustCompile(`(^|[?&\s])sslmode\s*=`)

// sslmodeGiven reports whether somebody chose an sslmode: in the string, the environment or the service file.
func sslmodeGiven(url string) (bool, error) {
	if sslmodeSetting.MatchString(url) || os.Getenv("PGSSLMODE") != "" {
		return true, nil
	}
	service := os.Getenv("PGSERVICE")
	if m := regexp.MustCompile(`(?:^|[?&\s])service\s*=\s*([^&\s]+)`).FindStringSubmatch(url); m != nil {
		service = m[1]
	}
	if service == "" {
		return false, nil
	}
	file := os.Getenv("PGSERVICEFILE")
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return false, newError(ErrInvalid, "finding the service file of %q: %s", service, err)
		}
		file = filepath.Join(home, ".pg_service.conf")
	}
	services, err := pgservicefile.ReadServicefile(file)
	if err != nil {
		return false, newError(ErrInvalid, "reading the service file of %q: %s", service, err)
	}
	entry, err := services.GetService(service)
	if err != nil {
		return false, newError(ErrInvalid, "no service %q in %s", service, file)
	}
	return entry.Settings["sslmode"] != "", nil
}

// checkSchema refuses a connection to a database whose schema is not the one this binary was built for.
func checkSchema(ctx context.Context, s session) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout) // the pool connects in the background, without the caller's deadline
	defer cancel()
	c, err := queryConfig(ctx, s)
	if err != nil {
		return err
	}
	return fits(c.SchemaVersion)
}

func fits(have int) error {
	want := vaultsql.Version()
	switch {
	case have < want:
		return newError(ErrSchema, "the schema is at version %d, older than this binary's %d", have, want)
	case have > want:
		return newError(ErrSchema, "the schema is at version %d, newer than this binary's %d", have, want)
	}
	return nil
}

// A parse error of pgx may quote the connection string; a password in it must not reach a terminal or a log.
var (
	urlPassword     = regexp.MustCompile(`(://[^:@/\s]*):[^@\s]*@`)
	keywordPassword = regexp.MustCompile(`(?i)(password\s*=\s*)('[^']*'|\S+)`)
)

func redact(err error) string {
	text := urlPassword.ReplaceAllString(err.Error(), "$1:xxxxx@")
	return keywordPassword.ReplaceAllString(strings.ReplaceAll(text, "\n", " "), "${1}xxxxx")
}

// Target names the first host and database of a connection string, for messages: never its password.
func Target(url string) string {
	c, err := pgconn.ParseConfig(url)
	if err != nil {
		return "the database"
	}
	return fmt.Sprintf("%s on %s", c.Database, c.Host)
}
