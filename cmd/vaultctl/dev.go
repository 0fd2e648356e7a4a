package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vault"
)

const (
	devDatabase  = "vault"
	devSuperuser = "postgres" // owns the database; runs init
	devOperator  = "operator" // what vaultctl connects as
	devDaemon    = "vaultd"
	devReadyIn   = 60 * time.Second
)

type devOptions struct {
	dir      string
	standbys int
	detach   bool
}

func newDevCmd(a *app) *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a local cluster with a vault in it: NOT FOR PRODUCTION",
		Long: `Run a local PostgreSQL primary and standbys, a key file and a vaultd per node, to try things out. NOT FOR
PRODUCTION: the key lies beside the data, and every local connection is trusted.

In the foreground Ctrl-C stops everything and keeps the folder; the same command starts it again. PostgreSQL's data is
in the folder too. If root runs vaultctl dev, vaultctl starts PostgreSQL as the user postgres or, where there is none,
as nobody. If that user cannot enter the folder, vaultctl makes one for the data below /var/tmp, and the last line of
the output names it. To begin anew, remove these folders.`,
		Example: `  vaultctl dev --dir .dev
  . .dev/env.sh
  vaultctl put demo/password --generate`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.standbys < 0 || o.standbys > 9 {
				return usage("--standbys takes 0 to 9")
			}
			return runDev(cmd.Context(), a, o)
		},
	}
	cmd.PersistentFlags().StringVar(&o.dir, "dir", ".dev", "`folder` that holds the cluster")
	cmd.Flags().IntVar(&o.standbys, "standbys", 1, "number of streaming standbys")
	cmd.Flags().BoolVar(&o.detach, "detach", false, "leave everything running in the background")
	cmd.AddCommand(newDevStopCmd(a, &o), newDevStatusCmd(a, &o))
	return cmd
}

func newDevStopCmd(a *app, o *devOptions) *cobra.Command {
	return &cobra.Command{
		Use: "stop", Short: "Stop a detached cluster and keep its folder", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := loadDev(o.dir)
			if err != nil {
				return err
			}
			defer d.cluster.Close()
			if err := d.stop(cmd.Context()); err != nil {
				return err
			}
			a.note("stopped; vaultctl dev --dir %s starts it again", shellPath(o.dir))
			return nil
		},
	}
}

func newDevStatusCmd(a *app, o *devOptions) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what runs", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := loadDev(o.dir)
			if errors.Is(err, localpg.ErrInUse) { // it runs in the foreground of another terminal
				return a.printDevStatus(d.daemons(cmd.Context()))
			}
			if err != nil {
				return err
			}
			defer d.cluster.Close()
			return a.printDevStatus(d.nodes())
		},
	}
}

// dev is a cluster with a vault in it and a daemon beside each node, all in one folder:
// cluster/, kek, token, env.sh and, per node, vaultd-NODE.toml, .log, .pid and .addresses.
type dev struct {
	dir     string
	cluster *localpg.Cluster
}

func (d *dev) file(name string) string { return filepath.Join(d.dir, name) }

func runDev(ctx context.Context, a *app, o devOptions) error {
	// main lets a second signal end vaultctl, and SIGHUP and SIGPIPE end it at once. Here that would leave the servers
	// running. So each of these signals stops the servers, and none cuts the stopping short, which has its own limit.
	ctx, release := signal.NotifyContext(ctx, devSignals()...)
	defer release()
	began := time.Now()
	daemon, err := findDaemon()
	if err != nil {
		return err
	}
	d, err := openDev(ctx, o)
	if err != nil {
		return err
	}
	defer d.cluster.Close()
	started := false
	defer func() {
		if !started || !o.detach {
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), devReadyIn)
			defer cancel()
			if err := d.stop(stopping); err != nil {
				a.note("vaultctl: stopping: %s", err)
			}
		}
	}()
	if err := d.start(ctx, daemon); err != nil {
		return err
	}
	started = true
	a.note("NOT FOR PRODUCTION: a local vault for trying things out, ready after %.1f s\n\n  . %s\n"+
		"  vaultctl put demo/password --generate\n  vaultctl get demo/password\n",
		time.Since(began).Seconds(), shellPath(d.file("env.sh")))
	if o.detach {
		a.note("running in the background; vaultctl dev stop --dir %s ends it and keeps %s", shellPath(o.dir),
			d.kept(o.dir))
		return nil
	}
	a.note("Ctrl-C stops everything and keeps %s", d.kept(o.dir))
	<-ctx.Done()
	a.note("\nstopping")
	return nil
}

