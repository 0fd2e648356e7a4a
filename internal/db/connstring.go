package db

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgservicefile"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A connection string is parsed here by libpq's rules, and pgx gets one that is written anew. pgx passes keywords that
// it does not know to the server as parameters, so a misread string could carry the password to another server; and its
// errors repeat the string. Here every keyword is one of the table, and an error contains nothing but the keyword.

// connSettings are the values of the keywords that are given. An empty value counts: it hides that of the environment.
type connSettings map[string]string

// CheckConnectionString reports what is wrong with the text of a connection string, without repeating any of it. It
// reads neither the environment nor files.
func CheckConnectionString(text string) error {
	_, err := parseConnString(text)
	return err
}

// settings are those of the string, then of the service that it or the environment names, then of the environment.
func (o Options) settings() (connSettings, error) {
	given, err := parseConnString(o.URL)
	if err != nil {
		return nil, err
	}
	all, err := environmentSettings()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"service", "servicefile"} {
		if given[name] == "" {
			delete(given, name)
		}
	}
	service, err := serviceSettings(all.with(given))
	if err != nil {
		return nil, err
	}
	all = all.with(service).with(given)
	if service != nil {
		all["servicefile"] = service["servicefile"]
	}
	return all, all.resolve()
}

func (s connSettings) with(more connSettings) connSettings {
	all := connSettings{}
	for _, some := range []connSettings{s, more} {
		for name, value := range some {
			all[name] = value
		}
	}
	return all
}

func badString(format string, args ...any) error {
	return newError(ErrInvalid, "the connection string: "+format, args...)
}

const schemeHint = `a URL begins with "postgres://" or "postgresql://", in lower case and with nothing before it`

func parseConnString(text string) (connSettings, error) {
	if strings.ContainsRune(text, 0) {
		return nil, badString("it holds a byte 0")
	}
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		if rest, ok := strings.CutPrefix(text, scheme); ok {
			return parseURL(rest)
		}
	}
	if before, _, _ := strings.Cut(text, "="); strings.Contains(before, "://") {
		return nil, badString(schemeHint)
	}
	return parseKeywords(text)
}

// set checks and stores a value. place is the number of the parameter, because an unknown name cannot be repeated.
func (s connSettings) set(name, value string, place int) error {
	k, known := findKeyword(name)
	switch {
	case !known && strings.HasPrefix(name, poolSettings):
		return badString("parameter %d is of pgx's pool; vaultctl has --concurrency for that, vaultd max_connections",
			place)
	case !known:
		return badString("parameter %d is not one of libpq's; settings of the server go into \"options\", as -c NAME=VALUE",
			place)
	}
	if wrong := k.check(value); wrong != "" {
		return badString("%q %s", k.name, wrong)
	}
	s[name] = value
	return nil
}

const space = " \t\n\r\v\f"

// parseKeywords reads host=... port=..., as libpq's conninfo_parse does.
func parseKeywords(text string) (connSettings, error) {
	s := connSettings{}
	for place := 1; ; place++ {
		text = strings.TrimLeft(text, space)
		if text == "" {
			return s, nil
		}
		end := strings.IndexAny(text, "="+space)
		if end < 0 {
			end = len(text)
		}
		name, rest := text[:end], strings.TrimLeft(text[end:], space)
		rest, ok := strings.CutPrefix(rest, "=")
		if !ok {
			return nil, badString("no \"=\" after word %d; a value that holds a blank stands in '...'", place)
		}
		value, rest, ok := cutValue(strings.TrimLeft(rest, space))
		if !ok {
			return nil, badString("the value of parameter %d has an opening ' but no closing one", place)
		}
		if err := s.set(name, value, place); err != nil {
			return nil, err
		}
		text = rest
	}
}

