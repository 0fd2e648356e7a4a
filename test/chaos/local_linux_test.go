package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/hyperiondb/vault/internal/kms/kmsfake"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/testfolder"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
	"github.com/hyperiondb/vault/test/chaos/pgproxy"
)

const (
	database     = "chaos"
	claimTimeout = 9 * time.Second
	diskSize     = 384 << 20        // of a node that has a file system of its own
	waitLimit    = 60 * time.Second // for any one condition; a bound, not a measurement
)

// workers are 4 in all.
var workers = map[string]int{"primary": 2, "standby1": 1, "standby2": 1}

// local is a vault on this machine with real processes: a primary and two standbys, each with its vaultd, and a proxy
// in front of each server that all writers use.
type local struct {
	Cluster
	dir     string
	servers *localpg.Cluster
	proxies map[string]*pgproxy.Proxy
	daemons map[string]*daemon
	fake    *kmsfake.Fake
	built   string   // folder of the binaries
	disks   []string // mounted
	noDisks string   // why none could be mounted

	sessions map[string]*pgx.Conn // of queryNode, by node; one goroutine at a time uses them
}

type daemon struct {
	binary, config, log string
	url, health         string
	mu                  sync.Mutex
	command             *exec.Cmd
	exited              chan struct{}
}

// mustBuild returns a folder with the binaries.
func mustBuild(t *testing.T) string {
	t.Helper()
	dir, err := testfolder.Build(t.TempDir(), "-tags=failpoints")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// mustLocal makes the cluster and removes it with the test.
func mustLocal(t *testing.T, built string, synchronous bool) *local {
	t.Helper()
	// AWS's client needs credentials; the fake accepts any.
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute) // on a busy machine
	defer cancel()
	dir, err := os.MkdirTemp(testfolder.Parent(), "chaos")
	if err != nil {
		t.Fatal(err)
	}
	l := &local{dir: dir, built: built, Cluster: Cluster{Synchronous: synchronous}, proxies: map[string]*pgproxy.Proxy{},
		daemons: map[string]*daemon{}, sessions: map[string]*pgx.Conn{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.logTails())
		}
		if err := l.remove(); err != nil {
			t.Errorf("removing the cluster: %v", err)
		}
	})
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"making the servers", l.makeServers},
		{"installing the vault", l.install},
		{"starting the daemons", l.startDaemons},
		{"waiting until all is well", l.healthy},
	} {
		if err := step.do(ctx); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
	}
	return l
}

func (l *local) makeServers(ctx context.Context) error {
	major, _ := strconv.Atoi(os.Getenv("VAULT_TEST_PG")) // none, or nonsense: the newest
	binaries, err := localpg.Find(major)
	if err != nil {
		return err
	}
	parameters := map[string]string{"max_connections": "100", "wal_keep_size": "64MB", "wal_receiver_timeout": "10s",
		"wal_sender_timeout": "20s", "synchronous_standby_names": "",
		"track_commit_timestamp": "on"} // for the time from a revocation to its first refusal
	if l.Synchronous {
		// All three, since any may become primary. Not "*", which would count a base backup.
		parameters["synchronous_standby_names"] = `ANY 1 ("primary", "standby1", "standby2")`
	}
	l.servers, err = localpg.Create(ctx, localpg.Options{Dir: filepath.Join(l.dir, "pg"), Standbys: 2, Binaries: binaries,
		Parameters: parameters})
	if err != nil {
		return err
	}
	l.mountDisks(ctx)
	return l.servers.Start(ctx)
}

