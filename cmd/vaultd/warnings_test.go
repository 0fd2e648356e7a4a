package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// place is a folder for a configuration and its files, with the modes that they should have.
func place(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"spool", "state"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"kek": strings.Repeat("k", 32), "seals.key": strings.Repeat("s", 32), "seals": "",
	} {
		mustWrite(t, filepath.Join(dir, name), text)
	}
	mustCertificateFor(t, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), 1, time.Now().Add(-time.Hour),
		time.Now().Add(90*24*time.Hour))
	return dir
}

func mustChmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// checked runs check-config on settings without warnings, some replaced by those of the case.
func checked(t *testing.T, dir, settings string, flags ...string) (code int, out, errOut string) {
	t.Helper()
	base := map[string]string{
		"allow": `["10.0.0.0/8", "fc00::/7", "::1"]`, "audit_spool": fmt.Sprintf("%q", dir+"/spool"),
		"audit_seal_key": fmt.Sprintf("%q", dir+"/seals.key"), "audit_seals_file": fmt.Sprintf("%q", dir+"/seals"),
		"kms_keys": fmt.Sprintf("[%q]", "local://"+dir+"/kek"), "tls_cert": fmt.Sprintf("%q", dir+"/cert.pem"),
		"tls_key": fmt.Sprintf("%q", dir+"/key.pem"),
		"listen":  `["0.0.0.0:8400", "unix:/run/vaultd.sock"]`, "health_listen": `"10.0.0.4:8401"`,
	}
	t.Setenv("VAULTD_STATE_DIR", filepath.Join(dir, "state")) // which TestMain sets for the other tests
	path := filepath.Join(dir, "vaultd.toml")
	// which keeps the mode of a file that is there
	if err := os.WriteFile(path, []byte(withSettings(base, settings)), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code = execute(t.Context(), append([]string{"check-config", "--config", path}, flags...), &stdout, &stderr, nil)
	return code, stdout.String(), stderr.String()
}

func TestCheckConfigWarns(t *testing.T) {
	nothing := func(string) {}
	chmod := func(name string, mode os.FileMode) func(string) {
		return func(dir string) { mustChmod(t, filepath.Join(dir, name), mode) }
	}
	config := func(mode os.FileMode) func(string) {
		return func(dir string) { mustChmod(t, mustWrite(t, filepath.Join(dir, "vaultd.toml"), ""), mode) }
	}
	certificate := func(from, until time.Duration) func(string) {
		return func(dir string) {
			mustCertificateFor(t, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), 1, time.Now().Add(from),
				time.Now().Add(until))
		}
	}
	const day = 24 * time.Hour
	plain := "tls_cert = \"\"\ntls_key = \"\"\ninsecure_listen = true\n"
	for name, c := range map[string]struct {
		prepare  func(dir string)
		settings string
		want     string // the setting, and a part of the text; "" = nothing is said
	}{
		"a good one": {nothing, "", ""},
		"no client":  {nothing, `allow = []`, "allow: the list is empty, so no client is answered except"},
		"no client at all": {nothing, "allow = []\nlisten = [\"127.0.0.1:8400\"]",
			"allow: the list is empty, so no client is answered\n"},
		"clients of a socket alone": {nothing, "allow = []\nlisten = [\"unix:/run/vaultd.sock\"]", ""},
		"all of IPv4":               {nothing, `allow = ["0.0.0.0/0"]`, "allow: 0.0.0.0/0"},
		"all of IPv6":               {nothing, `allow = ["::/0"]`, "allow: ::/0"},
		"a half":                    {nothing, `allow = ["0.0.0.0/1"]`, "allow: 0.0.0.0/1"},
		"two halves":                {nothing, `allow = ["0.0.0.0/1", "128.0.0.0/1"]`, "allow: 128.0.0.0/1"},
		"halves of IPv6":            {nothing, `allow = ["::/1", "8000::/1"]`, "allow: 8000::/1"},
		"all unicast IPv6":          {nothing, `allow = ["2000::/3"]`, "allow: 2000::/3"},
		"many networks":             {nothing, "allow = [" + slashEights(64) + "]", "allow: its networks are 25%"},
		"few networks":              {nothing, "allow = [" + slashEights(63) + "]", ""},
		"all proxies":               {nothing, `trusted_proxies = ["0.0.0.0/0"]`, "trusted_proxies: 0.0.0.0/0"},
		"all proxies of IPv6":       {nothing, `trusted_proxies = ["::/0"]`, "trusted_proxies: ::/0"},
		"some proxies":              {nothing, `trusted_proxies = ["10.0.0.0/8", "fd00::/8"]`, ""},
		"hosts of anybody":          {nothing, `hosts = ["*.com"]`, "hosts: *.com"},
		"hosts of a site":           {nothing, `hosts = ["*.example.com", "*.internal", "vault"]`, ""},
		"the host 0.0.0.0":          {nothing, `hosts = ["0.0.0.0"]`, "hosts: 0.0.0.0"},
		"the host 0.0.0.0, IPv6":    {nothing, `hosts = ["[::]"]`, "hosts: [::]"},
		"no limit":                  {nothing, `verify_rate = 0.0`, "verify_rate: "},
		"health everywhere":         {nothing, `health_listen = "0.0.0.0:8401"`, "health_listen: 0.0.0.0:8401"},
		"health everywhere, IPv6":   {nothing, `health_listen = "[::]:8401"`, "health_listen: [::]:8401"},
		"health everywhere, unsaid": {nothing, `health_listen = ":8401"`, "health_listen: :8401"},
		"a socket for everybody":    {nothing, `socket_mode = "0777"`, "socket_mode: 0777"},
		"a socket others can write": {nothing, `socket_mode = "0662"`, "socket_mode: 0662"},
		"a socket of a group":       {nothing, `socket_mode = "0660"`, ""},
		"a primary unverified": {nothing, `primary_database_url = "postgres://v@db1/app?sslmode=require"`,
			"primary_database_url: its sslmode"},
		"a primary in the clear": {nothing, `primary_database_url = "host=127.0.0.1,db1 user=v sslmode=disable"`,
			"certificate of db1"},
		"LISTEN unverified": {nothing, `listen_database_url = "postgres://v@db1/app?sslmode=prefer"`,
			"listen_database_url: its sslmode"},
		"a primary verified":  {nothing, `primary_database_url = "postgres://v@db1/app"`, ""},
		"values in the clear": {nothing, plain, "insecure_listen: values cross"},
		"tokens in the clear": {nothing, plain + "admin_api = true", "admin tokens (admin_api) cross"},
		"in the clear on loopback": {nothing, plain +
			"admin_api = true\nlisten = [\"127.0.0.1:8400\", \"[::1]:8400\", \"localhost:1\"]", ""},
		"a password others can read": {config(0o644), `database_url = "postgres://u:hunter2@h/app"`, "config: "},
		"a password, as a keyword":   {config(0o604), `primary_database_url = "host=h password=hunter2"`, "config: "},
		"a password for listening": {config(0o644), `listen_database_url = "postgres://h/app?user=u&password=hunter2"`,
			"config: "},
		"a password of a group":      {config(0o640), `database_url = "postgres://u:hunter2@h/app"`, ""},
		"no password":                {config(0o644), `database_url = "postgres://u@h/app"`, ""},
		"a file others can write":    {config(0o602), "", "config: "},
		"a file its group can write": {config(0o660), "", "config: "},
		"a TLS key others can read":  {chmod("key.pem", 0o644), "", "tls_key: "},
		"a TLS key of a group":       {chmod("key.pem", 0o640), "", ""},
		"a KEK of a group":           {chmod("kek", 0o640), "", "kms_keys: "},
		"a KEK others can read":      {chmod("kek", 0o604), "", "kms_keys: "},
		"no KEK": {func(dir string) { mustRemove(t, filepath.Join(dir, "kek")) }, "",
			"kms_keys: "},
		"no seal key": {func(dir string) { mustRemove(t, filepath.Join(dir, "seals.key")) }, "",
			"vaultd does not start without it"},
		"a seal key others can read":    {chmod("seals.key", 0o644), "", "audit_seal_key: "},
		"a spool others can list":       {chmod("spool", 0o755), "", "audit_spool: "},
		"a spool of a group":            {chmod("spool", 0o750), "", "audit_spool: "},
		"a spool that is not used":      {chmod("spool", 0o755), `audit = "off"`, ""},
		"a state that others can write": {chmod("state", 0o777), "", "state_dir: "},
		"a state that others can list":  {chmod("state", 0o755), "", ""},
		"seals that others can write":   {chmod("seals", 0o622), "", "audit_seals_file: "},
		"a relative path": {nothing, `address_file = "addresses"`,
			"address_file: \"addresses\" is relative to the folder in which vaultd starts"},
		"an expired certificate": {certificate(-90*day, -time.Minute), "", "expired at"},
		"one that ends soon":     {certificate(-76*day, 13*day), "", "expires at"},
		"one renewed in time":    {certificate(-60*day, 30*day), "", ""},
		"a short one, fresh":     {certificate(-time.Hour, 23*time.Hour), "", ""},
		"a short one, late":      {certificate(-17*time.Hour, 7*time.Hour), "", "expires at"},
		"one of tomorrow":        {certificate(day, 90*day), "", "not valid before"},
	} {
		dir := place(t)
		c.prepare(dir)
		code, out, errOut := checked(t, dir, c.settings)
		if code != exitDone || !strings.Contains(out, "in force") {
			t.Errorf("%s: got exit code %d, %q: a warning is no error", name, code, errOut)
		}
		if c.want == "" && errOut != "" || !strings.Contains(errOut, c.want) {
			t.Errorf("%s: got %q, want %q", name, errOut, c.want)
		}
		for line := range strings.Lines(errOut) {
			if !strings.HasPrefix(line, "vaultd: warning: ") || strings.Contains(line, "hunter2") {
				t.Errorf("%s: got the line %q", name, line)
			}
		}
		strict, out, errOut := checked(t, dir, c.settings, "--strict")
		if want := map[bool]int{true: exitDone, false: exitUsage}[c.want == ""]; strict != want || strict != exitDone &&
			out != "" {
			t.Errorf("%s: --strict got exit code %d (%s), want %d", name, strict, errOut, want)
		}
	}
}

