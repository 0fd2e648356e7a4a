package compat_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	_ "github.com/hyperiondb/vault/client" // a program of the page has it
	baoapi "github.com/openbao/openbao/api/v2"
	"go.yaml.in/yaml/v3"
)

// page runs the blocks of docs/APPS.md in their order, in one folder and one environment, as its reader does.
type page struct {
	*world
	folder  string
	environ []string
	daemon  daemon
	socket  string // in place of the documented credential_socket

	table   string // [credentials] of the page
	stores  []secretStore
	secrets map[string]string // of Kubernetes: name/key -> value
	pods    int
	seen    map[string]int // blocks by language
}

const says = "version 1, 32 characters" // of each program

// kubectl keeps what it is given as a file.
const kubectl = `#!/bin/sh
[ "$1 $2 $3" = "create secret generic" ] && [ "${5%%=*}" = --from-file ] || { echo "unexpected: $*" >&2; exit 1; }
file=${5#--from-file=}
cat "${file#*=}" > "$KUBERNETES/$4.${file%%=*}"
`

func TestTheBlocksOfTheAppsPage(t *testing.T) {
	text, err := os.ReadFile("../docs/APPS.md")
	if err != nil {
		t.Fatal(err)
	}
	w := newEmptyWorld(t)
	p := &page{world: w, folder: t.TempDir(), socket: filepath.Join(w.dir, "credentials"), secrets: map[string]string{},
		seen: map[string]int{}}
	blocks := regexp.MustCompile("(?ms)^```(\\w+)(?: (\\S+))?\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	p.prepare(t, blocks)
	for _, b := range blocks {
		p.seen[b[1]]++
		switch language, file, block := b[1], b[2], b[3]; language {
		case "sh":
			p.shell(t, block)
		case "go":
			p.program(t, "go", []string{"run"}, "main.go", block)
		case "python":
			p.program(t, "/usr/bin/python3", nil, "main.py", block)
		case "js":
			p.program(t, "node", nil, "main.js", block)
		case "ctmpl":
			p.write(t, file, block)
		case "toml": // the daemon has them already
		case "ini":
			p.unit(t, block)
		case "yaml":
			p.manifests(t, block)
		default:
			t.Errorf("a block of %q is not run", language)
		}
	}
	want := map[string]int{"sh": 7, "go": 2, "python": 1, "js": 1, "ctmpl": 1, "toml": 2, "ini": 1, "yaml": 3}
	if !maps.Equal(p.seen, want) {
		t.Errorf("got blocks %v, want %v", p.seen, want)
	}
	p.results(t)
}

// prepare starts a daemon with the settings of the page, and makes the environment in which its commands run.
func (p *page) prepare(t *testing.T, blocks [][]string) {
	t.Helper()
	var settings strings.Builder
	for _, b := range blocks {
		if b[1] == "toml" {
			settings.WriteString(b[3])
		}
	}
	p.table = settings.String()
	p.daemon = p.world.daemon(t, "primary", p.Cluster.Primary(), strings.ReplaceAll(p.table, documentedSocket, p.socket))
	bin, kubernetes := filepath.Join(p.folder, "bin"), filepath.Join(p.folder, "kubernetes")
	for _, dir := range []string{bin, kubernetes} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "kubectl"), []byte(kubectl), 0o700); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	p.environ = append(p.world.environ(), "VAULTD_URL="+p.daemon.url, "KUBERNETES="+kubernetes,
		"NODE_PATH="+filepath.Join(here, "node_modules"),
		"PATH="+strings.Join([]string{bin, p.commands, filepath.Join(here, "../bin"), os.Getenv("PATH")}, ":"))
}

const documentedSocket = "/run/vaultd/credentials"