// mountDisks gives each node a small file system of its own, so that its disk can be full. Where mounting is not
// allowed, the report lists that fault as skipped.
func (l *local) mountDisks(ctx context.Context) {
	for _, node := range l.servers.Nodes() {
		folder := filepath.Dir(node.DataDir())
		aside := folder + ".aside"
		if err := errors.Join(os.Rename(folder, aside), os.Mkdir(folder, 0o711)); err != nil {
			l.noDisks = err.Error()
			return
		}
		err := unix.Mount("tmpfs", folder, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0711", diskSize))
		if err != nil {
			l.noDisks = fmt.Sprintf("disk full: mounting a tmpfs is not allowed here (%v)", err)
			_ = os.Remove(folder)
			_ = os.Rename(aside, folder)
			return
		}
		l.disks = append(l.disks, folder)
		if out, err := exec.CommandContext(ctx, "cp", "-a", aside+"/.", folder).CombinedOutput(); err != nil {
			l.noDisks = fmt.Sprintf("disk full: %v: %s", err, out)
			return
		}
		_ = os.RemoveAll(aside)
	}
}

func (l *local) install(ctx context.Context) error {
	if err := vaulttest.Install(ctx, l.servers.Primary(), database, ""); err != nil {
		return err
	}
	// A commit waits for one standby, and vaultd ends on a node where its role has no right.
	lsn, err := l.servers.Primary().LSN(ctx)
	for _, standby := range l.servers.Standbys() {
		err = errors.Join(err, standby.WaitReplay(ctx, lsn))
	}
	if err != nil {
		return err
	}
	l.fake = kmsfake.New("eu-west-1", "vault")
	kmsURL, err := l.fake.Serve()
	if err != nil {
		return err
	}
	l.KMSKeys = []string{"awskms:///alias/vault?region=eu-west-1&endpoint=" + kmsURL}
	var ports, sockets []string
	for _, node := range l.servers.Nodes() {
		p, err := pgproxy.New("unix", filepath.Join(node.SocketDir(), ".s.PGSQL."+strconv.Itoa(node.Port())))
		if err != nil {
			return err
		}
		l.proxies[node.Name()] = p
		ports = append(ports, strconv.Itoa(p.Port()))
		sockets = append(sockets, node.SocketDir())
	}
	through := func(role string) string {
		return fmt.Sprintf("host=127.0.0.1,127.0.0.1,127.0.0.1 port=%s user=%s dbname=%s sslmode=disable "+
			"target_session_attrs=read-write connect_timeout=2",
			strings.Join(ports, ","), role, database)
	}
	l.WriteURL = through(vaulttest.Operator)
	l.SuperuserURL = fmt.Sprintf("host=%s port=%d user=%s dbname=%s target_session_attrs=read-write connect_timeout=2 "+
		"application_name=oracle",
		strings.Join(sockets, ","), l.servers.Primary().Port(), vaulttest.Superuser, database)
	if l.Token, err = vault.ParseToken(vaulttest.Token); err != nil {
		return err
	}
	token := filepath.Join(l.dir, "token")
	if err := os.WriteFile(token, []byte(vaulttest.Token+"\n"), 0o600); err != nil {
		return err
	}
	l.Vaultctl = filepath.Join(l.built, "vaultctl")
	l.VaultctlEnv = append(l.environment(), "VAULTCTL_DATABASE_URL="+l.WriteURL, "VAULTCTL_TOKEN_FILE="+token,
		"VAULTCTL_KMS_KEY="+l.KMSKeys[0])
	if err := l.makeKeeper(); err != nil {
		return err
	}
	for _, node := range l.servers.Nodes() {
		d, err := l.newDaemon(node, through(vaulttest.Daemon))
		if err != nil {
			return err
		}
		l.daemons[node.Name()] = d
		l.Nodes = append(l.Nodes, Node{Name: node.Name(), DaemonURL: d.url,
			ServerURL: node.URL(database, vaulttest.Superuser)})
	}
	return nil
}

func (l *local) environment() []string {
	return []string{"HOME=" + l.dir, "PATH=/usr/bin:/bin", "TZ=UTC", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test"}
}

// keeper is the program of the rotator of some secrets: a credential store with one value for each, in a file. It
// starts no other program, so that it is fast on a busy machine.
const keeper = `#!/bin/sh
file=$1/${VAULT_SECRET##*/}
value= kept=
IFS= read -r value
case $VAULT_STEP in
set) printf %s "$value" > "$file" ;;
test) IFS= read -r kept < "$file"; [ "$value" = "$kept" ] ;;
esac
`

func (l *local) makeKeeper() error {
	if err := os.Mkdir(filepath.Join(l.dir, "targets"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.dir, "keep"), []byte(keeper), 0o700)
}

// checkTargets checks, when no rotation is open, that each target accepts the current value of its secret.
func (l *local) checkTargets(t *testing.T) {
	t.Helper()
	v, err := l.openPrimary(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer v.close()
	checked := 0
	for i := range dueNames {
		kept, err := os.ReadFile(filepath.Join(l.dir, "targets", path.Base(dueName(i))))
		if !hasRotator(i) || errors.Is(err, os.ErrNotExist) {
			continue // not rotated yet
		}
		secret, err := v.Get(t.Context(), dueName(i), vault.GetOptions{})
		if err != nil {
			t.Error(err)
			continue
		}
		if checked++; string(secret.Value) != string(kept) {
			t.Errorf("the target of %q does not have its current value", dueName(i))
		}
		secret.Wipe()
	}
	if checked == 0 {
		t.Error("no rotation reached its target: this proves nothing")
	}
}

// newDaemon writes a configuration with addresses that a restart does not change.
func (l *local) newDaemon(node *localpg.Node, primaryURL string) (*daemon, error) {
	base := filepath.Join(l.dir, "vaultd-"+node.Name())
	var addresses [2]string
	// No connection of another program begins at such an address, and so takes the port while the daemon is away.
	own := fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	for i := range addresses {
		listener, err := net.Listen("tcp", own)
		if err != nil {
			return nil, err
		}
		addresses[i] = listener.Addr().String()
		defer listener.Close() // all are open at once, so that they differ
	}
	config := fmt.Sprintf("database_url = %q\nprimary_database_url = %q\nlisten = [%q]\nhealth_listen = %q\n"+
		"kms_keys = [%q]\nallow = [\"127.0.0.0/8\"]\n"+
		"rotation_workers = %d\nscan_interval = \"500ms\"\nlog_level = \"warn\"\n"+
		"state_dir = %q\naudit_spool = %q\nclaim_timeout = %q\n[exec_rotators]\nkeep = [%q, %q]\n",
		node.URL(database, vaulttest.Daemon), primaryURL, addresses[0], addresses[1], l.KMSKeys[0], workers[node.Name()],
		base+".state", base+".spool", claimTimeout,
		filepath.Join(l.dir, "keep"), filepath.Join(l.dir, "targets"))
	d := &daemon{binary: filepath.Join(l.built, "vaultd"), config: base + ".toml", log: base + ".log",
		url: "http://" + addresses[0], health: "http://" + addresses[1]}
	return d, os.WriteFile(d.config, []byte(config), 0o600)
}

func (l *local) startDaemons(ctx context.Context) error {
	for _, d := range l.daemons {
		if err := d.start(l.environment()); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) start(environment []string) error {
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.command = exec.Command(d.binary, "--config", d.config)
	d.command.Stdout, d.command.Stderr, d.command.Env = log, log, environment
	if err := d.command.Start(); err != nil {
		return err
	}
	exited, command := make(chan struct{}), d.command
	d.exited = exited
	go func() { _ = command.Wait(); close(exited) }()
	return nil
}

func (d *daemon) signal(s syscall.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.command != nil {
		_ = d.command.Process.Signal(s)
	}
}

// kill ends it as a crash would and waits until it is gone.
func (d *daemon) kill() {
	d.signal(syscall.SIGKILL)
	if d.command != nil {
		<-d.exited
	}
}

func (d *daemon) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.health+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// until calls yes until it returns true.
func until(ctx context.Context, limit time.Duration, what string, yes func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		ok, err := yes()
		switch {
		case ok:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s: not within %s: %w", what, limit, errors.Join(ctx.Err(), err))
		}
		wait(ctx, 25*time.Millisecond)
	}
}

// healthy waits until the primary takes writes, both standbys have replayed all it has now, and every vaultd is ready.
func (l *local) healthy(ctx context.Context) error {
	err := until(ctx, waitLimit, "the standbys follow", func() (bool, error) {
		var behind bool
		err := l.queryNode(ctx, l.servers.Primary(), &behind,
			`SELECT count(*) FILTER (WHERE state = 'streaming') < 2 FROM pg_stat_replication`)
		return err == nil && !behind, err
	})
	if err != nil {
		return err
	}
	lsn, err := l.servers.Primary().LSN(ctx)
	if err != nil {
		return err
	}
	for _, standby := range l.servers.Standbys() {
		if err := standby.WaitReplay(ctx, lsn); err != nil {
			return err
		}
	}
	for name, d := range l.daemons {
		if err := until(ctx, waitLimit, "vaultd of "+name+" is ready",
			func() (bool, error) { return d.ready(ctx), nil }); err != nil {
			return err
		}
	}
	return nil
}

// queryNode returns one value from one node, as the superuser. It keeps its session, since a condition that is waited
// for is asked often; if that one has ended, as with its server, it asks once more over another.
func (l *local) queryNode(ctx context.Context, node *localpg.Node, into any, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit/2) // some callers ask once
	defer cancel()
	conn, kept := l.sessions[node.Name()]
	for {
		if !kept {
			var err error
			if conn, err = pgx.Connect(ctx, node.URL(database, vaulttest.Superuser)); err != nil {
				return err
			}
			l.sessions[node.Name()] = conn
		}
		err := conn.QueryRow(ctx, sql, args...).Scan(into)
		if !conn.IsClosed() {
			return err
		}
		delete(l.sessions, node.Name())
		if !kept || ctx.Err() != nil {
			return err
		}
		kept = false
	}
}

func (l *local) remove() error {
	for _, d := range l.daemons {
		d.kill()
	}
	for _, p := range l.proxies {
		p.Close()
	}
	if l.fake != nil {
		l.fake.Close()
	}
	var errs []error
	for _, session := range l.sessions {
		_ = session.Close(context.Background()) // its server may be gone
	}
	if l.servers != nil {
		for _, node := range l.servers.Nodes() {
			errs = append(errs, node.Kill())
		}
		for _, disk := range l.disks {
			errs = append(errs, unix.Unmount(disk, 0))
		}
		errs = append(errs, l.servers.Remove())
	}
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}

// logTails returns the ends of the logs.
func (l *local) logTails() string {
	var b strings.Builder
	show := func(file string) {
		text, _ := os.ReadFile(file)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&b, "end of %s:\n%s\n", filepath.Base(file), strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
	for _, d := range l.daemons {
		show(d.log)
	}
	if l.servers != nil {
		for _, node := range l.servers.Nodes() {
			show(node.LogFile())
		}
	}
	return b.String()
}
