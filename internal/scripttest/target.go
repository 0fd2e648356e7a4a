package scripttest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/testfolder"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// targetHBA makes the roles of applications log in by password; other roles are trusted as before.
const targetHBA = `local all app,app_a,app_b,dba scram-sha-256
local all all trust
local replication all trust
`

// target prepare | target admin FILE | [!] target login USER FILE | target user FILE | target hold USER FILE: a
// database whose roles rotate, on the script's own cluster (after: vault own). admin writes the administrator's URL
// into FILE. login uses the value in FILE, a password or the JSON of a pair of roles; user prints the role that such
// JSON names; hold keeps a login open until the script ends. prepare sets TARGET_HOST, for postgres_hosts, and
// TARGET_SOCKET, for login=.
func (h *harness) cmdTarget(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	switch {
	case len(args) == 1 && args[0] == "prepare":
		s.prepareTarget(ts)
	case len(args) == 2 && args[0] == "admin":
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(ts.Getenv("TARGET_ADMIN")), 0o600))
	case len(args) == 3 && args[0] == "login":
		if err := s.login(args[1], ts.ReadFile(args[2])); (err == nil) == neg {
			ts.Fatalf("logging in as %s: got error %v, want it to fail: %v", args[1], err, neg)
		}
	case len(args) == 3 && args[0] == "hold":
		conn, err := s.loggedIn(args[1], ts.ReadFile(args[2]))
		ts.Check(err)
		ts.Defer(func() { _ = conn.Close(context.Background()) })
	case len(args) == 2 && args[0] == "user":
		fmt.Fprintln(ts.Stdout(), pairOf(ts.ReadFile(args[1])).Username)
	default:
		ts.Fatalf("usage: target prepare | target admin FILE | [!] target login USER FILE | target user FILE | " +
			"target hold USER FILE")
	}
}

func (s *session) prepareTarget(ts *testscript.TestScript) {
	primary := s.store.Cluster.Primary()
	ts.Check(os.WriteFile(filepath.Join(primary.DataDir(), "pg_hba.conf"), []byte(targetHBA), 0o600))
	_, err := query(primary.URL("postgres", vaulttest.Superuser),
		`SELECT pg_reload_conf(); CREATE ROLE dba LOGIN CREATEROLE PASSWORD 'of the administrator';`)
	ts.Check(err)
	// A CREATEROLE of PostgreSQL 16 may alter only the roles it made.
	_, err = query(primary.URL("postgres", vaulttest.Superuser),
		`SET ROLE dba; CREATE ROLE app LOGIN; CREATE ROLE app_a LOGIN; CREATE ROLE app_b LOGIN`)
	ts.Check(err)
	ts.Setenv("TARGET_HOST", fmt.Sprintf("%s:%d", primary.SocketDir(), primary.Port()))
	ts.Setenv("TARGET_SOCKET", fmt.Sprintf("host=%s&port=%d", primary.SocketDir(), primary.Port()))
	ts.Setenv("TARGET_ADMIN", withPassword(primary.URL("postgres", "dba"), "dba", "of the administrator"))
}

func withPassword(text, user, password string) string {
	u, err := url.Parse(text)
	if err != nil {
		panic(err) // the cluster made it
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

type pair struct{ Username, Password string }

func pairOf(value string) pair {
	var p pair
	if json.Unmarshal([]byte(value), &p) != nil {
		p.Password = value
	}
	return p
}

func (s *session) login(user, value string) error {
	conn, err := s.loggedIn(user, value)
	if err != nil {
		return err
	}
	return conn.Close(context.Background())
}

func (s *session) loggedIn(user, value string) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	return pgx.Connect(ctx, withPassword(s.store.Cluster.Primary().URL("postgres", user), user,
		pairOf(strings.TrimSuffix(value, "\n")).Password))
}

// buildFragile builds vaultd with failpoints, for the first script that needs it.
func buildFragile(alone string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		dir, err := testfolder.Build(alone, "-tags=failpoints")
		return filepath.Join(dir, "vaultd"), err
	})
}

// diesAt waits until a daemon has killed itself at its failpoint.
func (s *session) diesAt(ts *testscript.TestScript, name string) {
	d := s.daemons[name]
	select {
	case <-d.exited:
	case <-time.After(waitLimit):
		ts.Fatalf("vaultd still lives:\n%s", d.log())
	}
	if status, ok := d.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		ts.Fatalf("vaultd ended by itself (%v):\n%s", d.cmd.ProcessState, d.log())
	}
	s.record(d.log())
	delete(s.daemons, name)
}
