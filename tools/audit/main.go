// Command audit measures the audit log and captures the screens of its browser, in a PostgreSQL cluster of its own that
// it makes in a temporary folder and removes:
//
//	go run ./tools/audit bench [-rows 10000000]    queries on many rows against few, and the browser's memory
//	go run ./tools/audit captures docs/AUDIT.md    the blocks of that page that begin with "<!-- capture"
//
// bench needs 0.8 GB of disk for a million rows.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/hyperiondb/vault/internal/localpg"
)

const superuser = "postgres"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "audit:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("audit", flag.ExitOnError)
	rows := flags.Int("rows", 1_000_000, "rows of the large log")
	vaultctl := flags.String("vaultctl", "bin/vaultctl", "the browser")
	if len(args) == 0 {
		return fmt.Errorf("usage: bench [-rows N] | captures FILE")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	w, err := newEnv(ctx, *vaultctl)
	if err != nil {
		return err
	}
	defer w.close()
	switch {
	case args[0] == "bench" && flags.NArg() == 0:
		return bench(ctx, w, *rows)
	case args[0] == "captures" && flags.NArg() == 1:
		return captures(ctx, w, flags.Arg(0))
	}
	return fmt.Errorf("usage: bench [-rows N] | captures FILE")
}

// env is a folder with a cluster.
type env struct {
	dir, vaultctl string
	cluster       *localpg.Cluster
}

func newEnv(ctx context.Context, vaultctl string) (*env, error) {
	vaultctl, err := filepath.Abs(vaultctl)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "audit")
	if err != nil {
		return nil, err
	}
	w := &env{dir: dir, vaultctl: vaultctl}
	w.cluster, err = localpg.Open(ctx, localpg.Options{Dir: filepath.Join(dir, "cluster"), Parameters: map[string]string{
		"shared_buffers": "512MB", "max_wal_size": "2GB", "maintenance_work_mem": "256MB"}})
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return w, nil
}

func (w *env) close() {
	if err := w.cluster.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, "audit:", err)
	}
	os.RemoveAll(w.dir)
}
