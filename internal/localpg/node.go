package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// StopMode is how a server is asked to stop.
type StopMode int

const (
	// Smart waits until every client has gone.
	Smart StopMode = iota
	// Fast rolls back what is open, disconnects the clients and shuts down in order.
	Fast
	// Immediate drops everything; the next start recovers.
	Immediate
)

func (m StopMode) signal() (unix.Signal, error) {
	switch m {
	case Smart:
		return unix.SIGTERM, nil
	case Fast:
		return unix.SIGINT, nil
	case Immediate:
		return unix.SIGQUIT, nil
	default:
		return 0, fmt.Errorf("%d is not a stop mode", int(m))
	}
}

var errNotRunning = errors.New("it is not running")

// Node is one server of a cluster.
type Node struct {
	c    *Cluster
	name string

	starting sync.Mutex // held while the server is started or replaced

	mu    sync.Mutex
	child int // guarded by mu: the server's process if this program started it and has not collected it, else 0
}

// Name returns "primary", "standby1" and so on. A name stays with its node through a failover.
func (n *Node) Name() string { return n.name }

// DataDir returns the data folder.
func (n *Node) DataDir() string { return filepath.Join(n.folder(), "data") }

// LogFile returns the file of the server's log, over all its starts.
func (n *Node) LogFile() string { return filepath.Join(n.folder(), logName) }

// SocketDir returns the folder of the server's unix socket.
func (n *Node) SocketDir() string { return n.c.socketDir(n.name) }

func (c *Cluster) socketDir(node string) string {
	if c.rec.SocketRoot != "" {
		return filepath.Join(c.rec.SocketRoot, node)
	}
	return filepath.Join(c.base(), node, "socket")
}

// Port returns the number in the socket's file name. Nothing listens on that TCP port.
func (n *Node) Port() int { return port }

// URL returns a connection string for pgx. No password is needed for any role there is; the
// superuser is "postgres" and so is its database.
func (n *Node) URL(database, user string) string {
	query := url.Values{"host": {n.SocketDir()}, "port": {strconv.Itoa(port)}}.Encode()
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User(user),
		Path:     "/" + database,
		RawQuery: strings.ReplaceAll(query, "+", "%20"), // libpq takes a + for itself
	}
	return u.String()
}

const logName = "postgres.log"

func (n *Node) folder() string { return filepath.Join(n.c.base(), n.name) }

func (n *Node) role() nodeRole {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	return n.roleIn(n.c.rec)
}

func (n *Node) roleIn(rec record) nodeRole {
	for _, known := range rec.Nodes {
		if known.Name == n.name {
			return known.Role
		}
	}
	return roleStandby // being made; it is recorded when it is complete
}

// checkRole refuses a standby that stopped being one without Promote: started with the others it
// would be a second primary.
func (n *Node) checkRole() error {
	if n.role() != roleStandby || n.Running() {
		return nil
	}
	_, err := os.Lstat(filepath.Join(n.DataDir(), "standby.signal"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %q is no longer a standby, but was not promoted through this program", ErrUnusable, n.name)
	}
	return err
}

func (n *Node) makeFolders() error {
	if err := os.MkdirAll(n.folder(), 0o700); err != nil {
		return fmt.Errorf("making the folder of %q: %w", n.name, err)
	}
	if n.c.user.drop {
		// Root owns the folder and the server user may pass through, regardless of the umask.
		if err := os.Chmod(n.folder(), 0o711); err != nil {
			return fmt.Errorf("making the folder of %q: %w", n.name, err)
		}
	}
	return n.makeSocketDir()
}

func (n *Node) makeSocketDir() error {
	err := n.c.user.makeFolder(n.SocketDir())
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the socket folder of %q: %w", n.name, err)
	}
	return nil
}

