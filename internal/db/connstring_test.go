package db_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
)

// secret is the password in every string that is refused: no error may hold any part of it.
const secret = "hunter2"

// A string that could be misread is refused before anything is sent, and the error does not repeat it.
func TestMalformedConnectionStrings(t *testing.T) {
	for text, want := range map[string]string{
		// Not the beginning of a URL.
		"jdbc:postgresql://u:" + secret + "@h/db?x=y":  "a URL begins with",
		"jdbc:postgresql://u:" + secret + "@h/db":      "a URL begins with",
		" postgres://u:" + secret + "@h/db?x=y":        "a URL begins with",
		"\npostgres://u:" + secret + "@h/db?x=y":       "a URL begins with",
		"POSTGRES://u:" + secret + "@h/db?x=y":         "a URL begins with",
		"Postgresql://u:" + secret + "@h/db":           "a URL begins with",
		"'postgres://u:" + secret + "@h/db?sslmode=no": "a URL begins with",
		"url=postgres://u:" + secret + "@h/db":         "parameter 1 is not one",
		"postgresql:u:" + secret + "@h/db?x=y":         "parameter 1 is not one",
		"u:" + secret + "@h/db":                        `no "=" after word 1`,
		// A URL whose password is not encoded.
		"postgres://u:a@" + secret + "@h/db":             "%40",
		"postgres://u:a/" + secret + "@h/db":             "%40",
		"postgres://u:1/" + secret + "@h/db":             "%40",
		"postgres://u:1/?user=" + secret + "@h/db":       "%40",
		"postgres://u:1/2#" + secret:                     "%23",
		"postgres://u:" + secret + "/x":                  `"port" takes numbers`,
		"postgres://u:" + secret + "%zz@h/db":            `"password" a %`,
		"postgres://u:" + secret + "%@h/db":              `"password" a %`,
		"postgres://u:" + secret + "%00@h/db":            `"password" a %`,
		"postgres://u:a " + secret + "@h/db":             "blank",
		"postgres://u:" + secret + "@h/db\n":             "blank",
		"postgres://u:x@h:" + secret + "/db":             `"port" takes numbers`,
		"postgres://u:x@h:1:" + secret + "/db":           "HOST:PORT",
		"postgres://u:x@[::1/" + secret:                  "HOST:PORT",
		"postgres://h/postgres:%2F%2Fu:" + secret:        `"dbname" takes the name`,
		"postgres://h/db?" + secret:                      "parameter 1 of the URL is not",
		"postgres://h/db?" + secret + "=1":               "parameter 1 is not one",
		"postgres://h/db?sslmode=a=" + secret:            "%3D",
		"postgres://h/db?user=%" + secret:                "in parameter 1",
		"postgres://h/db?sslmode=" + secret:              `"sslmode" takes one of`,
		"postgres://h/db?connect_timeout=" + secret:      `"connect_timeout" takes a whole number`,
		"postgres://h/db?host=u:" + secret + "%40h":      `"host" holds an @`,
		"postgres://h/db?hostaddr=" + secret:             `"hostaddr" takes IP`,
		"postgres://h/db?require_auth=" + secret:         `"require_auth" takes a list`,
		"postgres://h/db?min_protocol_version=" + secret: `"min_protocol_version" takes one of`,
		"postgres://h/db?pool_max_conns=" + secret:       "--concurrency",
		// Keywords.
		"host=h password='a " + secret + " ":                "no closing one",
		"host=h password='a " + secret + `\'`:               "no closing one",
		"host=h password=a " + secret:                       `no "=" after word 3`,
		"host=h password=a " + secret + " dbname=":          `no "=" after word 3`,
		"host=h password=a " + secret + "=x":                "parameter 3 is not one",
		"host=h password='it's " + secret + "'":             `no "=" after word 3`,
		"dbname=postgres://u:" + secret + "@h/db":           `"dbname" takes the name`,
		"dbname='host=h password=" + secret + "'":           `"dbname" takes the name`,
		"host=u:" + secret + "@h":                           `"host" holds an @`,
		"host=h search_path=" + secret:                      "parameter 2 is not one",
		"password=" + secret + "\x00 host=h":                "byte 0",
		"host=h =" + secret:                                 "parameter 2 is not one",
		"service=" + secret:                                 "no service file has it",
		"sslmode=verify-full host=h sslrootcert=/" + secret: `the file of "sslrootcert": no such file`,
	} {
		c, err := db.ConnConfig(text)
		if err == nil {
			t.Errorf("%q is taken, for host %q, database %q, parameters %v", text, c.Host, c.Database, c.RuntimeParams)
			continue
		}
		if !errors.Is(err, db.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, want %q", text, err, want)
		}
		if strings.Contains(err.Error(), secret) || strings.Contains(db.Target(text), secret) {
			t.Errorf("%q is repeated: %q, %q", text, err, db.Target(text))
		}
	}
}

