package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/vault"
)

// TestPrefixVariables is the rule for names that the author of a secret chose.
func TestPrefixVariables(t *testing.T) {
	for _, variable := range strings.Fields(`
		DB_PASSWORD PASSWORD API_KEY KEY STRIPE_API_KEY_2 GITHUB_TOKEN JWT_SECRET DATABASE_URL REDIS_URL
		PROD_DATABASE_URL SENTRY_DSN SMTP_USER SMTP_PASS OAUTH_CLIENT_ID OAUTH_CLIENT_SECRET AWS_ACCESS_KEY_ID
		AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN GOOGLE_API_KEY PGPASSWORD PGP_PRIVATE_KEY SSH_PRIVATE_KEY
		SLACK_WEBHOOK_URL MYSQL_PWD`) {
		if !holdsSecret(variable) {
			t.Errorf("$%s is refused from a prefix, want it set", variable)
		}
	}
	for _, variable := range strings.Fields(`
		BASH_ENV ENV NODE_OPTIONS PERL5OPT PERL5LIB PERLLIB PYTHONSTARTUP PYTHONPATH PYTHONHOME PYTHONINSPECT
		GIT_SSH_COMMAND GIT_SSH GIT_CONFIG_KEY_0 GIT_CONFIG_COUNT GIT_EXEC_PATH GIT_ASKPASS SSH_ASKPASS
		GIT_PROXY_COMMAND GCONV_PATH LOCPATH NLSPATH HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY FTP_PROXY LD_PRELOAD
		LD_LIBRARY_PATH LD_AUDIT LD_AUDIT_KEY DYLD_INSERT_LIBRARIES PATH IFS SHELL HOME USER PWD EDITOR VISUAL PAGER
		TMPDIR RUBYOPT RUBYLIB JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS _JAVA_OPTIONS MAVEN_OPTS CLASSPATH SSL_CERT_FILE
		SSL_CERT_DIR SSLKEYLOGFILE CURL_CA_BUNDLE REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS PIP_CERT PIP_INDEX_URL
		UV_INDEX_URL NPM_CONFIG_KEY NPM_CONFIG_REGISTRY DENO_CERT OPENSSL_CONF OPENSSL_MODULES GODEBUG GOFLAGS
		GLIBC_TUNABLES MALLOC_TRACE XDG_CONFIG_HOME AWS_ENDPOINT_URL AWS_PROFILE AWS_CONFIG_FILE AWS_CA_BUNDLE
		AWS_CONTAINER_AUTHORIZATION_TOKEN PGHOST PGSERVICEFILE PGOPTIONS PGSSLKEY DOCKER_HOST DOCKER_CONFIG
		KUBECONFIG LESSOPEN LESSKEY PROMPT_COMMAND GOOGLE_APPLICATION_CREDENTIALS VAULTCTL_TOKEN
		VAULTCTL_DATABASE_URL VAULTD_CONFIG HOSTALIASES RES_OPTIONS RSYNC_RSH CARGO_REGISTRIES_X_TOKEN COMSPEC
		BASE_URL API_URL SERVICE_URL URL PORT DEBUG LOG_LEVEL FEATURE_X DJANGO_SETTINGS_MODULE
		SPRING_CONFIG_LOCATION RESTIC_PASSWORD_COMMAND BORG_PASSCOMMAND GNUPGHOME MONKEY TOKENS_FILE PASSWORD_FILE`) {
		if holdsSecret(variable) {
			t.Errorf("$%s is set by a prefix, want it refused", variable)
		}
	}
	for _, variable := range strings.Fields("http_proxy no_proxy Path ld_preload VAULTCTL_TOKEN LD_X GIT_X BASH_FUNC_X") {
		if !controlsProgram(variable) {
			t.Errorf("$%s is no setting, want it refused in every namespace", variable)
		}
	}
}

