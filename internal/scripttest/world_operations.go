package scripttest

import (
	"fmt"
	"net"
	"regexp"
	"strings"
)

// operator is the state of the page OPERATIONS.md: its servers, and the vaultd beside its primary.
type operator struct {
	*reader
	m              *machines
	listen, health string // of vaultd
}

// operationsWorld has db1 with a vault in it, and what each runbook calls a failure.
func (r *reader) operationsWorld() {
	r.as = r.serverUser()
	r.give(r.dir)
	r.give(r.dir + "/bin")
	r.copyBinary("vaultctl", r.dir+"/bin/vaultctl")
	o := &operator{reader: r, listen: r.freeAddress(), health: r.freeAddress()}
	fake := r.keys()
	fake.AddSigningKey("vault-seals")
	for _, folder := range []string{"/archive", "/backup", "/vaultd", "/etc", "/mnt/db3/vaultd"} {
		r.make(r.dir + folder)
	}
	r.named(`/archive/`, r.dir+"/archive/", `/backup/`, r.dir+"/backup/",
		`/mnt/db3/var/lib/vaultd`, r.dir+"/mnt/db3/vaultd",
		`/var/lib/vaultd`, r.dir+"/vaultd", `local:///(safe|etc/vault)/kek`, "local://"+r.dir+"/kek", `/etc/vault/`,
		r.dir+"/etc/", `ed25519:q3Kx\.\.\.`, `"$AUDIT_KEY"`, `10\.0\.0\.0/24`, "127.0.0.0/8", `http://127\.0\.0\.1:8401`,
		"http://"+o.health, `connect_timeout=2'`, "connect_timeout=20'", `postgres://old/vault`,
		"postgres://operator@db2/app", `@db/`, "@db2/", `US/Eastern`, "US/Gone")
	o.m = r.machines("db1", "db2", "db3", "spare", "empty", "db.example.com")
	r.on["empty"] = append(r.on["empty"], "VAULTCTL_DATABASE_URL="+r.here("postgres://owner@empty/app"),
		"XDG_STATE_HOME="+r.dir+"/empty")
	r.reload = o.m.configure
	o.install()
	r.before["Managed PostgreSQL"] = func() { o.m.create("db.example.com") }
	r.before["A token is stolen"] = func() {
		r.typed(`vaultctl token create ci >/dev/null`)
		r.named(`token revoke NAME`, "token revoke ci", `token:NAME`, "token:ci")
	}
	r.before["A credential of an app is stolen"] = o.credential
	r.before["Credentials of apps expire"] = o.credential
	r.before["Restore drill"] = func() {
		r.typed(`vaultctl put prod/app/key @key`)
		r.until(`vaultctl audit verify --key "$AUDIT_KEY"`)
		o.namedFirst(`@spare/`, r.here("@db2/"))
	}
	// a transaction after the backup, whose time the spare shows
	r.before["psql -c \"SELECT pg_create_restore_point"] = func() { r.typed(`vaultctl put prod/app/key @key`) }
	r.before["Promotion"] = o.loseThePrimary
	r.before["Lost quorum"] = func() {
		o.m.command("db1", "pg_ctl -m fast -w stop >/dev/null")
		o.m.command("db3", "pg_ctl -m fast -w stop >/dev/null")
	}
	r.before["$ psql -Atc \"SELECT application_name, sync_state"] = func() { o.m.start("db1"); o.m.start("db3") }
	r.before["Restore"] = func() { r.rename = r.rename[1:] } // the spare is one by now
	r.before["psql -f roles.sql"] = func() { o.m.create("empty") }
	r.before["Disk full"] = func() { o.m.stop("empty") }
	r.before["The audit spool"] = func() {
		r.typed(`curl -fsS http://` + o.listen + `/v1/secrets/prod/app/key`)
		o.restart("cp -a vaultd/spool mnt/db3/vaultd/")
	}
	r.before["The daemon gets another database role"] = func() {
		o.m.command("db2", `psql -qc "CREATE ROLE vaultd2 LOGIN"`)
	}
	r.before["The KMS is away"] = func() {
		o.daemon("db2", fmt.Sprintf(`"awskms:///alias/vault?region=eu-west-1&endpoint=http://%s", "local://%s/kek"`,
			r.freeAddress(), r.dir))
		o.restart("true")
	}
	r.before["Rotations fail"] = func() {
		r.typed(`vaultctl put a/auto --generate --rotate-every 30d`)
		o.due("")
		// The next attempt comes five seconds later, and one that is under way cannot be asked for again.
		o.m.command("db2", `n=0; until psql -qAtd app -c "UPDATE vault.rotation_jobs SET run_after = now() + interval '1 hour'
WHERE state = 'queued' AND failures > 0 RETURNING 'held'" | grep -q held; do
n=$((n+1)); [ $n -lt 600 ]; sleep 0.1; done`)
	}
	r.before["Something cannot be handled"] = func() {
		o.daemon("db2", fmt.Sprintf(`"local://%s/kek"`, r.dir))
		o.restart("true")
		r.typed(`vaultctl rotate a/auto`) // ends the job
		o.due(", rotation_window = '02:00-05:00 US/Gone'")
	}
	r.before["Changing the KMS key"] = func() {
		r.typed(`vaultctl update a/auto --window "02:00-05:00 America/New_York"`)
		o.daemon("db2", r.here(`"awskms:///alias/vault?region=eu-west-1", "local:///etc/vault/kek"`))
		o.restart("true")
	}
	r.before["Many secrets at once"] = func() {
		r.typed(`for n in 1 2; do printf x | vaultctl put many/$n -; done; ` +
			`for n in 1 2 3 4; do echo '{"name":"many/'$n'","value":"x"}'; done > secrets.jsonl`)
	}
	r.before["From the allowlist to apps"] = func() { r.typed(`vaultctl app delete billing --yes; rm billing.token`) }
}

