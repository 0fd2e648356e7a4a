package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTheFileIsReadAndTheEnvironmentWins(t *testing.T) {
	path := mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), `
listen = ["127.0.0.1:9000", "unix:/run/vaultd.sock"]
allow = ["10.0.0.0/8"]
dek_cache_ttl = "90s"
dek_cache_size = 7
verify_rate = 2.5
admin_api = true
`)
	c, err := loadConfig(path, []string{
		"VAULTD_ALLOW=192.0.2.0/24, ::1", "VAULTD_DEK_CACHE_SIZE=8", "VAULTD_ADMIN_API=false", "PATH=/bin",
		"VAULTD_SHUTDOWN_GRACE=1m30s",
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []any{c.Listen, c.Allow, time.Duration(c.DEKCacheTTL), c.DEKCacheSize, c.VerifyRate, c.AdminAPI,
		time.Duration(c.ShutdownGrace), c.HealthListen}
	want := []any{[]string{"127.0.0.1:9000", "unix:/run/vaultd.sock"}, []string{"192.0.2.0/24", "::1"}, 90 * time.Second,
		8, 2.5, false, 90 * time.Second, "127.0.0.1:8401"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the settings differ (-want +got):\n%s", diff)
	}
	if len(c.policy.Allow) != 2 || c.policy.VerifyRate != 2.5 {
		t.Errorf("got policy %+v, want what the settings say", c.policy)
	}
}

func TestWithoutAnySettingNobodyIsLetIn(t *testing.T) {
	c, err := loadConfig("", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.policy.Allow) != 0 || c.AdminAPI || c.InsecureListen || c.Listen[0] != "127.0.0.1:8400" {
		t.Errorf("got %+v, want nobody allowed, reads only, on loopback", c)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]size{"65536": 65536, "64KiB": 65536, "3 MiB": 3 << 20, "2GiB": 2 << 30} {
		c, err := loadConfig("", []string{"VAULTD_AUDIT_MAX_BYTES=" + text})
		if err != nil || c.AuditMaxBytes != want {
			t.Errorf("%s: got %d, error %v", text, c.AuditMaxBytes, err)
		}
		written, _ := c.AuditMaxBytes.MarshalText()
		var again size
		if err := again.UnmarshalText(written); err != nil || again != want {
			t.Errorf("%s is written as %s", text, written)
		}
	}
}

func TestBadSettingsAreNamed(t *testing.T) {
	for file, want := range map[string]string{
		"listen = [\"127.0.0.1:1\"]\nalow = []":         `line 2: unknown key "alow"`,
		"\n[tls]\ncert = \"x\"":                         `line 2: unknown key "tls"`,
		"allow = [":                                     "line 1",
		"allow = []\nallow = []":                        "line 2",
		`admin_api = "yes"`:                             "admin_api",
		`dek_cache_size = "many"`:                       "dek_cache_size",
		`dek_cache_size = -1`:                           "dek_cache_size",
		`max_connections = 0`:                           "max_connections",
		`verify_rate = nan`:                             "verify_rate",
		`verify_rate = -1.0`:                            "verify_rate",
		`verify_rate = 1e400`:                           "line 1: verify_rate: the number is out of range",
		`verify_rate = 99999999999999999`:               "verify_rate = 100000000000000000: from 0 to",
		"\nmax_connections = 99999999999999999999":      "line 2: max_connections: the number is out of range",
		"[credentials]\nx = 99999999999999999999":       "line 2: credentials.x: the number is out of range",
		`verify_burst = 0`:                              "verify_burst",
		`rotation_workers = 100000`:                     "rotation_workers",
		`scan_interval = "0"`:                           "scan_interval",
		`scan_interval = "1 month"`:                     "line 1",
		`allow = ["10.0.0.1/8"]`:                        "allow",
		`allow = ["localhost"]`:                         "allow",
		`trusted_proxies = ["10.0.0.0/33"]`:             "trusted_proxies",
		`hosts = ["vault.example.org:8400"]`:            "hosts",
		`hosts = ["*"]`:                                 "hosts",
		`hosts = ["https://vault.example.org"]`:         "hosts",
		`kms_keys = ["local://relative"]`:               "kms_keys",
		`kms_keys = ["s3:///x"]`:                        "kms_keys",
		`log_level = "loud"`:                            "log_level",
		`log_format = "xml"`:                            "log_format",
		`audit = "yes"`:                                 "audit",
		`audit_spool = ""`:                              `audit = "off"`,
		`audit_spool = "spool"`:                         "absolute path",
		`audit_sync = "never"`:                          "always or interval",
		`audit_sync_interval = "0"`:                     "audit_sync_interval",
		`audit_window = "61s"`:                          "audit_window",
		`audit_window = "-1s"`:                          "sign",
		`audit_on_failure = "ignore"`:                   "block or allow",
		`audit_max_bytes = "1 TB"`:                      "not a size",
		`audit_max_bytes = 1000`:                        "audit_max_bytes",
		`audit_max_bytes = "99999999999GiB"`:            "not a size",
		`audit_max_age = "-1d"`:                         "sign",
		`audit_seal_key = "awskms:///nonsense"`:         "audit_seal_key: invalid kms key uri",
		`audit_seal_key = "kms:///alias/seals"`:         "audit_seal_key: invalid kms key uri",
		`audit_seals_bucket = "seals"`:                  "audit_seals_bucket: invalid s3 uri",
		`audit_seals_bucket = "s3://"`:                  "the bucket is missing",
		`audit_seals_bucket = "s3://k:s@seals"`:         "credentials are not accepted",
		`audit_seals_bucket = "s3://seals?rgn=x"`:       `unknown query parameter "rgn"`,
		`audit_seals_bucket_interval = "0"`:             "audit_seals_bucket_interval",
		`audit_seals_bucket_interval = "2d"`:            "audit_seals_bucket_interval",
		`listen = []`:                                   "listen",
		`listen = ["127.0.0.1"]`:                        "listen",
		`listen = ["127.0.0.1:65536"]`:                  "listen",
		`listen = ["unix:relative"]`:                    "listen",
		`listen = ["0.0.0.0:8400"]`:                     "in the clear",
		`listen = [":8400"]`:                            "in the clear",
		`listen = ["[::]:8400"]`:                        "in the clear",
		`listen = ["vault.example.org:8400"]`:           "in the clear",
		`health_listen = "8401"`:                        "health_listen",
		`socket_mode = "0999"`:                          "socket_mode",
		`socket_mode = "4777"`:                          "socket_mode",
		`tls_cert = "cert.pem"`:                         "tls_key",
		`tls_key = "key.pem"`:                           "tls_cert",
		"tls_cert = \"no.pem\"\ntls_key = \"no.pem\"":   "no.pem",
		`audit_archive = "archive"`:                     "audit_archive: not a place for an archive",
		`audit_archive = "s3://"`:                       "audit_archive: invalid s3 uri",
		`audit_archive = "/var/lib/vaultd/spool/old"`:   "is in the folder of audit_spool",
		"audit = \"off\"\naudit_archive = \"/archive\"": "there is nothing to archive",
	} {
		_, err := loadConfig(mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), file), nil)
		if !errors.Is(err, errConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a complaint with %q", file, err, want)
		}
	}
	for file, want := range map[string]string{
		`heartbeat_interval = "50ms"`: "heartbeat_interval", `heartbeat_interval = "2h"`: "heartbeat_interval",
		`scan_interval = "50ms"`: "scan_interval = 50ms: from 100ms to 1h", `audit_max_age = "401d"`: "from 0s to 400d",
		`verify_rate = 2000000000.0`:                          "verify_rate = 2000000000: from 0 to 1000000000",
		`verify_rate = nan`:                                   "verify_rate = NaN",
		`dek_cache_size = 20000000`:                           "dek_cache_size = 20000000: from 0 to 10000000",
		`max_staleness = "1999ms"`:                            "at least twice the time between two heartbeats, 2s",
		`max_staleness = "2d"`:                                "max_staleness",
		"heartbeat_interval = \"0\"\nmax_staleness = \"19s\"": "at least twice the time between two heartbeats, 20s",
		`read_confirm = "1ms"`:                                "read_confirm: at least 2ms, or 0",
		`read_confirm = "11s"`:                                "read_confirm = 11s: from 0s to 10s",
		"read_confirm = \"0\"\nread_survive = \"30s\"":        "without read_confirm no rows are kept",
		`read_survive = "2h"`:                                 "read_survive = 2h: from 0s to 1h",
		`read_cache_bytes = "64"`:                             "read_cache_bytes = 64: from 1MiB to 1024GiB",
		`min_lsn_wait = "11s"`:                                "min_lsn_wait", `min_lsn_wait = "-1s"`: "line 1",
	} {
		_, err := loadConfig(mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), file), nil)
		if !errors.Is(err, errConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a complaint with %q", file, err, want)
		}
	}
	for _, variable := range []string{"VAULTD_LISTN=x", "VAULTD_=x", "VAULTD_ADMIN_API=yes please", "VAULTD_VERIFY_BURST=",
		"VAULTD_ALLOW=x", "VAULTD_DEK_CACHE_TTL=5"} {
		if _, err := loadConfig("", []string{variable}); !errors.Is(err, errConfig) {
			t.Errorf("%s: got %v, want a complaint", variable, err)
		}
	}
	if _, err := loadConfig(filepath.Join(t.TempDir(), "nowhere.toml"), nil); !errors.Is(err, errConfig) {
		t.Errorf("a file that is not there: got %v, want a complaint", err)
	}
}