func devSignals() []os.Signal {
	all := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup does
		all = append(all, syscall.SIGHUP)
	}
	return all
}

func openDev(ctx context.Context, o devOptions) (*dev, error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, fmt.Errorf("finding the folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder: %w", err)
	}
	cluster, err := localpg.Open(ctx, localpg.Options{Dir: filepath.Join(dir, "cluster"), Standbys: o.standbys,
		Durable: true})
	if errors.Is(err, localpg.ErrInUse) {
		return nil, hint(err, "vaultctl dev status --dir %s", shellPath(o.dir))
	}
	if err != nil {
		return nil, fmt.Errorf("starting the cluster: %w", err)
	}
	return &dev{dir: dir, cluster: cluster}, nil
}

// kept names the folders with the data: root's servers run as another user, which often cannot enter the folder.
func (d *dev) kept(dir string) string {
	if root := d.cluster.DataRoot(); root != "" {
		return fmt.Sprintf("%s, and PostgreSQL's data in %s", dir, root)
	}
	return dir
}

// loadDev finds a cluster. With localpg.ErrInUse it returns the folder all the same, without the cluster.
func loadDev(dir string) (*dev, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("finding the folder: %w", err)
	}
	cluster, err := localpg.Load(filepath.Join(dir, "cluster"))
	d := &dev{dir: dir, cluster: cluster}
	switch {
	case errors.Is(err, localpg.ErrNoCluster):
		return nil, hint(&kindError{vault.ErrNotFound, fmt.Sprintf("no local vault in %q", dir)},
			"vaultctl dev --dir %s makes one", shellPath(dir))
	case errors.Is(err, localpg.ErrInUse):
		return d, hint(err, "it runs in the foreground of another terminal: Ctrl-C there stops it")
	}
	return d, err
}

// start installs the vault, starts the daemons and writes env.sh last: where it exists, everything is ready.
func (d *dev) start(ctx context.Context, daemon string) error {
	if err := os.Remove(d.file("env.sh")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the old env.sh: %w", err)
	}
	if err := d.install(ctx); err != nil {
		return fmt.Errorf("installing the vault: %w", err)
	}
	for _, node := range d.cluster.Nodes() {
		if err := d.startDaemon(ctx, daemon, node); err != nil {
			return fmt.Errorf("starting vaultd beside %s: %w", node.Name(), err)
		}
	}
	return d.writeEnv(filepath.Dir(daemon))
}

// install makes what is missing: the key, the database and its roles, the schema, the token and the grants.
func (d *dev) install(ctx context.Context) error {
	if _, err := kms.GenerateKeyFile(d.file("kek")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	primary := d.cluster.Primary()
	if err := db.EnsureDatabase(ctx, primary.URL("postgres", devSuperuser), devDatabase, devOperator,
		devDaemon); err != nil {
		return err
	}
	owner := primary.URL(devDatabase, devSuperuser)
	if _, err := db.Migrate(ctx, owner, applicationName, kms.LocalURI(d.file("kek"))); err != nil {
		return err
	}
	if _, err := os.Stat(d.file("token")); err == nil {
		return d.waitReplay(ctx)
	}
	writer, err := db.NewWriter(ctx, db.Options{URL: owner, ApplicationName: applicationName})
	if err != nil {
		return err
	}
	defer writer.Close()
	if err := d.firstToken(ctx, vault.New(vault.Options{Writer: writer})); err != nil {
		return err
	}
	return d.waitReplay(ctx)
}

// firstToken saves the token last: after an interrupted run, the next one makes another token under another name.
func (d *dev) firstToken(ctx context.Context, v *vault.Vault) error {
	token, _, err := v.CreateTokenAsOwner(ctx,
		vault.NewTokenRequest{Name: "dev-" + strconv.FormatInt(time.Now().Unix(), 36)})
	if err != nil {
		return err
	}
	change := vault.Change{Token: token}
	for _, g := range []struct {
		role  string
		group vault.Group
	}{{devOperator, vault.GroupService}, {devOperator, vault.GroupAuditor}, {devDaemon, vault.GroupService},
		{devDaemon, vault.GroupWorker}} {
		if _, err := v.Grant(ctx, change, g.role, g.group, ""); err != nil {
			return err
		}
	}
	return os.WriteFile(d.file("token"), []byte(token.Reveal()+"\n"), 0o600)
}

func (d *dev) waitReplay(ctx context.Context) error {
	lsn, err := d.cluster.Primary().LSN(ctx)
	if err != nil {
		return err
	}
	for _, standby := range d.cluster.Standbys() {
		if err := standby.WaitReplay(ctx, lsn); err != nil {
			return err
		}
	}
	return nil
}

// findDaemon looks beside vaultctl, then in PATH.
func findDaemon() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "vaultd")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath("vaultd")
	if err != nil {
		return "", hint(errors.New("vaultd is neither beside vaultctl nor in PATH"), "make build")
	}
	return filepath.Abs(path)
}

