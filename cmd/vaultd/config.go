package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/hyperiondb/vault/internal/audit/archive"
	"github.com/hyperiondb/vault/internal/audit/bucket"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/httpapi"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/target"
)

// Config holds the settings: of the TOML file, replaced by VAULTD_<KEY IN UPPER CASE> (lists with commas).
type Config struct {
	DatabaseURL string `toml:"database_url"` // the local node; "" = libpq's environment
	// for writes; "" = database_url (which may name several hosts)
	PrimaryDatabaseURL string `toml:"primary_database_url"`
	// of the primary, without a pooler, for LISTEN; "" = as for writes
	ListenDatabaseURL string   `toml:"listen_database_url"`
	Listen            []string `toml:"listen"`          // host:port, or unix:/path
	SocketMode        string   `toml:"socket_mode"`     // of unix listeners, octal
	HealthListen      string   `toml:"health_listen"`   // health, metrics and status; "" = off
	AddressFile       string   `toml:"address_file"`    // the bound addresses are written here, for port 0
	Allow             []string `toml:"allow"`           // networks of clients; empty = none
	TrustedProxies    []string `toml:"trusted_proxies"` // networks whose X-Forwarded-For counts
	// names and addresses accepted in Host headers, besides the daemon's own
	Hosts          []string `toml:"hosts"`
	TLSCert        string   `toml:"tls_cert"`
	TLSKey         string   `toml:"tls_key"`
	InsecureListen bool     `toml:"insecure_listen"` // listen beyond loopback without TLS
	TLSClientCA    string   `toml:"tls_client_ca"`   // authorities that sign certificates of clients; "" = none counts
	TLSClientAuth  string   `toml:"tls_client_auth"` // request or require a certificate of a client
	// allowlist: a client without a credential may read all that this daemon can; apps: it may not
	Access  string   `toml:"access"`
	KMSKeys []string `toml:"kms_keys"` // the first wraps; none = the vault's default key
	// in place of ~/.aws/credentials, for keys and a bucket of AWS; "" = that file, the environment or the machine's role
	AWSCredentialsFile string   `toml:"aws_credentials_file"`
	DEKCacheTTL        duration `toml:"dek_cache_ttl"`   // 0 = no cache
	DEKCacheSize       int      `toml:"dek_cache_size"`  // data keys
	MaxConns           int      `toml:"max_connections"` // to the local node

	// Reads from memory; see package rowcache. An answer is what the node had at most read_confirm before the request;
	// 0 = each read asks the node
	ReadConfirm duration `toml:"read_confirm"`
	// of sealed rows that are kept, at most; the heap may take twice that
	ReadCacheBytes size `toml:"read_cache_bytes"`
	// how long reads of kept rows go on while the node is away; 0 = they wait for it
	ReadSurvive duration `toml:"read_survive"`

	// connections of clients; 0 = as many as the limit of open files allows, at most 4096
	HTTPMaxConns           int `toml:"http_max_connections"`
	HTTPMaxConnsPerAddress int `toml:"http_max_connections_per_address"` // 0 = a quarter of them

	VerifyRate  float64 `toml:"verify_rate"`  // verifies a second from one address; 0 = no limit
	VerifyBurst int     `toml:"verify_burst"` // verifies at once

	// requests a second, and requests answered at once; 0 = no limit
	AppRate       float64 `toml:"app_rate"` // of one app
	AppAtOnce     int     `toml:"app_at_once"`
	AddressRate   float64 `toml:"address_rate"` // of one address
	AddressAtOnce int     `toml:"address_at_once"`
	TotalRate     float64 `toml:"total_rate"` // of all
	TotalAtOnce   int     `toml:"total_at_once"`

	ScanInterval    duration `toml:"scan_interval"`    // of the supervisor and the worker's polling
	RotationWorkers int      `toml:"rotation_workers"` // rotations at once; 0 = none here
	ClaimTimeout    duration `toml:"claim_timeout"`    // after which another worker may take a claimed rotation
	AdminAPI        bool     `toml:"admin_api"`        // the routes that write
	KVMount         string   `toml:"kv_mount"`         // of the routes of Vault's KV version 2; "" = none
	// unix socket from which systemd reads Credentials of units; "" = none
	CredentialSocket string `toml:"credential_socket"`
	LogLevel         string `toml:"log_level"`
	LogFormat        string `toml:"log_format"` // text or json
	// how long the daemon answers while /readyz says that it stops
	DrainDelay    duration `toml:"drain_delay"`
	ShutdownGrace duration `toml:"shutdown_grace"` // for the requests that are under way then
	// file for a profile of the whole run, for go tool pprof; "" = none
	CPUProfile string `toml:"cpu_profile"`
	// remembers the newest primary over restarts; "" = not over restarts
	StateDir string `toml:"state_dir"`

	// Targets that rotators may reach; see docs/ROTATORS.md.
	WebhookHosts  []string            `toml:"webhook_hosts"`  // HOST or HOST:PORT; empty = none
	PostgresHosts []string            `toml:"postgres_hosts"` // HOST[:PORT] or a socket's /FOLDER[:PORT]; empty = none
	PostgresCA    string              `toml:"postgres_ca"`    // CA that verifies those servers; "" = the system's
	ExecRotators  map[string][]string `toml:"exec_rotators"`  // a program's name -> its path and arguments

	Credentials map[string]string `toml:"credentials"` // UNIT:ID -> the name of a secret, over CredentialSocket

	HeartbeatInterval duration `toml:"heartbeat_interval"` // on the primary's node; 0 = with each supervisor's round only
	MaxStaleness      duration `toml:"max_staleness"`      // a node further behind refuses reads; 0 = never
	MinLSNWait        duration `toml:"min_lsn_wait"`       // how long a read waits for the position it asks for

	// Tamper evidence of the audit log; see docs/SECURITY.md.
	// the key that seals it while this node is the primary: a file or awskms:///...; "" = no sealing
	AuditSealKey   string `toml:"audit_seal_key"`
	AuditSealsFile string `toml:"audit_seals_file"` // keeps the seals that this node has seen; "" = none
	// keeps the seals of the primary, for all nodes: s3://...; "" = none
	AuditSealsBucket         string   `toml:"audit_seals_bucket"`
	AuditSealsBucketInterval duration `toml:"audit_seals_bucket_interval"`

	// Recording of reads; see package spool.
	Audit      string `toml:"audit"`       // on, or off: nothing is recorded
	AuditSpool string `toml:"audit_spool"` // folder of reads that wait for the primary
	// always: a read is answered when its record is on disk; interval: when the kernel has the record
	AuditSync         string   `toml:"audit_sync"`
	AuditSyncInterval duration `toml:"audit_sync_interval"` // with interval, records that a power cut may lose
	AuditOnFailure    string   `toml:"audit_on_failure"`    // of a read that cannot be recorded: block or allow it
	AuditMaxBytes     size     `toml:"audit_max_bytes"`     // of what waits for the primary
	AuditMaxAge       duration `toml:"audit_max_age"`       // of the oldest record that waits; 0 = any
	// Reads of one secret within it are one row of the audit log; 0 = a row for each read.
	AuditWindow  duration `toml:"audit_window"`
	AuditArchive string   `toml:"audit_archive"` // keeps shipped reads: a folder or s3://...; "" = none

	path            string // of the file; "" = there is none
	fileHasPassword bool

	policy httpapi.Policy
	level  slog.Level
	mode   os.FileMode
}