// Every setting is given a value of each type that it does not take. Each is refused with its key and line, in the
// words of the file, and not shown: it may be a password.
func TestNoWrongTypeIsIgnored(t *testing.T) {
	values := map[string]string{ // of each type of TOML, as TOML
		"a string": `"canary-6d2f"`, "an integer": "77141", "a number with a fraction": "77141.5", "true or false": "true",
		"a date or time": "1979-05-27", "a list": "[]", "a list with an integer": "[77141]",
		"a list with a list": `[["canary-6d2f"]]`, "a list with a table": `[{ a = "canary-6d2f" }]`,
		"a table": `{ a = 77141 }`,
	}
	taken := map[string][]string{ // the types of values that are right, or wrong for another reason
		"a string": {"a string"}, "a list of strings": {"a list"}, "true or false": {"true or false"},
		"an integer": {"an integer"}, "a number": {"an integer", "a number with a fraction"},
		`a duration such as "10s"`: {"a string", "an integer"}, `a size such as "512MiB"`: {"a string", "an integer"},
		"a table": {"a table"},
	}
	refused := func(file, want string, line int) {
		t.Helper()
		path := mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), file)
		_, err := loadConfig(path, nil)
		if !errors.Is(err, errConfig) || !strings.Contains(err.Error(), fmt.Sprintf("%s line %d: %s", path, line, want)) {
			t.Errorf("%s: got %v, want line %d: %s", file, err, line, want)
		}
		if err != nil && (strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "7714")) {
			t.Errorf("%s: got %v, which has the value", file, err)
		}
	}
	count := 0
	c := defaults()
	for key, field := range c.settings() {
		wants := wanted(field.Type())
		if len(taken[wants]) == 0 {
			t.Errorf("%s: the file takes %q", key, wants)
		}
		for has, value := range values {
			if slices.Contains(taken[wants], has) {
				continue
			}
			count++
			refused("# \n\n"+key+" = "+value, fmt.Sprintf("%s: want %s, have %s", key, wants, has), 3)
		}
		if field.Kind() != reflect.Map {
			refused("\n["+key+"]\na = 1", fmt.Sprintf("%s: want %s, have a table", key, wants), 2)
			refused("\n"+key+".a.b = 1", fmt.Sprintf("%s: want %s, have a table", key, wants), 2)
			refused("\n"+strings.ToUpper(key)+" = 1",
				fmt.Sprintf("unknown key %q: it is %q", strings.ToUpper(key), key), 2)
			continue
		}
		entry := wanted(field.Type().Elem())
		for has, value := range values {
			if !slices.Contains(taken[entry], has) {
				want := fmt.Sprintf("%s.x: want %s, have %s", key, entry, has)
				refused("\n["+key+"]\nx = "+value, want, 3)
				refused("\n"+key+" = { x = "+value+" }", want, 2)
				refused("\n"+key+".x = "+value, want, 2)
			}
		}
		refused("\n["+key+".\"x\"]\ny = 1", fmt.Sprintf("%s.x: want %s, have a table", key, entry), 2)
		refused("\n\n[["+key+"]]\nx = 1", key+": want a table, have a list of tables", 3)
		if _, err := loadConfig("", []string{"VAULTD_" + strings.ToUpper(key) + "=x"}); !errors.Is(err, errConfig) {
			t.Errorf("%s: got %v for the environment, want a refusal", key, err)
		}
	}
	if count < 400 {
		t.Errorf("only %d wrong values were tried", count)
	}
	refused("\na.b = 1", `unknown key "a"`, 2)
}