// Every keyword of libpq is implemented, ignored or refused by name; only options reaches the server.
func TestKeywordsOfLibpq(t *testing.T) {
	for name, value := range map[string]string{
		"requirepeer": "postgres", "sslcrl": "/crl", "sslcrldir": "/crls", "sslkeylogfile": "/log", "gssencmode": "require",
		"gssdelegation": "1", "replication": "database", "requiressl": "1", "scram_client_key": "k", "scram_server_key": "k",
		"oauth_issuer": "i", "oauth_client_id": "c", "oauth_client_secret": "s", "oauth_scope": "s",
	} {
		want := fmt.Sprintf("the connection string: %q is not supported", name)
		for _, text := range bothForms(name, value) {
			if _, err := db.ConnConfig(text); err == nil || err.Error() != want {
				t.Errorf("%s: got %v, want %s", text, err, want)
			}
		}
	}
	for name, value := range map[string]string{
		"keepalives": "0", "keepalives_idle": "7", "keepalives_interval": "7", "keepalives_count": "7",
		"tcp_user_timeout": "7",
		"gssencmode":       "prefer", "gsslib": "gssapi", "gssdelegation": "0", "krbsrvname": "postgres",
		"replication":               "false",
		"fallback_application_name": "x", "application_name": "x", "client_encoding": "LATIN1",
		"load_balance_hosts":       "random",
		"ssl_min_protocol_version": "tlsv1.3", "ssl_max_protocol_version": "TLSv1.3", "sslcompression": "1", "sslsni": "0",
		"sslcertmode": "allow", "sslnegotiation": "postgres", "channel_binding": "require", "require_auth": "!none,!md5",
		"hostaddr": "127.0.0.1", "passfile": "/nowhere", "target_session_attrs": "standby", "connect_timeout": "-1",
		"min_protocol_version": "3.0", "max_protocol_version": "3.2", "default_query_exec_mode": "exec",
		"statement_cache_capacity": "1", "description_cache_capacity": "1", "sslpassword": "x", "sslmode": "require",
	} {
		for _, text := range bothForms(name, value) {
			c := mustConfig(t, text)
			if diff := cmp.Diff(map[string]string{"application_name": "test"}, c.RuntimeParams); diff != "" {
				t.Errorf("%s: sent to the server (-want +got):\n%s", text, diff)
			}
		}
	}
	got := mustConfig(t, "options='-c statement_timeout=5s'").RuntimeParams["options"]
	if got != "-c statement_timeout=5s" {
		t.Errorf("options: got %q", got)
	}
}

func bothForms(name, value string) []string {
	return []string{name + "='" + value + "'", "postgres://localhost/db?" + name + "=" + url.QueryEscape(value)}
}

func mustConfig(t *testing.T, text string) *pgx.ConnConfig {
	t.Helper()
	c, err := db.ConnConfig(text)
	if err != nil {
		t.Fatalf("%q: %s", text, err)
	}
	return c
}

