package scripttest

import (
	"fmt"
	"strings"
)

// readmeWorld has what "make dev" starts, and a server "db" for the reader's own cluster.
func (r *reader) readmeWorld() {
	r.program("make", `test "$*" = dev && exec vaultctl dev --dir .dev --detach`)
	r.typed("make dev")
	r.t.Cleanup(func() {
		r.typed("vaultctl dev stop --dir .dev")
		if err := removeLocal(r.dir); err != nil {
			r.t.Error(err)
		}
	})
	r.typed(". .dev/env.sh")
	r.named(`http://127\.0\.0\.1:8400`, r.value("VAULTD_URL"), `local:///etc/vault/kek`, "local://"+r.dir+"/.dev/kek",
		`PUBLIC_KEY`, `"$AUDIT_KEY"`, `/etc/vault/`, r.dir+"/etc/")
	r.typed(`printf first | vaultctl put prod/app/db-password -`)
	r.program("age", "cat")
	r.write("secrets.jsonl", `{"name":"prod/one","value":"x"}`+"\n", 0o600)
	r.write("server", "#!/bin/sh\ntest \"$DB_PASSWORD\" = first\n", 0o700)
	r.keys()
	m := r.machines("db")
	r.before["On your own cluster"] = func() {
		m.create("db")
		m.command("db", `psql -qc "CREATE ROLE owner LOGIN CREATEROLE" -c "CREATE DATABASE app OWNER owner"`)
		key := strings.TrimSpace(r.typed(`vaultctl keygen --audit audit.key 2>/dev/null`))
		r.setenv("AUDIT_KEY", key)
		r.vaultdProgram(r.dir + "/etc/vaultd.toml")
		r.write("etc/vaultd.toml", fmt.Sprintf(`database_url = %[1]q
primary_database_url = %[1]q
listen = ["127.0.0.1:0"]
health_listen = "127.0.0.1:0"
address_file = "%[2]s/addresses"
state_dir = "%[2]s/vaultd/state"
audit_spool = "%[2]s/vaultd/spool"
allow = ["127.0.0.1"]
kms_keys = ["awskms:///alias/vault?region=eu-west-1"]
audit_seal_key = "local://%[2]s/audit.key"
`, r.here("postgres://vaultd@db/app"), r.dir), 0o600)
		r.make(r.dir + "/vaultd")
	}
	r.before["Who did what"] = func() {
		m.command("db", `psql -qc "CREATE ROLE operator LOGIN"`)
		r.typed(`vaultctl grant operator && vaultctl grant operator --as auditor`)
		r.setenv("VAULTCTL_DATABASE_URL", r.here("postgres://operator@db/app"))
		r.typed(`vaultctl put prod/api/key --generate`)
		r.until(`vaultctl audit verify --key "$AUDIT_KEY"`)
	}
}
