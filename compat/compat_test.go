// Package compat_test runs unmodified clients of Vault and OpenBao against vaultd, beside a primary and beside a
// standby whose primary is stopped.
//
//	make compat
//
// installs the clients and runs it. It is a module of its own, so that none of them is a dependency of the vault.
package compat_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/testfolder"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

func TestMain(m *testing.M) {
	for _, variable := range os.Environ() { // of a developer's own vault
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "VAULT_") && !strings.HasPrefix(name, "VAULT_TEST_") ||
			strings.HasPrefix(name, "BAO_") || strings.HasPrefix(name, "CONSUL_") {
			_ = os.Unsetenv(name)
		}
	}
	os.Exit(vaulttest.Main(m))
}

// world is a vault with a daemon beside each node.
type world struct {
	*vaulttest.Store
	dir              string
	commands         string // folder of vaultctl and vaultd
	primary, standby daemon

	good, expired, revoked string // tokens of the app "billing"
}

// daemon is a vaultd.
type daemon struct{ url, socket string }

const object = `{"user":"billing","port":5432,"tags":["a",{"b":null}]}`

// newEmptyWorld is a vault without secrets and daemons.
func newEmptyWorld(t *testing.T) *world {
	w := &world{Store: vaulttest.Own(t), dir: t.TempDir()}
	var err error
	if w.commands, err = testfolder.Build(w.dir); err != nil {
		t.Fatal(err)
	}
	return w
}

func newWorld(t *testing.T) *world {
	w := newEmptyWorld(t)
	w.put(t, "prod/app/text", "one")
	w.vaultctl(t, "two", "rotate", "prod/app/text", "-", "--grace", "1h")
	w.put(t, "prod/app/object", object)
	w.put(t, "prod/app/bytes", "\x00\xff\x80")
	w.put(t, "prod/app/sub/deep", "x")
	w.put(t, "prod/app/gone", "x")
	w.vaultctl(t, "", "delete", "prod/app/gone")
	w.put(t, "prod/other", "x")
	w.put(t, "top", "x")
	w.vaultctl(t, "", "put", "prod/app/rotated", "--generate", "--rotate-every", "1h")

	w.good = w.token(t, "create", "billing", "--allow", "prod/app/*=read,verify,list")
	w.expired = w.token(t, "token", "billing", "--expires", "1h")
	w.MustExec(t, `UPDATE vault.app_credentials SET expires_at = now() - interval '1 second' WHERE expires_at IS NOT NULL`)
	w.revoked = w.token(t, "token", "billing")
	w.vaultctl(t, "", "app", "revoke", "billing", w.credential(t))
	w.MustReplay(t)
	w.primary = w.daemon(t, "primary", w.Cluster.Primary(), mount)
	w.standby = w.daemon(t, "standby", w.Cluster.Standbys()[0], mount)
	return w
}

// vaultctl runs the real binary and returns its standard output.
func (w *world) vaultctl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(w.commands, "vaultctl"), args...)
	cmd.Env = w.environ()
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("vaultctl %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out)
}

// environ is that of an operator.
func (w *world) environ() []string {
	return append(os.Environ(), "VAULTCTL_DATABASE_URL="+w.URL(vaulttest.Operator), "VAULTCTL_TOKEN="+vaulttest.Token,
		"VAULTCTL_KMS_KEY=local://"+w.KeyFile)
}

func (w *world) put(t *testing.T, name, value string) {
	t.Helper()
	w.vaultctl(t, value, "put", name, "-", "--verbatim")
}

