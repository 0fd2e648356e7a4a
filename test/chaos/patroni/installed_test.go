package patroni

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/testfolder"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/test/chaos"
)

const (
	database = "app"
	operator = "operator"
	daemon   = "vaultd"
)

// installed is a vault on a Patroni cluster, set up with an operator's commands, and a vaultd beside every member.
type installed struct {
	*Cluster
	t        *testing.T
	dir      string
	commands string // folder of vaultctl and vaultd
	token    vault.Token
	keyURI   string
	daemons  map[string]string // URL by member
}

func install(t *testing.T, ctx context.Context) *installed {
	t.Helper()
	in := &installed{t: t, dir: t.TempDir(), daemons: map[string]string{}}
	built := make(chan error, 1)
	go func() { // while the cluster comes up, which takes seconds of waiting
		var err error
		in.commands, err = testfolder.Build(in.dir)
		built <- err
	}()
	c, err := Start(ctx)
	buildErr := <-built
	must(t, err)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("removing the cluster: %v", err)
		}
	})
	must(t, buildErr)
	in.Cluster = c
	in.setUp(ctx)
	for _, m := range c.Members {
		in.startDaemon(ctx, m)
	}
	return in
}

func (in *installed) setUp(ctx context.Context) {
	in.t.Helper()
	for _, role := range []string{operator, daemon} {
		must(in.t, in.CreateLogin(ctx, role))
	}
	must(in.t, in.CreateDatabase(ctx, database))
	must(in.t, in.StartPoolers(ctx, operator, daemon))
	owner := in.URL(database, Superuser)
	in.keyURI = strings.TrimSpace(in.mustCtl(ctx, owner, "keygen", filepath.Join(in.dir, "kek")))
	in.mustCtl(ctx, owner, "init", "--kms-key", in.keyURI, "--save-token", in.tokenFile())
	for _, grant := range [][]string{{operator}, {operator, "--as", "auditor"}, {daemon}, {daemon, "--as", "worker"}} {
		in.mustCtl(ctx, owner, append([]string{"grant"}, grant...)...)
	}
	text, err := os.ReadFile(in.tokenFile())
	must(in.t, err)
	in.token, err = vault.ParseToken(string(text))
	must(in.t, err)
}

func (in *installed) tokenFile() string { return filepath.Join(in.dir, "token") }

// environment is vaultctl's whole environment.
func (in *installed) environment(url string) []string {
	return []string{"HOME=" + in.dir, "TZ=UTC", "VAULTCTL_DATABASE_URL=" + url, "VAULTCTL_TOKEN_FILE=" + in.tokenFile()}
}

func (in *installed) mustCtl(ctx context.Context, url string, args ...string) string {
	in.t.Helper()
	var out, talk bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(in.commands, "vaultctl"), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = in.environment(url), &out, &talk
	if err := cmd.Run(); err != nil {
		in.t.Fatalf("vaultctl %s: %v\n%s", strings.Join(args, " "), err, talk.String())
	}
	return out.String()
}

// startDaemon starts a vaultd that reads from its member and writes, for rotations, to the leader: node2's through the
// poolers.
func (in *installed) startDaemon(ctx context.Context, m *Member) {
	in.t.Helper()
	local, writes, base := m.URL(database, daemon), in.URL(database, daemon), filepath.Join(in.dir, "vaultd-"+m.Name)
	if m == in.Members[1] {
		writes = in.PooledURL(database, daemon)
	}
	must(in.t, os.WriteFile(base+".toml", fmt.Appendf(nil,
		"database_url = %q\nprimary_database_url = %q\nlisten_database_url = %q\n"+
			"listen = [\"127.0.0.1:0\"]\nhealth_listen = \"127.0.0.1:0\"\naddress_file = %q\nkms_keys = [%q]\n"+
			"allow = [\"127.0.0.1\"]\nscan_interval = \"500ms\"\nclaim_timeout = \"10s\"\nlog_level = \"warn\"\n"+
			"audit_spool = %q\n",
		local, writes, in.URL(database, daemon), base+".addresses", in.keyURI, base+".spool"), 0o600))
	p, err := runAs{}.startLogged(in.dir, base+".log", filepath.Join(in.commands, "vaultd"), "--config", base+".toml")
	must(in.t, err)
	in.t.Cleanup(func() {
		p.end(syscall.SIGTERM, 15*time.Second)
		if in.t.Failed() {
			in.t.Logf("vaultd beside %s:\n%s", m.Name, p.tail())
		}
	})
	must(in.t, until(ctx, "vaultd beside "+m.Name+" listens", func() (bool, string) {
		text, err := os.ReadFile(base + ".addresses")
		for line := range strings.Lines(string(text)) {
			if url, ok := strings.CutPrefix(strings.TrimSpace(line), "VAULTD_URL="); ok {
				in.daemons[m.Name] = url
			}
		}
		return err == nil && in.daemons[m.Name] != "", p.tail()
	}))
}

// cluster is the vault for the workload and the oracle. vaultctl goes through the poolers, the writers of this process
// do not.
func (in *installed) cluster() chaos.Cluster {
	c := chaos.Cluster{WriteURL: in.URL(database, operator), SuperuserURL: in.URL(database, Superuser),
		KMSKeys: []string{in.keyURI}, Token: in.token, Vaultctl: filepath.Join(in.commands, "vaultctl"),
		VaultctlEnv: in.environment(in.PooledURL(database, operator)), Synchronous: true}
	for _, m := range in.Members {
		c.Nodes = append(c.Nodes, chaos.Node{Name: m.Name, DaemonURL: in.daemons[m.Name]})
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
