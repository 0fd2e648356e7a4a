package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hyperiondb/vault/internal/rotation"
)

const (
	connectTimeout = 5 * time.Second // for one host
	postgresPort   = "5432"
)

// server is the address of a target's PostgreSQL and the login there.
type server struct {
	hosts, ports   []string
	database       string
	user, password string
	mode           string // sslmode, "" = not chosen
	found          string // the address at which the primary was found; "" = resolve hosts
}

var errServerURL = errors.New("is not of the form postgres://USER:PASSWORD@HOST[:PORT]/DATABASE[?sslmode=...] " +
	"(a socket: postgres://USER@/DATABASE?host=/FOLDER)")

// fileSettings are the settings of libpq and of pgx that name a file of this machine, or open one. A connection string
// is a secret's value, so with them its author could make vaultd read, and present, any file that vaultd can read.
var fileSettings = []string{
	"sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslcrldir", "sslkeylogfile", "passfile", "service",
	"servicefile", "krbsrvname", "gsslib", "oauth_ca_file",
}

// parseServer reads a connection string of a secret or a spec. Only a complete URL is accepted: libpq's rules would
// take missing parts from vaultd's own environment and send its password to the server that the URL names. The error
// repeats nothing of the text.
func parseServer(text string) (server, error) {
	text, hosts := cutHosts(text)
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") || u.Host != "" || u.Fragment != "" {
		return server{}, errServerURL
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return server{}, errServerURL
	}
	if named := slices.IndexFunc(fileSettings, query.Has); named >= 0 {
		return server{}, fmt.Errorf("has the setting %s: a connection string of a rotator names no files; "+
			"postgres_ca in vaultd's configuration has the certificates that it trusts", fileSettings[named])
	}
	s := server{database: strings.TrimPrefix(u.Path, "/"), user: u.User.Username(), mode: query.Get("sslmode")}
	s.password, _ = u.User.Password()
	for key, values := range query {
		if !slices.Contains([]string{"host", "port", "sslmode"}, key) || len(values) != 1 {
			return server{}, errServerURL
		}
	}
	if !s.readHosts(hosts, query.Get("host"), query.Get("port")) || s.database == "" || strings.Contains(text,
		"\x00") || strings.Contains(text, "%00") {
		return server{}, errServerURL
	}
	return s, nil
}

// cutHosts takes the hosts out of a URL: net/url cannot read libpq's lists of hosts.
func cutHosts(text string) (without, hosts string) {
	scheme, rest, _ := strings.Cut(text, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		return text, ""
	}
	start := strings.LastIndexByte(rest[:end], '@') + 1
	return scheme + "://" + rest[:start] + rest[end:], rest[start:end]
}

