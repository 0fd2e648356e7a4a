// Package vault_test runs the specification: every script of testdata/script, with the real binaries, against real
// PostgreSQL clusters.
package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// canary is the value that scripts store. After all of them it must be in no log, error or audit row.
const canary = "canary-value-5b1f0a7c2d9e"

const waitLimit = 2 * time.Minute // for any one condition; a bound, not a measurement

// harness is what the scripts share.
type harness struct {
	program *vaulttest.Program
	bin     string

	fragileVaultd func() (string, error) // vaultd with failpoints, built when first asked for

	mu         sync.Mutex
	transcript bytes.Buffer        // stderr of everything the scripts ran, and vaultd's logs
	logs       []string            // PostgreSQL logs of clusters of single scripts, read when they end
	databases  []string            // on the shared cluster
	scripts    map[string]*session // by work folder
}

// session is one script's.
type session struct {
	h       *harness
	env     *testscript.Env
	store   *vaulttest.Store
	daemons map[string]*daemon
	fake    *kmsfake.Fake
	bucket  *s3fake.Fake
	held    *pgx.Conn
	cleanup []func()
}

func TestScripts(t *testing.T) {
	h := newHarness(t)
	t.Run("script", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata/script", Setup: h.setup, UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "", RequireExplicitExec: true, RequireUniqueNames: true,
			Cmds: map[string]func(*testscript.TestScript, bool, []string){
				"vault": h.cmdVault, "daemon": h.cmdDaemon, "http": h.cmdHTTP, "sql": h.cmdSQL, "pg": h.cmdPG, "kms": h.cmdKMS, "s3": h.cmdS3,
				"bytes": h.cmdBytes, "until": h.cmdUntil, "vaultctl": h.cmdVaultctl, "capture": h.cmdCapture, "steady": h.cmdSteady,
				"target":    h.cmdTarget,
				"terminal":  h.cmdTerminal,
				"node":      h.cmdNode,
				"pgbouncer": h.cmdPgbouncer, "expand": h.cmdExpand, "hold": h.cmdHold, "idle": h.cmdIdle,
				"relay": h.cmdRelay,
				"everycommand": h.cmdEveryCommand, "hostile": h.cmdHostile,
			},
		})
	})
	h.checkCanary(t)
}

func newHarness(t *testing.T) *harness {
	bin := t.TempDir()
	args := []string{"build", "-o", bin + "/"}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "./cmd/...")...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the binaries: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
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
	return &harness{program: program, bin: bin, fragileVaultd: buildFragile(bin), scripts: map[string]*session{}}
}

func (h *harness) setup(env *testscript.Env) error {
	s := &session{h: h, env: env, daemons: map[string]*daemon{}}
	h.mu.Lock()
	h.scripts[env.WorkDir] = s
	h.mu.Unlock()
	env.Defer(s.end)
	env.Setenv("PATH", h.bin+string(os.PathListSeparator)+env.Getenv("PATH"))
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
	env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "cache"))
	env.Setenv("CANARY", canary)
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

// vault [own|extension]: a fresh vault on the shared cluster, or on a cluster of the script's own (whose server offers the
// extension), and the environment to use it.
func (h *harness) cmdVault(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	var err error
	own := filepath.Join(h.program.Dir, "script-"+filepath.Base(ts.Getenv("WORK")))
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

// end runs when the script is over, however it ended.
func (s *session) end() {
	for _, d := range s.daemons {
		d.stop(syscall.SIGTERM)
		s.record(d.log())
	}
	for _, f := range slices.Backward(s.cleanup) {
		f()
	}
}

func (s *session) record(text string) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.transcript.WriteString(text)
}

// vaultctl [!] args: the real binary, its stderr searched for the canary afterwards. $CODE is its exit code.
func (h *harness) cmdVaultctl(ts *testscript.TestScript, neg bool, args []string) {
	code := 0
	if len(args) > 1 && strings.HasPrefix(args[0], "=") { // vaultctl =5 put ...: exactly this exit code
		var err error
		code, err = strconv.Atoi(args[0][1:])
		ts.Check(err)
		args = args[1:]
		neg = code != 0
	}
	err := ts.Exec("vaultctl", args...)
	h.of(ts).record(ts.ReadFile("stderr"))
	var exit *exec.ExitError
	got := 0
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("running vaultctl: %v", err)
	}
	switch {
	case neg && got == 0:
		ts.Fatalf("vaultctl succeeded")
	case !neg && got != 0:
		ts.Fatalf("vaultctl: exit code %d", got)
	case code != 0 && got != code:
		ts.Fatalf("vaultctl: exit code %d, want %d", got, code)
	case !neg && got == 0:
		return
	}
	if strings.Contains(ts.ReadFile("stderr"), canary) {
		ts.Fatalf("the error shows the value")
	}
}

