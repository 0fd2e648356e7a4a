package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vault"
)

// Database roles. None has a password: the socket's folder decides who gets in.
const (
	superuser = "postgres"
	operator  = "operator" // what puts, as vaultctl
	daemon    = "vaultd"
	database  = "vault"
)

const (
	writers     = 8  // puts at once
	mostWriters = 64 // of a subject
)

// stage is what is measured: a cluster with a vault in it, in a folder of its own, and the servers beside it.
type stage struct {
	dir       string
	cluster   *localpg.Cluster
	token     vault.Token
	ring      *kms.Keyring
	reader    *db.Reader
	writer    *db.Writer
	vault     *vault.Vault // connects as the operator
	processes []*process
}

// newStage makes it with so many standbys, whose shared_buffers hold what is read.
func newStage(ctx context.Context, standbys int, sharedBuffers string) (*stage, error) {
	dir, err := os.MkdirTemp("", "vaultbench")
	if err != nil {
		return nil, err
	}
	s := &stage{dir: dir}
	if err := s.set(ctx, standbys, sharedBuffers); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *stage) set(ctx context.Context, standbys int, sharedBuffers string) error {
	build := exec.CommandContext(ctx, "go", "build", "-o", s.file("vaultd"), "github.com/hyperiondb/vault/cmd/vaultd")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building vaultd: %w\n%s", err, out)
	}
	if _, err := kms.GenerateKeyFile(s.file("kek")); err != nil {
		return err
	}
	if err := s.startCluster(ctx, standbys, sharedBuffers); err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	var err error
	if s.token, err = s.install(ctx, database, operator, daemon); err != nil {
		return fmt.Errorf("installing the vault: %w", err)
	}
	return s.openVault(ctx)
}

// startCluster: fsync is on, and a checkpoint comes when it is told to, not in the middle of somebody's slice.
func (s *stage) startCluster(ctx context.Context, standbys int, sharedBuffers string) error {
	binaries, err := localpg.FindVersion(os.Getenv("VAULT_TEST_PG"))
	if err != nil {
		return err
	}
	s.cluster, err = localpg.Open(ctx, localpg.Options{
		Dir: s.file("cluster"), Standbys: standbys, Durable: true, Binaries: binaries,
		Parameters: map[string]string{
			"max_connections": "200", "shared_buffers": sharedBuffers, "max_wal_size": "8GB", "checkpoint_timeout": "1h",
			"maintenance_work_mem": "256MB",
		},
	})
	return err
}

// install makes a vault in a database of the cluster, and lets logins read, put and rotate.
func (s *stage) install(ctx context.Context, database string, logins ...string) (vault.Token, error) {
	primary := s.cluster.Primary()
	url := primary.URL(database, superuser)
	if err := db.EnsureDatabase(ctx, primary.URL("postgres", superuser), database, logins...); err != nil {
		return vault.Token{}, err
	}
	if _, err := db.Migrate(ctx, url, "bench", s.key()); err != nil {
		return vault.Token{}, err
	}
	owner, err := db.NewWriter(ctx, db.Options{URL: url, ApplicationName: "bench"})
	if err != nil {
		return vault.Token{}, err
	}
	defer owner.Close()
	v := vault.New(vault.Options{Writer: owner})
	token, _, err := v.CreateTokenAsOwner(ctx, vault.NewTokenRequest{Name: "bench"})
	if err != nil {
		return vault.Token{}, err
	}
	for _, login := range logins {
		for _, group := range []vault.Group{vault.GroupService, vault.GroupWorker} {
			if _, err := v.Grant(ctx, vault.Change{Token: token}, login, group, ""); err != nil {
				return vault.Token{}, err
			}
		}
	}
	return token, nil
}

func (s *stage) openVault(ctx context.Context) (err error) {
	options := db.Options{URL: s.url(operator), ApplicationName: "bench", MaxConns: mostWriters}
	if s.reader, err = db.NewReader(ctx, options); err != nil {
		return err
	}
	if s.writer, err = db.NewWriter(ctx, options); err != nil {
		return err
	}
	if s.ring, err = kms.OpenKeyring(ctx, []string{s.key()}); err != nil {
		return err
	}
	s.vault = vault.New(vault.Options{Reader: s.reader, Writer: s.writer, Keys: s.ring})
	return nil
}

// close ends what runs in the order it depends on each other, and removes the folder.
func (s *stage) close() error {
	var errs []error
	for _, p := range s.processes {
		errs = append(errs, p.stop())
	}
	if s.vault != nil {
		s.vault.Close()
	}
	if s.ring != nil {
		errs = append(errs, s.ring.Close())
	}
	if s.writer != nil {
		s.writer.Close()
	}
	if s.reader != nil {
		s.reader.Close()
	}
	if s.cluster != nil {
		errs = append(errs, s.cluster.Remove())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

func (s *stage) file(name string) string { return filepath.Join(s.dir, name) }
func (s *stage) key() string             { return "local://" + s.file("kek") }
func (s *stage) url(role string) string  { return s.cluster.Primary().URL(database, role) }

// exec runs statements as the superuser.
func (s *stage) exec(ctx context.Context, statements ...string) error {
	return s.cluster.Primary().Exec(ctx, database, statements...)
}

// ask returns the one value of a superuser's query, as text.
func (s *stage) ask(ctx context.Context, sql string) (string, error) {
	return ask(ctx, s.url(superuser), sql)
}

func ask(ctx context.Context, url, sql string) (answer string, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := conn.QueryRow(ctx, `SELECT coalesce((`+sql+`)::text, '')`).Scan(&answer); err != nil {
		return "", fmt.Errorf("%s: %w", sql, err)
	}
	return answer, nil
}

// cpu is what PostgreSQL has used so far, the standby too: it replays what is written.
func (s *stage) cpu() (time.Duration, error) {
	var pids []int
	for _, node := range s.cluster.Nodes() {
		pids = append(pids, node.Pid())
	}
	return cpuOfServers(pids...)
}

// valueOf is a value nobody else has: so many hexadecimal digits.
func valueOf(name string, version, size int) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s:%d", name, version))
	text := []byte(hex.EncodeToString(sum[:]))
	return bytes.Repeat(text, size/len(text)+1)[:size]
}

// fill puts so many versions of each name.
func (s *stage) fill(ctx context.Context, names []string, versions, size int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for _, name := range names {
		group.Go(func() error {
			for version := 1; version <= versions; version++ {
				if _, err := s.put(ctx, name, valueOf(name, version, size)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (s *stage) put(ctx context.Context, name string, value []byte) (vault.Receipt, error) {
	return s.vault.Put(ctx, vault.PutRequest{Change: vault.Change{Token: s.token}, Name: name, Value: value})
}

func namesUnder(prefix string, count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = prefix + strconv.Itoa(i)
	}
	return names
}
