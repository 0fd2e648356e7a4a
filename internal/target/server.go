package target

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const connectTimeout = 5 * time.Second // for one host

// server is where a target's PostgreSQL is and who logs in.
type server struct {
	hosts, ports   []string
	database       string
	user, password string
	settings       map[string]string // sslmode and the certificates' files
}

var serverSettings = []string{"host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey"}

var errServerURL = errors.New("is not of the form postgres://USER:PASSWORD@HOST[:PORT]/DATABASE[?sslmode=...&sslrootcert=...&sslcert=...&sslkey=...] " +
	"(a socket: postgres://USER@/DATABASE?host=/FOLDER)")

// parseServer reads a connection string out of a secret or a spec. Only a URL that says everything itself is accepted, as
// libpq's rules would fill what it leaves out from vaultd's own environment: its password would go to whoever the URL names.
// The error repeats nothing of the text.
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
	s := server{database: strings.TrimPrefix(u.Path, "/"), user: u.User.Username(), settings: map[string]string{}}
	s.password, _ = u.User.Password()
	for key, values := range query {
		s.settings[key] = values[0]
		if !slices.Contains(serverSettings, key) || len(values) != 1 {
			return server{}, errServerURL
		}
	}
	if !s.readHosts(hosts) || s.database == "" || strings.Contains(text, "\x00") || strings.Contains(text, "%00") {
		return server{}, errServerURL
	}
	return s, nil
}

// cutHosts takes the hosts out of a URL: a list of them is libpq's own invention, which net/url cannot read.
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
func (s *server) readHosts(list string) bool {
	inQuery := s.settings["host"]
	if (list == "") == (inQuery == "") || (list != "" && s.settings["port"] != "") {
		return false
	}
	for one := range strings.SplitSeq(list+inQuery, ",") {
		host, port := one, s.settings["port"]
		if list != "" {
			host, port = cutPort(one)
		}
		if n, err := strconv.ParseUint(cmp.Or(port, "5432"), 10, 16); host == "" || strings.Contains(host, "%") || err != nil || n == 0 {
			return false
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

// sslmode is verify-full to another machine unless the URL chooses: libpq's default can be talked down to nothing.
func (s server) sslmode() string {
	if mode := s.settings["sslmode"]; mode != "" {
		return mode
	}
	for _, host := range s.hosts {
		if !strings.HasPrefix(host, "/") && !isLoopback(host) {
			return "verify-full"
		}
	}
	return "prefer"
}

// config says every setting that libpq's environment could say otherwise.
func (s server) config() (*pgx.ConnConfig, error) {
	var text strings.Builder
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	for _, setting := range [][2]string{
		{"host", strings.Join(s.hosts, ",")}, {"port", strings.Join(s.ports, ",")},
		{"dbname", s.database}, {"user", s.user}, {"password", s.password}, {"passfile", ""},
		{"sslmode", s.sslmode()}, {"sslrootcert", s.settings["sslrootcert"]}, {"sslcert", s.settings["sslcert"]}, {"sslkey", s.settings["sslkey"]},
		{"sslcertmode", "allow"}, {"sslnegotiation", "postgres"}, {"sslsni", "1"}, {"channel_binding", "prefer"}, {"require_auth", ""},
		{"target_session_attrs", "any"}, {"connect_timeout", fmt.Sprint(int(connectTimeout.Seconds()))},
	} {
		fmt.Fprintf(&text, "%s='%s' ", setting[0], quote.Replace(setting[1]))
	}
	c, err := pgx.ParseConfig(text.String())
	if err != nil {
		return nil, err
	}
	c.RuntimeParams = map[string]string{"application_name": "hyperiondb-vault"}
	c.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing prepared: the session may be a pooler's
	return c, nil
}

// connect logs in as the server's user. Method is the one way to prove the password, "" = any.
func (s server) connect(ctx context.Context, method string, validate pgconn.ValidateConnectFunc) (*pgx.Conn, error) {
	c, err := s.config()
	if file := new(fs.PathError); errors.As(err, &file) {
		return nil, file // a certificate's
	}
	if err != nil {
		return nil, errors.New("sslmode or a certificate's file is not usable") // pgx's own text may repeat the password
	}
	c.RequireAuth, c.ValidateConnect = method, validate
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, s.explain(err)
	}
	return conn, nil
}

// explain keeps what helps and nothing of the connection string but the address. A server is not trusted with what it says:
// one that repeats the password it was given is cut short.
func (s server) explain(err error) error {
	text := err.Error()
	var refused *pgconn.PgError
	var connecting *pgconn.ConnectError
	switch {
	case errors.As(err, &refused):
		text = fmt.Sprintf("%.200s (SQLSTATE %.5s)", refused.Message, refused.Code)
	case errors.As(err, &connecting):
		text = connecting.Unwrap().Error()
	}
	text = strings.NewReplacer("\n", "; ", "\r", " ").Replace(text)
	if s.password != "" {
		text = strings.ReplaceAll(text, s.password, "xxxxx")
	}
	return errors.New(text)
}

// closing does not wait for a server that is gone.
func closing(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the outcome was decided before
}