// capture NAME REGEXP: the first group of a match in stdout becomes $NAME.
func (h *harness) cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: capture NAME REGEXP")
	}
	m := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if m == nil {
		ts.Fatalf("no match for %s", args[1])
	}
	ts.Setenv(args[0], m[1])
}

// unsteady is what differs between two runs of one script.
var unsteady = []struct {
	pattern *regexp.Regexp
	put     string
}{
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`), "TIME"},
	{regexp.MustCompile(`"lsn": "[0-9A-F]+/[0-9A-F]+"`), `"lsn": "LSN"`},
	{regexp.MustCompile(`hva_[a-z2-7]{84}`), "TOKEN"},
	{regexp.MustCompile(`local:[0-9a-f]{32}`), "KEY"},
	{regexp.MustCompile(`"server_version": "[^"]*"`), `"server_version": "VERSION"`},
	{regexp.MustCompile(`"(id|job|schema_version|binary_version|from_version)":( ?)\d+`), `"$1":${2}N`},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
}

// steady FILE: stdout, with what differs between two runs replaced, for: cmp FILE golden.
func (h *harness) cmdSteady(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: steady FILE")
	}
	text := strings.NewReplacer(ts.Getenv("WORK"), "WORK", ts.Getenv("KEK"), "KEK").Replace(ts.ReadFile("stdout"))
	for _, u := range unsteady {
		text = u.pattern.ReplaceAllString(text, u.put)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// bytes all|COUNT FILE: all 256 byte values, or COUNT printable bytes.
func (h *harness) cmdBytes(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: bytes all|COUNT FILE")
	}
	var content []byte
	if args[0] == "all" {
		for b := range 256 {
			content = append(content, byte(b))
		}
	} else {
		n, err := strconv.Atoi(args[0])
		ts.Check(err)
		content = bytes.Repeat([]byte("x"), n)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), content, 0o600))
}

// sql [as ROLE] [in DATABASE] [standby] STATEMENT: values of the rows, one row a line, on stdout. The role is the superuser
// by default, the database the vault's.
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
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
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

// pg stop|start|kill|promote NODE, pg replay: the servers of a script that has its own cluster ("vault own").
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
	if len(args) != 2 || s.store.Cluster == h.program.Shared {
		ts.Fatalf("usage: pg stop|start|kill|promote NODE, after: vault own")
	}
	var node *localpg.Node
	for _, n := range s.store.Cluster.Nodes() {
		if n.Name() == args[1] {
			node = n
		}
	}
	if node == nil {
		ts.Fatalf("no node %q", args[1])
	}
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

// kms start | kms fault KIND [TIMES [OPERATION]] | kms clear | kms calls: an AWS KMS of the script's own. start sets
// VAULTCTL_KMS_KEY, and SEAL_KEY to an Ed25519 key.
func (h *harness) cmdKMS(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	switch {
	case len(args) == 1 && args[0] == "start":
		s.fake = kmsfake.New("eu-west-1", "vault")
		url, err := s.fake.Serve()
		ts.Check(err)
		s.cleanup = append(s.cleanup, s.fake.Close)
		s.fake.AddSigningKey("seals")
		ts.Setenv("VAULTCTL_KMS_KEY", "awskms:///alias/vault?region=eu-west-1&endpoint="+url)
		ts.Setenv("SEAL_KEY", "awskms:///alias/seals?region=eu-west-1&endpoint="+url)
		ts.Setenv("AWS_ACCESS_KEY_ID", "test")
		ts.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	case len(args) >= 2 && args[0] == "fault":
		fault := kmsfake.Fault{Kind: kmsfake.Kind(args[1])}
		if len(args) > 2 {
			var err error
			fault.Times, err = strconv.Atoi(args[2])
			ts.Check(err)
		}
		if len(args) > 3 {
			fault.Op = args[3]
		}
		ts.Check(s.fake.Inject(fault))
	case len(args) == 1 && args[0] == "clear":
		s.fake.Clear()
	case len(args) == 1 && args[0] == "calls":
		for op, n := range s.fake.Calls() {
			fmt.Fprintf(ts.Stdout(), "%s %d\n", op, n)
		}
	default:
		ts.Fatalf("usage: kms start | fault KIND [TIMES [OPERATION]] | clear | calls")
	}
}