// cutValue cuts off a value, in quotes or up to a blank. A backslash escapes the character after it.
func cutValue(text string) (value, rest string, ok bool) {
	text, quoted := strings.CutPrefix(text, "'")
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\'':
			return b.String(), text[i+1:], true
		case !quoted && strings.IndexByte(space, c) >= 0:
			return b.String(), text[i:], true
		case c == '\\':
			if i++; i < len(text) {
				b.WriteByte(text[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), "", !quoted
}

// parseURL reads what follows "postgres://", as libpq's conninfo_uri_parse does. It refuses an @ or # that libpq would
// accept within a host, a database or a value: most likely it belongs to a password that was not escaped.
func parseURL(text string) (connSettings, error) {
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, badString("the URL holds a blank, a tab or a line's end; " +
			"in a name or a password it is written %%20, %%09 or %%0A")
	}
	s := connSettings{}
	text, err := s.readCredentials(text)
	if err != nil {
		return nil, err
	}
	switch {
	case strings.Contains(text, "@"):
		return nil, badString("an @ within the user, the password or what follows them is written %%40, " +
			"and a / before it %%2F")
	case strings.Contains(text, "#"):
		return nil, badString("a # is written %%23, and a / in the user or the password %%2F")
	}
	text, parameters, _ := strings.Cut(text, "?")
	hosts, database, _ := strings.Cut(text, "/")
	if err := s.readHosts(hosts); err != nil {
		return nil, err
	}
	if err := s.setDecoded("dbname", database); err != nil {
		return nil, err
	}
	return s, s.readParameters(parameters)
}

// readCredentials cuts off the user and the password: up to the first @, if no / comes before it.
func (s connSettings) readCredentials(text string) (rest string, err error) {
	end := strings.IndexAny(text, "@/")
	if end < 0 || text[end] == '/' {
		return text, nil
	}
	user, password, _ := strings.Cut(text[:end], ":")
	return text[end+1:], errors.Join(s.setDecoded("user", user), s.setDecoded("password", password))
}

// setDecoded skips an empty value, as libpq does before the parameters of a URL.
func (s connSettings) setDecoded(name, text string) error {
	value, ok := decode(text)
	switch {
	case !ok:
		return badString("in %q a %% does not begin a byte in hexadecimal; a %% itself is written %%25", name)
	case value == "":
		return nil
	}
	return s.set(name, value, 0)
}

// decode decodes as libpq does: a + stands for itself.
func decode(text string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		if i+3 > len(text) {
			return "", false
		}
		n, err := strconv.ParseUint(text[i+1:i+3], 16, 8)
		if err != nil || n == 0 {
			return "", false
		}
		b.WriteByte(byte(n))
		i += 2
	}
	return b.String(), true
}

// readHosts reads HOST[:PORT][,...]; an IPv6 address is in brackets.
func (s connSettings) readHosts(text string) error {
	var hosts, ports []string
	for one := range strings.SplitSeq(text, ",") {
		host, port, ok := cutHost(one)
		if !ok {
			return badString("\"host\" is not of the form HOST:PORT or [ADDRESS]:PORT " +
				"(a / in the user or the password is written %%2F)")
		}
		hosts, ports = append(hosts, host), append(ports, port)
	}
	if slices.Max(ports) == "" {
		ports = nil
	}
	return errors.Join(s.setDecoded("host", strings.Join(hosts, ",")), s.setDecoded("port", strings.Join(ports, ",")))
}

func cutHost(text string) (host, port string, ok bool) {
	if inside, bracketed := strings.CutPrefix(text, "["); bracketed {
		host, text, ok = strings.Cut(inside, "]")
		if !ok || host == "" || (text != "" && text[0] != ':') {
			return "", "", false
		}
		return host, strings.TrimPrefix(text, ":"), true
	}
	host, port, _ = strings.Cut(text, ":")
	return host, port, !strings.Contains(port, ":")
}

func (s connSettings) readParameters(text string) error {
	text = strings.TrimSuffix(text, "&")
	for place, one := range strings.Split(text, "&") {
		if text == "" {
			break
		}
		left, right, ok := strings.Cut(one, "=")
		name, good := decode(left)
		value, alsoGood := decode(right)
		switch {
		case !ok || strings.Contains(right, "="):
			return badString("parameter %d of the URL is not NAME=VALUE; a further = is written %%3D", place+1)
		case !good || !alsoGood:
			return badString("in parameter %d of the URL a %% does not begin a byte in hexadecimal; "+
				"a %% itself is written %%25", place+1)
		case name == "ssl" && value == "true": // JDBC's, which libpq takes too
			name, value = "sslmode", "require"
		}
		if err := s.set(name, value, place+1); err != nil {
			return err
		}
	}
	return nil
}

func environmentSettings() (connSettings, error) {
	s := connSettings{}
	for _, k := range keywords {
		value := ""
		if k.env != "" {
			value = os.Getenv(k.env)
		}
		if value == "" {
			continue
		}
		if wrong := k.check(value); wrong != "" {
			return nil, newError(ErrInvalid, "the environment: %s %s", k.env, wrong)
		}
		s[k.name] = value
	}
	return s, nil
}

