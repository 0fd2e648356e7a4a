package vaulttest

import (
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

var pgbenchRate = regexp.MustCompile(`tps = ([0-9.]+)`)

// MustPgbench runs a script with pgbench against the primary as a role, its statements prepared, and returns the transactions a
// second: what PostgreSQL takes from a client that costs next to nothing. The arguments say how many clients, and for how long.
func (s *Store) MustPgbench(t testing.TB, role, script string, args ...string) float64 {
	t.Helper()
	pgbench, err := osexec.LookPath("pgbench")
	if err != nil {
		t.Fatal("pgbench is not installed: it comes with Debian's postgresql-15")
	}
	file := filepath.Join(t.TempDir(), "script.sql")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	node := s.Cluster.Primary()
	args = append([]string{"-n", "-M", "prepared", "-h", node.SocketDir(), "-p", strconv.Itoa(node.Port()), "-U", role, "-f", file}, args...)
	out, err := osexec.CommandContext(t.Context(), pgbench, append(args, s.Database)...).CombinedOutput()
	if err != nil {
		t.Fatalf("pgbench: %v\n%s", err, out)
	}
	m := pgbenchRate.FindSubmatch(out)
	if m == nil {
		t.Fatalf("pgbench printed no rate:\n%s", out)
	}
	rate, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return rate
}
