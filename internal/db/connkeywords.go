package db

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// use is how a keyword of a connection string is handled.
type use int

const (
	passed  use = iota // passed to pgx, which does what libpq does
	kept               // implemented here
	ignored            // without effect, as in libpq, or because the vault sets it itself
	refused            // not supported, and ignoring it would be less than was asked for
)

// keyword is a keyword of libpq or (without a variable) of pgx. Errors name only keywords of this table: any other text
// of a connection string, also in the place of a keyword, can be part of a password.
type keyword struct {
	name string
	env  string // libpq's variable for it
	use  use

	values []string // the only ones, beginning with the default; nil = takes decides
	takes  takes    // nil = any
}

// takes checks a value and returns what it has to be; "" = it is valid.
type takes func(value string) string

// keywords lists all of them. The values of a refused keyword are those that ask for nothing.
var keywords = []keyword{
	{name: "host", env: "PGHOST", takes: hostList},
	{name: "hostaddr", env: "PGHOSTADDR", use: kept, takes: addressList},
	{name: "port", env: "PGPORT", takes: portList},
	{name: "dbname", env: "PGDATABASE", takes: databaseName},
	{name: "user", env: "PGUSER"},
	{name: "password", env: "PGPASSWORD"},
	{name: "passfile", env: "PGPASSFILE"},
	{name: "service", env: "PGSERVICE", use: kept},
	{name: "servicefile", env: "PGSERVICEFILE", use: kept},
	{name: "options", env: "PGOPTIONS", use: kept},
	{name: "target_session_attrs", env: "PGTARGETSESSIONATTRS",
		values: []string{"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}},
	{name: "load_balance_hosts", env: "PGLOADBALANCEHOSTS", use: kept, values: []string{"disable", "random"}},
	{name: "application_name", env: "PGAPPNAME", use: ignored}, // both binaries set their own
	{name: "fallback_application_name", use: ignored},
	{name: "client_encoding", env: "PGCLIENTENCODING", use: ignored}, // UTF-8 in any case
	{name: "replication", use: refused, values: []string{"false", "off", "no", "0"}},

	{name: "connect_timeout", env: "PGCONNECT_TIMEOUT", takes: wholeNumber},
	{name: "keepalives", use: kept, values: []string{"1", "0"}},
	{name: "keepalives_idle", use: kept, takes: wholeNumber},
	{name: "keepalives_interval", use: kept, takes: wholeNumber},
	{name: "keepalives_count", use: kept, takes: wholeNumber},
	{name: "tcp_user_timeout", use: kept, takes: wholeNumber},

	{name: "sslmode", env: "PGSSLMODE",
		values: []string{"prefer", "disable", "allow", "require", "verify-ca", "verify-full"}},
	{name: "requiressl", env: "PGREQUIRESSL", use: refused, values: []string{"0"}},
	{name: "sslrootcert", env: "PGSSLROOTCERT"},
	{name: "sslcert", env: "PGSSLCERT"},
	{name: "sslkey", env: "PGSSLKEY"},
	{name: "sslpassword", env: "PGSSLPASSWORD"},
	{name: "sslcertmode", env: "PGSSLCERTMODE", values: []string{"allow", "disable", "require"}},
	{name: "sslsni", env: "PGSSLSNI", values: []string{"1", "0"}},
	{name: "sslnegotiation", env: "PGSSLNEGOTIATION", values: []string{"postgres", "direct"}},
	{name: "sslcompression", env: "PGSSLCOMPRESSION", use: ignored}, // no TLS library compresses any more
	{name: "ssl_min_protocol_version", env: "PGSSLMINPROTOCOLVERSION", use: kept, takes: tlsVersion},
	{name: "ssl_max_protocol_version", env: "PGSSLMAXPROTOCOLVERSION", use: kept, takes: tlsVersion},
	{name: "sslcrl", env: "PGSSLCRL", use: refused},
	{name: "sslcrldir", env: "PGSSLCRLDIR", use: refused},
	{name: "sslkeylogfile", use: refused},

	{name: "channel_binding", env: "PGCHANNELBINDING", values: []string{"prefer", "disable", "require"}},
	{name: "require_auth", env: "PGREQUIREAUTH", takes: methodList},
	{name: "requirepeer", env: "PGREQUIREPEER", use: refused},
	{name: "gssencmode", env: "PGGSSENCMODE", use: refused, values: []string{"disable", "allow", "prefer"}},
	{name: "gssdelegation", env: "PGGSSDELEGATION", use: refused, values: []string{"0"}},
	{name: "gsslib", env: "PGGSSLIB", use: ignored}, // Windows alone has two
	{name: "krbsrvname", env: "PGKRBSRVNAME"},
	{name: "scram_client_key", use: refused},
	{name: "scram_server_key", use: refused},
	{name: "oauth_issuer", use: refused},
	{name: "oauth_client_id", use: refused},
	{name: "oauth_client_secret", use: refused},
	{name: "oauth_scope", use: refused},
	{name: "min_protocol_version", env: "PGMINPROTOCOLVERSION", values: []string{"3.0", "3.2", "latest"}},
	{name: "max_protocol_version", env: "PGMAXPROTOCOLVERSION", values: []string{"3.0", "3.2", "latest"}},

	// pgx's own.
	{name: "default_query_exec_mode",
		values: []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"}},
	{name: "statement_cache_capacity", takes: wholeNumber},
	{name: "description_cache_capacity", takes: wholeNumber},
}

// poolSettings is the prefix of the settings of pgx's pool. They never had an effect, because each command and vaultd
// size their own pools.
const poolSettings = "pool_"

func findKeyword(name string) (keyword, bool) {
	i := slices.IndexFunc(keywords, func(k keyword) bool { return k.name == name })
	if i < 0 {
		return keyword{}, false
	}
	return keywords[i], true
}

// check returns what is wrong with a value, in a text that does not repeat the value.
func (k keyword) check(value string) string {
	switch {
	case strings.ContainsRune(value, 0):
		return "takes no byte 0"
	case value == "" || k.use == ignored:
		return ""
	case slices.Contains(k.values, value):
		return ""
	case k.use == refused:
		return "is not supported"
	case k.values != nil:
		return "takes one of " + strings.Join(k.values, ", ")
	case k.takes != nil:
		return k.takes(value)
	}
	return ""
}

func wholeNumber(value string) string {
	if _, err := strconv.ParseInt(strings.TrimSpace(value), 10, 32); err != nil {
		return "takes a whole number"
	}
	return ""
}

func portList(value string) string {
	for port := range strings.SplitSeq(value, ",") {
		if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || n == 0) {
			return "takes numbers from 1 to 65535 (in a URL, a / in the user or the password is written %2F)"
		}
	}
	return ""
}

// hostList refuses what cannot be a host name: it would go to a name server, and the error of the lookup would print
// it.
func hostList(value string) string {
	for host := range strings.SplitSeq(value, ",") {
		if _, err := netip.ParseAddr(host); err == nil || strings.HasPrefix(host, "/") {
			continue
		}
		if strings.Contains(host, "@") {
			return "holds an @ (in a URL, an @ in the user or the password is written %40)"
		}
		if strings.ContainsAny(host, ":/\\'\"?#&=;% \t\r\n\v\f") {
			return "takes names, addresses and folders of sockets"
		}
	}
	return ""
}

func addressList(value string) string {
	for address := range strings.SplitSeq(value, ",") {
		if _, err := netip.ParseAddr(address); address != "" && err != nil {
			return "takes IP addresses"
		}
	}
	return ""
}

// databaseName refuses a connection string, which psql accepts as a database name: a server's error repeats a name that
// it does not know.
func databaseName(value string) string {
	if strings.Contains(value, "://") || strings.Contains(value, "=") {
		return "takes the name of a database, not a connection string"
	}
	return ""
}

var authMethods = []string{"password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none"}

func methodList(value string) string {
	negated := strings.HasPrefix(value, "!")
	for method := range strings.SplitSeq(value, ",") {
		name, not := strings.CutPrefix(method, "!")
		if not != negated || !slices.Contains(authMethods, name) {
			return "takes a list of " + strings.Join(authMethods, ", ") + ", or each of them with a ! before it"
		}
	}
	return ""
}

var tlsVersions = []string{"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}

// tlsVersion ignores case, as libpq does.
func tlsVersion(value string) string {
	if slices.ContainsFunc(tlsVersions, func(v string) bool { return strings.EqualFold(v, value) }) {
		return ""
	}
	return "takes one of " + strings.Join(tlsVersions, ", ")
}
