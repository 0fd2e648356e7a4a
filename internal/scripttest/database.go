package scripttest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// sql [as ROLE] [in DATABASE] [standby] STATEMENT: values of the rows, one row a line, on stdout. The role is the
// superuser by default, the database the vault's.
func (h *harness) cmdSQL(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	role, database, node := vaulttest.Superuser, s.store.Database, s.store.Cluster.Primary()
	for len(args) > 1 {
		switch args[0] {
		case "as":
			role, args = args[1], args[2:]
		case "in":
			database, args = args[1], args[2:]
		case "standby":
			node, args = s.store.Cluster.Standbys()[0], args[1:]
		default:
			ts.Fatalf("usage: sql [as ROLE] [in DATABASE] [standby] STATEMENT")
		}
	}
	out, err := query(node.URL(database, role), args[0])
	if neg != (err != nil) {
		ts.Fatalf("sql: got error %v", err)
	}
	if err != nil {
		fmt.Fprintln(ts.Stderr(), err)
	}
	fmt.Fprint(ts.Stdout(), out)
}

func query(url, statement string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	conn, err := connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	return rowsOf(ctx, conn, statement)
}

// connect makes a session without the time limits that "hostile settings" gives a database or a role: a busy machine
// may need longer.
func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	for _, limit := range []string{"statement_timeout", "lock_timeout", "idle_session_timeout",
		"idle_in_transaction_session_timeout"} {
		config.RuntimeParams[limit] = "0"
	}
	return pgx.ConnectConfig(ctx, config)
}

// repeated runs statements over one connection, and over a new one after an error: a poll that connects each time takes
// more processor time than what it waits for.
type repeated struct {
	conn *pgx.Conn // nil: none
	url  string
}

func (r *repeated) query(url, statement string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	if r.conn != nil && r.url != url {
		r.close()
	}
	if r.conn == nil {
		conn, err := connect(ctx, url)
		if err != nil {
			return "", err
		}
		r.conn, r.url = conn, url
	}
	out, err := rowsOf(ctx, r.conn, statement)
	if err != nil {
		r.close()
	}
	return out, err
}

func (r *repeated) close() {
	if r.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.conn.Close(ctx) // its server may be gone
		r.conn = nil
	}
}

func rowsOf(ctx context.Context, conn *pgx.Conn, statement string) (string, error) {
	results, err := conn.PgConn().Exec(ctx, statement).ReadAll()
	var out strings.Builder
	for _, r := range results {
		for _, row := range r.Rows {
			out.Write(bytes.Join(row, []byte("\t")))
			out.WriteString("\n")
		}
	}
	return out.String(), err
}

// pg stop|start|kill|promote NODE, pg replay: the servers of a script that has its own cluster ("vault own"). pg dump:
// a database "restored" from a dump of the vault's; sets RESTORED_URL.
func (h *harness) cmdPG(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	if len(args) == 1 && args[0] == "replay" {
		lsn, err := s.store.Cluster.Primary().LSN(ctx)
		ts.Check(err)
		for _, standby := range s.store.Cluster.Standbys() {
			ts.Check(standby.WaitReplay(ctx, lsn))
		}
		return
	}
	if len(args) == 1 && args[0] == "dump" && s.store.Cluster != h.program.Shared {
		ts.Check(s.restoreDump(ctx))
		ts.Setenv("RESTORED_URL", s.store.Cluster.Primary().URL(restored, vaulttest.Operator))
		return
	}
	if len(args) != 2 {
		ts.Fatalf("usage: pg dump|replay, pg stop|start|kill|promote NODE, after: vault own")
	}
	node := h.ownNode(ts, args[1])
	switch args[0] {
	case "stop":
		ts.Check(node.Stop(ctx, localpg.Fast))
	case "start":
		ts.Check(node.Start(ctx))
	case "kill":
		ts.Check(node.Kill())
	case "promote":
		ts.Check(node.Promote(ctx))
	default:
		ts.Fatalf("pg: unknown %q", args[0])
	}
}

const restored = "restored"

// restoreDump makes a second database of the vault's: with pg_dump and psql, or (a server without client programs) as a
// copy.
func (s *session) restoreDump(ctx context.Context) error {
	primary := s.store.Cluster.Primary()
	program := func(name string) string { return filepath.Join(s.store.Cluster.Binaries().Dir, name) }
	if _, err := os.Stat(program("pg_dump")); err != nil {
		return primary.Exec(ctx, "postgres", `CREATE DATABASE `+restored+` TEMPLATE `+s.store.Database)
	}
	if err := primary.Exec(ctx, "postgres", `CREATE DATABASE `+restored); err != nil {
		return err
	}
	dump, err := exec.CommandContext(ctx, program("pg_dump"), "--dbname", s.store.URL(vaulttest.Superuser)).Output()
	if err != nil {
		return fmt.Errorf("pg_dump: %w", err)
	}
	restore := exec.CommandContext(ctx, program("psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1",
		"--single-transaction", "--dbname", primary.URL(restored, vaulttest.Superuser))
	restore.Stdin = bytes.NewReader(dump)
	if out, err := restore.CombinedOutput(); err != nil {
		return fmt.Errorf("psql: %w: %s", err, out)
	}
	return nil
}

// ownNode returns a node of the script's own cluster.
func (h *harness) ownNode(ts *testscript.TestScript, name string) *localpg.Node {
	s := h.of(ts)
	if s.store.Cluster == h.program.Shared {
		ts.Fatalf("the cluster is shared\nhint: begin with 'vault own'")
	}
	for _, n := range s.store.Cluster.Nodes() {
		if n.Name() == name {
			return n
		}
	}
	ts.Fatalf("no node %q", name)
	return nil
}