// Start starts the server and waits until it takes connections. A server that runs already is
// only waited for. One that does not come up is stopped again.
func (n *Node) Start(ctx context.Context) error {
	n.starting.Lock()
	defer n.starting.Unlock()
	ctx, cancel := withLimit(ctx)
	defer cancel()
	if n.Running() {
		return n.WaitReady(ctx)
	}
	if err := n.launch(ctx); err != nil {
		return err
	}
	if err := n.WaitReady(ctx); err != nil {
		return errors.Join(err, stopAll([]*Node{n}))
	}
	return nil
}

func (n *Node) launch(ctx context.Context) error {
	if err := n.makeSocketDir(); err != nil {
		return err
	}
	if _, err := n.configure(); err != nil {
		return err
	}
	if err := n.clearStale(ctx); err != nil {
		return fmt.Errorf("starting %q: %w", n.name, err)
	}
	log, err := n.openLog()
	if err != nil {
		return fmt.Errorf("opening the log of %q: %w", n.name, err)
	}
	defer log.Close()
	// Not bound to ctx: the server outlives this call and this program.
	cmd := n.c.user.command(context.Background(), n.c.bin.program("postgres"), "-D", n.DataDir())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(cmd.Env, "LD_BIND_NOW=1") // once for the server, instead of in the process of each session
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %q: %w", n.name, err)
	}
	n.child = cmd.Process.Pid
	return cmd.Process.Release() // no goroutine waits: collect reaps it by process id
}

// openLog goes through os.Root for the reason writeData does.
func (n *Node) openLog() (*os.File, error) {
	root, err := os.OpenRoot(n.folder())
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.OpenFile(logName, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// orphanLimit bounds the wait for the children of a killed server, which end by themselves once
// they notice.
const orphanLimit = 5 * time.Second

// clearStale removes what a killed server has left. PostgreSQL handles most of it, but refuses to start
// while an orphan of the old server still holds its memory, and also when the old process id belongs
// to a zombie or, after a reboot, to any other program of the server user.
func (n *Node) clearStale(ctx context.Context) error {
	left, err := readPidFile(n.DataDir())
	if err != nil {
		return nil // there is none, or PostgreSQL judges it
	}
	ctx, cancel := context.WithTimeout(ctx, orphanLimit)
	defer cancel()
	err = poll(ctx, func() (bool, error) { return !segmentAttached(left.shm), nil })
	if err != nil || unix.Kill(left.pid, 0) != nil {
		return nil // still held, or no such process: both for PostgreSQL to judge
	}
	if alive(left.pid) && isPostgres(left.pid) {
		return nil
	}
	root, err := os.OpenRoot(n.DataDir())
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Remove("postmaster.pid"); err != nil {
		return err
	}
	dropSegment(left.shm, n.c.user) // the server would have found it through that file
	return nil
}

// dropSegment removes the shared memory a killed server has left, before its data is deleted.
func (n *Node) dropSegment() {
	if left, err := readPidFile(n.DataDir()); err == nil {
		dropSegment(left.shm, n.c.user)
	}
}

// Stop stops the server and returns when it has ended. One that is not running is no error.
func (n *Node) Stop(ctx context.Context, mode StopMode) error {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	signal, err := mode.signal()
	if err != nil {
		return err
	}
	pid := n.Pid()
	if pid == 0 {
		return nil
	}
	if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stopping %q: %w", n.name, err)
	}
	err = poll(ctx, func() (bool, error) { return n.Pid() != pid, nil })
	if err != nil {
		return n.failure("waiting for it to stop", err)
	}
	return nil
}

// Kill ends the server and its child processes with SIGKILL, as a crash would, and returns when
// they are gone. Start recovers the node. One that is not running is no error.
func (n *Node) Kill() error {
	pid := n.Pid()
	if pid == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpLimit)
	defer cancel()
	if err := killTree(ctx, pid); err != nil {
		return n.failure("killing it", err)
	}
	return nil
}

// Running reports whether the server's process exists. It may not take connections yet.
func (n *Node) Running() bool { return n.Pid() != 0 }