func defaults() Config {
	return Config{
		Audit: "on", AuditSpool: "/var/lib/vaultd/spool", AuditSync: "always",
		AuditSyncInterval:        duration(200 * time.Millisecond),
		AuditSealsBucketInterval: duration(time.Minute),
		AuditOnFailure:           "block", AuditMaxBytes: 1 << 30, AuditMaxAge: duration(7 * 24 * time.Hour),
		AuditWindow: duration(10 * time.Second),
		Listen:      []string{"127.0.0.1:8400"}, HealthListen: "127.0.0.1:8401", SocketMode: "0660",
		TLSClientAuth: "request", Access: accessByAllowlist,
		DEKCacheTTL: duration(5 * time.Minute), DEKCacheSize: 10_000, MaxConns: 16, VerifyRate: 50, VerifyBurst: 100,
		ScanInterval: duration(10 * time.Second), RotationWorkers: 4,
		ClaimTimeout: duration(rotation.DefaultClaimTimeout), LogLevel: "info", LogFormat: "text",
		DrainDelay: duration(time.Second), ShutdownGrace: duration(10 * time.Second),
		ReadConfirm: duration(20 * time.Millisecond), ReadCacheBytes: 64 << 20,
		StateDir: "/var/lib/vaultd",

		HeartbeatInterval: duration(time.Second), MinLSNWait: duration(3 * time.Second),
	}
}