// s3 start | s3 fault KIND | s3 clear | s3 list | s3 edit REGEXP NEW (in the last object): a bucket of the script's own. start
// sets S3_URL.
func (h *harness) cmdS3(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	switch {
	case len(args) == 1 && args[0] == "start":
		s.bucket = s3fake.New("eu-west-1", "seals")
		url, err := s.bucket.Serve()
		ts.Check(err)
		s.cleanup = append(s.cleanup, s.bucket.Close)
		ts.Setenv("S3_URL", "s3://seals/audit?region=eu-west-1&endpoint="+url)
		ts.Setenv("AWS_ACCESS_KEY_ID", "test")
		ts.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	case len(args) == 2 && args[0] == "fault":
		ts.Check(s.bucket.Inject(s3fake.Fault{Kind: s3fake.Kind(args[1])}))
	case len(args) == 1 && args[0] == "clear":
		s.bucket.Clear()
	case len(args) == 1 && args[0] == "list":
		for _, key := range s.bucket.Keys() {
			fmt.Fprintln(ts.Stdout(), key)
		}
	case len(args) == 3 && args[0] == "edit":
		keys := s.bucket.Keys()
		last := keys[len(keys)-1]
		edited := regexp.MustCompile(args[1]).ReplaceAll(s.bucket.Object(last), []byte(args[2]))
		if bytes.Equal(edited, s.bucket.Object(last)) {
			ts.Fatalf("%q is not in %s", args[1], last)
		}
		s.bucket.Set(last, edited)
	default:
		ts.Fatalf("usage: s3 start | fault KIND | clear | list | edit REGEXP NEW")
	}
}

// daemon is one running vaultd.
type daemon struct {
	cmd    *exec.Cmd
	output *lockedBuffer
	exited chan struct{}
}

func (d *daemon) log() string { return d.output.String() }