// Pid returns the server's process id, or 0 when it is not running.
func (n *Node) Pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.child != 0 {
		if !collect(n.child) {
			return n.child
		}
		n.child = 0
	}
	found, err := readPidFile(n.DataDir())
	if err != nil || !alive(found.pid) || !isServer(found.pid, n.DataDir()) {
		return 0
	}
	return found.pid
}

// WaitReady waits until the server takes connections; a standby does so once it is consistent.
// It fails at once when the server is not running.
func (n *Node) WaitReady(ctx context.Context) error {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	ask := querier{n: n}
	defer ask.close()
	err := poll(ctx, func() (bool, error) {
		if !n.Running() {
			return false, errNotRunning
		}
		// Cheaper than a connection that will be refused.
		if state, err := readPidFile(n.DataDir()); err != nil || !state.ready {
			return false, nil
		}
		var one int
		err := ask.row(ctx, `select 1`, &one)
		return err == nil, permanent(err)
	})
	if err != nil {
		return n.failure("waiting until it takes connections", ask.explain(err))
	}
	return nil
}

var lsnText = regexp.MustCompile(`^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$`)

// WaitReplay waits until the node has replayed the log up to an LSN ("0/3000148"), so that what
// was committed before it is visible here. A node that is no standby must have written so far.
// It fails at once when the node is not running.
func (n *Node) WaitReplay(ctx context.Context, lsn string) error {
	if !lsnText.MatchString(lsn) {
		return fmt.Errorf("%q is not an LSN", lsn)
	}
	ctx, cancel := withLimit(ctx)
	defer cancel()
	ask := querier{n: n}
	defer ask.close()
	err := poll(ctx, func() (bool, error) {
		if !n.Running() {
			return false, errNotRunning
		}
		var reached bool
		err := ask.row(ctx, `select coalesce(case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
			else pg_current_wal_flush_lsn() end >= $1::text::pg_lsn, false)`, &reached, lsn)
		return reached, permanent(err)
	})
	if err != nil {
		return n.failure("waiting for replay of "+lsn, ask.explain(err))
	}
	return nil
}

// LSN returns the primary's insert position: every committed change lies before it. It is an error on
// a standby. The log is flushed up to there, so that standbys get it at once: of a transaction that has
// not committed, the server would flush it within five seconds.
func (n *Node) LSN(ctx context.Context) (string, error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	ask := querier{n: n}
	defer ask.close()
	var lsn string
	var segment uint32
	// The message makes the statement a transaction that flushes when it commits, without waiting for a standby.
	const sql = `select pg_current_wal_insert_lsn()::text || ' ' || setting
		from set_config('synchronous_commit', 'local', true), pg_logical_emit_message(true, 'localpg', ''), pg_settings
		where name = 'wal_segment_size'`
	var both string
	if err := ask.row(ctx, sql, &both); err != nil {
		return "", n.failure("reading its LSN", err)
	}
	if _, err := fmt.Sscan(both, &lsn, &segment); err != nil {
		return "", fmt.Errorf("reading LSN and segment size %q: %w", both, err)
	}
	return reachable(lsn, segment)
}

// reachable turns an insert position into one that replay arrives at. When the last record ends
// with its page, the insert position is already behind the next page's header, whose size is 24
// bytes, or 40 on the first page of a segment (access/xlog_internal.h), while flush and replay
// stand at the page's start until something is written there.
func reachable(lsn string, segment uint32) (string, error) {
	var high, low uint32
	if _, err := fmt.Sscanf(lsn, "%X/%X", &high, &low); err != nil {
		return "", fmt.Errorf("reading LSN %q: %w", lsn, err)
	}
	const page = 8 << 10
	if header := low % page; header == 24 || low%segment == 40 {
		low -= header
	}
	return fmt.Sprintf("%X/%X", high, low), nil
}