func TestAWrongTypeInTheEnvironmentIsNamed(t *testing.T) {
	for variable, want := range map[string]string{
		"VAULTD_MAX_CONNECTIONS=many": `VAULTD_MAX_CONNECTIONS: want an integer, have "many"`,
		"VAULTD_VERIFY_RATE=":         `VAULTD_VERIFY_RATE: want a number, have ""`,
		"VAULTD_ADMIN_API=yes":        `VAULTD_ADMIN_API: want true or false, have "yes"`,
		"VAULTD_DEK_CACHE_TTL=5":      `VAULTD_DEK_CACHE_TTL: interval "5"`,
	} {
		if _, err := loadConfig("", []string{variable}); !errors.Is(err, errConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", variable, err, want)
		}
	}
}

func TestBadCredentialSettingsAreNamed(t *testing.T) {
	const table = "\n[credentials]\n\"billing.service:db\" = \"prod/billing/db\""
	socket := func(path string) string { return fmt.Sprintf("credential_socket = %q", path) }
	for file, want := range map[string]string{
		socket("credentials") + table:                "absolute path",
		socket("/run/../credentials") + table:        "absolute path",
		socket("/"+strings.Repeat("a", 107)) + table: "at most 107 bytes",
		socket("/run/x"):                             "name what it gives to which unit",
		table:                                        "set credential_socket",
		socket("/run/x") + "\nlisten = [\"unix:/run/x\"]" + table:            "listen has it, too",
		socket("/run/x") + "\n[credentials]\n\"billing:db\" = \"x\"":         "ends with its type",
		socket("/run/x") + "\n[credentials]\n\"billing.service\" = \"x\"":    `want "UNIT:ID"`,
		socket("/run/x") + "\n[credentials]\n\"a.service:b/c\" = \"x\"":      "a credential's ID",
		socket("/run/x") + "\n[credentials]\n\"billing.service:db\" = \"/\"": "credentials: \"billing.service:db\"",
		socket("/run/x") + "\n[credentials]\n\"billing.service:db\" = 1":     "credentials",
	} {
		_, err := loadConfig(mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), file), nil)
		if !errors.Is(err, errConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a complaint with %q", file, err, want)
		}
	}
	if _, err := loadConfig("", []string{"VAULTD_CREDENTIALS=billing.service:db=x"}); !errors.Is(err, errConfig) {
		t.Errorf("got %v for the environment, want a complaint", err)
	}
	c, err := loadConfig(mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), socket("/run/x")+table), nil)
	if err != nil || c.policy.Credentials["billing.service:db"] != "prod/billing/db" {
		t.Errorf("got %v, %v", c.policy.Credentials, err)
	}
}

