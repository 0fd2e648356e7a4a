package scripttest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// daemon is one running vaultd.
type daemon struct {
	cmd    *exec.Cmd
	output *lockedBuffer
	exited chan struct{}
}

func (d *daemon) log() string { return d.output.String() }

// ended waits for the end of a daemon that was told to end.
func (d *daemon) ended() error {
	select {
	case <-d.exited:
		return nil
	case <-time.After(waitLimit):
		return fmt.Errorf("vaultd does not end:\n%s", d.log())
	}
}

func (d *daemon) hasEnded() bool {
	select {
	case <-d.exited:
		return true
	default:
		return false
	}
}

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

// daemon start NODE [FILE] [flags] | previous NODE [FILE] [flags] | activated NODE [FILE] | stop NODE | signal NAME
// NODE | log NODE | fragile FAILPOINT NODE [FILE] | dies NODE | reaps NODE: a vaultd beside a node ("primary",
// "standby1"). FILE is TOML that is added after the standard settings. start sets VAULTD_URL and VAULTD_HEALTH_URL,
// with the suffix _STANDBY1 for that node; previous does the same with a vaultd of the previous release.
// $DAEMON_THROUGH is a command that execs vaultd; with $DAEMON_PID1 it is process 1 of a namespace. signal KILL returns
// when the process has ended. An activated one takes sockets that the script keeps open over its restarts. A fragile
// one kills itself at its failpoint; dies waits for that; reaps waits until process 1 has no child but the daemon.
func (h *harness) cmdDaemon(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	if len(args) < 2 {
		ts.Fatalf("usage: daemon start NODE [FILE] [flags] | activated NODE [FILE] | stop NODE | signal NAME NODE | log NODE")
	}
	switch args[0] {
	case "start":
		s.startDaemon(ts, args[1], args[2:], filepath.Join(h.bin, "vaultd"), nil)
	case "activated":
		s.activateDaemon(ts, args[1], args[2:])
	case "stop":
		d := s.daemons[args[1]]
		d.stop(syscall.SIGTERM)
		s.record(d.log())
		delete(s.daemons, args[1])
		if code := d.cmd.ProcessState.ExitCode(); code != 0 {
			ts.Fatalf("vaultd ended with exit code %d:\n%s", code, d.log())
		}
	case "signal":
		signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL,
			"STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}
		if signals[args[1]] == 0 {
			ts.Fatalf("unknown signal %q", args[1])
		}
		d := s.daemons[args[2]]
		ts.Check(d.cmd.Process.Signal(signals[args[1]]))
		if args[1] == "KILL" { // until the process has ended it holds its spool, which the next daemon would not get
			ts.Check(d.ended())
			s.record(d.log())
		}
	case "log":
		fmt.Fprint(ts.Stdout(), s.daemons[args[1]].log())
	case "previous":
		bin, err := h.previous()
		ts.Check(err)
		s.hasPrevious = true
		s.startDaemon(ts, args[1], args[2:], filepath.Join(bin, previousVaultd), nil)
	case "fragile":
		path, err := h.fragileVaultd()
		ts.Check(err)
		s.startDaemon(ts, args[2], args[3:], path, nil, "VAULT_FAILPOINT="+args[1])
	case "dies":
		s.diesAt(ts, args[1])
	case "reaps":
		ts.Check(onlyChild(s.daemons[args[1]].cmd.Process.Pid))
	default:
		ts.Fatalf("daemon: unknown %q", args[0])
	}
}

// activateDaemon starts a daemon with sockets that outlive it, one for secrets and one for health.
func (s *session) activateDaemon(ts *testscript.TestScript, name string, more []string) {
	own := s.sockets[name]
	if own == nil {
		var err error
		own, err = openSockets(2)
		ts.Check(err)
		s.sockets[name] = own
		s.cleanup = append(s.cleanup, own.close)
	}
	s.startDaemon(ts, name, more, filepath.Join(s.h.bin, "vaultd"), own, "LISTEN_FDS=2")
}

