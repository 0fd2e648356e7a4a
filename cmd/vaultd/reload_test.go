package main

import (
	"io"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// restarted are the settings that are read at the start. A new setting belongs here or into reloaded; if it can be
// reloaded, reload has to apply it.
var restarted = []string{
	"database_url", "primary_database_url", "listen_database_url", "listen", "socket_mode", "health_listen",
	"address_file", "insecure_listen",
	"kms_keys", "aws_credentials_file", "dek_cache_ttl", "dek_cache_size", "max_connections", "read_confirm",
	"read_cache_bytes", "read_survive", "http_max_connections",
	"http_max_connections_per_address",
	"scan_interval", "rotation_workers", "claim_timeout", "admin_api", "kv_mount", "credential_socket",
	"log_format", "drain_delay", "shutdown_grace",
	"cpu_profile", "state_dir",
	"webhook_hosts", "postgres_hosts", "postgres_ca", "exec_rotators", "heartbeat_interval", "min_lsn_wait",
	"audit_seal_key", "audit_seals_file", "audit_seals_bucket",
	"audit_seals_bucket_interval", "audit", "audit_spool", "audit_sync", "audit_sync_interval", "audit_on_failure",
	"audit_max_bytes", "audit_max_age", "audit_window", "audit_archive",
}

func TestEverySettingIsReloadedOrNamed(t *testing.T) {
	running := defaults()
	running.TLSCert, running.TLSKey = "/cert", "/key"
	fields := reflect.TypeFor[Config]()
	for i := range fields.NumField() {
		key := fields.Field(i).Tag.Get("toml")
		if key == "" {
			continue
		}
		if reloaded[key] == slices.Contains(restarted, key) {
			t.Errorf("%s: is it reloaded, or does it take a restart?", key)
			continue
		}
		changed := running
		change(t, reflect.ValueOf(&changed).Elem().Field(i))
		var want []string
		if !reloaded[key] {
			want = []string{key}
		}
		if got := needRestart(running, changed); !slices.Equal(got, want) {
			t.Errorf("%s changed: got %q named, want %q", key, got, want)
		}
	}
	for key := range reloaded {
		if slices.Contains(restarted, key) || !strings.Contains(tags(fields), " "+key+" ") {
			t.Errorf("%s is no setting", key)
		}
	}
}

func tags(fields reflect.Type) string {
	all := " "
	for i := range fields.NumField() {
		all += fields.Field(i).Tag.Get("toml") + " "
	}
	return all
}

// change gives a setting another value.
func change(t *testing.T, field reflect.Value) {
	t.Helper()
	switch field.Kind() {
	case reflect.String:
		field.SetString(field.String() + "x")
	case reflect.Bool:
		field.SetBool(!field.Bool())
	case reflect.Int, reflect.Int64:
		field.SetInt(field.Int() + 1)
	case reflect.Float64:
		field.SetFloat(field.Float() + 1)
	case reflect.Slice:
		field.Set(reflect.Append(field, reflect.ValueOf("x")))
	case reflect.Map:
		field.Set(reflect.MakeMap(field.Type()))
		field.SetMapIndex(reflect.ValueOf("x"), reflect.Zero(field.Type().Elem()))
	default:
		t.Fatalf("no change for a %s", field.Kind())
	}
}

func TestReloadNamesWhatItLeaves(t *testing.T) {
	d := startDaemon(t, open)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	mustCertificate(t, cert, key, 1)
	for settings, want := range map[string]string{
		open + "tls_cert = \"" + cert + "\"\ntls_key = \"" + key + "\"\n": `unchanged="tls_cert, tls_key"`,
		strings.Replace(open, "127.0.0.1:0", "127.0.0.2:0", 1):            "unchanged=listen",
		open + "admin_api = true\nlog_format = \"json\"\n":                `unchanged="admin_api, log_format"`,
		open + "verify_rate = 3.0\n":                                      "msg=reloaded",
	} {
		mustWrite(t, d.config, settings)
		before := len(d.log.String())
		d.hup(t)
		if got := d.log.String()[before:]; !strings.Contains(got, want) ||
			strings.Contains(want, "unchanged") == strings.Contains(got, "msg=reloaded\n") {
			t.Errorf("%s: got %s, want %s", settings, got, want)
		}
		if got := d.status(t); got != http.StatusServiceUnavailable {
			t.Errorf("%s: got status %d in the clear, want the listener as it was", settings, got)
		}
	}
}

func TestRemovedTLSIsNamed(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	mustCertificate(t, cert, key, 1)
	d := startDaemon(t, open+"tls_cert = \""+cert+"\"\ntls_key = \""+key+"\"\n")
	mustWrite(t, d.config, open)
	d.hup(t)
	if !strings.Contains(d.log.String(), `unchanged="tls_cert, tls_key"`) {
		t.Errorf("got %s, want the settings named", d.log)
	}
	if got := serial(t, d); got != 1 {
		t.Errorf("got certificate %d, want the one of before", got)
	}
}

// health returns the answer of a path of the health listener.
func health(t *testing.T, d *daemon, path string) string {
	t.Helper()
	response, err := d.client.Get(d.urls["VAULTD_HEALTH_URL"] + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A certificate that ended is named at the start, at the reload that brings it, by readiness and, with the time, by
// metrics.
func TestAnExpiredCertificateIsNamedEverywhere(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	ended := time.Now().Add(-time.Minute).Truncate(time.Second)
	mustCertificateFor(t, cert, key, 1, ended.Add(-time.Hour), ended)
	d := startDaemon(t, open+"tls_cert = \""+cert+"\"\ntls_key = \""+key+"\"\n")
	says := "expired at " + ended.UTC().Format(time.RFC3339)
	if got := strings.Count(d.log.String(), says); got != 1 {
		t.Errorf("the log names it %d times at the start, want once: %s", got, d.log)
	}
	if got := health(t, d, "/readyz"); !strings.Contains(got, `"tls":"the certificate `+says) {
		t.Errorf("got %s, want readiness to name it", got)
	}
	if got := health(t, d, "/metrics"); !strings.Contains(got, "vaultd_tls_cert_not_after_timestamp_seconds 1.") {
		t.Error("the metrics have no time of its end")
	}
	d.hup(t)
	until(t, "the reload names it, too", func() bool { return strings.Count(d.log.String(), says) >= 2 })
	mustCertificate(t, cert, key, 2)
	d.hup(t)
	if got := health(t, d, "/readyz"); strings.Contains(got, `"tls"`) {
		t.Errorf("got %s after the renewal", got)
	}
}

func TestWithoutTLSNothingIsSaidOfIt(t *testing.T) {
	d := startDaemon(t, open)
	if got := health(t, d, "/metrics") + health(t, d, "/readyz"); strings.Contains(got, "tls") {
		t.Errorf("got %s", got)
	}
}