func (d *daemon) stop(signal syscall.Signal) {
	_ = d.cmd.Process.Signal(signal)
	select {
	case <-d.exited:
	case <-time.After(waitLimit):
		_ = d.cmd.Process.Kill()
		<-d.exited
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// daemon start NODE [FILE] [flags] | stop NODE | signal NAME NODE | log NODE | fragile FAILPOINT NODE [FILE] | dies NODE | reaps NODE: a
// vaultd beside a node ("primary", "standby1"). FILE is TOML that is put behind the standard settings. start sets VAULTD_URL
// and VAULTD_HEALTH_URL, with the suffix _STANDBY1 for that node. $DAEMON_THROUGH is a command that becomes it, with
// $DAEMON_PID1 it is process 1 of a namespace. A fragile one kills itself at its failpoint; dies waits for it; reaps
// waits until process 1 has no child but the daemon.
func (h *harness) cmdDaemon(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	if len(args) < 2 {
		ts.Fatalf("usage: daemon start NODE [FILE] [flags] | stop NODE | signal NAME NODE | log NODE")
	}
	switch args[0] {
	case "start":
		s.startDaemon(ts, args[1], args[2:], filepath.Join(h.bin, "vaultd"))
	case "stop":
		d := s.daemons[args[1]]
		d.stop(syscall.SIGTERM)
		s.record(d.log())
		delete(s.daemons, args[1])
		if code := d.cmd.ProcessState.ExitCode(); code != 0 {
			ts.Fatalf("vaultd ended with exit code %d:\n%s", code, d.log())
		}
	case "signal":
		signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
		ts.Check(s.daemons[args[2]].cmd.Process.Signal(signals[args[1]]))
	case "log":
		fmt.Fprint(ts.Stdout(), s.daemons[args[1]].log())
	case "fragile":
		path, err := h.fragileVaultd()
		ts.Check(err)
		s.startDaemon(ts, args[2], args[3:], path, "VAULT_FAILPOINT="+args[1])
	case "dies":
		s.diesAt(ts, args[1])
	case "reaps":
		ts.Check(onlyChild(s.daemons[args[1]].cmd.Process.Pid))
	default:
		ts.Fatalf("daemon: unknown %q", args[0])
	}
}

func (s *session) startDaemon(ts *testscript.TestScript, name string, more []string, binary string, environ ...string) {
	node := s.store.Cluster.Primary()
	for _, n := range s.store.Cluster.Nodes() {
		if n.Name() == name {
			node = n
		}
	}
	base := filepath.Join(ts.Getenv("WORK"), "vaultd-"+name)
	key := ts.Getenv("VAULTCTL_KMS_KEY")
	if key == "" {
		key = "local://" + s.store.KeyFile
	}
	settings := fmt.Sprintf("database_url = %q\nprimary_database_url = %q\nlisten = [\"127.0.0.1:0\"]\nstate_dir = %q\naudit_spool = %q\nhealth_listen = \"127.0.0.1:0\"\naddress_file = %q\nkms_keys = [%q]\n",
		node.URL(s.store.Database, vaulttest.Daemon), s.store.URL(vaulttest.Daemon), base+".state", base+".spool", base+".addresses", key)
	allow := "allow = [\"127.0.0.0/8\"]\n"
	if len(more) > 0 && !strings.HasPrefix(more[0], "-") {
		extra := strings.NewReplacer("$WORK", ts.Getenv("WORK"), "$SEAL_KEY", ts.Getenv("SEAL_KEY"), "$S3_URL", ts.Getenv("S3_URL"),
			"$DAEMON_URL", ts.Getenv("DAEMON_URL")).Replace(ts.ReadFile(more[0]))
		if strings.Contains(extra, "allow =") {
			allow = ""
		}
		for line := range strings.Lines(extra) { // a script's own line replaces the standard one
			if k, _, ok := strings.Cut(line, "="); ok {
				settings = regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(strings.TrimSpace(k))+` = .*\n`).ReplaceAllString(settings, "")
			}
		}
		settings += extra
		more = more[1:]
	}
	ts.Check(os.WriteFile(base+".toml", []byte(settings+allow), 0o600))
	_ = os.Remove(base + ".addresses")
	argv := append([]string{binary, "--config", base + ".toml"}, more...)
	argv = append(strings.Fields(ts.Getenv("DAEMON_THROUGH")), argv...)
	d := &daemon{cmd: exec.Command(argv[0], argv[1:]...),
		output: &lockedBuffer{}, exited: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = d.output, d.output
	if ts.Getenv("DAEMON_PID1") != "" {
		d.cmd.SysProcAttr = firstProcess()
	}
	d.cmd.Env = []string{"HOME=" + ts.Getenv("HOME"), "TZ=UTC", "AWS_EC2_METADATA_DISABLED=true", "GORACE=" + ts.Getenv("GORACE"),
		"AWS_ACCESS_KEY_ID=" + ts.Getenv("AWS_ACCESS_KEY_ID"), "AWS_SECRET_ACCESS_KEY=" + ts.Getenv("AWS_SECRET_ACCESS_KEY")}
	d.cmd.Env = append(d.cmd.Env, environ...)
	ts.Check(d.cmd.Start())
	go func() { _ = d.cmd.Wait(); close(d.exited) }()
	s.daemons[name] = d
	suffix := ""
	if name != "primary" {
		suffix = "_" + strings.ToUpper(name)
	}
	deadline := time.Now().Add(waitLimit)
	for {
		if text, err := os.ReadFile(base + ".addresses"); err == nil {
			for line := range strings.Lines(string(text)) {
				if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
					ts.Setenv(k+suffix, v)
				}
			}
			return
		}
		select {
		case <-d.exited:
			ts.Fatalf("vaultd ended at once:\n%s", d.log())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			ts.Fatalf("vaultd does not listen:\n%s", d.log())
		}
	}
}

// http STATUS METHOD URL [-H 'Key: value'] [-d BODY | -d @FILE] [-unix SOCKET]: the answer's body on stdout, its headers on stderr.
func (h *harness) cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: http STATUS METHOD URL [-H header] [-d body]")
	}
	status, body, headers := request(ts, args[1:])
	fmt.Fprint(ts.Stderr(), headers)
	fmt.Fprint(ts.Stdout(), body)
	if got := strconv.Itoa(status); got != args[0] {
		ts.Fatalf("status %s, want %s: %s", got, args[0], body)
	}
	if status >= 400 && (strings.Contains(body, canary) || strings.Contains(headers, canary)) {
		ts.Fatalf("the error shows the value")
	}
}

func request(ts *testscript.TestScript, args []string) (int, string, string) {
	method, url, rest := args[0], args[1], args[2:]
	var body []byte
	header := http.Header{}
	client := &http.Client{Timeout: waitLimit, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for ; len(rest) >= 2; rest = rest[2:] {
		switch rest[0] {
		case "-H":
			k, v, _ := strings.Cut(rest[1], ":")
			header.Add(k, strings.TrimSpace(v))
		case "-d":
			body = []byte(rest[1])
			if path, ok := strings.CutPrefix(rest[1], "@"); ok {
				body = []byte(ts.ReadFile(path))
			}
		case "-unix":
			path := ts.MkAbs(rest[1])
			client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			}}
		default:
			ts.Fatalf("http: unknown %q", rest[0])
		}
	}
	if body != nil && header.Get("Content-Type") == "" {
		header.Set("Content-Type", "application/json")
	}
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	ts.Check(err)
	r.Header, r.Host = header, header.Get("Host") // "" = that of the url
	response, err := client.Do(r)
	if err != nil {
		return 0, err.Error(), ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	ts.Check(err)
	var b strings.Builder
	_ = response.Header.Write(&b)
	return response.StatusCode, string(text), b.String()
}