func (p *page) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(p.folder, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// shell runs a block, and keeps what it exports.
func (p *page) shell(t *testing.T, block string) {
	t.Helper()
	kept := filepath.Join(p.folder, "environment")
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", block+"\nenv -0 > "+kept)
	cmd.Dir, cmd.Env = p.folder, p.environ
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", block, err, out)
	}
	text, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	p.environ = strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

// program runs a whole program. Go's runs in this folder, whose module has the client.
func (p *page) program(t *testing.T, command string, args []string, file, text string) {
	t.Helper()
	if command == "go" { // a program of this folder's module finds its files by their whole names
		text = strings.ReplaceAll(text, `"billing.token"`, strconv.Quote(filepath.Join(p.folder, "billing.token")))
	}
	cmd := exec.Command(command, append(args, p.write(t, file, text))...)
	if cmd.Env = p.environ; command != "go" {
		cmd.Dir = p.folder
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(out)) != says {
		t.Errorf("%s: got %q, %v, want %q\n%s", file, out, err, says, stderr.Bytes())
	}
}

// unit does what systemd does for the unit's LoadCredential=, and checks that what the unit names fits together.
func (p *page) unit(t *testing.T, text string) {
	t.Helper()
	load := regexp.MustCompile(`(?m)^LoadCredential=(\w+):(\S+)$`).FindStringSubmatch(text)
	if load == nil {
		t.Fatalf("the unit has no LoadCredential:\n%s", text)
	}
	id, socket := load[1], load[2]
	if socket != documentedSocket || !strings.Contains(p.table, `credential_socket = "`+socket+`"`) ||
		!strings.Contains(p.table, `"billing.service:`+id+`" = "prod/billing/db"`) {
		t.Errorf("the unit loads %q from %q, and the settings have:\n%s", id, socket, p.table)
	}
	if !strings.Contains(text, "\nExecStartPre=/usr/bin/test -s %d/"+id+"\n") {
		t.Errorf("the unit does not test that its credential is not empty:\n%s", text)
	}
	c, err := net.DialUnix("unix", &net.UnixAddr{Name: "@f4b6692a71e18d4c/unit/billing.service/" + id},
		&net.UnixAddr{Name: p.socket})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	want := 32
	if os.Getuid() != 0 {
		want = 0 // only root is systemd
	}
	if err != nil || len(got) != want {
		t.Errorf("systemd would have %d bytes, %v, want %d", len(got), err, want)
	}
}

// provider is what External Secrets needs of either provider, for a store with a token.
type provider struct {
	Server  string
	Path    string
	Version string
	Auth    struct {
		TokenSecretRef struct{ Name, Key string } `yaml:"tokenSecretRef"`
	}
}

// manifest is one of one of the kinds on the page.
type manifest struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name string }
	Spec       yaml.Node
}

type secretStore struct {
	name    string
	openBao bool
	provider
}

func (p *page) manifests(t *testing.T, text string) {
	t.Helper()
	all := yaml.NewDecoder(strings.NewReader(text))
	all.KnownFields(true)
	for {
		var o manifest
		err := all.Decode(&o)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		switch o.APIVersion + " " + o.Kind {
		case "external-secrets.io/v1 SecretStore":
			p.store(t, o)
		case "external-secrets.io/v1 ExternalSecret":
			p.externalSecret(t, o)
		case "v1 Pod":
			p.pod(t, o)
		default:
			t.Errorf("unknown kind %q %q", o.APIVersion, o.Kind)
		}
	}
}

// spec decodes a spec, and refuses fields that the kind does not have.
func spec(t *testing.T, o manifest, into any) {
	t.Helper()
	text, err := yaml.Marshal(&o.Spec)
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", o.Kind, err)
	}
}

// store validates a store as its provider does.
func (p *page) store(t *testing.T, o manifest) {
	t.Helper()
	var s struct {
		Provider struct {
			Vault   *provider
			OpenBao *provider `yaml:"openBao"`
		}
	}
	spec(t, o, &s)
	if (s.Provider.Vault == nil) == (s.Provider.OpenBao == nil) {
		t.Fatal("a store has one provider")
	}
	store := secretStore{name: o.Metadata.Name, openBao: s.Provider.OpenBao != nil}
	if store.openBao {
		store.provider = *s.Provider.OpenBao
	} else {
		store.provider = *s.Provider.Vault
	}
	if store.Version != "v2" || !strings.HasPrefix(store.Server, "https://") {
		t.Errorf("got version %q of %q, want v2 over https", store.Version, store.Server)
	}
	client, bao := p.clients(t, store)
	if store.openBao {
		mount, err := bao.Sys().MountInfoWithContext(t.Context(), store.Path)
		if err != nil || mount.Type != "kv" || mount.Options["version"] != "2" {
			t.Errorf("validating the store: got mount %+v, %v", mount, err)
		}
	} else if _, err := client.Auth().Token().LookupSelfWithContext(t.Context()); err != nil {
		t.Errorf("validating the store: %v", err)
	}
	p.stores = append(p.stores, store)
}