// install makes db1, its vault, and the vaultd beside it.
func (o *operator) install() {
	o.t.Helper()
	o.m.create("db1")
	o.m.command("db1", `psql -qc "CREATE ROLE owner LOGIN SUPERUSER" -c "CREATE ROLE operator LOGIN" `+
		`-c "CREATE ROLE vaultd LOGIN" -c "CREATE DATABASE app OWNER owner"`)
	o.setenv("VAULTCTL_DATABASE_URL", o.here("postgres://owner@db1/app"), "VAULTCTL_TOKEN_FILE", o.dir+"/token")
	o.write("key", canary, 0o600)
	o.setenv("AUDIT_KEY", strings.TrimSpace(o.typed(`vaultctl keygen --audit audit.key 2>/dev/null`)))
	o.typed(`vaultctl keygen kek && vaultctl init --kms-key local://` + o.dir + `/kek --save-token token
vaultctl grant operator && vaultctl grant operator --as auditor
vaultctl grant vaultd && vaultctl grant vaultd --as worker`)
	o.setenv("VAULTCTL_DATABASE_URL", o.here("postgres://operator@db1/app"))
	o.typed(`vaultctl put prod/app/pitr @key && vaultctl put prod/app/key @key
vaultctl app create billing --allow 'prod/billing/*=read' --token-out first.token`)
	o.vaultdProgram(o.dir + "/etc/vaultd.toml")
	o.daemon("db1", fmt.Sprintf(`"local://%s/kek"`, o.dir))
	o.typed("systemctl start vaultd")
}

// daemon writes the configuration of the vaultd beside a node.
func (o *operator) daemon(node, keys string) {
	o.t.Helper()
	primaries := o.here("postgres://vaultd@db1,db2,db3/app?target_session_attrs=read-write&connect_timeout=20")
	o.write("etc/vaultd.toml", fmt.Sprintf(`database_url = %q
primary_database_url = %q
listen = [%q]
health_listen = %q
address_file = "%[5]s/addresses"
state_dir = "%[5]s/vaultd/state"
audit_spool = "%[5]s/vaultd/spool"
audit_seal_key = "local://%[5]s/audit.key"
allow = ["127.0.0.0/8"]
kms_keys = [%[6]s]
scan_interval = "200ms"
drain_delay = "0"
audit_window = "0"
`, o.here("postgres://vaultd@"+node+"/app"), primaries, o.listen, o.health, o.dir, keys), 0o600)
}

// restart stops the daemon, runs a command and starts the daemon.
func (o *operator) restart(between string) {
	o.t.Helper()
	o.typed("systemctl stop vaultd\n" + between + "\nsystemctl start vaultd")
}

// credential gives billing one more credential, the one that the page calls ID.
func (o *operator) credential() {
	o.t.Helper()
	o.typed(`rm -f id.token; vaultctl app token billing --token-out id.token >/dev/null 2>&1`)
	id := strings.TrimSpace(o.typed(`vaultctl app show billing -o json | ` +
		`jq -r '[.credentials[] | select(.revoked_at == null)][-1].id'`))
	o.namedFirst(`billing ID`, "billing "+id)
}

// namedFirst adds an example that is replaced before the others.
func (o *operator) namedFirst(pattern, to string) {
	o.rename = append([]rename{{regexp.MustCompile(pattern), to}}, o.rename...)
}

// loseThePrimary makes db3, the second standby, and then ends db1 as a power cut does. The vaultd is one beside db2.
func (o *operator) loseThePrimary() {
	o.t.Helper()
	o.m.command("db1", `psql -qAtc "SELECT pg_create_physical_replication_slot('db3')" >/dev/null`)
	o.m.command("db3", o.here(`pg_basebackup -d "host=db1 user=replicator application_name=db3" `+
		`-D $PGDATA -R -S db3 -X stream -c fast`))
	o.m.start("db3")
	o.typed("systemctl stop vaultd")
	o.m.command("db1", `n=0; while ls $PGDATA/pg_wal/archive_status/*.ready >/dev/null 2>&1; do
n=$((n+1)); [ $n -lt 600 ]; sleep 0.1; done # the page's backup needs them`)
	o.m.stop("db1")
	o.daemon("db2", fmt.Sprintf(`"local://%s/kek"`, o.dir))
	o.typed("systemctl start vaultd")
}

// due makes the rotation of a/auto due since yesterday, and changes more of its row.
func (o *operator) due(more string) {
	o.t.Helper()
	o.m.command("db2", `psql -qd app -c "UPDATE vault.secrets SET next_rotation_at = now() - interval '1 day'`+more+
		` WHERE name = 'a/auto'"`)
}

// freeAddress is one of loopback that no server listens on, as other test programs take ports of 127.0.0.1.
func (r *reader) freeAddress() string {
	r.t.Helper()
	l, err := net.Listen("tcp", ownLoopback(200)+":0")
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