// idle COUNT ADDRESS URL: that many connections from a loopback address that ask for nothing, until the script ends. Those that the
// daemon closes meanwhile are held all the same.
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

// until http STATUS METHOD URL ... [~ REGEXP] | until sql [standby] STATEMENT REGEXP | until kms OPERATION CALLS | until s3 OBJECTS: asks until the answer is as wanted.
// What http was answered then is on stdout and stderr, as with http.
func (h *harness) cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	deadline := time.Now().Add(waitLimit)
	last, body, headers := "", "", ""
	for {
		var ok bool
		switch {
		case len(args) >= 4 && args[0] == "http":
			call, want := args[2:], ""
			if n := len(call); n > 2 && call[n-2] == "~" {
				call, want = call[:n-2], call[n-1]
			}
			var status int
			status, body, headers = request(ts, call)
			last = fmt.Sprintf("%d %s", status, body)
			ok = strconv.Itoa(status) == args[1] && regexp.MustCompile(want).MatchString(body)
		case len(args) == 3 && args[0] == "sql":
			s := h.of(ts)
			out, err := query(s.store.URL(vaulttest.Superuser), args[1])
			last = fmt.Sprint(out, err)
			ok = err == nil && regexp.MustCompile(args[2]).MatchString(out)
		case len(args) == 4 && args[0] == "sql" && args[1] == "standby":
			out, err := query(h.of(ts).store.StandbyURL(vaulttest.Superuser), args[2])
			last = fmt.Sprint(out, err)
			ok = err == nil && regexp.MustCompile(args[3]).MatchString(out)
		case len(args) == 3 && args[0] == "kms":
			n, err := strconv.Atoi(args[2])
			ts.Check(err)
			ok = h.of(ts).fake.Calls()[args[1]] >= n
		case len(args) == 2 && args[0] == "s3":
			n, err := strconv.Atoi(args[1])
			ts.Check(err)
			ok = len(h.of(ts).bucket.Keys()) >= n
		default:
			ts.Fatalf("usage: until http STATUS METHOD URL ... [~ REGEXP] | until sql STATEMENT REGEXP")
		}
		if ok {
			fmt.Fprint(ts.Stderr(), headers)
			fmt.Fprint(ts.Stdout(), body)
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("never became so: %s", last)
		}
		time.Sleep(20 * time.Millisecond) // between two looks at the condition
	}
}

// checkCanary looks for the value and the token in everything that was logged: by the commands on stderr, by vaultd, by
// PostgreSQL with every statement and parameter logged, and in the audit rows.
func (h *harness) checkCanary(t *testing.T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	places := map[string]string{"stderr and vaultd's logs": h.transcript.String(), "PostgreSQL logs of single scripts": strings.Join(h.logs, "")}
	for _, node := range h.program.Shared.Nodes() {
		text, err := os.ReadFile(node.LogFile())
		if err != nil {
			t.Fatal(err)
		}
		places["PostgreSQL log of "+node.Name()] = string(text)
	}
	for _, name := range h.databases {
		rows, err := query(h.program.Shared.Primary().URL(name, vaulttest.Superuser), `SELECT a FROM vault.audit_log a; SELECT r FROM vault.requests r; SELECT j FROM vault.rotation_jobs j`)
		if err != nil {
			t.Fatal(err)
		}
		places["audit rows of "+name] = rows
		untold, err := query(h.program.Shared.Primary().URL(name, vaulttest.Superuser), vaulttest.Untold)
		if err != nil {
			t.Fatal(err)
		}
		if untold = strings.TrimSpace(untold); untold != "" && untold != "app/lost" {
			t.Errorf("%s: versions say something else than their secrets: %s", name, untold)
		}
	}
	if !strings.Contains(places["PostgreSQL log of primary"], "vault.authorize_proof") {
		t.Error("PostgreSQL does not log the statements this check looks through")
	}
	secrets := map[string]string{"the value": canary, "the token": vaulttest.Token, "the token's secret": vaulttest.TokenSecret,
		"the token's secret in hex": fmt.Sprintf("%x", vaulttest.TokenSecret), "the value in hex": fmt.Sprintf("%x", canary)}
	for place, text := range places {
		for what, secret := range secrets {
			if strings.Contains(strings.ToLower(text), strings.ToLower(secret)) {
				t.Errorf("%s is in %s", what, place)
			}
		}
	}
}