// serviceSettings looks for the service where libpq does: in the user's file, then in the system's. It sets servicefile
// to the file that has it.
func serviceSettings(s connSettings) (connSettings, error) {
	if s["service"] == "" {
		return nil, nil
	}
	for _, path := range serviceFiles(s["servicefile"]) {
		file, err := pgservicefile.ReadServicefile(path)
		var missing *fs.PathError
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case errors.As(err, &missing):
			return nil, newError(ErrInvalid, "the service file: %s", missing.Err)
		case err != nil:
			return nil, newError(ErrInvalid, "the service file: %s", err) // a line's number
		}
		if entry, err := file.GetService(s["service"]); err == nil {
			found, err := checkService(entry.Settings)
			if err == nil {
				found["service"], found["servicefile"] = s["service"], path
			}
			return found, err
		}
	}
	return nil, newError(ErrInvalid, "\"service\": no service file has it (PGSERVICEFILE, else ~/.pg_service.conf; "+
		"then pg_service.conf in PGSYSCONFDIR)")
}

func serviceFiles(given string) (paths []string) {
	if given != "" {
		paths = append(paths, given)
	} else if home, err := os.UserHomeDir(); err == nil {
		paths = append(paths, filepath.Join(home, ".pg_service.conf"))
	}
	if system := os.Getenv("PGSYSCONFDIR"); system != "" {
		paths = append(paths, filepath.Join(system, "pg_service.conf"))
	}
	return paths
}

func checkService(settings map[string]string) (connSettings, error) {
	s := connSettings{}
	for name, value := range settings {
		k, known := findKeyword(name)
		if !known || strings.HasPrefix(k.name, "service") {
			return nil, newError(ErrInvalid, "the service file: the service has a setting that libpq does not take there")
		}
		if wrong := k.check(value); wrong != "" {
			return nil, newError(ErrInvalid, "the service file: %q %s", k.name, wrong)
		}
		s[k.name] = value
	}
	return s, nil
}