// token makes an app or a token and returns the token.
func (w *world) token(t *testing.T, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	w.vaultctl(t, "", append(append([]string{"app"}, args...), "--token-out", file)...)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// credential is the id of the newest one.
func (w *world) credential(t *testing.T) string {
	t.Helper()
	return w.MustQuery(t, `SELECT id::text FROM vault.app_credentials ORDER BY created_at DESC LIMIT 1`)
}

const mount = "kv_mount = \"secret\"\n"

// daemon starts a vaultd with more settings at the end of its file.
func (w *world) daemon(t *testing.T, name string, node *localpg.Node, more string) daemon {
	t.Helper()
	base := filepath.Join(w.dir, name)
	settings := fmt.Sprintf("database_url = %q\nprimary_database_url = %q\nlisten = [\"127.0.0.1:0\", %q]\n"+
		"health_listen = \"127.0.0.1:0\"\naddress_file = %q\nstate_dir = %q\naudit_spool = %q\nkms_keys = [%q]\n"+
		"allow = [\"127.0.0.1\"]\nscan_interval = \"1s\"\n", node.URL(w.Database, vaulttest.Daemon),
		w.URL(vaulttest.Daemon), "unix:"+base+".sock", base+".addresses", base+".state", base+".spool", "local://"+w.KeyFile)
	settings += more
	if err := os.WriteFile(base+".toml", []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(w.commands, "vaultd"), "--config", base+".toml")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("vaultd beside the %s: %v", name, err)
		}
		for line := range strings.Lines(log.String()) {
			if t.Failed() && strings.Contains(line, "level=ERROR") {
				t.Logf("vaultd beside the %s: %s", name, line)
			}
		}
	})
	d := daemon{socket: base + ".sock"}
	until(t, "vaultd listens", func() bool {
		text, _ := os.ReadFile(base + ".addresses")
		for line := range strings.Lines(string(text)) {
			if url, ok := strings.CutPrefix(strings.TrimSpace(line), "VAULTD_URL="); ok {
				d.url = url
			}
		}
		return d.url != ""
	})
	return d
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited a minute: %s", what)
		case <-poll.C:
		}
	}
}

// check is one request and what every client makes of its answer.
type check struct {
	about string
	ask   request
	want  result
}

func (w *world) checks() []check {
	denied, missing := result{Status: 403}, result{Status: 404}
	read := func(path, token string) request { return request{Op: "read", Path: path, Token: token} }
	unknown := access.NewToken().Reveal()
	var fields map[string]any
	if err := json.Unmarshal([]byte(object), &fields); err != nil {
		panic(err)
	}
	return []check{
		{"text", read("prod/app/text", w.good), result{Data: map[string]any{"value": "two"}, Version: 2}},
		{"text, without a token", read("prod/app/text", ""), result{Data: map[string]any{"value": "two"}, Version: 2}},
		{"a JSON object", read("prod/app/object", w.good), result{Data: fields, Version: 1}},
		{"bytes", read("prod/app/bytes", w.good), result{Data: map[string]any{"value_base64": "AP+A"}, Version: 1}},
		{"a version", request{Op: "read", Path: "prod/app/text", Version: 1, Token: w.good},
			result{Data: map[string]any{"value": "one"}, Version: 1}},
		{"a version that never was", request{Op: "read", Path: "prod/app/text", Version: 9, Token: w.good}, missing},
		{"missing", read("prod/app/none", w.good), missing},
		{"deleted", read("prod/app/gone", w.good), missing},
		{"forbidden", read("prod/other", w.good), denied},
		{"forbidden and missing", read("prod/none", w.good), denied},
		{"not below the prefix", read("prod/app", w.good), denied},
		{"an unknown token", read("prod/app/text", unknown), denied},
		{"a token of another vault", read("prod/app/text", "hvs.CAESIJ"), denied},
		{"an expired token", read("prod/app/text", w.expired), denied},
		{"a revoked token", read("prod/app/text", w.revoked), denied},
		{"no name", read("prod/app/.hidden", w.good), result{Status: 400}},

		{"metadata", request{Op: "metadata", Path: "prod/app/text", Token: w.good},
			result{Version: 2, Keys: []string{"1", "2"}}},
		{"metadata, missing", request{Op: "metadata", Path: "prod/app/none", Token: w.good}, missing},
		{"metadata, deleted", request{Op: "metadata", Path: "prod/app/gone", Token: w.good}, missing},
		{"metadata, forbidden", request{Op: "metadata", Path: "top", Token: w.good}, denied},

		{"the root", request{Op: "list", Token: w.good}, result{Keys: []string{"prod/"}}},
		{"the root, without a token", request{Op: "list"}, result{Keys: []string{"prod/", "top"}}},
		{"a folder above the rule", request{Op: "list", Path: "prod", Token: w.good}, result{Keys: []string{"app/"}}},
		{"a folder", request{Op: "list", Path: "prod/app", Token: w.good},
			result{Keys: []string{"bytes", "object", "rotated", "sub/", "text"}}},
		{"a folder without secrets", request{Op: "list", Path: "prod/app/none", Token: w.good}, missing},
		{"a forbidden folder", request{Op: "list", Path: "other", Token: w.good}, denied},
		{"a list with a revoked token", request{Op: "list", Path: "prod/app", Token: w.revoked}, denied},

		{"lookup", request{Op: "lookup", Token: w.good},
			result{Data: map[string]any{"id": w.good}, Keys: []string{"billing"}}},
		{"lookup of a revoked token", request{Op: "lookup", Token: w.revoked}, denied},
		{"lookup of an expired token", request{Op: "lookup", Token: w.expired}, denied},
		{"renewal", request{Op: "renew", Token: w.good}, result{Status: 400}},
		{"a write", request{Op: "write", Path: "prod/app/text", Token: w.good}, result{Status: 405}},
		{"health", request{Op: "health", Token: w.good}, result{Data: map[string]any{"ready": true}}},
	}
}