// readHosts takes the hosts from the front of the URL or, for sockets, from its query; not from both.
func (s *server) readHosts(list, inQuery, portInQuery string) bool {
	if (list == "") == (inQuery == "") || (list != "" && portInQuery != "") {
		return false
	}
	for one := range strings.SplitSeq(list+inQuery, ",") {
		host, port := one, portInQuery
		if list != "" {
			host, port = cutPort(one)
		}
		if _, ok := place(host, port, postgresPort); !ok || strings.ContainsAny(host, `%@\`) {
			return false
		}
		if strings.HasPrefix(host, "/") && filepath.Clean(host) != host {
			return false // the folder that is compared with the list must be the one that is opened
		}
		s.hosts, s.ports = append(s.hosts, host), append(s.ports, port)
	}
	return true
}

func cutPort(address string) (host, port string) {
	if host, port, err := net.SplitHostPort(address); err == nil {
		return host, port
	}
	return strings.Trim(address, "[]"), ""
}

// sslmode is verify-full to another machine unless the URL chooses: with libpq's default a server can refuse TLS.
func (s server) sslmode() string {
	if s.mode != "" {
		return s.mode
	}
	for _, host := range s.hosts {
		if !strings.HasPrefix(host, "/") && !isLoopback(host) {
			return "verify-full"
		}
	}
	return "prefer"
}

// postgres reaches the servers that the configuration names.
type postgres struct {
	hosts hosts
	ca    string // a file of certificates that verify servers, "" = the system's
}

// config sets every setting that libpq's environment could set otherwise.
func (p postgres) config(s server) (*pgx.ConnConfig, error) {
	var text strings.Builder
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	for _, setting := range [][2]string{
		{"host", strings.Join(s.hosts, ",")}, {"port", strings.Join(s.ports, ",")},
		{"dbname", s.database}, {"user", s.user}, {"password", s.password}, {"passfile", ""},
		{"sslmode", s.sslmode()}, {"sslrootcert", p.ca}, {"sslcert", ""}, {"sslkey", ""},
		{"sslcertmode", "disable"}, {"sslnegotiation", "postgres"}, {"sslsni", "1"}, {"channel_binding",
			"prefer"}, {"require_auth", ""},
		{"target_session_attrs", "any"}, {"connect_timeout", fmt.Sprint(int(connectTimeout.Seconds()))},
	} {
		fmt.Fprintf(&text, "%s='%s' ", setting[0], quote.Replace(setting[1]))
	}
	c, err := pgx.ParseConfig(text.String())
	if file := new(fs.PathError); errors.As(err, &file) {
		return nil, fmt.Errorf("postgres_ca: %w", file)
	}
	if err != nil {
		// pgx's own text may repeat the password.
		return nil, errors.New("sslmode, or postgres_ca in vaultd's configuration, is not usable")
	}
	c.RuntimeParams = map[string]string{"application_name": "hyperiondb-vault"}
	c.DefaultQueryExecMode = pgx.QueryExecModeExec // no prepared statements: the server may be a connection pooler
	c.DialFunc = p.hosts.dial
	if s.found != "" {
		c.LookupFunc = func(context.Context, string) ([]string, error) { return []string{s.found}, nil }
	}
	return c, nil
}

// methods are the ways in which a login may prove the password.
const (
	anyMethod  = ""
	scram      = "scram-sha-256"
	scramOrMD5 = "scram-sha-256,md5"
)

// connect logs in as the server's user, at the first of its hosts that validate accepts. Its errors are a *refusal.
func (p postgres) connect(ctx context.Context, s server, methods string,
	validate pgconn.ValidateConnectFunc) (*pgx.Conn, error) {
	for i := range s.hosts {
		at, _ := place(s.hosts[i], s.ports[i], postgresPort)
		if err := p.hosts.allow(at); err != nil {
			return nil, &refusal{text: err.Error(), never: true}
		}
	}
	c, err := p.config(s)
	if err != nil {
		return nil, &refusal{text: err.Error()}
	}
	seen := &loginTrace{}
	c.BuildFrontend = seen.frontend
	c.RequireAuth, c.ValidateConnect = methods, validate
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, s.explain(err, seen.accepted)
	}
	return conn, nil
}

// primary connects to the one of the hosts that takes writes, and returns its address: if a name has many addresses,
// later connections must reach the same server.
func (p postgres) primary(ctx context.Context, s server) (*pgx.Conn, server, error) {
	var why error
	hopeless := true // so far each host has failed with rotation.ErrNever
	for i := range s.hosts {
		one := s
		one.hosts, one.ports = s.hosts[i:i+1], s.ports[i:i+1]
		one.mode = s.sslmode()
		conn, err := p.connect(ctx, one, anyMethod, isPrimary)
		if err == nil {
			if tcp, ok := conn.PgConn().Conn().RemoteAddr().(*net.TCPAddr); ok {
				one.found = tcp.String()
			}
			return conn, one, nil
		}
		why, hopeless = errors.Join(why, err), hopeless && errors.Is(err, rotation.ErrNever)
	}
	if hopeless {
		return nil, s, never{oneLine(why)}
	}
	return nil, s, oneLine(why)
}

func oneLine(err error) error {
	return errors.New(strings.NewReplacer("\n", "; ", "\r", " ").Replace(err.Error()))
}

// isPrimary qualifies the function: a database's owner may have put one of that name into its search_path.
func isPrimary(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, "SELECT pg_catalog.pg_is_in_recovery()").ReadAll()
	if err != nil {
		return err
	}
	if string(results[0].Rows[0][0]) == "t" {
		return errStandby
	}
	return nil
}

var errStandby = errors.New("the server is a standby")

// loginTrace follows a login: the server has accepted the password once pgx has read its answer to a proof. A refusal
// after that (too many connections, no such database, no right to connect) does not concern the password.
type loginTrace struct{ proven, accepted bool }

func (w *loginTrace) frontend(r io.Reader, to io.Writer) *pgproto3.Frontend {
	w.proven = false // another connection; a login that was accepted before it stays so
	f := pgproto3.NewFrontend(r, to)
	f.Trace(w, pgproto3.TracerOptions{SuppressTimestamps: true})
	return f
}

// Write gets a line for each message that pgx sends or has received. It reads the sender and the name only.
func (w *loginTrace) Write(line []byte) (int, error) {
	switch {
	case w.accepted:
	case bytes.HasPrefix(line, []byte("B\tAuthenticationSASLFinal\t")), bytes.HasPrefix(line,
		[]byte("B\tAuthenticationMD5Password\t")):
		w.proven = true
	case w.proven && bytes.HasPrefix(line, []byte("B\tAuthenticationOk\t")):
		w.accepted = true
	}
	return len(line), nil
}

// refusal is a login that failed. Code is the server's, "" if the server gave none.
type refusal struct {
	text   string
	code   string
	proven bool // the server had accepted the password
	never  bool // it is rotation.ErrNever
}

// Is makes a refusal rotation.ErrNever.
func (r *refusal) Is(target error) bool { return r.never && target == rotation.ErrNever }

func (r *refusal) Error() string { return r.text }

// explain keeps the reason, and nothing of the connection string but the address. A server's text is not trusted: it is
// cut to 200 bytes, and the password in it is replaced.
func (s server) explain(err error, accepted bool) *refusal {
	r := &refusal{text: err.Error(), never: errors.Is(err, rotation.ErrNever)}
	var refused *pgconn.PgError
	var connecting *pgconn.ConnectError
	switch {
	case errors.As(err, &refused):
		r.code, r.proven = refused.Code, accepted
		r.text = fmt.Sprintf("%.200s (SQLSTATE %.5s)", refused.Message, refused.Code)
	case errors.As(err, &connecting):
		r.text = connecting.Unwrap().Error()
	}
	r.text = oneLine(errors.New(r.text)).Error()
	if s.password != "" {
		r.text = strings.ReplaceAll(r.text, s.password, "xxxxx")
	}
	return r
}

// closeConn closes a connection, within a second if the server is gone.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the outcome was decided before
}

// checkCA reads the file once. Each connection reads it again, so a new file needs no restart.
func checkCA(path string) error {
	if path == "" {
		return nil
	}
	_, err := postgres{ca: path}.config(server{hosts: []string{"h"}, ports: []string{postgresPort}, database: "d"})
	return err
}