// duration is written like rotation intervals: 10s, 5m, 1d.
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := rotation.ParseInterval(string(text))
	*d = duration(parsed)
	return err
}

func (d duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func (d duration) String() string { return rotation.FormatInterval(time.Duration(d)) }

// size is a number of bytes, also written with KiB, MiB or GiB.
type size int64

var sizeUnits = []struct {
	unit  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

func (s *size) UnmarshalText(text []byte) error {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(string(text), u.unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.bytes {
			break
		}
		*s = size(n * u.bytes)
		return nil
	}
	return fmt.Errorf("%q is not a size such as 512MiB", text)
}

func (s size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s size) String() string {
	for _, u := range sizeUnits {
		if s > 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.unit
		}
	}
	return "0"
}

func loadConfig(path string, environ []string) (Config, error) {
	config := defaults()
	if path != "" {
		if err := config.readFile(path); err != nil {
			return config, fmt.Errorf("%w: %w", errConfig, err)
		}
	}
	if err := config.readEnvironment(environ); err != nil {
		return config, fmt.Errorf("%w: %w", errConfig, err)
	}
	if err := config.readSecrets(environ); err != nil {
		return config, fmt.Errorf("%w: %w", errConfig, err)
	}
	if err := config.check(); err != nil {
		return config, fmt.Errorf("%w: %w", errConfig, err)
	}
	return config, nil
}

// readEnvironment refuses a VAULTD_ name that is no setting, so that a misspelt one is not silently ignored.
func (c *Config) readEnvironment(environ []string) error {
	fields := map[string]reflect.Value{}
	for key, field := range c.settings() {
		fields["VAULTD_"+strings.ToUpper(key)] = field
	}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "VAULTD_") || notSettings[name] {
			continue
		}
		field, ok := fields[name]
		if !ok {
			return fmt.Errorf("environment: unknown setting %s", name)
		}
		if err := setField(field, value); err != nil {
			return fmt.Errorf("environment: %s: %w", name, err)
		}
	}
	return nil
}

// notSettings are VAULTD_ names that clients and scripts use.
var notSettings = map[string]bool{
	"VAULTD_CONFIG": true, "VAULTD_URL": true, "VAULTD_HEALTH_URL": true, "VAULTD_STANDBY_URL": true,
	"VAULTD_STANDBY_HEALTH_URL": true,
}

func setField(field reflect.Value, text string) (err error) {
	switch p := field.Addr().Interface().(type) {
	case *string:
		*p = text
	case *[]string:
		*p = nil
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				*p = append(*p, item)
			}
		}
	case *bool:
		if *p, err = strconv.ParseBool(text); err != nil {
			err = wrongText(field, text)
		}
	case *int:
		if *p, err = strconv.Atoi(text); err != nil {
			err = wrongText(field, text)
		}
	case *float64:
		if *p, err = strconv.ParseFloat(text, 64); err != nil {
			err = wrongText(field, text)
		}
	case *duration:
		err = p.UnmarshalText([]byte(text))
	case *size:
		err = p.UnmarshalText([]byte(text))
	default:
		err = errors.New("can be set in the file only")
	}
	return err
}

func wrongText(field reflect.Value, text string) error {
	return fmt.Errorf("want %s, have %q", wanted(field.Type()), text)
}

// check parses every setting as it will be used, and returns an error about the first that is wrong.
func (c *Config) check() error {
	if err := c.checkConnections(); err != nil {
		return err
	}
	if err := c.checkListeners(); err != nil {
		return err
	}
	if err := c.checkNumbers(); err != nil {
		return err
	}
	if err := c.checkAudit(); err != nil {
		return err
	}
	if err := c.checkKeys(); err != nil {
		return err
	}
	if err := c.checkPaths(); err != nil {
		return err
	}
	if err := c.level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return fmt.Errorf("log_level %q: debug, info, warn or error", c.LogLevel)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		return fmt.Errorf("log_format %q: text or json", c.LogFormat)
	}
	var err error
	if c.policy.Allow, err = networks("allow", c.Allow); err != nil {
		return err
	}
	if c.policy.TrustedProxies, err = networks("trusted_proxies", c.TrustedProxies); err != nil {
		return err
	}
	if c.policy.Hosts, err = c.ownHosts(); err != nil {
		return err
	}
	c.policy.VerifyRate, c.policy.VerifyBurst = c.VerifyRate, c.VerifyBurst
	if err := c.checkAccess(); err != nil {
		return err
	}
	return target.Check(c.targets())
}

