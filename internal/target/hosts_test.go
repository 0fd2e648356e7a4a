package target

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// Listed hosts and the hosts of a rotator are compared as addresses: the table has the spellings of each. A number that
// only some resolvers take for an address is a name, and is not listed by it.
func TestHostsAreComparedByWhatTheyMean(t *testing.T) {
	for _, c := range []struct {
		listed, named string
		want          bool
	}{
		{"[::1]", "[0:0:0:0:0:0:0:1]", true},
		{"[0:0:0:0:0:0:0:1]:443", "[::1]", true},
		{"[::1]:8443", "[0000:0000::0001]:8443", true},
		{"[2001:DB8::A]", "[2001:db8:0:0::000a]", true},
		{"127.0.0.1", "[::ffff:127.0.0.1]", true},
		{"[::ffff:7f00:1]", "127.0.0.1", true},
		{"[::FFFF:10.0.0.1]", "[::ffff:a00:1]", true},
		{"Hooks.Example.com", "hooks.example.COM", true},
		{"hooks.example.com.", "hooks.example.com", true},
		{"hooks.example.com", "hooks.example.com.", true},
		{"hooks.example.com", "hooks.example.com:443", true},
		{"hooks.example.com:0443", "hooks.example.com", true},
		{"[::1]", "127.0.0.1", false},
		{"[::1]", "[::2]", false},
		{"[::1]:443", "[::1]:8443", false},
		{"[fe80::1]", "[fe80::1%25eth0]", false},
		{"127.0.0.1", "127.1", false},
		{"127.0.0.1", "2130706433", false},
		{"127.0.0.1", "0x7f000001", false},
		{"127.0.0.1", "0177.0.0.1", false},
		{"127.0.0.1", "127.0.0.2", false},
		{"127.0.0.1", "0.0.0.0", false},
		{"127.0.0.1", "localhost", false},
		{"hooks.example.com", "hooks.example.com..", false},
		{"hooks.example.com", "a.hooks.example.com", false},
		{"hooks.example.com", "hooks.example.com.evil.example", false},
	} {
		h := newHosts("webhook_hosts", hookPort, []string{c.listed})
		u, err := url.Parse("https://" + c.named + "/path")
		if err != nil {
			t.Fatal(err)
		}
		at, ok := placeOf(u)
		if got := ok && h.allow(at) == nil; got != c.want {
			t.Errorf("%q listed, %q named: got allowed %v, want %v", c.listed, c.named, got, c.want)
		}
		if len(h.listed) != 1 {
			t.Errorf("%q was not read", c.listed)
		}
	}
}

func TestPlacesOfPostgresAreListedToo(t *testing.T) {
	for _, c := range []struct {
		listed, named string
		want          bool
	}{
		{"db.example.com", "postgres://u:p@DB.example.com./d", true},
		{"db.example.com:6432", "postgres://u:p@db.example.com:6432/d", true},
		{"[::1]", "postgres://u:p@[0:0::1]/d", true},
		{"127.0.0.1", "postgres://u:p@[::ffff:127.0.0.1]/d", true},
		{"127.0.0.1", "postgres://u:p@/d?host=127.0.0.1", true},
		{"/var/run/postgresql", "postgres://u@/d?host=/var/run/postgresql", true},
		{"/var/run/postgresql:5433", "postgres://u@/d?host=/var/run/postgresql&port=5433", true},
		{"db.example.com", "postgres://u:p@db.example.com:6432/d", false},
		{"db.example.com", "postgres://u:p@db.example.com,127.0.0.1/d", false},
		{"db.example.com", "postgres://u:p@localhost/d", false},
		{"db.example.com", "postgres://u:p@127.0.0.1/d", false},
		{"db.example.com", "postgres://u:p@2130706433/d", false},
		{"db.example.com", "postgres://u:p@0x7f.1/d", false},
		{"db.example.com", "postgres://u:p@0.0.0.0/d", false},
		{"db.example.com", "postgres://u:p@[::]/d", false},
		{"db.example.com", "postgres://u@/d?host=/var/run/postgresql", false},
		{"/var/run/postgresql", "postgres://u@/d?host=/var/run/postgresql&port=5433", false},
		{"/var/run/postgresql", "postgres://u@/d?host=/var/run", false},
	} {
		s, err := parseServer(c.named)
		if err != nil {
			t.Fatalf("%q: %v", c.named, err)
		}
		allowed := true
		h := newHosts("postgres_hosts", postgresPort, []string{c.listed})
		for i := range s.hosts {
			at, _ := place(s.hosts[i], s.ports[i], postgresPort)
			allowed = allowed && h.allow(at) == nil
		}
		if allowed != c.want {
			t.Errorf("%q listed, %q named: got allowed %v, want %v", c.listed, c.named, allowed, c.want)
		}
	}
	// The folder that is compared must be the one that is opened.
	for _, named := range []string{
		"postgres://u@/d?host=/var/run/../run/postgresql", "postgres://u@/d?host=/var/run/postgresql/",
		"postgres://u@/d?host=//var/run", "postgres://u@/d?host=@abstract",
		`postgres://u@/d?host=C:\pipe`, "postgres://u@/d?host=relative/folder",
	} {
		if s, err := parseServer(named); err == nil {
			h := newHosts("postgres_hosts", postgresPort, []string{"/var/run/postgresql", "/var/run"})
			if at, _ := place(s.hosts[0], s.ports[0], postgresPort); h.allow(at) == nil {
				t.Errorf("%q is allowed", named)
			}
		}
	}
	for _, bad := range []string{"", "postgres://h", "h/path", "u@h", "*.example.com", "h:port", "h:0", "h:65536",
		"a b", "h,i", "/var/../run:", "/run/", "/run/..", "/run:x", "@abstract"} {
		if err := Check(Options{PostgresHosts: []string{bad}}); err == nil || !strings.Contains(err.Error(),
			"postgres_hosts") {
			t.Errorf("%q: got %v, want a complaint about postgres_hosts", bad, err)
		}
	}
}

