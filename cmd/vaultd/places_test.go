package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// starts runs vaultd with a file of settings until it serves, and returns its exit code and what it logged.
func starts(t *testing.T, path string) (code int, log string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	to, reload, ended := &journal{}, make(chan os.Signal), make(chan int, 1)
	go func() { ended <- execute(ctx, []string{"--config", path}, to, to, reload) }()
	select {
	case code = <-ended:
	case reload <- os.Interrupt: // it serves
		stop()
		code = <-ended
	}
	return code, to.String()
}

// What vaultd does not start with, check-config has an error or a warning of, and --strict refuses.
func TestCheckConfigSaysWhatAStartRefuses(t *testing.T) {
	nothing := mustWrite(t, filepath.Join(t.TempDir(), "nothing"), "")
	for name, value := range map[string]string{"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_PROFILE": "",
		"AWS_CONFIG_FILE": nothing, "AWS_SHARED_CREDENTIALS_FILE": nothing, "PGSERVICEFILE": nothing} {
		t.Setenv(name, value)
	}
	const refused, starting = true, false
	for name, c := range map[string]struct {
		settings string // DIR is the folder of place
		want     string // of check-config: the setting, and a part of the text; "" = nothing is said
		refused  bool
	}{
		"a good one": {"", "", starting},

		"a short key": {`kms_keys = ["local://DIR/short"]`,
			"kms_keys: vaultd does not start: kms key", refused},
		"no key": {`kms_keys = ["local://DIR/nothing"]`,
			`kms_keys: "DIR/nothing" is not there`, refused},
		"an open key": {`kms_keys = ["local://DIR/open"]`,
			"kms_keys: vaultd does not start: kms key", refused},
		"a folder as key": {`kms_keys = ["local://DIR/state"]`,
			"kms_keys: vaultd does not start: kms key", refused},
		"a key twice":               {`kms_keys = ["local://DIR/kek", "local://DIR/kek"]`, "is there twice", refused},
		"a key, escaped":            {`kms_keys = ["local://DIR/kek", "local://DIR/%6bek"]`, "is there twice", refused},
		"a key's copy":              {`kms_keys = ["local://DIR/kek", "local://DIR/copy"]`, "configured twice", refused},
		"a good key with an escape": {`kms_keys = ["local://DIR/a%20key"]`, "", starting},
		"an AWS key without region": {`kms_keys = ["awskms:///alias/x"]`, "no region", refused},
		"an AWS key":                {`kms_keys = ["awskms:///alias/x?region=eu-west-1"]`, "", starting},

		"a short seal key":  {`audit_seal_key = "DIR/short"`, "audit_seal_key: vaultd does not start", refused},
		"a short seal URI":  {`audit_seal_key = "local://DIR/short"`, "audit_seal_key: vaultd does not start", refused},
		"no seal key":       {`audit_seal_key = "local://DIR/nothing"`, "audit_seal_key: \"DIR/nothing\" is not", refused},
		"a relative one":    {`audit_seal_key = "seals.key"`, "absolute path", refused},
		"a public one":      {`audit_seal_key = "ed25519:canary-20c4"`, "absolute path", refused},
		"one of AWS":        {`audit_seal_key = "awskms:///alias/x"`, "no region", refused},
		"a good seal key":   {`audit_seal_key = "DIR/seals.key"`, "", starting},
		"seals of no seals": {`audit_seals_file = "DIR/kek"`, "audit_seals_file: vaultd does not start", refused},
		"open seals":        {`audit_seals_file = "DIR/open"`, "audit_seals_file: vaultd does not start", refused},
		"seals without place": {`audit_seals_file = "DIR/nothing/seals"`, "audit_seals_file: vaultd does not start: there is",
			refused},
		"relative seals":    {`audit_seals_file = "seals"`, "absolute path", refused},
		"a folder of seals": {`audit_seals_file = "DIR/state"`, "is a folder", refused},
		"new seals":         {`audit_seals_file = "DIR/new"`, "", starting},
		"a seals' bucket": {`audit_seals_bucket = "s3://abc"`,
			"audit_seals_bucket: vaultd does not start", refused},
		"an archive's":              {`audit_archive = "s3://abc"`, "audit_archive: vaultd does not start", refused},
		"an archive below nothing":  {`audit_archive = "DIR/nothing/archive"`, "there is no folder", starting},
		"an archive that is a file": {`audit_archive = "DIR/kek"`, "is not a folder", starting},

		"a spool that is a file": {`audit_spool = "DIR/kek"`, "is not a folder", refused},
		"a spool below a file":   {`audit_spool = "DIR/kek/spool"`, "is not a folder", refused},
		"an open spool":          {`audit_spool = "DIR/shared"`, "audit_spool: ", refused},
		"a state that is a file": {`state_dir = "DIR/kek"`, "is not a folder", starting},
		"a damaged state":        {`state_dir = "DIR/damaged"`, "state_dir: vaultd does not start", refused},
		"a relative state":       {`state_dir = "state"`, "absolute path", refused},
		"addresses below nothing": {`address_file = "DIR/nothing/addresses"`,
			"address_file: vaultd does not start", refused},
		"addresses in a folder's place": {`address_file = "DIR/state"`, "is a folder", refused},
		"a profile below nothing": {`cpu_profile = "DIR/nothing/profile"`,
			"cpu_profile: vaultd does not start", refused},
		"a profile in a folder's place": {`cpu_profile = "DIR/state"`, "is a folder", refused},

		"health at no address":    {`health_listen = "300.1.1.1:80"`, `health_listen "300.1.1.1:80"`, refused},
		"health at a socket":      {`health_listen = "unix:/run/x"`, "health_listen", refused},
		"health at half":          {`health_listen = "127.1:0"`, "is not an address", refused},
		"health at a port":        {`health_listen = "8401:0"`, "is not an address", refused},
		"health at no name":       {`health_listen = "a b:0"`, "is not an address or a host name", refused},
		"health at all names":     {`health_listen = "*.example.com:0"`, "is not an address or a host name", refused},
		"listening at no address": {`listen = ["300.1.1.1:80"]`, `listen "300.1.1.1:80"`, refused},
		"listening twice":         {`listen = ["127.0.0.1:18400", "127.0.0.1:18400"]`, "listen has it, too", refused},
		"at health's": {"listen = [\"127.0.0.1:18400\"]\nhealth_listen = \"127.0.0.1:18400\"",
			"listen has it", refused},
		"at localhost's":   {`listen = ["[::1]:18400", "LOCALHOST:18400"]`, "listen has it, too", refused},
		"at any free port": {`listen = ["127.0.0.1:0", "127.0.0.1:0", "localhost:0"]`, "", starting},
		"health everywhere, too": {"listen = [\"127.0.0.1:18400\"]\nhealth_listen = \"0.0.0.0:18400\"",
			"health_listen: 0.0.0.0:18400 and 127.0.0.1:18400 (listen) overlap", refused},
		"a socket's path is long": {`listen = ["unix:DIR/` + strings.Repeat("a", 108) + `"]`,
			"at most 107 bytes", refused},
		"a socket is the root":       {`listen = ["unix:/"]`, "ends with a name", refused},
		"a socket without name":      {`listen = ["unix:DIR/socket/"]`, "ends with a name", refused},
		"a socket in a file's place": {`listen = ["unix:DIR/kek"]`, "is there, and is no socket", refused},
		"a socket below nothing": {`listen = ["unix:DIR/nothing/socket"]`,
			"listen: vaultd does not start", refused},
		"a socket twice": {`listen = ["unix:DIR/socket", "unix:DIR//socket"]`,
			"listen has it, too", refused},
		"a path with a zero byte": {`listen = ["unix:DIR/so\u0000cket"]`, "control character", refused},
		"a spool with a line end": {`audit_spool = "DIR/spool\n"`, "control character", refused},
		"a credential socket in a file's place": {"credential_socket = \"DIR/kek\"\n" + aCredential,
			"is no socket", refused},
		"a credential socket below nothing": {"credential_socket = \"DIR/nothing/s\"\n" + aCredential, "there is no folder",
			refused},
		"a credential socket twice": {"credential_socket = \"DIR/s\"\nlisten = [\"unix:DIR//s\"]\n" + aCredential,
			"listen has it, too", refused},

		"a service that is none": {`database_url = "service=nowhere"`, "database_url: vaultd does not start", refused},
		"no root certificate": {`database_url = "postgres://v@127.0.0.1:1/app?sslmode=verify-full&sslrootcert=/no/ca"`,
			"database_url: vaultd does not start", refused},
		"no root certificate of the primary": {`primary_database_url = "postgres://v@h/app?sslrootcert=/no/ca"`,
			"primary_database_url: vaultd does not start", refused},
		"none for LISTEN": {`listen_database_url = "postgres://v@h/app?sslmode=verify-ca&sslrootcert=/no/ca"`,
			"listen_database_url: vaultd does not start", refused},
		"a host at no address":             {`hosts = ["300.1.1.1"]`, "hosts: ", refused},
		"a webhook at no address":          {`webhook_hosts = ["300.1.1.1:443"]`, "webhook_hosts: ", refused},
		"a rotator's server at no address": {`postgres_hosts = ["db1", "300.1.1.1"]`, "postgres_hosts: ", refused},
		"hosts that are":                   {`hosts = ["db1", "42", "10.0.0.4", "[::1]", "3.example.com"]`, "", starting},
	} {
		dir := place(t)
		for file, text := range map[string]string{"short": "0123456789", "copy": strings.Repeat("k", 32),
			"a key": strings.Repeat("a", 32)} {
			mustWrite(t, filepath.Join(dir, file), text)
		}
		mustChmod(t, mustWrite(t, filepath.Join(dir, "open"), strings.Repeat("o", 32)), 0o644)
		for _, folder := range []string{"shared", "damaged"} {
			if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		mustChmod(t, filepath.Join(dir, "shared"), 0o755)
		mustWrite(t, filepath.Join(dir, "damaged", "primaries.json"), "{")
		path := mustWriteSettings(t, dir, strings.ReplaceAll(c.settings, "DIR", dir))

		before := tree(t, dir)
		var out, errOut bytes.Buffer
		code := execute(t.Context(), []string{"check-config", "--config", path}, &out, &errOut, nil)
		says := errOut.String()
		if want := strings.ReplaceAll(c.want, "DIR", dir); want == "" && says != "" || !strings.Contains(says, want) {
			t.Errorf("%s: check-config says %q, want %q", name, says, want)
		}
		if strings.Contains(says, "canary") {
			t.Errorf("%s: check-config repeats the key: %s", name, says)
		}
		if code == exitDone && c.refused && !strings.HasPrefix(says, "vaultd: warning: ") {
			t.Errorf("%s: check-config has no warning: %q", name, says)
		}
		strict := execute(t.Context(), []string{"check-config", "--strict", "--config", path}, &out, &errOut, nil)
		if (strict == exitDone) != (c.want == "") {
			t.Errorf("%s: check-config --strict has exit code %d", name, strict)
		}
		if after := tree(t, dir); after != before {
			t.Errorf("%s: check-config made of\n%s\nthis:\n%s", name, before, after)
		}
		if started, log := starts(t, path); (started != exitDone) != c.refused {
			t.Errorf("%s: vaultd has exit code %d: %s", name, started, log)
		}
	}
}

const aCredential = `credentials = { "a.service:b" = "app/x" }`

// mustWriteSettings writes settings with which vaultd starts in a folder of place, some replaced.
func mustWriteSettings(t *testing.T, dir, settings string) string {
	t.Helper()
	t.Setenv("VAULTD_STATE_DIR", filepath.Join(dir, "state"))
	os.Unsetenv("VAULTD_STATE_DIR") // which TestMain sets; t.Setenv restores it
	base := map[string]string{
		"allow": `["127.0.0.1"]`, "listen": `["127.0.0.1:0"]`, "health_listen": `"127.0.0.1:0"`, "rotation_workers": "0",
		"drain_delay": `"0"`, "shutdown_grace": `"0"`, "database_url": `"postgres://v@127.0.0.1:1/app?sslmode=disable"`,
		"audit_spool": fmt.Sprintf("%q", dir+"/spool"), "state_dir": fmt.Sprintf("%q", dir+"/state"),
		"kms_keys": fmt.Sprintf("[%q]", "local://"+dir+"/kek"),
	}
	return mustWrite(t, filepath.Join(dir, "vaultd.toml"), withSettings(base, settings))
}

// tree lists the files of a folder with their sizes and modes.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintln(&all, path, info.Mode(), info.Size())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