func TestBadRotatorSettingsAreNamed(t *testing.T) {
	for file, want := range map[string]string{
		`webhook_hosts = ["https://hooks.example.com/"]`: "webhook_hosts",
		`webhook_hosts = ["*"]`:                          "webhook_hosts",
		"[exec_rotators]\nreload = \"/bin/true\"":        "exec_rotators",
		"[exec_rotators]\nreload = []":                   "exec_rotators: reload",
		"[exec_rotators]\nreload = [\"true\"]":           "absolute path",
		"[exec_rotators]\nreload = [\"/bin/nowhere\"]":   "no such file",
		"[exec_rotators]\nreload = [\"/etc/passwd\"]":    "not an executable file",
		"[exec_rotators]\nReload = [\"/bin/true\"]":      "not a name",
		"[exec_rotator]\nreload = [\"/bin/true\"]":       `line 1: unknown key "exec_rotator"`,
	} {
		_, err := loadConfig(mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), file), nil)
		if !errors.Is(err, errConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a complaint with %q", file, err, want)
		}
	}
	for _, variable := range []string{"VAULTD_EXEC_ROTATORS=a=/bin/true", "VAULTD_WEBHOOK_HOSTS=https://h",
		"VAULTD_POSTGRES_HOSTS=db/path", "VAULTD_POSTGRES_CA=/nowhere/ca.pem"} {
		if _, err := loadConfig("", []string{variable}); !errors.Is(err, errConfig) {
			t.Errorf("%s: got %v, want a complaint", variable, err)
		}
	}
}

