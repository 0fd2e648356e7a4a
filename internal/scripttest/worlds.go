package scripttest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hyperiondb/vault/internal/kms/kmsfake"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// worlds has for each page what its reader has before the first block.
var worlds = map[string]func(*reader){
	"README.md":          (*reader).readmeWorld,
	"docs/AUDIT.md":      (*reader).auditWorld,
	"docs/EXTENSION.md":  (*reader).extensionWorld,
	"docs/FORMAT.md":     (*reader).formatWorld,
	"docs/HTTP.md":       (*reader).httpWorld,
	"docs/KV.md":         (*reader).kvWorld,
	"docs/MIGRATE.md":    (*reader).migrateWorld,
	"docs/UPGRADE.md":    (*reader).upgradeWorld,
	"docs/OPERATIONS.md": (*reader).operationsWorld,
	"docs/ROTATORS.md":   (*reader).rotatorsWorld,
	"docs/SECURITY.md":   (*reader).securityWorld,
}

// clientPrograms is the folder of psql and the like, beside Debian's server.
const clientPrograms = "/usr/lib/postgresql/15/bin"

// vault gives the reader a vault of its own on the shared cluster, whose database pages call app.
func (r *reader) vault() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	store, err := r.h.program.NewDatabase(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	r.store = store
	primary := store.Cluster.Primary()
	r.setenv("PGHOST", primary.SocketDir(), "PGPORT", fmt.Sprint(primary.Port()), "PGUSER", vaulttest.Superuser,
		"PGDATABASE", store.Database, "VAULTCTL_DATABASE_URL", store.URL(vaulttest.Operator),
		"OWNER_URL", store.URL(vaulttest.Superuser),
		"VAULTCTL_TOKEN_FILE", r.write("token", vaulttest.Token+"\n", 0o600))
	r.named(`'?postgres://owner@\w+/app'?`, "'"+store.URL(vaulttest.Superuser)+"'", `-d app\b`, "-d "+store.Database,
		`local:///safe/kek|local:///etc/vault/kek`, "local://"+store.KeyFile, `/safe/kek`, store.KeyFile,
		`/var/lib/vaultd`, r.dir+"/vaultd")
}

// daemon runs a vaultd beside the primary until the page ends, and names its address.
func (r *reader) daemon(settings string) {
	r.t.Helper()
	addresses := r.dir + "/addresses"
	_ = os.Remove(addresses) // of the one before
	url := r.store.URL(vaulttest.Daemon)
	config := r.write("vaultd.toml", fmt.Sprintf(`database_url = %[1]q
primary_database_url = %[1]q
listen = ["127.0.0.1:0"]
health_listen = "127.0.0.1:0"
state_dir = "%[2]s/vaultd/state"
audit_spool = "%[2]s/vaultd/spool"
address_file = "%[2]s/addresses"
kms_keys = ["local://%[3]s"]
allow = ["127.0.0.0/8"]
drain_delay = "0"
%[4]s`, url, r.dir, r.store.KeyFile, settings), 0o600)
	r.make(r.dir + "/vaultd")
	d := &daemon{cmd: exec.Command(filepath.Join(r.h.bin, "vaultd"), "--config", config), output: &lockedBuffer{},
		exited: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr, d.cmd.Env = d.output, d.output, r.environ
	if err := d.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() { _ = d.cmd.Wait(); close(d.exited) }()
	r.stopDaemon = func() { d.stop(syscall.SIGTERM) }
	r.t.Cleanup(r.stopDaemon)
	for deadline := time.Now().Add(waitLimit); ; time.Sleep(5 * time.Millisecond) { // between two looks
		text, err := os.ReadFile(addresses)
		if err == nil {
			for line := range strings.Lines(string(text)) {
				if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
					r.setenv(key, value)
				}
			}
			return
		}
		select {
		case <-d.exited:
			r.t.Fatalf("vaultd ended at once:\n%s", d.log())
		default:
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("vaultd does not listen:\n%s", d.log())
		}
	}
}

// sealed waits until the sealer is behind no row.
func (r *reader) sealed() {
	r.t.Helper()
	r.until(`vaultctl audit verify --key "$AUDIT_KEY"`)
}

func (r *reader) auditWorld() {
	r.vault()
	r.typed(`printf first | vaultctl put prod/db/password -`)
	settings := fmt.Sprintf("audit_archive = %q\n", r.dir+"/vaultd/archive")
	r.daemon(settings)
	r.typed(`curl -fsS $VAULTD_URL/v1/secrets/prod/db/password`)
	r.stopDaemon()
	r.daemon(settings) // which begins another segment
	r.typed(`curl -fsS $VAULTD_URL/v1/secrets/prod/db/password`)
	r.until(`ls vaultd/archive/reads/*/*/*.jsonl.zst`)
	r.named(`s3://example-audit/vault\?region=eu-west-1`, r.dir+"/vaultd/archive")
}

func (r *reader) formatWorld() {
	r.vault()
	r.typed(`printf first | vaultctl put prod/db/password -`)
	r.setenv("AUDIT_KEY", strings.TrimSpace(r.typed(`vaultctl keygen --audit audit.key 2>/dev/null`)))
	r.daemon(fmt.Sprintf("audit_seal_key = %q\n", "local://"+r.dir+"/audit.key"))
	r.sealed()
	r.named(`docs/format/`, r.h.module+"/docs/format/", `ed25519:q3Kx\.\.\.`, `"$AUDIT_KEY"`)
}

func (r *reader) kvWorld() {
	r.vault()
	r.daemon("kv_mount = \"secret\"\n")
	r.named(`http://127\.0\.0\.1:8400`, r.value("VAULTD_URL"))
	r.typed(`printf first | vaultctl put prod/billing/db -`)
}

