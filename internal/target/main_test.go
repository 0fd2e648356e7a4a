package target

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/leaks"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/rotation"
)

const (
	adminSecret = "prod/db/admin"
	hookSecret  = "prod/hooks/hmac"
	hookKey     = "a key that signs, of the test suite"
)

// node is the target of every postgres-role test: logins over its socket are checked by SCRAM, the superuser's are not.
// standby replicates it, and trusts every login.
var node, standby *localpg.Node // set once by TestMain, before any test runs

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "target")
	if err != nil {
		return complain(err)
	}
	defer os.RemoveAll(dir)
	cluster, err := openTarget(filepath.Join(dir, "cluster"))
	if err != nil {
		return complain(err)
	}
	node, standby = cluster.Primary(), cluster.Standbys()[0]
	code := m.Run()
	if err := cluster.Remove(); err != nil {
		return complain(err)
	}
	if code != 0 {
		return code
	}
	if err := leaks.Find(); err != nil {
		return complain(err)
	}
	return 0
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "testing targets:", err)
	return 1
}

func openTarget(dir string) (*localpg.Cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	binaries, err := localpg.FindVersion(os.Getenv("VAULT_TEST_PG"))
	if err != nil {
		return nil, err
	}
	c, err := localpg.Open(ctx, localpg.Options{
		Dir: dir, Binaries: binaries, Standbys: 1,
		// Everything a careless administrator might log is logged, so that a leak shows.
		Parameters: map[string]string{
			"log_statement": "all", "log_min_duration_statement": "0", "log_parameter_max_length": "-1",
			"log_parameter_max_length_on_error": "-1", "log_error_verbosity": "verbose",
		},
	})
	if err != nil {
		return nil, err
	}
	hba := "local all postgres trust\nlocal all trusted trust\nlocal all cleartext password\nlocal all hashed_md5 md5\n" +
		"local all all scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(c.Primary().DataDir(), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		return nil, err
	}
	return c, prepareTarget(ctx, c.Primary())
}

// secrets are what Open answers in a test.
type secrets map[string]string

func (s secrets) open(_ context.Context, name string) ([]byte, error) {
	value, ok := s[name]
	if !ok {
		return nil, fmt.Errorf("secret %q does not exist", name)
	}
	return []byte(value), nil
}

func newTargets(o Options) *Targets {
	if o.Open == nil {
		o.Open = secrets{adminSecret: adminURL("admin", adminPassword), hookSecret: hookKey}.open
	}
	if o.PostgresHosts == nil {
		at := fmt.Sprintf(":%d", node.Port())
		o.PostgresHosts = []string{
			node.SocketDir() + at, standby.SocketDir() + fmt.Sprintf(":%d",
				standby.Port()), standby.SocketDir() + at, "/nowhere" + at, "/nowhere", "127.0.0.1:1", "127.0.0.1",
		}
	}
	o.Log = slog.New(slog.DiscardHandler)
	return New(o)
}

func change(candidate string) rotation.Change {
	return rotation.Change{Secret: "app/db", Version: 7, Job: 42, Attempt: 1, Candidate: []byte(candidate)}
}

func mustSet(t *testing.T, targets *Targets, spec string, c rotation.Change) {
	t.Helper()
	if err := targets.Set(t.Context(), spec, c); err != nil {
		t.Fatal(err)
	}
}

func mustTest(t *testing.T, targets *Targets, spec string, c rotation.Change) {
	t.Helper()
	if err := targets.Test(t.Context(), spec, c); err != nil {
		t.Fatal(err)
	}
}

// wantRefusal wants an error that says this and repeats nothing secret.
func wantRefusal(t *testing.T, err error, says string, secret ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("got no error, want one with %q", says)
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("got error %q, want one with %q", err, says)
	}
	if strings.ContainsAny(err.Error(), "\r\n") {
		t.Errorf("error %q has more than one line", err)
	}
	for _, s := range append(secret, adminPassword, hookKey) {
		if strings.Contains(err.Error(), s) {
			t.Errorf("error %q has a value in it", err)
		}
	}
}