func TestWhatRotatorsMayReachIsReadAndShown(t *testing.T) {
	path := mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), `
webhook_hosts = ["hooks.example.com", "hooks.example.com:8443"]
postgres_hosts = ["db.example.com", "/var/run/postgresql:5433"]
[exec_rotators]
reload-billing = ["/bin/true", "an argument"]
`)
	c, err := loadConfig(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]string{"reload-billing": {"/bin/true", "an argument"}},
		c.ExecRotators); diff != "" || len(c.WebhookHosts) != 2 || len(c.PostgresHosts) != 2 {
		t.Errorf("got hosts %q and programs that differ (-want +got):\n%s", c.WebhookHosts, diff)
	}
	var out, errOut bytes.Buffer
	if code := execute(t.Context(), []string{"check-config", "--config", path}, &out, &errOut, nil); code != exitDone {
		t.Fatalf("got exit code %d: %s", code, &errOut)
	}
	again, err := loadConfig(mustWrite(t, filepath.Join(t.TempDir(), "shown.toml"), out.String()), nil)
	if err != nil || !cmp.Equal(again.ExecRotators, c.ExecRotators) || !cmp.Equal(again.WebhookHosts, c.WebhookHosts) ||
		!cmp.Equal(again.PostgresHosts, c.PostgresHosts) {
		t.Errorf("what is shown is another configuration (%v):\n%s", err, &out)
	}
}

func TestListeningBeyondLoopbackHasToBeMeant(t *testing.T) {
	for _, file := range []string{
		"listen = [\"0.0.0.0:8400\"]\ninsecure_listen = true",
		`listen = ["127.8.8.8:8400", "[::1]:8400", "localhost:8402", "unix:/run/vaultd.sock"]`,
		`health_listen = "0.0.0.0:8401"`, // which has no secrets
	} {
		if _, err := loadConfig(mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), file), nil); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestTheDaemonKnowsItsHosts(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	mustCertificate(t, cert, key, 1)
	c, err := loadConfig(mustWrite(t, filepath.Join(dir, "vaultd.toml"), `
hosts = ["LB.example.org.", "198.51.100.7"]
listen = ["127.0.0.9:1", "db1.internal:2", "0.0.0.0:3", "[::]:4", ":5", "unix:/run/x.sock"]
health_listen = "10.0.0.4:6"
tls_cert = "`+cert+`"
tls_key = "`+key+`"
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	machine, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"lb.example.org", "198.51.100.7", "10.0.0.4", "127.0.0.9", "db1.internal", strings.ToLower(machine),
		"vault.example.org", "*.wild.example.org", "127.0.0.1"}
	if diff := cmp.Diff(want, c.policy.Hosts); diff != "" {
		t.Errorf("the hosts differ (-want +got):\n%s", diff)
	}
}

func TestNoPasswordIsShown(t *testing.T) {
	for _, file := range []string{
		`database_url = "postgres://vaultd:hunter2@localhost/vault"`,
		`primary_database_url = "host=localhost user=vaultd password=hunter2"`,
		`database_url = "postgres://vaultd:hunter2@localhost:port/vault"`,
		`database_url = postgres://vaultd:hunter2@localhost/vault`,
		"database_url = \"postgres://vaultd:hunter2@localhost/vault\nallow = []",
		`database_url = ["postgres://vaultd:hunter2@localhost/vault"]`,
	} {
		path := mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), file)
		var out, errOut bytes.Buffer
		execute(t.Context(), []string{"check-config", "--config", path}, &out, &errOut, nil)
		if out.Len()+errOut.Len() == 0 {
			t.Errorf("%s: nothing was printed", file)
		}
		if strings.Contains(out.String()+errOut.String(), "hunter2") {
			t.Errorf("%s: the password is in %s%s", file, &out, &errOut)
		}
	}
}

func TestExitCodes(t *testing.T) {
	bad := mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), "x = 1")
	for want, lines := range map[int][][]string{
		exitDone: {{"version"}, {"--help"}, {"check-config"}},
		exitUsage: {{"nonsense"}, {"--nonsense"}, {"check-config", "extra"}, {"check-config", "--config", bad},
			{"--config", bad}},
	} {
		for _, args := range lines {
			var out, errOut bytes.Buffer
			if got := execute(t.Context(), args, &out, &errOut, nil); got != want {
				t.Errorf("%q: got exit code %d (%s), want %d", args, got, &errOut, want)
			}
			if want != exitDone && (!strings.HasPrefix(errOut.String(), "vaultd: ") || out.Len() > 0) {
				t.Errorf("%q: got %q on stderr and %q on stdout, want one complaint", args, &errOut, &out)
			}
		}
	}
}

// The shipped example is a valid configuration and lists the defaults.
func TestTheExampleIsGood(t *testing.T) {
	var out, errOut bytes.Buffer
	if code := execute(t.Context(), []string{"check-config", "--config", "../../deploy/vaultd.toml"}, &out, &errOut,
		nil); code != exitDone {
		t.Fatalf("got exit code %d: %s", code, &errOut)
	}
	c, err := loadConfig("../../deploy/vaultd.toml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.policy.Allow) == 0 {
		t.Error("the example lets nobody in")
	}
}
