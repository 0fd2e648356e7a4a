// Package scripttest runs the scripts of testdata/script with the real binaries against real PostgreSQL clusters, and
// the shell blocks of the documents ([RunPages]). testdata/script/README.md lists the commands that scripts have.
//
// # Pages
//
// A page is run as its reader reads it: block after block in one folder and one environment. A fence says after the
// language what the block is: on=MACHINE, of that machine; file=NAME, a part of a file; exit=CODE, of the last command;
// keys=KEYS, typed into a program that takes the terminal; "not run: REASON", where CI lacks something. In a block of
// console, lines after a command are its output; numbers and ids in it may be others. What the reader has before the
// first block, and which names of the page stand for what, is in worlds.
package scripttest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/audit/bucket/s3fake"
	"github.com/hyperiondb/vault/internal/kms/kmsfake"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/testfolder"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

const waitLimit = 2 * time.Minute // for any one condition; a bound, not a measurement

// harness holds what the scripts share.
type harness struct {
	program *vaulttest.Program
	bin     string // folder of vaultctl and vaultd, built as the test is: with or without the race detector
	plain   string // folder of a vaultctl without the race detector
	probe   string // folder of the client's probe
	module  string // this module's folder
	surface *surface

	fragileVaultd      func() (string, error) // vaultd with failpoints, built when first needed
	previous           func() (string, error) // folder of the previous release, built when first needed
	everyCommandListed func() error           // once for all scripts

	mu         sync.Mutex
	transcript bytes.Buffer        // stderr of everything the scripts ran, and vaultd's logs
	logs       []string            // PostgreSQL logs of clusters of single scripts, read when they end
	databases  []string            // on the shared cluster
	scripts    map[string]*session // by work folder
}

// session is the state of one script.
type session struct {
	h           *harness
	env         *testscript.Env
	store       *vaulttest.Store
	daemons     map[string]*daemon
	hasPrevious bool // one of the daemons is of the previous release
	pending     map[string]*pendingRequest
	fake        *kmsfake.Fake
	bucket      *s3fake.Fake
	held        *pgx.Conn
	load        *load
	reads       *nodeReads
	sockets     map[string]*sockets // of activated daemons
	cleanup     []func()
}

// Run builds both binaries, runs every script of a folder on one shared cluster, and then looks for their values and
// tokens in everything that was logged.
func Run(t *testing.T, dir string) {
	if signal.Ignored(syscall.SIGHUP) { // under nohup: what a script starts would ignore it as well, and stay
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	h := newHarness(t)
	t.Run("script", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: dir, Setup: h.setup, UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "", RequireExplicitExec: true,
			RequireUniqueNames: true, Condition: condition,
			Cmds: map[string]func(*testscript.TestScript, bool, []string){
				"vault": h.cmdVault, "daemon": h.cmdDaemon, "http": h.cmdHTTP, "sql": h.cmdSQL, "pg": h.cmdPG, "kms": h.cmdKMS,
				"s3":    h.cmdS3,
				"bytes": h.cmdBytes, "until": h.cmdUntil, "vaultctl": h.cmdVaultctl, "capture": h.cmdCapture, "steady": h.cmdSteady,
				"target":    h.cmdTarget,
				"terminal":  h.cmdTerminal,
				"node":      h.cmdNode,
				"pgbouncer": h.cmdPgbouncer, "expand": h.cmdExpand, "hold": h.cmdHold, "idle": h.cmdIdle,
				"relay":        h.cmdRelay,
				"credential":   h.cmdCredential,
				"everycommand": h.cmdEveryCommand, "hostile": h.cmdHostile,
				"load": h.cmdLoad, "reads": h.cmdReads, "plans": h.cmdPlans,
				"watched": h.cmdWatched,
			},
		})
	})
	h.checkCanary(t)
	h.checkSurface(t, dir)
}

// checkSurface reports answers that docs/openapi.yaml does not describe and, where every script ran, what it describes
// and no daemon answered.
func (h *harness) checkSurface(t *testing.T, dir string) {
	scripts, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range h.surface.problems(len(h.scripts) == len(scripts)) {
		t.Errorf("docs/openapi.yaml: %s", problem)
	}
}

func newHarness(t *testing.T) *harness {
	plain, err := testfolder.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	bin := plain
	if raceEnabled {
		if bin, err = testfolder.Build(t.TempDir(), "-race"); err != nil {
			t.Fatal(err)
		}
	}
	module, err := testfolder.Module()
	if err != nil {
		t.Fatal(err)
	}
	described, err := loadSurface(filepath.Join(module, "docs", "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	probe := t.TempDir()
	buildProbe(t, probe, module)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // another program may have to make the cluster first
	defer cancel()
	program, err := vaulttest.Start(ctx)
	if err != nil {
		t.Fatalf("making the test cluster: %v", err)
	}
	t.Cleanup(func() {
		if err := program.Close(); err != nil {
			t.Errorf("removing the test cluster: %v", err)
		}
	})
	return &harness{program: program, bin: bin, plain: plain, probe: probe, module: module, surface: described,
		scripts:       map[string]*session{},
		fragileVaultd: buildFragile(t.TempDir()), previous: buildPrevious(module, t.TempDir()),
		everyCommandListed: sync.OnceValue(func() error { return everyCommandListed(plain) })}
}

// buildProbe builds the program that uses the Go client. The client is a module of its own, so that a program that
// imports it gets none of this module's dependencies; a test that runs the program needs no version of the client in
// this module's go.mod.
func buildProbe(t *testing.T, bin, module string) {
	t.Helper()
	args := []string{"-o", bin + "/"}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := testfolder.Go("build", append(args, "./internal/probe")...)
	build.Dir = filepath.Join(module, "client")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the client's probe: %v\n%s", err, out)
	}
}

func (h *harness) setup(env *testscript.Env) error {
	s := &session{h: h, env: env, daemons: map[string]*daemon{}, pending: map[string]*pendingRequest{},
		sockets: map[string]*sockets{}}
	h.mu.Lock()
	h.scripts[env.WorkDir] = s
	h.mu.Unlock()
	env.Defer(s.end)
	path := []string{h.bin, h.probe, env.Getenv("PATH")}
	env.Setenv("PATH", strings.Join(path, string(os.PathListSeparator)))
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
	env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "cache"))
	env.Setenv("CANARY", canary)
	env.Setenv("FORMAT", filepath.Join(h.module, "docs", "format"))
	env.Setenv("TZ", "UTC")
	env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	env.Setenv("GORACE", os.Getenv("GORACE"))
	return nil
}