func mustRemove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func slashEights(count int) string {
	var all []string
	for n := range count {
		all = append(all, fmt.Sprintf(`"%d.0.0.0/8"`, n+1))
	}
	return strings.Join(all, ", ")
}

func TestTheExampleHasNothingToWarnOf(t *testing.T) {
	var out, errOut bytes.Buffer
	if code := execute(t.Context(), []string{"check-config", "--strict", "--config", "../../deploy/vaultd.toml"}, &out,
		&errOut, nil); code != exitDone {
		t.Errorf("got exit code %d: %s", code, &errOut)
	}
}

// The chain ends with its first part.
func TestAnIntermediateThatExpiredIsNamed(t *testing.T) {
	dir := place(t)
	old := filepath.Join(t.TempDir(), "old.pem")
	mustCertificateFor(t, old, filepath.Join(t.TempDir(), "old.key"), 2, time.Now().Add(-48*time.Hour),
		time.Now().Add(-24*time.Hour))
	leaf, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	intermediate, err := os.ReadFile(old)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(dir, "cert.pem"), string(leaf)+string(intermediate))
	if _, _, errOut := checked(t, dir, ""); !strings.Contains(errOut, "expired at") {
		t.Errorf("got %q, want the chain's end named", errOut)
	}
}

// withSettings is the text of a file with the values of base, but for those of settings, one KEY = VALUE a line.
func withSettings(base map[string]string, settings string) string {
	for line := range strings.Lines(settings) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
		base[key] = value
	}
	var file strings.Builder
	for key, value := range base {
		fmt.Fprintf(&file, "%s = %s\n", key, value)
	}
	return file.String()
}
