package scripttest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// pgbouncerProgram is where Debian has it; tools/install-patroni installs it.
const pgbouncerProgram = "/usr/sbin/pgbouncer"

// Every transaction gets another server connection than the one before, so that nothing depends on getting the same
// session.
const pgbouncerSettings = `[databases]
* = host=%s port=%d
[pgbouncer]
listen_addr =
unix_socket_dir = %s
auth_type = trust
auth_file = users.txt
pool_mode = %s
server_round_robin = 1
min_pool_size = 3
default_pool_size = 3
verbose = 0
`

// pgbouncer start [session]: Debian's pgbouncer, pooling by transaction or by session, in front of the script's
// primary. Sets POOLED_URL (for vaultctl), POOLED_DAEMON_URL, POOLED_APP_URL and POOLED_OWNER_URL.
func (h *harness) cmdPgbouncer(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	mode := "transaction"
	if len(args) == 2 {
		mode = args[1]
	}
	if len(args) < 1 || args[0] != "start" || s.store == nil {
		ts.Fatalf("usage: pgbouncer start [session], after: vault")
	}
	dir, err := s.startPgbouncer(mode)
	ts.Check(err)
	for name, role := range map[string]string{"POOLED_URL": vaulttest.Operator, "POOLED_DAEMON_URL": vaulttest.Daemon,
		"POOLED_APP_URL": vaulttest.AppRole, "POOLED_OWNER_URL": vaulttest.Superuser} {
		ts.Setenv(name, pooledURL(s.store, dir, role))
	}
}

func pooledURL(store *vaulttest.Store, dir, role string) string {
	return (&url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + store.Database,
		RawQuery: url.Values{"host": {dir}, "port": {"6432"}}.Encode()}).String()
}

// startPgbouncer returns the folder of its socket. It runs as the user PostgreSQL runs as, who alone may reach the
// server.
func (s *session) startPgbouncer(mode string) (dir string, err error) {
	node := s.store.Cluster.Primary()
	info, err := os.Stat(node.SocketDir())
	if err != nil {
		return "", err
	}
	owner := info.Sys().(*syscall.Stat_t)
	if dir, err = os.MkdirTemp("", "pgbouncer"); err != nil {
		return "", err
	}
	s.cleanup = append(s.cleanup, func() { _ = os.RemoveAll(dir) })
	users := ""
	for _, role := range []string{vaulttest.Operator, vaulttest.Daemon, vaulttest.AppRole, vaulttest.Superuser} {
		users += fmt.Sprintf("%q \"\"\n", role)
	}
	for name, text := range map[string]string{"users.txt": users,
		"pgbouncer.ini": fmt.Sprintf(pgbouncerSettings, node.SocketDir(), node.Port(), dir, mode)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
		return "", err
	}
	return dir, s.runPgbouncer(dir, owner)
}

func (s *session) runPgbouncer(dir string, owner *syscall.Stat_t) error {
	log := &lockedBuffer{}
	cmd := exec.Command(pgbouncerProgram, "pgbouncer.ini")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting pgbouncer (tools/install-patroni installs it): %w", err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	s.cleanup = append(s.cleanup, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it ends at once, with open connections
		<-exited
		s.record(log.String())
	})
	return s.waitPgbouncer(dir, log, exited)
}

func (s *session) waitPgbouncer(dir string, log *lockedBuffer, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	for {
		config, err := pgx.ParseConfig(pooledURL(s.store, dir, vaulttest.Operator))
		if err != nil {
			return err
		}
		config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
		conn, err := pgx.ConnectConfig(ctx, config)
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-exited:
			return fmt.Errorf("pgbouncer ended at once:\n%s", strings.TrimSpace(log.String()))
		case <-ctx.Done():
			return fmt.Errorf("pgbouncer does not answer: %w\n%s", err, log.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// expand FILE: $NAME in a file becomes what it is in the environment.
func (h *harness) cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: expand FILE")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
}