func (h *harness) of(ts *testscript.TestScript) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.scripts[ts.Getenv("WORK")]
}

// vault [own [previous]|extension]: a fresh vault on the shared cluster, or on a cluster of the script's own (whose
// server offers the extension), and the environment to use it. With previous, there are vaultctl-previous and
// vaultd-previous, of the previous release, and no schema yet.
func (h *harness) cmdVault(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	if slices.Contains(args, "previous") { // takes longer than any other condition, where nothing is compiled yet
		bin, err := h.previous()
		ts.Check(err)
		ts.Setenv("PATH", ts.Getenv("PATH")+string(os.PathListSeparator)+bin)
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	var err error
	own := h.program.ClusterDir()
	if slices.Contains(args, "own") {
		s.store, err = h.program.NewCluster(ctx, own)
		if err == nil {
			s.cleanup = append(s.cleanup, s.removeCluster)
		}
	} else if slices.Contains(args, "extension") {
		s.store, err = h.program.NewExtensionCluster(ctx, own, nil)
		if err == nil {
			s.cleanup = append(s.cleanup, s.removeCluster)
		}
	} else {
		s.store, err = h.program.NewDatabase(ctx)
		if err == nil {
			h.mu.Lock()
			h.databases = append(h.databases, s.store.Database)
			h.mu.Unlock()
		}
	}
	ts.Check(err)
	if slices.Contains(args, "previous") {
		ts.Check(s.store.Cluster.Primary().Exec(ctx, s.store.Database, `DROP SCHEMA vault CASCADE`))
	}
	token := filepath.Join(ts.Getenv("WORK"), ".token")
	ts.Check(os.WriteFile(token, []byte(vaulttest.Token+"\n"), 0o600))
	ts.Setenv("VAULTCTL_DATABASE_URL", s.store.URL(vaulttest.Operator))
	ts.Setenv("VAULTCTL_TOKEN_FILE", token)
	ts.Setenv("KEK", s.store.KeyFile)
	ts.Setenv("OWNER_URL", s.store.URL(vaulttest.Superuser))
	ts.Setenv("APP_URL", s.store.URL(vaulttest.AppRole))
	ts.Setenv("STRANGER_URL", s.store.URL(vaulttest.Stranger))
	ts.Setenv("STANDBY_URL", s.store.StandbyURL(vaulttest.Operator))
	ts.Setenv("DAEMON_URL", s.store.URL(vaulttest.Daemon))
	ts.Setenv("EMPTY_URL", s.store.Cluster.Primary().URL("postgres", vaulttest.Superuser))
}

func (s *session) removeCluster() {
	for _, node := range s.store.Cluster.Nodes() {
		if text, err := os.ReadFile(node.LogFile()); err == nil {
			s.h.mu.Lock()
			s.h.logs = append(s.h.logs, string(text))
			s.h.mu.Unlock()
		}
	}
	_ = s.store.Remove()
}

// end runs when the script is over, passed or failed.
func (s *session) end() {
	for _, d := range s.daemons {
		d.stop(syscall.SIGTERM)
		s.record(d.log())
	}
	for _, f := range slices.Backward(s.cleanup) {
		f()
	}
	if err := removeLocal(s.env.WorkDir); err != nil {
		s.env.T().Fatal(err)
	}
}

// removeLocal removes the clusters that vaultctl dev made in folders of dir: run by root, their data is not below dir.
func removeLocal(dir string) error {
	records, err := filepath.Glob(filepath.Join(dir, "*", "cluster", "cluster.json"))
	for _, record := range records {
		err = errors.Join(err, localpg.Remove(filepath.Dir(record)))
	}
	return err
}

func (s *session) record(text string) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.transcript.WriteString(text)
}

// idle COUNT ADDRESS URL: opens that many connections from a loopback address and sends nothing, until the script ends.
// Connections that the daemon closes are kept open on this side.
func (h *harness) cmdIdle(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: idle COUNT ADDRESS URL")
	}
	count, err := strconv.Atoi(args[0])
	ts.Check(err)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(args[1])}, Timeout: waitLimit}
	for range count {
		conn, err := dialer.Dial("tcp", strings.TrimPrefix(args[2], "http://"))
		ts.Check(err)
		s := h.of(ts)
		s.cleanup = append(s.cleanup, func() { conn.Close() })
	}
}
