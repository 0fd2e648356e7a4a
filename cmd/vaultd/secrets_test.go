package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/secretfile"
)

// placed writes a file with this mode, whatever the umask.
func placed(t *testing.T, path, text string, mode fs.FileMode) string {
	t.Helper()
	mustWrite(t, path, text)
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	databaseLine = "postgres://vaultd:canary-9b21@db.example.com/app?sslmode=verify-full"
	awsFile      = "[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = canary-9b21\n"
)

// secretSettings are the settings that hold a secret or name its file. Each takes "file:" and $CREDENTIALS_DIRECTORY.
var secretSettings = []struct {
	key, good string
	more      string // further settings that it needs
	of        func(Config) string
}{
	{key: "database_url", good: databaseLine, of: func(c Config) string { return c.DatabaseURL }},
	{key: "primary_database_url", good: databaseLine, of: func(c Config) string { return c.PrimaryDatabaseURL }},
	{key: "listen_database_url", good: databaseLine, of: func(c Config) string { return c.ListenDatabaseURL }},
	{key: "tls_key", more: "tls_cert = %q\n", of: func(c Config) string { return c.TLSKey }},
	{key: "audit_seal_key", good: strings.Repeat("k", 32), of: func(c Config) string { return c.AuditSealKey }},
	{key: "aws_credentials_file", good: awsFile, of: func(c Config) string { return c.AWSCredentialsFile }},
}

// secretFolder has a certificate, and a good file for each of secretSettings, and is $CREDENTIALS_DIRECTORY.
func secretFolder(t *testing.T) (dir string, certificate string) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	certificate = filepath.Join(t.TempDir(), "tls.crt")
	mustCertificate(t, certificate, filepath.Join(dir, "tls_key"), 1)
	for _, s := range secretSettings {
		if s.good != "" {
			placed(t, filepath.Join(dir, s.key), s.good, 0o600)
		}
		if err := os.Chmod(filepath.Join(dir, s.key), 0o440); err != nil { // as systemd makes them
			t.Fatal(err)
		}
	}
	return dir, certificate
}

// loaded is the configuration of one setting.
func loaded(t *testing.T, key, value, more, certificate string) (Config, error) {
	t.Helper()
	text := key + " = \"" + value + "\"\n" + strings.ReplaceAll(more, "%q", "\""+certificate+"\"")
	path := mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), text)
	return loadConfig(path, os.Environ())
}

func TestEverySecretComesFromAFile(t *testing.T) {
	dir, certificate := secretFolder(t)
	for _, s := range secretSettings {
		path := filepath.Join(dir, s.key)
		want := path
		if s.good == databaseLine {
			want = databaseLine
		}
		for _, value := range []string{"file:" + path, "file:$CREDENTIALS_DIRECTORY/" + s.key} {
			c, err := loaded(t, s.key, value, s.more, certificate)
			if err != nil || s.of(c) != want {
				t.Errorf("%s = %q: got %v, want the file's", s.key, value, err)
			}
			var out bytes.Buffer
			if err := c.print(&out); err != nil || strings.Contains(out.String(), "canary") {
				t.Errorf("%s: check-config prints the secret, or fails: %v", s.key, err)
			}
		}
	}
}

func TestASecretFileThatIsNotAsItShouldBeIsRefused(t *testing.T) {
	_, certificate := secretFolder(t)
	dir := t.TempDir() // not systemd's
	for _, s := range secretSettings {
		good := s.good
		if good == "" {
			good = "-----BEGIN PRIVATE KEY-----\ncanary-9b21\n-----END PRIVATE KEY-----\n"
		}
		for path, want := range map[string]string{
			filepath.Join(dir, "missing"):                              "no such file or directory",
			placed(t, filepath.Join(dir, s.key+".open"), good, 0o644):  "mode 0644 is open to others (chmod 600 ",
			placed(t, filepath.Join(dir, s.key+".group"), good, 0o440): "mode 0440 is open to others (chmod 600 ",
			placed(t, filepath.Join(dir, s.key+".empty"), "", 0o600):   "is empty",
			dir:                           "not a regular file",
			"relative":                    "an absolute path, such as file:/etc/vault/secret",
			"$CREDENTIALS_DIRECTORY/none": "hint: LoadCredential=none:PATH in the unit",
		} {
			_, err := loaded(t, s.key, "file:"+path, s.more, certificate)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), s.key+": ") {
				t.Errorf("%s = file:%s: got %v, want %q", s.key, path, err, want)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("%s: the error repeats the secret", s.key)
			}
		}
	}
}