// resolve computes what depends on several settings: the list of hosts, and how their certificates are checked.
func (s connSettings) resolve() error {
	hosts, addresses, ports := s.list("host"), s.list("hostaddr"), s.list("port")
	n := max(len(hosts), len(addresses))
	switch {
	case len(hosts) > 0 && len(addresses) > 0 && len(hosts) != len(addresses):
		return badString("\"hostaddr\" has %d elements and \"host\" has %d", len(addresses), len(hosts))
	case len(ports) > 1 && len(ports) != n:
		return badString("\"port\" has %d elements and \"host\" has %d", len(ports), n)
	}
	servers := make([][3]string, n)
	remote := false
	for i := range servers {
		host, address, port := at(hosts, i), at(addresses, i), at(ports, i)
		if len(ports) == 1 {
			port = ports[0]
		}
		if address != "" && (host == "" || strings.HasPrefix(host, "/")) {
			host = address
		}
		servers[i] = [3]string{host, address, port}
		reached := cmp.Or(address, host)
		remote = remote || (reached != "" && !isLocal(reached))
	}
	if s["load_balance_hosts"] == "random" {
		rand.Shuffle(n, func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
	}
	for i, name := range []string{"host", "hostaddr", "port"} {
		s.join(name, servers, i)
	}
	if remote && s["sslmode"] == "" {
		s["sslmode"] = "verify-full" // with libpq's prefer, a host in the middle can turn encryption off
	}
	return nil
}

func (s connSettings) list(name string) []string {
	if s[name] == "" {
		return nil
	}
	return strings.Split(s[name], ",")
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

func (s connSettings) join(name string, servers [][3]string, column int) {
	if len(servers) == 0 {
		return
	}
	list := make([]string, len(servers))
	for i := range servers {
		list[i] = servers[i][column]
	}
	s[name] = strings.Join(list, ",")
}

var quoting = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

// text is the connection string for pgx, with only what pgx implements.
func (s connSettings) text() string {
	var b strings.Builder
	for _, k := range keywords {
		value, given := s[k.name]
		switch {
		case !given, k.use != passed && k.name != "service" && k.name != "servicefile":
			continue
		case value == "" && len(k.values) > 0:
			value = k.values[0]
		case k.name == "connect_timeout":
			seconds, _ := strconv.Atoi(strings.TrimSpace(value)) // checked; without one, or below 0, there is no limit
			value = strconv.Itoa(max(seconds, 0))
		case value == "" && strings.HasSuffix(k.name, "_capacity"):
			continue
		}
		fmt.Fprintf(&b, "%s='%s' ", k.name, quoting.Replace(value))
	}
	return b.String()
}

// config is for one connection, or each of a pool. validate, if not nil, runs after the session has its settings.
func (o Options) config(validate pgconn.ValidateConnectFunc) (*pgx.ConnConfig, error) {
	s, err := o.settings()
	if err != nil {
		return nil, err
	}
	c, err := pgx.ParseConfig(s.text())
	if err != nil {
		return nil, s.explain(err)
	}
	s.apply(c)
	if validate != nil {
		c.ValidateConnect = validate
	}
	prepare(c, o)
	return c, nil
}

// explain returns why pgx refuses the settings. pgx's own text may repeat them.
func (s connSettings) explain(err error) error {
	var file *fs.PathError
	if !errors.As(err, &file) {
		return badString("a certificate's file, its key or \"sslpassword\" is not usable, or min_protocol_version " +
			"is above max_protocol_version")
	}
	for _, name := range []string{"sslrootcert", "sslcert", "sslkey"} {
		if s[name] == file.Path {
			return badString("the file of %q: %s", name, file.Err)
		}
	}
	return badString("a certificate's file in ~/.postgresql: %s", file.Err)
}

// apply implements what pgx does not. It passes no parameter but "options" to the server.
func (s connSettings) apply(c *pgx.ConnConfig) {
	c.RuntimeParams = map[string]string{}
	if s["options"] != "" {
		c.RuntimeParams["options"] = s["options"]
	}
	c.DialFunc = s.dialer().DialContext
	if s.given("hostaddr") {
		c.LookupFunc = s.addresses
	}
	for _, t := range tlsConfigs(&c.Config) {
		t.MinVersion = max(t.MinVersion, s.tlsVersion("ssl_min_protocol_version"))
		t.MaxVersion = s.tlsVersion("ssl_max_protocol_version")
	}
}

func (s connSettings) given(name string) bool { return strings.Trim(s[name], ",") != "" }

func tlsConfigs(c *pgconn.Config) (all []*tls.Config) {
	if c.TLSConfig != nil {
		all = append(all, c.TLSConfig)
	}
	for _, f := range c.Fallbacks {
		if f.TLSConfig != nil {
			all = append(all, f.TLSConfig)
		}
	}
	return all
}

// tlsVersion is 0, which means Go's own limit, if none is given.
func (s connSettings) tlsVersion(name string) uint16 {
	i := slices.IndexFunc(tlsVersions, func(v string) bool { return strings.EqualFold(v, s[name]) })
	if i < 0 {
		return 0
	}
	return tls.VersionTLS10 + uint16(i)
}

// addresses replaces the lookup of hosts that have a hostaddr.
func (s connSettings) addresses(ctx context.Context, host string) (found []string, err error) {
	hosts, addresses, ports := s.list("host"), s.list("hostaddr"), s.list("port")
	for i := range hosts {
		if hosts[i] == host && at(addresses, i) != "" {
			found = append(found, net.JoinHostPort(addresses[i], cmp.Or(at(ports, i), "5432")))
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	return net.DefaultResolver.LookupHost(ctx, host)
}

// dialer has the vault's limits where the string sets none.
func (s connSettings) dialer() *net.Dialer {
	d := dialer()
	k := &d.KeepAliveConfig
	k.Enable = s["keepalives"] != "0"
	if !k.Enable {
		d.KeepAlive = -1
	}
	for name, limit := range map[string]*time.Duration{"keepalives_idle": &k.Idle, "keepalives_interval": &k.Interval} {
		if n := s.number(name); n > 0 {
			*limit = time.Duration(n) * time.Second
		}
	}
	if n := s.number("keepalives_count"); n > 0 {
		k.Count = n
	}
	if s["tcp_user_timeout"] != "" {
		d.Control = userTimeoutOf(time.Duration(max(s.number("tcp_user_timeout"), 0)) * time.Millisecond)
	}
	return d
}

func (s connSettings) number(name string) int {
	n, _ := strconv.Atoi(strings.TrimSpace(s[name])) // checked; 0 where there is none
	return n
}