// Both forms mean the same, by libpq's rules of quoting and encoding.
func TestConnectionStringForms(t *testing.T) {
	type said struct {
		Hosts                    []string
		User, Password, Database string
	}
	for text, want := range map[string]said{
		"postgresql://u:p%40%2F%3a@h:5433/db": {[]string{"h:5433"}, "u", "p@/:", "db"},
		"postgres://u:p?a#b:c@h/db":           {[]string{"h:5432"}, "u", "p?a#b:c", "db"},
		"postgres://u:p+q@h,[::1]:5433,[fe80::1]/db?user=v": {[]string{"h:5432", "::1:5433", "fe80::1:5432"}, "v", "p+q",
			"db"},
		"postgres://%2Fvar%2Frun/db?user=u&password=a%26b%3Dc":   {[]string{"/var/run:5432"}, "u", "a&b=c", "db"},
		"postgres://u@/db?host=/var/run&port=5433&ssl=true":      {[]string{"/var/run:5433"}, "u", "", "db"},
		"host=a,b port=1,2 user=u dbname=db":                     {[]string{"a:1", "b:2"}, "u", "", "db"},
		"host=a,b port=7 user=u dbname=db password=x password=y": {[]string{"a:7", "b:7"}, "u", "y", "db"},
		`host = a user	= 'it\'s' password=a\ b\\c dbname='d b'`:  {[]string{"a:5432"}, "it's", `a b\c`, "d b"},
		`host=a user='u'password=p dbname=db\`:                   {[]string{"a:5432"}, "u", "p", "db"},
		"host=a user=u password= dbname=db":                      {[]string{"a:5432"}, "u", "dbname=db", "u"},
		"hostaddr=127.0.0.1 user=u dbname=db":                    {[]string{"127.0.0.1:5432"}, "u", "", "db"},
		"host=/run hostaddr=127.0.0.1 user=u dbname=db":          {[]string{"127.0.0.1:5432"}, "u", "", "db"},
	} {
		c := mustConfig(t, text)
		got := said{[]string{fmt.Sprint(c.Host, ":", c.Port)}, c.User, c.Password, c.Database}
		for _, f := range c.Fallbacks {
			if host := fmt.Sprint(f.Host, ":", f.Port); !slices.Contains(got.Hosts, host) {
				got.Hosts = append(got.Hosts, host)
			}
		}
		if got.Database == "" {
			got.Database = got.User
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

// hostaddr is the address of a host; the certificate is checked for its name, and it is remote if the address is.
func TestHostaddr(t *testing.T) {
	c := mustConfig(t, "host=db,db,localhost hostaddr=192.0.2.1,192.0.2.2,192.0.2.3 port=1,2,3")
	if c.TLSConfig == nil || c.TLSConfig.InsecureSkipVerify || c.TLSConfig.ServerName != "db" {
		t.Errorf("TLS of a remote host: %+v", c.TLSConfig)
	}
	for host, want := range map[string][]string{"db": {"192.0.2.1:1", "192.0.2.2:2"}, "localhost": {"192.0.2.3:3"}} {
		if got, err := c.LookupFunc(t.Context(), host); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v %v, want %v", host, got, err, want)
		}
	}
	if c := mustConfig(t, "host=localhost hostaddr=192.0.2.1"); c.TLSConfig == nil || c.TLSConfig.InsecureSkipVerify {
		t.Errorf("localhost at another machine's address is not verified: %+v", c.TLSConfig)
	}
	if _, err := db.ConnConfig("host=a,b hostaddr=192.0.2.1"); err == nil {
		t.Error("an address for two hosts is taken")
	}
}

func TestTLSVersions(t *testing.T) {
	c := mustConfig(t, "host=db ssl_min_protocol_version=tlsv1.3 ssl_max_protocol_version=TLSv1.3 sslmode=prefer")
	if c.TLSConfig.MinVersion != tls.VersionTLS13 || c.TLSConfig.MaxVersion != tls.VersionTLS13 {
		t.Errorf("got %x to %x", c.TLSConfig.MinVersion, c.TLSConfig.MaxVersion)
	}
}

// The order of the hosts is random; a port stays with its host.
func TestLoadBalanceHosts(t *testing.T) {
	first := map[string]bool{}
	for range 1000 {
		c := mustConfig(t, "host=a,b,c port=1,2,3 load_balance_hosts=random sslmode=disable")
		first[fmt.Sprint(c.Host, c.Port)] = true
	}
	if want := map[string]bool{"a1": true, "b2": true, "c3": true}; !maps.Equal(first, want) {
		t.Errorf("first hosts: %v, want %v", first, want)
	}
}

// libpq's variables are implemented or refused by name, and none of them is sent to the server.
func TestEnvironmentOfLibpq(t *testing.T) {
	for name, value := range map[string]string{
		"PGREQUIREPEER": secret, "PGSSLCRL": secret, "PGSSLCRLDIR": secret, "PGGSSENCMODE": "require", "PGREQUIRESSL": "1",
		"PGCHANNELBINDING": secret, "PGREQUIREAUTH": secret, "PGHOSTADDR": secret, "PGSSLMINPROTOCOLVERSION": secret,
		"PGLOADBALANCEHOSTS": secret, "PGTARGETSESSIONATTRS": secret, "PGPORT": secret, "PGSSLMODE": secret,
		"PGDATABASE": "postgres://u:" + secret + "@h/db", "PGHOST": "u:" + secret + "@h",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			_, err := db.ConnConfig("")
			if err == nil || !strings.HasPrefix(err.Error(), "the environment: "+name+" ") ||
				strings.Contains(err.Error(), secret) {
				t.Errorf("got %v", err)
			}
		})
	}
	for name, value := range map[string]string{
		"PGTZ": "UTC", "PGAPPNAME": "x", "PGCLIENTENCODING": "LATIN1", "PGGSSENCMODE": "disable", "PGDATESTYLE": "German",
		"PGSSLCOMPRESSION": "1", "PGLOADBALANCEHOSTS": "disable", "PGHOSTADDR": "192.0.2.1",
	} {
		t.Setenv(name, value)
	}
	t.Setenv("PGOPTIONS", "-c statement_timeout=5s")
	c := mustConfig(t, "")
	want := map[string]string{"application_name": "test", "options": "-c statement_timeout=5s"}
	if diff := cmp.Diff(want, c.RuntimeParams); diff != "" {
		t.Errorf("sent to the server (-want +got):\n%s", diff)
	}
	if c.Host != "192.0.2.1" || c.TLSConfig.InsecureSkipVerify {
		t.Errorf("PGHOSTADDR: got host %q, TLS %+v", c.Host, c.TLSConfig)
	}
	if got := mustConfig(t, "options=''").RuntimeParams["options"]; got != "" {
		t.Errorf("an empty value in the string does not hide the environment's: %q", got)
	}
}

// A service is looked for in the user's file, then in the system's; its settings are parsed as in a connection string.
func TestServiceFiles(t *testing.T) {
	home, system := t.TempDir(), t.TempDir()
	write := func(path, text string) { must(t, os.WriteFile(path, []byte(text), 0o600)) }
	write(filepath.Join(home, ".pg_service.conf"), "[mine]\nhost=mine\nsslmode=disable\n[bad]\npool_max_conns="+secret+
		"\n[worse]\nsslmode="+secret+"\n[nested]\nservice=mine\n")
	write(filepath.Join(system, "pg_service.conf"), "[ours]\nhost=ours\nuser=a\n[mine]\nhost=never\n")
	t.Setenv("HOME", home)
	t.Setenv("PGSYSCONFDIR", system)
	for text, want := range map[string]string{
		"service=mine": "mine", "service=ours": "ours", "service=ours host=other": "other",
	} {
		if c := mustConfig(t, text); c.Host != want {
			t.Errorf("%s: got %q, want %q", text, c.Host, want)
		}
	}
	if c := mustConfig(t, "service=ours"); c.TLSConfig == nil || c.TLSConfig.InsecureSkipVerify || c.User != "a" {
		t.Errorf("of the system's file: user %q, TLS %+v", c.User, c.TLSConfig)
	}
	for _, name := range []string{"bad", "worse", "nested"} {
		if _, err := db.ConnConfig("service=" + name); err == nil || strings.Contains(err.Error(), secret) ||
			!strings.HasPrefix(err.Error(), "the service file: ") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	t.Setenv("PGSERVICE", "ours")
	if c := mustConfig(t, ""); c.Host != "ours" {
		t.Errorf("PGSERVICE: got %q", c.Host)
	}
}

// Any text in the place of a password is taken as the password or refused; no part of it is sent as anything else, nor
// repeated in an error.
func FuzzConnectionString(f *testing.F) {
	for _, text := range []string{
		"jdbc:postgresql://u:PASSWORD@h/db?x=y", "\nPOSTGRES://u:PASSWORD@h/db?x=y", "postgres://u:PASSWORD@h/db?x=y",
		"host=h password='a PASSWORD ", "host=h password=PASSWORD=1 user=x", "service=PASSWORD",
		"postgres://u:p@h/db?PASSWORD",
		"postgres://[PASSWORD", "host=PASSWORD,b port=1,2 options='-c x=y'",
	} {
		f.Add(text, "p@ss/w?rd#1:2%41&=")
	}
	f.Add("", "1/x?user=y")
	f.Add("host=h", "%zz'\\")
	f.Fuzz(func(t *testing.T, text, password string) {
		marked := "Marked" + secret
		c, err := db.ConnConfig(strings.ReplaceAll(text, "PASSWORD", marked))
		if err != nil && strings.Contains(err.Error(), marked) {
			t.Fatalf("%q: the error repeats the password: %s", text, err)
		}
		if err == nil {
			checkSent(t, text, c, marked)
		}
		for _, form := range []string{
			"postgres://u:%s@h/db", "postgresql://u:%s@h/db?sslmode=disable", "postgres://u:%s@h:1,i:2/db?user=u",
		} {
			c, err := db.ConnConfig(fmt.Sprintf(form, marked+password))
			switch decoded, _ := url.PathUnescape(marked + password); {
			case err != nil && strings.Contains(err.Error(), marked):
				t.Fatalf("%q: the error repeats the password: %s", password, err)
			case err == nil && (c.Host != "h" || c.User != "u" || c.Database != "db" || c.Password != decoded):
				t.Fatalf("%q: taken apart as host %q, user %q, database %q, password %q",
					password, c.Host, c.User, c.Database, c.Password)
			}
		}
		if strings.ContainsRune(password, 0) {
			return
		}
		for _, text := range []string{
			"postgres://u:" + strings.ReplaceAll(url.QueryEscape(password), "+", "%20") + "@h/db",
			"host=h user=u dbname=db password='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password) + "'",
		} {
			c, err := db.ConnConfig(text)
			if err != nil || c.Password != password {
				t.Fatalf("%q: %v, or another password", text, err)
			}
		}
	})
}

// checkSent checks that the server gets its name of the client and, if given, options.
func checkSent(t *testing.T, text string, c *pgx.ConnConfig, marked string) {
	t.Helper()
	for name, value := range c.RuntimeParams {
		asked := name == "options" && strings.Contains(strings.ToLower(text), "options")
		encoded := name == "options" && strings.Contains(text, "%")
		if name != "application_name" && !asked && !encoded || name == "application_name" && value != "test" {
			t.Fatalf("%q: the server would get %q = %q", text, name, value)
		}
		if strings.Contains(name, marked) {
			t.Fatalf("%q: the server would get the password as a name", text)
		}
	}
}

// TestTargetString: check-config prints it, so it names every host and no password.
func TestTargetString(t *testing.T) {
	for in, want := range map[string]string{
		"postgres://u:secret@db1,db2:5433,db3/app?target_session_attrs=read-write": "host='db1,db2,db3' dbname='app'",
		"host=/run/postgresql dbname=app user=u":                                   "host='/run/postgresql' dbname='app'",
		"host=db1 hostaddr":                                                        "",
	} {
		if got := db.TargetString(in); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}