// startDaemon runs vaultd in a session of its own, so that it outlives vaultctl and Ctrl-C does not reach it.
func (d *dev) startDaemon(ctx context.Context, daemon string, node *localpg.Node) error {
	base := d.file("vaultd-" + node.Name())
	if d.daemonPid(node.Name()) != 0 {
		return nil
	}
	ports := d.portsOf(node)
	if err := os.WriteFile(base+".toml", []byte(d.daemonConfig(node, ports)), 0o600); err != nil {
		return err
	}
	if err := os.Remove(base + ".addresses"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	log, err := os.OpenFile(base+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(daemon, "--config", base+".toml")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	if err := os.WriteFile(base+".pid", []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return err
	}
	return d.waitDaemon(ctx, node, exited)
}

// devPorts are the addresses of one daemon.
type devPorts struct{ listen, health string }

// portsOf keeps the addresses that the daemon had before, so that an env.sh sourced then stays right; a port that
// another program has taken meanwhile is replaced.
func (d *dev) portsOf(node *localpg.Node) devPorts {
	before, _ := d.addresses(node.Name()) // none: the first start
	again := func(key string) string {
		u, err := url.Parse(before[key])
		if err != nil || u.Port() == "" {
			return "127.0.0.1:0"
		}
		l, err := net.Listen("tcp", u.Host)
		if err != nil {
			return "127.0.0.1:0"
		}
		l.Close()
		return u.Host
	}
	return devPorts{again("VAULTD_URL"), again("VAULTD_HEALTH_URL")}
}

func (d *dev) daemonConfig(node *localpg.Node, ports devPorts) string {
	return fmt.Sprintf(`# Written by vaultctl dev. NOT FOR PRODUCTION.
database_url = %q
primary_database_url = %q
listen = [%q]
health_listen = %q
state_dir = %q
audit_spool = %q
address_file = %q
allow = ["127.0.0.0/8", "::1/128"]
kv_mount = "secret"
kms_keys = [%q]
`, node.URL(devDatabase, devDaemon), d.cluster.Primary().URL(devDatabase, devDaemon),
		ports.listen, ports.health, d.file("vaultd-"+node.Name()+".state"), d.file("vaultd-"+node.Name()+".spool"),
		d.file("vaultd-"+node.Name()+".addresses"), kms.LocalURI(d.file("kek")))
}

func (d *dev) waitDaemon(ctx context.Context, node *localpg.Node, exited <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, devReadyIn)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		if addresses, err := d.addresses(node.Name()); err == nil && ready(ctx, addresses["VAULTD_HEALTH_URL"]) {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("it ended at once: see %s", d.file("vaultd-"+node.Name()+".log"))
		case <-ctx.Done():
			return fmt.Errorf("it did not get ready: see %s: %w", d.file("vaultd-"+node.Name()+".log"), ctx.Err())
		case <-poll.C:
		}
	}
}

func ready(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode == http.StatusOK
}

// addresses reads the file that vaultd writes when it listens.
func (d *dev) addresses(node string) (map[string]string, error) {
	text, err := os.ReadFile(d.file("vaultd-" + node + ".addresses"))
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			found[key] = value
		}
	}
	return found, nil
}