// The scenario: a listed name resolves to this machine, where the local PostgreSQL trusts local connections. Each of
// its addresses, by every name, is reached only if that address is listed.
func TestANameThatLeadsToThisMachineIsNotFollowed(t *testing.T) {
	own := []string{"127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "169.254.169.254", "fe80::1"}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		own = append(own, i.(*net.IPNet).IP.String())
	}
	for _, address := range own {
		dialled := net.JoinHostPort(address, "5432")
		wantRefusal(t, newHosts("postgres_hosts", postgresPort, []string{"db.example"}).allowDialled(dialled),
			"an address of this machine")
		if err := newHosts("postgres_hosts", postgresPort, []string{dialled}).allowDialled(dialled); err != nil {
			t.Errorf("%s is listed: %v", dialled, err)
		}
		wantRefusal(t, newHosts("postgres_hosts", postgresPort, []string{net.JoinHostPort(address,
			"5433")}).allowDialled(dialled), "an address of this machine")
		loopback := netip.MustParseAddr(address).Unmap().IsLoopback()
		if err := newHosts("postgres_hosts", postgresPort,
			[]string{"localhost"}).allowDialled(dialled); (err == nil) != loopback {
			t.Errorf("localhost is listed: %s: got %v", dialled, err)
		}
	}
	for _, address := range []string{"192.0.2.7:5432", "[2001:db8::7]:5432", "[::ffff:192.0.2.7]:5432"} {
		if err := newHosts("postgres_hosts", postgresPort, []string{"db.example"}).allowDialled(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}

	// By a real look-up, for both kinds of target.
	r := newReceiver(t, done)
	_, port, err := net.SplitHostPort(r.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []hosts{newHosts("postgres_hosts", postgresPort, []string{"db.example:" + port}),
		r.targets("hooks.example:" + port).hooks.hosts} {
		conn, err := h.dial(t.Context(), "tcp", "localhost:"+port)
		if err == nil {
			_ = conn.Close()
		}
		wantRefusal(t, err, "an address of this machine")
	}
}

// Plain http is for this machine only, also if the name "localhost" resolves to another.
func TestPlainHTTPStaysOnThisMachine(t *testing.T) {
	for _, text := range []string{"http://hooks.example/", "http://0.0.0.0/", "http://localhost.example/",
		"http://[::]/", "http://2130706433/", "http://127.1/"} {
		if checkURL(text) == nil {
			t.Errorf("%s is accepted", text)
		}
	}
	for address, want := range map[string]bool{"127.0.0.1": true, "::1": true, "192.0.2.7": false} {
		ours, theirs := net.Pipe()
		dial := loopbackOnly(func(context.Context, string, string) (net.Conn, error) {
			return remote{ours, &net.TCPAddr{IP: net.ParseIP(address)}}, nil
		})
		if _, err := dial(t.Context(), "tcp", "localhost:80"); (err == nil) != want {
			t.Errorf("localhost leads to %s: got %v", address, err)
		}
		_, _ = ours.Close(), theirs.Close()
	}
}

// remote is a connection to another machine.
type remote struct {
	net.Conn
	to net.Addr
}

func (r remote) RemoteAddr() net.Addr { return r.to }

// The scenario: a connection string, which is a secret's value, makes vaultd read and present files that it can read.
func TestAConnectionStringNamesNoFile(t *testing.T) {
	for _, setting := range fileSettings {
		for _, prefix := range []string{"postgres://admin:" + url.PathEscape(adminPassword) + "@db.example/d?",
			"postgres://admin@/d?host=/var/run/postgresql&"} {
			targets := newTargets(Options{Open: secrets{adminSecret: prefix + setting + "=/etc/vault/kek"}.open})
			err := targets.Set(t.Context(), "postgres-role role=app via="+adminSecret, change("the-candidate-itself"))
			wantRefusal(t, err, "has the setting "+setting, "/etc/vault/kek", "the-candidate-itself")
		}
		_, err := Parse("postgres-role role=app via=a login=postgres://db.example/d?" + setting + "=/etc/vault/kek")
		wantRefusal(t, err, "has the setting "+setting)
	}
	for _, other := range []string{"options=-cx", "target_session_attrs=any", "sslmode=require&sslmode=disable",
		"hostaddr=127.0.0.1", "SSLKEY=/x", "user=x", "dbname=x", "password=x", "min_protocol_version=3.0"} {
		if _, err := parseServer("postgres://u:p@db.example/d?" + other); err == nil {
			t.Errorf("%s is accepted", other)
		}
	}
}

// Every setting that pgx reads as a file comes from vaultd's configuration, not from its environment.
func TestVaultdsOwnFilesAreNotUsedForATarget(t *testing.T) {
	for _, name := range []string{"PGSSLCERT", "PGSSLKEY", "PGSSLROOTCERT", "PGPASSFILE", "PGSERVICEFILE"} {
		t.Setenv(name, "/nowhere/at/all")
	}
	s, err := parseServer("postgres://u:p@db.example/d")
	if err != nil {
		t.Fatal(err)
	}
	c, err := postgres{}.config(s)
	if err != nil || len(c.TLSConfig.Certificates) != 0 || c.TLSConfig.RootCAs != nil {
		t.Errorf("got %v, and a file of the environment", err)
	}
	wantRefusal(t, Check(Options{PostgresCA: "/nowhere/ca.pem"}), "postgres_ca: open /nowhere/ca.pem")
	wantRefusal(t, Check(Options{PostgresCA: "/etc/hostname"}), "postgres_ca")
}

// Every connection string is refused without repeating it, or its hosts have one form each, and pgx opens no file for
// it and connects to no other host.
func FuzzConnectionStringsNameListedPlacesOnly(f *testing.F) {
	for _, text := range []string{
		"postgres://u:p@h:1,[::1],127.0.0.1/d?sslmode=require", "postgres://u@/d?host=/var/run/postgresql&port=5433",
		"postgresql://u:p@[::ffff:7f00:1]/d",
		"postgres://u:p@h/d?sslkey=/etc/shadow&sslcert=/x", "postgres://u:p'\\@h/d", "postgres://u:p@H./d?host=x",
		"postgres://u@/d?host=@a,C:\\x", "postgres://u@h/d?sslmode=verify-ca",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseServer(text)
		if err != nil {
			if len(text) > 20 && strings.Contains(err.Error(), text) {
				t.Errorf("the error %q repeats the text", err)
			}
			return
		}
		listed := hosts{setting: "postgres_hosts", listed: map[string]bool{}}
		for i := range s.hosts {
			at, ok := place(s.hosts[i], s.ports[i], postgresPort)
			if !ok {
				t.Fatalf("%q has no form", s.hosts[i])
			}
			listed.listed[at] = true
		}
		c, err := postgres{}.config(s)
		if err != nil {
			return
		}
		places := []*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}
		for _, p := range append(places, c.Fallbacks...) {
			at, _ := place(p.Host, strconv.Itoa(int(p.Port)), "")
			if err := listed.allow(at); err != nil {
				t.Errorf("%q: pgx would connect elsewhere: %v", text, err)
			}
			if p.TLSConfig != nil && (len(p.TLSConfig.Certificates) > 0 || p.TLSConfig.RootCAs != nil) {
				t.Errorf("%q: pgx has opened a file", text)
			}
		}
	})
}