// clients are those of the providers, with the daemon in place of the store's server.
func (p *page) clients(t *testing.T, s secretStore) (*vaultapi.Client, *baoapi.Client) {
	t.Helper()
	ref := s.Auth.TokenSecretRef
	token, err := os.ReadFile(filepath.Join(p.folder, "kubernetes", ref.Name+"."+ref.Key))
	if err != nil {
		t.Fatalf("the store's token: %v", err)
	}
	config, baoConfig := vaultapi.DefaultConfig(), baoapi.DefaultConfig()
	config.Address, baoConfig.Address = p.daemon.url, p.daemon.url
	client, err := vaultapi.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	bao, err := baoapi.NewClient(baoConfig)
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(string(token))
	bao.SetToken(string(token))
	return client, bao
}

// externalSecret reads through each store of that name.
func (p *page) externalSecret(t *testing.T, o manifest) {
	t.Helper()
	var s struct {
		RefreshInterval string                      `yaml:"refreshInterval"`
		SecretStoreRef  struct{ Kind, Name string } `yaml:"secretStoreRef"`
		Target          struct{ Name string }
		Data            []struct {
			SecretKey string                         `yaml:"secretKey"`
			RemoteRef struct{ Key, Property string } `yaml:"remoteRef"`
		}
	}
	spec(t, o, &s)
	if _, err := time.ParseDuration(s.RefreshInterval); err != nil || s.SecretStoreRef.Kind != "SecretStore" ||
		len(s.Data) == 0 {
		t.Errorf("got %+v, %v", s, err)
	}
	read := 0
	for _, store := range p.stores {
		if store.name != s.SecretStoreRef.Name {
			continue
		}
		client, bao := p.clients(t, store)
		for _, d := range s.Data {
			var fields map[string]any
			if store.openBao {
				got, err := bao.KVv2(store.Path).Get(t.Context(), d.RemoteRef.Key)
				if err != nil {
					t.Fatal(err)
				}
				fields = got.Data
			} else {
				got, err := client.KVv2(store.Path).Get(t.Context(), d.RemoteRef.Key)
				if err != nil {
					t.Fatal(err)
				}
				fields = got.Data
			}
			value, _ := fields[d.RemoteRef.Property].(string)
			if len(value) != 32 {
				t.Errorf("property %q of %q has %d characters, want 32", d.RemoteRef.Property, d.RemoteRef.Key, len(value))
			}
			p.secrets[s.Target.Name+"/"+d.SecretKey] = value
			read++
		}
	}
	if read != 2 {
		t.Errorf("got %d values through the stores, want one through each of 2", read)
	}
}

func (p *page) pod(t *testing.T, o manifest) {
	t.Helper()
	var s struct {
		Containers []struct {
			Name, Image string
			Env         []struct {
				Name      string
				ValueFrom struct {
					SecretKeyRef struct{ Name, Key string } `yaml:"secretKeyRef"`
				} `yaml:"valueFrom"`
			}
		}
	}
	spec(t, o, &s)
	for _, c := range s.Containers {
		for _, e := range c.Env {
			if ref := e.ValueFrom.SecretKeyRef; p.secrets[ref.Name+"/"+ref.Key] == "" {
				t.Errorf("variable %q is of %q, which no ExternalSecret writes", e.Name, ref)
			}
			p.pods++
		}
	}
}

// results checks what the shell's blocks have left.
func (p *page) results(t *testing.T) {
	t.Helper()
	if p.pods != 1 {
		t.Errorf("got %d variables of pods, want 1", p.pods)
	}
	for _, f := range []struct{ name, has string }{
		{"db.json", `"name":"prod/billing/db","version":1,`}, {"db.conf", "password = "}, {"billing.token", "hvr_"},
		{"new.token", "hvr_"},
	} {
		text, err := os.ReadFile(filepath.Join(p.folder, f.name))
		if err != nil || !strings.Contains(string(text), f.has) {
			t.Errorf("%s: got %d bytes without %q, %v", f.name, len(text), f.has, err)
		}
		if info, err := os.Stat(filepath.Join(p.folder, f.name)); err == nil && strings.HasSuffix(f.name, ".token") &&
			info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", f.name, info.Mode().Perm())
		}
	}
	if !slices.Contains(p.environ, "VAULT_ADDR="+p.daemon.url) {
		t.Error("the page does not set VAULT_ADDR")
	}
}