func (d *dev) writeEnv(bin string) error {
	var b strings.Builder
	export := func(key, value string) {
		fmt.Fprintf(&b, "export %s='%s'\n", key, strings.ReplaceAll(value, "'", `'\''`))
	}
	b.WriteString("# Source this: . env.sh. Written by vaultctl dev. NOT FOR PRODUCTION.\n")
	export("VAULTCTL_DATABASE_URL", d.cluster.Primary().URL(devDatabase, devOperator))
	export("VAULTCTL_TOKEN_FILE", d.file("token"))
	export("VAULTCTL_KMS_KEY", kms.LocalURI(d.file("kek")))
	names := []string{"VAULTD", "VAULTD_STANDBY"}
	for i, node := range append([]*localpg.Node{d.cluster.Primary()}, d.cluster.Standbys()...) {
		addresses, err := d.addresses(node.Name())
		if err != nil {
			return fmt.Errorf("reading the addresses of vaultd: %w", err)
		}
		if i < len(names) {
			export(names[i]+"_URL", addresses["VAULTD_URL"])
			export(names[i]+"_HEALTH_URL", addresses["VAULTD_HEALTH_URL"])
		}
	}
	fmt.Fprintf(&b, "export PATH='%s':\"$PATH\"\n", strings.ReplaceAll(bin, "'", `'\''`))
	fmt.Fprintf(&b, "# the owner of the database, for init, migrate and CREATE ROLE:\n# %s\n",
		d.cluster.Primary().URL(devDatabase, devSuperuser))
	partial := d.file("env.sh.partial")
	if err := os.WriteFile(partial, []byte(b.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(partial, d.file("env.sh"))
}

// stop ends the daemons, removes env.sh and stops the servers.
func (d *dev) stop(ctx context.Context) error {
	var errs []error
	for _, node := range d.cluster.Nodes() {
		errs = append(errs, d.stopDaemon(ctx, node))
	}
	if err := os.Remove(d.file("env.sh")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, d.cluster.Stop(ctx, localpg.Fast))...)
}

func (d *dev) stopDaemon(ctx context.Context, node *localpg.Node) error {
	pid := d.daemonPid(node.Name())
	if pid == 0 {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping vaultd (pid %d): %w", pid, err)
	}
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for d.daemonPid(node.Name()) != 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("vaultd (pid %d) did not stop: %w", pid, ctx.Err())
		case <-poll.C:
		}
	}
	return nil
}

// daemonPid returns the pid of a node's daemon, 0 if it does not run or the pid belongs to another program by now.
func (d *dev) daemonPid(node string) int {
	base := d.file("vaultd-" + node)
	text, err := os.ReadFile(base + ".pid")
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || syscall.Kill(pid, 0) != nil {
		return 0
	}
	if !strings.Contains(commandLine(pid), base+".toml") {
		return 0
	}
	return pid
}

// commandLine of a process; "" if it has ended, also while it is a zombie.
func commandLine(pid int) string {
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil {
		return strings.ReplaceAll(string(text), "\x00", " ")
	}
	out, err := exec.Command("ps", "-o", "args=", "-p", strconv.Itoa(pid)).Output() // where there is no /proc
	if err != nil {
		return ""
	}
	return string(out)
}

type devNodeStatus struct {
	Node     string `json:"node"`
	Postgres bool   `json:"postgres"`
	Daemon   bool   `json:"vaultd"`
	URL      string `json:"url,omitempty"`
	Health   string `json:"health_url,omitempty"` // of /healthz, /readyz, /metrics and /v1/status
}

func (d *dev) nodes() []devNodeStatus {
	var all []devNodeStatus
	for _, node := range d.cluster.Nodes() {
		all = append(all, d.status(node.Name(), node.Running()))
	}
	return all
}

// daemons is the same by the daemons' settings, while another process holds the cluster.
func (d *dev) daemons(ctx context.Context) []devNodeStatus {
	files, _ := filepath.Glob(d.file("vaultd-*.toml")) // the pattern is good
	var all []devNodeStatus
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "vaultd-"), ".toml")
		all = append(all, d.status(name, answers(ctx, file)))
	}
	return all
}

// answers reports whether the node of a daemon's settings takes connections.
func answers(ctx context.Context, settings string) bool {
	var s struct {
		URL string `toml:"database_url"`
	}
	if _, err := toml.DecodeFile(settings, &s); err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	reader, err := db.NewReader(ctx, db.Options{URL: s.URL, ApplicationName: applicationName})
	if err != nil {
		return false
	}
	defer reader.Close()
	return !errors.Is(reader.Ping(ctx), db.ErrUnavailable)
}

func (d *dev) status(node string, postgres bool) devNodeStatus {
	s := devNodeStatus{Node: node, Postgres: postgres, Daemon: d.daemonPid(node) != 0}
	if addresses, err := d.addresses(node); err == nil && s.Daemon {
		s.URL, s.Health = addresses["VAULTD_URL"], addresses["VAULTD_HEALTH_URL"]
	}
	return s
}

func (a *app) printDevStatus(all []devNodeStatus) error {
	var rows [][]string
	running := true
	for _, s := range all {
		running = running && s.Postgres && s.Daemon
		rows = append(rows, []string{s.Node, upOrDown(s.Postgres), upOrDown(s.Daemon), s.URL, s.Health})
	}
	var err error
	if a.json() {
		err = a.printJSON(all)
	} else {
		err = a.printTable([]string{"NODE", "POSTGRES", "VAULTD", "URL", "HEALTH URL"}, rows, "")
	}
	if err == nil && !running {
		return &kindError{errAttention, "not everything is running"}
	}
	return err
}

func upOrDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}