// A line end after a connection string is echo's; a second one, or another line, is a mistake.
func TestTheLineEndOfAConnectionString(t *testing.T) {
	dir := t.TempDir()
	for text, good := range map[string]bool{databaseLine + "\n": true, databaseLine + "\r\n": true,
		databaseLine + "\n\n": false, databaseLine + "\n# the primary\n": false, "\n": false,
		"file:/etc/passwd": false, "postgres://h/app?nonsense=1": false} {
		path := placed(t, filepath.Join(dir, "line"), text, 0o600)
		c, err := loaded(t, "database_url", "file:"+path, "", "")
		if (err == nil) != good || good && c.DatabaseURL != databaseLine {
			t.Errorf("%q: got %v, want it taken: %t", text, err, good)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: the error repeats the secret: %v", text, err)
		}
	}
}

func TestTheKeyOfSystemdOpens(t *testing.T) {
	dir, _ := secretFolder(t)
	placed(t, filepath.Join(dir, "kek"), strings.Repeat("k", 32), 0o440)
	placed(t, filepath.Join(dir, "newline"), strings.Repeat("k", 32)+"\n", 0o440)
	placed(t, filepath.Join(dir, "world"), strings.Repeat("k", 32), 0o444)
	placed(t, filepath.Join(dir, "empty"), "", 0o440)
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"kek": "", "newline": "exactly 32 bytes", "world": "is open to others",
		"empty": "exactly 32 bytes", "folder": "not a regular file", "missing": "no such file"} {
		path := mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"),
			`kms_keys = ["local://$CREDENTIALS_DIRECTORY/`+name+`"]`)
		config, err := loadConfig(path, os.Environ())
		if err != nil {
			t.Fatal(err)
		}
		keys := &lazyKeys{uris: config.KMSKeys}
		err = keys.openConfigured(t.Context())
		keys.close()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
}

func TestWithoutSystemdItsFolderIsNamed(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	for _, setting := range []string{`database_url = "file:$CREDENTIALS_DIRECTORY/u"`,
		`kms_keys = ["local://$CREDENTIALS_DIRECTORY/kek"]`, `aws_credentials_file = "$CREDENTIALS_DIRECTORY/aws"`,
		`database_url = "postgres://h/app?passfile=$CREDENTIALS_DIRECTORY/pgpass"`} {
		path := mustWrite(t, filepath.Join(t.TempDir(), "vaultd.toml"), setting)
		_, err := loadConfig(path, os.Environ())
		if err == nil || !strings.Contains(err.Error(), "$CREDENTIALS_DIRECTORY is not set; hint: systemd sets it") {
			t.Errorf("%s: got %v", setting, err)
		}
	}
}

func TestAFileOfPasswordsIsInTheConnectionString(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/vaultd.service")
	c, err := loaded(t, "database_url", "postgres://vaultd@h/app?passfile=$CREDENTIALS_DIRECTORY/pgpass", "", "")
	want := "postgres://vaultd@h/app?passfile=/run/credentials/vaultd.service/pgpass"
	if err != nil || c.DatabaseURL != want {
		t.Errorf("got %q, %v, want %q", c.DatabaseURL, err, want)
	}
}

// warnings of modes are those of files that systemd does not keep.
func TestWhatSystemdKeepsIsNotWarnedOf(t *testing.T) {
	dir, _ := secretFolder(t)
	c, err := loaded(t, "audit_seal_key", "file:$CREDENTIALS_DIRECTORY/audit_seal_key", "", "")
	if err != nil {
		t.Fatal(err)
	}
	c.warnOfFiles(func(key, format string, args ...any) {
		if key == "audit_seal_key" {
			t.Errorf("got a warning about a file of mode 0440 in %s", dir)
		}
	})
	if secretfile.Allowed(filepath.Join(dir, "audit_seal_key")) == 0o600 {
		t.Error("the folder is not taken for systemd's")
	}
}