func (w *world) run(t *testing.T, c client, d daemon, socket bool) {
	t.Helper()
	for _, check := range w.checks() {
		r := check.ask
		if r.URL = d.url; socket {
			r.Socket = d.socket
		}
		got := c.ask(t, r)
		compareResults(t, check.about, check.want, got)
	}
}

func compareResults(t *testing.T, about string, want, got result) {
	t.Helper()
	text := got.Error
	got.Error = ""
	// Numbers have another type in each client.
	if diff := cmp.Diff(canonical(t, want), canonical(t, got)); diff != "" {
		t.Errorf("%s: (-want +got) %s\n%s", about, diff, text)
	}
}

func canonical(t *testing.T, r result) string {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestClients(t *testing.T) {
	w := newWorld(t)
	hvac, node := start(t, "/usr/bin/python3", "client.py"), start(t, "node", "client.js")
	everything := func(d daemon) func(*testing.T) {
		return func(t *testing.T) {
			t.Run("hashicorp", func(t *testing.T) { w.run(t, hashicorp{}, d, false) })
			t.Run("openbao", func(t *testing.T) { w.run(t, openbao{}, d, false) })
			t.Run("hvac", func(t *testing.T) { w.run(t, hvac, d, false) })
			t.Run("node-vault", func(t *testing.T) { w.run(t, node, d, false) })
			t.Run("consul-template", func(t *testing.T) { w.templates(t, d) })
			t.Run("unix socket", func(t *testing.T) {
				w.run(t, hashicorp{}, d, true)
				w.run(t, openbao{}, d, true)
				w.run(t, node, d, true)
			})
			t.Run("%2F", func(t *testing.T) { w.escapedNames(t, node, d) })
		}
	}
	t.Run("primary", everything(w.primary))
	t.Run("rotation", w.rotation)
	w.MustReplay(t)
	if err := w.Cluster.Primary().Stop(t.Context(), localpg.Fast); err != nil {
		t.Fatal(err)
	}
	t.Run("standby", everything(w.standby))
}

// A client that sends "%2F" for the slashes of a name gets the secret. Those that escape the percent sign as well ask
// for a name that cannot be.
func (w *world) escapedNames(t *testing.T, node client, d daemon) {
	r := request{URL: d.url, Op: "read", Path: "prod%2Fapp%2Ftext", Token: w.good}
	want := result{Data: map[string]any{"value": "two"}, Version: 2}
	compareResults(t, "node-vault", want, node.ask(t, r))
	compareResults(t, "hashicorp", result{Status: 400}, hashicorp{}.ask(t, r))
	response, err := http.Get(d.url + "/v1/secret/data/prod%2Fapp%2F..%2Fother")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("a name with dots: got status %d, want 400", response.StatusCode)
	}
}