// checkAccess reads how clients prove who they are, and how much each may ask.
func (c *Config) checkAccess() error {
	if c.Access != accessByAllowlist && c.Access != accessByApps {
		return fmt.Errorf("access %q: %s or %s", c.Access, accessByAllowlist, accessByApps)
	}
	if c.TLSClientAuth != "request" && c.TLSClientAuth != "require" {
		return fmt.Errorf("tls_client_auth %q: request or require", c.TLSClientAuth)
	}
	switch {
	case c.TLSClientCA != "" && c.TLSCert == "":
		return errors.New("tls_client_ca: clients show certificates over TLS only: set tls_cert and tls_key")
	case c.TLSClientCA == "" && c.TLSClientAuth == "require":
		return errors.New(`tls_client_auth = "require": set tls_client_ca to the authorities that sign them`)
	}
	c.policy.Apps = c.Access == accessByApps
	c.policy.Limits = httpapi.Limits{App: httpapi.Limit{Rate: c.AppRate, AtOnce: c.AppAtOnce},
		Address: httpapi.Limit{Rate: c.AddressRate, AtOnce: c.AddressAtOnce},
		Total:   httpapi.Limit{Rate: c.TotalRate, AtOnce: c.TotalAtOnce}}
	var err error
	c.policy.ClientCAs, err = loadAuthorities(c.TLSClientCA)
	return err
}

// The values of access.
const (
	accessByAllowlist = "allowlist"
	accessByApps      = "apps"
)

// accessMeans is shown by check-config.
var accessMeans = map[string]string{
	accessByAllowlist: "a client in allow without a credential reads every secret that this daemon's role may; " +
		"a client with one reads what its app may",
	accessByApps: `a client in allow reads what its app may; without a credential, what the app "anonymous" may`,
}

// targets are the targets that rotators may reach, without the functions that they need.
func (c *Config) targets() target.Options {
	return target.Options{WebhookHosts: c.WebhookHosts, PostgresHosts: c.PostgresHosts, PostgresCA: c.PostgresCA,
		Programs: c.ExecRotators}
}

func (c *Config) checkConnections() error {
	for _, s := range []struct{ key, text string }{
		{"database_url", c.DatabaseURL}, {"primary_database_url", c.PrimaryDatabaseURL},
		{"listen_database_url", c.ListenDatabaseURL},
	} {
		if err := db.CheckConnectionString(s.text); err != nil {
			return fmt.Errorf("%s: %w", s.key, err)
		}
	}
	return nil
}

func (c *Config) checkListeners() error {
	if len(c.Listen) == 0 {
		return errors.New("listen: no address")
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("tls_cert and tls_key go together")
	}
	if c.TLSCert != "" {
		if _, err := loadCertificate(c.TLSCert, c.TLSKey); err != nil {
			return err
		}
	}
	for _, address := range c.Listen {
		if err := checkAddress(address); err != nil {
			return fmt.Errorf("listen %q: host:port or unix:/path: %w", address, err)
		}
		if strings.HasPrefix(address, "unix:") {
			continue
		}
		loopback, err := isLoopback(address)
		if err != nil {
			return fmt.Errorf("listen %q: %w", address, err)
		}
		if !loopback && c.TLSCert == "" && !c.InsecureListen {
			return fmt.Errorf("listen %q: values would cross the network in the clear: set tls_cert and tls_key, "+
				"or insecure_listen = true behind a proxy", address)
		}
	}
	if c.HealthListen != "" {
		err := checkAddress(c.HealthListen)
		if err == nil {
			_, err = isLoopback(c.HealthListen) // no unix socket
		}
		if err != nil {
			return fmt.Errorf("health_listen %q: host:port: %w", c.HealthListen, err)
		}
	}
	if c.KVMount != "" {
		if err := httpapi.CheckKVMount(c.KVMount); err != nil {
			return fmt.Errorf("kv_mount: %w", err)
		}
	}
	if err := c.checkCredentials(); err != nil {
		return err
	}
	if err := c.checkDistinct(); err != nil {
		return err
	}
	mode, err := strconv.ParseUint(c.SocketMode, 8, 32)
	if err != nil || mode > 0o777 {
		return fmt.Errorf("socket_mode %q: an octal file mode such as 0660", c.SocketMode)
	}
	c.mode = os.FileMode(mode)
	return nil
}

