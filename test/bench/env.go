package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/testfolder"
	"github.com/hyperiondb/vault/internal/vault"
)

// Database roles. None has a password: access to the socket's folder is access to the server.
const (
	superuser = "postgres"
	operator  = "operator" // puts, as vaultctl does
	daemon    = "vaultd"
	database  = "vault"
	// of the subject idle, whose sessions are counted
	idleDaemon = "vaultd_idle"
)

const (
	writers    = 8  // puts at once
	maxWriters = 64 // of a subject
)

// inMemory is the folder below which tests make their clusters. It is "" in a measurement, which has its cluster on the
// disk.
var inMemory string

// env is the measured system: a cluster with a vault, in a folder of its own, and the servers beside it.
type env struct {
	dir       string
	memory    string // folder of the cluster, if it is in memory
	bin       string // folder of vaultctl and vaultd
	cluster   *localpg.Cluster
	token     vault.Token
	ring      *kms.Keyring
	reader    *db.Reader
	writer    *db.Writer
	vault     *vault.Vault // connects as the operator
	processes []*process
}

// newEnv makes a cluster with a number of standbys, whose shared_buffers hold all rows that are read.
func newEnv(ctx context.Context, standbys int, sharedBuffers string) (*env, error) {
	dir, err := os.MkdirTemp("", "vaultbench")
	if err != nil {
		return nil, err
	}
	s := &env{dir: dir}
	if err := s.set(ctx, standbys, sharedBuffers); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *env) set(ctx context.Context, standbys int, sharedBuffers string) error {
	var err error
	if s.bin, err = testfolder.Build(s.dir); err != nil {
		return err
	}
	if _, err := kms.GenerateKeyFile(s.file("kek")); err != nil {
		return err
	}
	if err := s.startCluster(ctx, standbys, sharedBuffers); err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	if s.token, err = s.install(ctx, database, operator, daemon, idleDaemon); err != nil {
		return fmt.Errorf("installing the vault: %w", err)
	}
	return s.openVault(ctx)
}

// startCluster starts servers with fsync on. Checkpoints happen on command only, not in the middle of a slice.
func (s *env) startCluster(ctx context.Context, standbys int, sharedBuffers string) error {
	binaries, err := localpg.FindVersion(os.Getenv("VAULT_TEST_PG"))
	if err != nil {
		return err
	}
	dir := s.file("cluster")
	if inMemory != "" {
		if s.memory, err = os.MkdirTemp(inMemory, "vaultbench"); err != nil {
			return err
		}
		if err := os.Chmod(s.memory, 0o711); err != nil { // for the servers' user
			return err
		}
		dir = filepath.Join(s.memory, "cluster")
	}
	s.cluster, err = localpg.Open(ctx, localpg.Options{
		Dir: dir, Standbys: standbys, Durable: true, Binaries: binaries,
		Parameters: map[string]string{
			"max_connections": "200", "shared_buffers": sharedBuffers, "max_wal_size": "8GB", "checkpoint_timeout": "1h",
			"maintenance_work_mem": "256MB",
		},
	})
	return err
}

// install makes a vault in a database of the cluster, and lets logins read, put and rotate.
func (s *env) install(ctx context.Context, database string, logins ...string) (vault.Token, error) {
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

func (s *env) openVault(ctx context.Context) (err error) {
	options := db.Options{URL: s.url(operator), ApplicationName: "bench", MaxConns: maxWriters}
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

// close ends the processes in the order of their dependencies, and removes the folder.
func (s *env) close() error {
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
	return errors.Join(append(errs, os.RemoveAll(s.memory), os.RemoveAll(s.dir))...)
}

func (s *env) file(name string) string { return filepath.Join(s.dir, name) }
func (s *env) key() string             { return "local://" + s.file("kek") }
func (s *env) url(role string) string  { return s.cluster.Primary().URL(database, role) }

// exec runs statements as the superuser.
func (s *env) exec(ctx context.Context, statements ...string) error {
	return s.cluster.Primary().Exec(ctx, database, statements...)
}

// queryValue returns the one value of a superuser's query, as text.
func (s *env) queryValue(ctx context.Context, sql string) (string, error) {
	return queryValue(ctx, s.url(superuser), sql)
}

func queryValue(ctx context.Context, url, sql string) (answer string, err error) {
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

// cpu is PostgreSQL's processor time so far, with the standby's, which replays all writes.
func (s *env) cpu() (time.Duration, error) {
	var pids []int
	for _, node := range s.cluster.Nodes() {
		pids = append(pids, node.Pid())
	}
	return cpuOfServers(pids...)
}

// valueOf is a unique value of size hexadecimal digits.
func valueOf(name string, version, size int) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s:%d", name, version))
	text := []byte(hex.EncodeToString(sum[:]))
	return bytes.Repeat(text, size/len(text)+1)[:size]
}

// fill puts a number of versions of each name.
func (s *env) fill(ctx context.Context, names []string, versions, size int) error {
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

func (s *env) put(ctx context.Context, name string, value []byte) (vault.Receipt, error) {
	return s.vault.Put(ctx, vault.PutRequest{Change: vault.Change{Token: s.token}, Name: name, Value: value})
}

func namesUnder(prefix string, count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = prefix + strconv.Itoa(i)
	}
	return names
}