func TestInherited(t *testing.T) {
	environ := []string{"PATH=/bin", "VAULTCTL_TOKEN=t", "VAULTCTL_TOKEN_FILE=f", "VAULTCTL_DATABASE_URL=u",
		"VAULTCTL_KMS_KEY=k", "VAULTD_DATABASE_URL=u", "PGPASSWORD=p", "PGPASSFILE=f", "PGSSLPASSWORD=p", "PGSERVICEFILE=f",
		"PGHOST=h", "A=b=c"}
	for _, c := range []struct {
		options execOptions
		want    []string
	}{
		{execOptions{}, []string{"PATH=/bin", "PGHOST=h", "A=b=c"}},
		{execOptions{keep: []string{"PGPASSFILE", "VAULTCTL_TOKEN", "NOT_SET"}},
			[]string{"PATH=/bin", "VAULTCTL_TOKEN=t", "PGPASSFILE=f", "PGHOST=h", "A=b=c"}},
		{execOptions{pristine: true}, nil},
		{execOptions{pristine: true, keep: []string{"A"}}, []string{"A=b=c"}},
	} {
		if got := c.options.inherited(slices.Clone(environ)); !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %q, want %q", c.options, got, c.want)
		}
	}
}

// Folders that would show a value to others, or keep it, are refused before a secret is read.
func TestFilesFolder(t *testing.T) {
	memory, err := os.MkdirTemp("/dev/shm", "vaultctl-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(memory) })
	disk := t.TempDir()
	open := func(name string, mode os.FileMode) string {
		path := filepath.Join(disk, name)
		if err := errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private := open("private", 0o700)
	plain := filepath.Join(disk, "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		options folderOptions
		want    error
		text    string
	}{
		{folderOptions{}, nil, ""},
		{folderOptions{dir: memory}, nil, ""},
		{folderOptions{dir: memory, onDisk: true}, nil, ""},
		{folderOptions{dir: private, onDisk: true}, nil, ""},
		{folderOptions{dir: private}, vault.ErrRefused, "not in memory"},
		{folderOptions{dir: open("group", 0o750), onDisk: true}, vault.ErrRefused, "open to others (mode 0750)"},
		{folderOptions{dir: open("other", 0o701), onDisk: true}, vault.ErrRefused, "open to others"},
		{folderOptions{dir: plain, onDisk: true}, vault.ErrRefused, "not a directory"},
		{folderOptions{dir: filepath.Join(disk, "none")}, errUsage, "there is no folder"},
		{folderOptions{dir: "/proc"}, vault.ErrRefused, ""},
	} {
		folder, err := c.options.open()
		folder.close()
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: got %v, want %v with %q", c.options, err, c.want, c.text)
		}
	}
}

// Another user's folder is refused. Only root can make one.
func TestFilesFolderOfAnotherUser(t *testing.T) {
	dir := "/" // belongs to root
	if os.Geteuid() == 0 {
		dir = t.TempDir()
		if err := errors.Join(os.Chmod(dir, 0o700), os.Chown(dir, 12345, 12345)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := folderOptions{dir: dir, onDisk: true}.open()
	if err == nil || !strings.Contains(err.Error(), "belongs to another user") {
		t.Errorf("got %v, want another user's folder refused", err)
	}
}

func TestFilesAreReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	folder, err := folderOptions{dir: dir, onDisk: true}.open()
	if err != nil {
		t.Fatal(err)
	}
	defer folder.close()
	write := func(value string) string {
		path, err := folder.write("A", []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.WriteFile(filepath.Join(dir, beingWritten+"A"), []byte("part"), 0o400); err != nil {
		t.Fatal(err)
	}
	path := write("first, and longer")
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	write("second")
	before := make([]byte, 32)
	n, _ := old.Read(before)
	after, _ := os.ReadFile(path)
	info, _ := os.Stat(path)
	if string(before[:n]) != "first, and longer" || string(after) != "second" || info.Mode() != 0o400 {
		t.Errorf("an open file has %q, the new one %q with mode %v", before[:n], after, info.Mode())
	}
	if err := folder.holdsOnly([]string{"A"}); err != nil {
		t.Errorf("got %v of a folder with a file to replace", err)
	}
	for _, other := range []string{"B", ".hidden"} {
		if err := os.WriteFile(filepath.Join(dir, other), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := folder.holdsOnly([]string{"A"}); !errors.Is(err, vault.ErrConflict) {
			t.Errorf("%s: got %v, want a conflict", other, err)
		}
		_ = os.Remove(filepath.Join(dir, other))
	}
	folder.remove()
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}