func (c *Config) checkCredentials() error {
	if err := httpapi.CheckCredentials(c.Credentials); err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	switch path := c.CredentialSocket; {
	case path == "" && len(c.Credentials) > 0:
		return errors.New("credentials: set credential_socket, from which systemd reads them (/run/vaultd/credentials)")
	case path == "":
		return nil
	case !filepath.IsAbs(path) || filepath.Clean(path) != path || len(path) > maxSocketPath:
		return fmt.Errorf("credential_socket %q: an absolute path of at most %d bytes, such as /run/vaultd/credentials",
			path, maxSocketPath)
	case len(c.Credentials) == 0:
		return errors.New(`credential_socket: name what it gives to which unit: [credentials] "billing.service:db" = "NAME"`)
	}
	c.policy.Credentials = c.Credentials
	return nil
}

func (c *Config) checkAudit() error {
	for _, choice := range []struct{ key, value, one, other string }{
		{"audit", c.Audit, "on", "off"}, {"audit_sync", c.AuditSync, "always", "interval"},
		{"audit_on_failure", c.AuditOnFailure, "block", "allow"},
	} {
		if choice.value != choice.one && choice.value != choice.other {
			return fmt.Errorf("%s %q: %s or %s", choice.key, choice.value, choice.one, choice.other)
		}
	}
	if c.Audit == "on" && !filepath.IsAbs(c.AuditSpool) {
		return fmt.Errorf("audit_spool %q: the absolute path of a folder; audit = \"off\" records no reads", c.AuditSpool)
	}
	if err := c.checkArchive(); err != nil {
		return fmt.Errorf("audit_archive: %w", err)
	}
	if c.AuditSealsBucket != "" {
		if _, err := bucket.ParseURI(c.AuditSealsBucket); err != nil {
			return fmt.Errorf("audit_seals_bucket: %w", err)
		}
	}
	return nil
}

func (c *Config) checkArchive() error {
	if c.AuditArchive == "" {
		return nil
	}
	if c.Audit != "on" {
		return errors.New(`audit = "off" records no reads, so there is nothing to archive`)
	}
	if err := archive.CheckWhere(c.AuditArchive); err != nil {
		return err
	}
	if below, err := filepath.Rel(c.AuditSpool, c.AuditArchive); filepath.IsAbs(c.AuditArchive) && err == nil &&
		filepath.IsLocal(below) {
		return fmt.Errorf("%q is in the folder of audit_spool", c.AuditArchive)
	}
	return nil
}

func (c *Config) checkNumbers() error {
	for _, err := range []error{
		inRange("dek_cache_size", c.DEKCacheSize, 0, 10_000_000), inRange("max_connections", c.MaxConns, 1, 1000),
		inRange("http_max_connections", c.HTTPMaxConns, 0, 1_000_000),
		inRange("http_max_connections_per_address", c.HTTPMaxConnsPerAddress, 0, 1_000_000),
		inRange("verify_rate", rate(c.VerifyRate), 0, 1e9), inRange("verify_burst", c.VerifyBurst, 1, 1e9),
		inRange("app_rate", rate(c.AppRate), 0, 1e9), inRange("app_at_once", c.AppAtOnce, 0, 1_000_000),
		inRange("address_rate", rate(c.AddressRate), 0, 1e9), inRange("address_at_once", c.AddressAtOnce, 0, 1_000_000),
		inRange("total_rate", rate(c.TotalRate), 0, 1e9), inRange("total_at_once", c.TotalAtOnce, 0, 1_000_000),
		inRange("rotation_workers", c.RotationWorkers, 0, 256),
		within("scan_interval", c.ScanInterval, 100*time.Millisecond, time.Hour),
		within("claim_timeout", c.ClaimTimeout, 3*time.Second, day),
		within("heartbeat_interval", c.HeartbeatInterval, 0, time.Hour),
		within("max_staleness", c.MaxStaleness, 0, day),
		within("min_lsn_wait", c.MinLSNWait, 0, 10*time.Second),
		within("read_confirm", c.ReadConfirm, 0, 10*time.Second),
		inRange("read_cache_bytes", c.ReadCacheBytes, 1<<20, 1<<40),
		within("read_survive", c.ReadSurvive, 0, time.Hour),
		within("audit_sync_interval", c.AuditSyncInterval, time.Millisecond, time.Minute),
		within("audit_seals_bucket_interval", c.AuditSealsBucketInterval, time.Second, day),
		inRange("audit_max_bytes", c.AuditMaxBytes, 64<<10, 1<<40),
		within("audit_window", c.AuditWindow, 0, spool.LongestWindow),
		within("audit_max_age", c.AuditMaxAge, 0, 400*day),
		within("drain_delay", c.DrainDelay, 0, 10*time.Minute),
		within("shutdown_grace", c.ShutdownGrace, 0, time.Hour),
	} {
		if err != nil {
			return err
		}
	}
	if err := c.checkConfirm(); err != nil {
		return err
	}
	return c.checkStaleness()
}