func (r *reader) httpWorld() {
	r.vault()
	r.daemon("")
	r.named(`http://127\.0\.0\.1:8400`, r.value("VAULTD_URL"), `http://127\.0\.0\.1:8401`, r.value("VAULTD_HEALTH_URL"))
	r.typed(`printf first | vaultctl put prod/db/password -`)
	r.until(`curl -fsS "$VAULTD_HEALTH_URL/readyz"`)
}

// rotatorsWorld has a server whose role app logs in by a password that the vault does not know.
func (r *reader) rotatorsWorld() {
	r.vault()
	url := r.value("VAULTCTL_DATABASE_URL")
	m := r.machines("target")
	m.create("target")
	m.command("target", `psql -qc "CREATE ROLE dba LOGIN CREATEROLE PASSWORD 'of dba'" \
  -c "SET ROLE dba" -c "CREATE ROLE app LOGIN PASSWORD 'set by hand'"
echo 'host all app,dba 127.0.0.0/8 scram-sha-256' > $PGDATA/pg_hba.conf
echo 'local all all trust' >> $PGDATA/pg_hba.conf
psql -Atqc "SELECT pg_reload_conf()"`)
	r.setenv("VAULTCTL_DATABASE_URL", url)
	r.write("admin", r.here(fmt.Sprintf("postgres://dba:of%%20dba@target:%d/postgres", m.port)), 0o600)
	r.daemon(r.here(fmt.Sprintf("scan_interval = \"100ms\"\npostgres_hosts = [\"%s:%d\"]\n", m.address(1), m.port)))
	r.typed(`vaultctl put prod/db/admin @admin
printf other | vaultctl put db/app -
vaultctl update db/app --generate --rotate-every 30d --rotator 'postgres-role role=app via=prod/db/admin'
vaultctl rotate db/app 2>/dev/null || true`)
	r.until(`vaultctl rotation list db/app | grep 'accepts no value'`)
	r.program("systemctl", `test "$*" = "reload billing"`)
	r.reload = func(_, file, text string) {
		program := r.write(file, text, 0o700)
		r.typed(fmt.Sprintf(`for step in set test; do printf value | VAULT_STEP=$step %s %s/key; done
grep -q '^value$' key`, program, r.dir))
	}
}

// migrateWorld has programs that write what the programs of other secret managers write.
func (r *reader) migrateWorld() {
	r.vault()
	r.program("vault", `echo '{"data":{"data":{"user":"app","password":"x"},"metadata":{"version":1}}}'`)
	r.program("aws", `case $2 in
get-secret-value) echo '{"Name":"prod/aws","SecretString":"x"}' ;;
*) echo '{"SecretValues":[{"Name":"prod/aws/one","SecretString":"x"}],"Errors":[]}' ;;
esac`)
	r.program("chamber", `echo '{"db_password":"x"}'`)
	r.program("sops", `case $3 in json) echo '{"db":{"pass":"x"}}' ;; *) echo 'SOPS_KEY=x' ;; esac`)
	r.program("infisical", `echo '[{"key":"API_KEY","value":"x"}]'`)
	r.program("age", `cat`)
	r.program("kubectl", `grep Secret >/dev/null`)
	r.write(".env", "DOT_ENV=x\n", 0o600)
	r.named(`/dev/shm/tree`, r.dir+"/tree")
}

// upgradeWorld has a vault that the release before has made.
func (r *reader) upgradeWorld() {
	r.vault()
	bin, err := r.h.previous()
	if err != nil {
		r.t.Fatal(err)
	}
	r.typed(`psql -q -c "DROP SCHEMA vault CASCADE" 2>/dev/null; ` + bin + `/vaultctl-previous init ` +
		`--database-url "$OWNER_URL" --kms-key local://` + r.store.KeyFile + ` >/dev/null 2>&1`)
}

func (r *reader) securityWorld() {
	r.vault()
	fake := r.keys()
	fake.AddSigningKey("vault-seals")
}

// keys has an AWS KMS with the key that pages name.
func (r *reader) keys() *kmsfake.Fake {
	r.t.Helper()
	fake := kmsfake.New("eu-west-1", "vault")
	url, err := fake.Serve()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(fake.Close)
	r.setenv("AWS_ACCESS_KEY_ID", "test", "AWS_SECRET_ACCESS_KEY", "test", "AWS_ENDPOINT_URL", url)
	return fake
}

// extensionWorld has a server that takes the extension's files from the folder that its pg_config names.
func (r *reader) extensionWorld() {
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	store, err := r.h.program.NewExtensionCluster(ctx, r.h.program.ClusterDir(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := store.Remove(); err != nil {
			r.t.Error(err)
		}
	})
	store.Database = "app"
	r.store = store
	primary := store.Cluster.Primary()
	r.setenv("PGHOST", primary.SocketDir(), "PGPORT", fmt.Sprint(primary.Port()), "PGUSER", vaulttest.Superuser,
		"VAULTCTL_DATABASE_URL", store.URL(vaulttest.Superuser), "VAULTCTL_TOKEN_FILE", r.dir+"/root.token")
	r.program("pg_config", "echo "+filepath.Dir(store.ExtensionFolder()))
	// It compiles as testfolder.Go does, which has compiled the packages before.
	r.program("make", `HOME=`+os.Getenv("HOME")+` CGO_ENABLED=0 GOFLAGS=-trimpath exec /usr/bin/make --silent -C `+
		r.h.module+` "$@"`)
	r.named(`PG_CONFIG=/usr/bin/`, "EXTENSION="+r.dir+"/made PG_CONFIG="+r.dir+"/bin/", `postgres://postgres@db/app`,
		"'"+store.URL(vaulttest.Superuser)+"'", `in app on db `, "in app on ... ")
	r.keys()
	r.typed("createdb app")
}