// InRecovery reports whether the node is a standby at the moment.
func (n *Node) InRecovery(ctx context.Context) (bool, error) {
	ctx, cancel := withLimit(ctx)
	defer cancel()
	ask := querier{n: n}
	defer ask.close()
	var recovering bool
	if err := ask.row(ctx, `select pg_is_in_recovery()`, &recovering); err != nil {
		return false, n.failure("asking whether it is in recovery", err)
	}
	return recovering, nil
}

// reload brings a running server up to its configuration.
func (n *Node) reload() error {
	changed, err := n.configure()
	if err != nil || !changed {
		return err
	}
	if pid := n.Pid(); pid != 0 {
		return unix.Kill(pid, unix.SIGHUP)
	}
	return nil
}

// Exec runs statements, or groups of them with semicolons between, as the superuser in a database: each in a
// transaction of its own.
func (n *Node) Exec(ctx context.Context, database string, statements ...string) error {
	conn, err := n.connectTo(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, statement := range statements {
		if _, err := conn.PgConn().Exec(ctx, statement).ReadAll(); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

func (n *Node) connect(ctx context.Context) (*pgx.Conn, error) { return n.connectTo(ctx, superuser) }

func (n *Node) connectTo(ctx context.Context, database string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(n.URL(database, superuser))
	if err != nil {
		return nil, err
	}
	// pgx has filled in the environment's PGOPTIONS, PGTARGETSESSIONATTRS and such, which are
	// about some other server.
	cfg.RuntimeParams = map[string]string{"application_name": "localpg", "search_path": "pg_catalog, pg_temp"}
	cfg.ValidateConnect = nil
	cfg.AfterConnect = nil
	cfg.Fallbacks = nil
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	return pgx.ConnectConfig(ctx, cfg)
}

// querier runs queries on one node over a connection that it keeps, and replaces when it breaks.
type querier struct {
	n    *Node
	conn *pgx.Conn
	last error // of the latest query
}

func (a *querier) row(ctx context.Context, sql string, into any, args ...any) error {
	a.last = a.try(ctx, sql, into, args...)
	return a.last
}

func (a *querier) try(ctx context.Context, sql string, into any, args ...any) error {
	if a.conn == nil {
		conn, err := a.n.connect(ctx)
		if err != nil {
			return err
		}
		a.conn = conn
	}
	err := a.conn.QueryRow(ctx, sql, args...).Scan(into)
	if a.conn.IsClosed() {
		a.conn = nil
	}
	return err
}

// explain adds to the error of a wait that ran out of time the cause of the delay.
func (a *querier) explain(err error) error {
	if a.last == nil || errors.Is(err, a.last) || errors.Is(a.last, context.Canceled) ||
		errors.Is(a.last, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w (the last attempt: %w)", err, a.last)
}

func (a *querier) close() {
	if a.conn != nil {
		// The context of the work may have ended; a local server answers at once or is gone.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = a.conn.Close(ctx)
	}
}

// permanent drops the errors of a server that is not up yet or is going away, so that a poll
// goes on: no connection, or SQLSTATE class 57 (operator intervention). Others end it.
func permanent(err error) error {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || strings.HasPrefix(refused.Code, "57") {
		return nil
	}
	return err
}

func hasCode(err error, code string) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == code
}

// failure adds the node and the end of its log to an error.
func (n *Node) failure(doing string, err error) error {
	return fmt.Errorf("%q: %s: %w%s", n.name, doing, err, n.logTail())
}

const tailBytes = 4 << 10

func (n *Node) logTail() string {
	f, err := os.Open(n.LogFile())
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > tailBytes {
		if _, err := f.Seek(-tailBytes, io.SeekEnd); err != nil {
			return ""
		}
	}
	raw, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil || len(raw) == 0 {
		return ""
	}
	return "\nend of " + n.LogFile() + ":\n" + lastLines(raw)
}

func lastLines(raw []byte) string {
	lines := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