const day = 24 * time.Hour

// rate is a number a second, written without an exponent.
type rate float64

func (r rate) String() string { return strconv.FormatFloat(float64(r), 'f', -1, 64) }

func inRange[T cmp.Ordered](key string, value, least, most T) error {
	if value >= least && value <= most { // false for a NaN
		return nil
	}
	return fmt.Errorf("%s = %v: from %v to %v", key, value, least, most)
}

func within(key string, value duration, least, most time.Duration) error {
	return inRange(key, value, duration(least), duration(most))
}

// checkConfirm refuses a bound that polls cannot keep: they begin every half of it.
func (c *Config) checkConfirm() error {
	switch {
	case c.ReadConfirm > 0 && c.ReadConfirm < duration(leastConfirm):
		return fmt.Errorf("read_confirm: at least %s, or 0", leastConfirm)
	case c.ReadConfirm == 0 && c.ReadSurvive > 0:
		return errors.New("read_survive: without read_confirm no rows are kept, so none survive")
	}
	return nil
}

const leastConfirm = 2 * time.Millisecond

// checkStaleness refuses a max_staleness that a healthy node would exceed between two heartbeats of its primary.
func (c *Config) checkStaleness() error {
	beat := c.HeartbeatInterval
	switch {
	case beat == 0:
		beat = c.ScanInterval
	case beat < duration(100*time.Millisecond):
		return errors.New("heartbeat_interval: at least 100ms, or 0")
	}
	if c.MaxStaleness > 0 && c.MaxStaleness < 2*beat {
		return fmt.Errorf("max_staleness = %s: at least twice the time between two heartbeats, %s",
			rotation.FormatInterval(time.Duration(c.MaxStaleness)), rotation.FormatInterval(time.Duration(2*beat)))
	}
	return nil
}

// archiveFolder is "" if the archive is a bucket, or there is none.
func (c *Config) archiveFolder() string {
	if strings.HasPrefix(c.AuditArchive, bucket.Scheme) {
		return ""
	}
	return c.AuditArchive
}

func networks(key string, list []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range list {
		n, err := httpapi.ParseNetwork(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		all = append(all, n)
	}
	return all, nil
}

// print shows the settings in force; connection strings only by their target.
func (c Config) print(out io.Writer) error {
	c.DatabaseURL = db.TargetString(c.DatabaseURL)
	if c.PrimaryDatabaseURL != "" {
		c.PrimaryDatabaseURL = db.TargetString(c.PrimaryDatabaseURL)
	}
	if c.ListenDatabaseURL != "" {
		c.ListenDatabaseURL = db.TargetString(c.ListenDatabaseURL)
	}
	from := "# the configuration is good; in force:"
	if c.path == "" {
		from = "# no file was read: --config FILE or VAULTD_CONFIG names it. In force, from defaults and VAULTD_*:"
	}
	if _, err := fmt.Fprintf(out, "%s\n# access = %q: %s\n", from, c.Access, accessMeans[c.Access]); err != nil {
		return err
	}
	// The encoder leaves out a nil list. An empty one is in force too, and that of allow answers no client.
	for _, field := range reflect.ValueOf(&c).Elem().Fields() {
		if field.Kind() == reflect.Slice && field.IsNil() && field.CanSet() {
			field.Set(reflect.MakeSlice(field.Type(), 0, 0))
		}
	}
	return toml.NewEncoder(out).Encode(c)
}