// startDaemon runs a daemon until it listens; with sockets that are not nil, on those.
func (s *session) startDaemon(ts *testscript.TestScript, name string, more []string, binary string, own *sockets,
	environ ...string) {
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
	listen, healthListen := "127.0.0.1:0", "127.0.0.1:0"
	if own != nil {
		listen, healthListen = own.addresses[0], own.addresses[1]
	}
	settings := fmt.Sprintf("database_url = %q\nprimary_database_url = %q\nlisten = [%q]\n"+
		"state_dir = %q\naudit_spool = %q\nhealth_listen = %q\naddress_file = %q\nkms_keys = [%q]\n",
		node.URL(s.store.Database, vaulttest.Daemon), s.store.URL(vaulttest.Daemon), listen, base+".state", base+".spool",
		healthListen, base+".addresses", key)
	if filepath.Base(binary) != previousVaultd { // which has no such setting
		settings += "drain_delay = \"0\"\n"
	}
	allow := "allow = [\"127.0.0.0/8\"]\n"
	if len(more) > 0 && !strings.HasPrefix(more[0], "-") {
		extra := strings.NewReplacer("$WORK", ts.Getenv("WORK"), "$SEAL_KEY", ts.Getenv("SEAL_KEY"), "$S3_URL",
			ts.Getenv("S3_URL"), "$DAEMON_URL", ts.Getenv("DAEMON_URL")).Replace(ts.ReadFile(more[0]))
		if strings.Contains(extra, "allow =") {
			allow = ""
		}
		for line := range strings.Lines(extra) { // a script's own line replaces the standard one
			if k, _, ok := strings.Cut(line, "="); ok {
				settings = regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(strings.TrimSpace(k))+` = .*\n`).ReplaceAllString(settings,
					"")
			}
		}
		settings += extra
		more = more[1:]
	}
	ts.Check(os.WriteFile(base+".toml", []byte(settings+allow), 0o600))
	_ = os.Remove(base + ".addresses")
	argv := append([]string{binary, "--config", base + ".toml"}, more...)
	argv = append(strings.Fields(ts.Getenv("DAEMON_THROUGH")), argv...)
	if own != nil {
		argv = slices.Concat(through, argv)
	}
	d := &daemon{cmd: exec.Command(argv[0], argv[1:]...),
		output: &lockedBuffer{}, exited: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = d.output, d.output
	if own != nil {
		d.cmd.ExtraFiles = own.files
	}
	if ts.Getenv("DAEMON_PID1") != "" {
		d.cmd.SysProcAttr = firstProcess()
	}
	d.cmd.Env = []string{"HOME=" + ts.Getenv("HOME"), "TZ=UTC", "AWS_EC2_METADATA_DISABLED=true",
		"GORACE=" + ts.Getenv("GORACE"), "AWS_ACCESS_KEY_ID=" + ts.Getenv("AWS_ACCESS_KEY_ID"),
		"AWS_SECRET_ACCESS_KEY=" + ts.Getenv("AWS_SECRET_ACCESS_KEY")}
	d.cmd.Env = append(d.cmd.Env, environ...)
	ts.Check(d.cmd.Start())
	go func() { _ = d.cmd.Wait(); close(d.exited) }()
	s.daemons[name] = d
	suffix := ""
	if name != "primary" {
		suffix = "_" + strings.ToUpper(name)
	}
	for deadline := time.Now().Add(waitLimit); ; time.Sleep(5 * time.Millisecond) { // between two looks
		// Looked at first: a fragile daemon can end as soon as it has written the file.
		ended := d.hasEnded()
		if text, err := os.ReadFile(base + ".addresses"); err == nil {
			for line := range strings.Lines(string(text)) {
				if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
					ts.Setenv(k+suffix, v)
				}
			}
			return
		}
		if ended {
			ts.Fatalf("vaultd ended at once:\n%s", d.log())
		}
		if time.Now().After(deadline) {
			ts.Fatalf("vaultd does not listen:\n%s", d.log())
		}
	}
}
