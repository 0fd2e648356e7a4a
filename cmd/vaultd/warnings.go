package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
)

// warning is about a setting that works, and likely lets in or shows more than the operator means.
type warning struct{ key, text string }

func (w warning) String() string { return w.key + ": " + w.text }

// warnings runs in check-config, at the start, and at each reload.
func (c *Config) warnings(now time.Time) []warning {
	var all []warning
	add := func(key, format string, args ...any) { all = append(all, warning{key, fmt.Sprintf(format, args...)}) }
	c.warnOfNoClients(add)
	c.warnOfNetworks(add)
	c.warnOfHosts(add)
	c.warnOfListeners(add)
	c.warnOfServers(add)
	c.warnOfFiles(add)
	c.warnOfCertificate(now, add)
	if err := vault.CheckTimeZone(); err != nil {
		add("TZ", "%v", err)
	}
	return all
}

type addWarning func(key, format string, args ...any)

// warnOfNoClients is about a daemon that runs and answers each request with 403. allow does not count over a unix
// socket.
func (c *Config) warnOfNoClients(add addWarning) {
	isSocket := func(address string) bool { return strings.HasPrefix(address, "unix:") }
	switch sockets := slices.ContainsFunc(c.Listen, isSocket); {
	case len(c.policy.Allow) > 0:
	case !sockets:
		add("allow", "the list is empty, so no client is answered")
	case slices.ContainsFunc(c.Listen, func(address string) bool { return !isSocket(address) }):
		add("allow", "the list is empty, so no client is answered except over the unix socket")
	}
}

func (c *Config) warnOfNetworks(add addWarning) {
	reach := "every host there can read secrets"
	if c.policy.Apps {
		reach = "every host there can present credentials"
	}
	for _, list := range []struct {
		key, means string
		networks   []netip.Prefix
	}{
		{"allow", reach, c.policy.Allow},
		{"trusted_proxies", "every host there can claim any client's address", c.policy.TrustedProxies},
	} {
		var share float64 // of all IPv4 addresses
		wide := false
		for _, n := range list.networks {
			if n.Addr().Is4() {
				share += math.Exp2(-float64(n.Bits()))
			}
			if isWide(n) {
				wide = true
				add(list.key, "%s is a large part of the internet: %s", n, list.means)
			}
		}
		if !wide && share >= 0.25 {
			add(list.key, "its networks are %.0f%% of all IPv4 addresses: %s", 100*share, list.means)
		}
	}
	if c.VerifyRate == 0 {
		add("verify_rate", "0 lets an address try values without a limit")
	}
}

var uniqueLocal = netip.MustParsePrefix("fc00::/7")

// isWide does not count 10.0.0.0/8 and the private networks of IPv6, which belong to a site.
func isWide(n netip.Prefix) bool {
	if n.Addr().Is4() {
		return n.Bits() < 8
	}
	return n.Bits() < 16 && (n.Bits() < uniqueLocal.Bits() || !uniqueLocal.Contains(n.Addr()))
}

// privateDomains are top-level domains that no site on the internet has.
var privateDomains = []string{"corp", "home", "internal", "intranet", "lan", "local", "localdomain", "localhost",
	"private", "test"}

// warnOfHosts looks for entries that let pages of any site in under a name of their own.
func (c *Config) warnOfHosts(add addWarning) {
	for _, entry := range c.Hosts {
		domain, wild := strings.CutPrefix(strings.ToLower(strings.TrimSuffix(entry, ".")), "*.")
		switch {
		case wild && !strings.Contains(domain, ".") && !slices.Contains(privateDomains, domain):
			add("hosts", "%s is every name under %s: a page under any of them can have a browser ask this daemon", entry, domain)
		case isUnspecified(strings.Trim(entry, "[]")):
			add("hosts", "%s leads here from every machine's browser: pages of any site can ask for it", entry)
		}
	}
}

func (c *Config) warnOfListeners(add addWarning) {
	if host, _, err := net.SplitHostPort(c.HealthListen); err == nil && isUnspecified(host) {
		add("health_listen",
			"%s is every address of this machine: whatever reaches one of them can read status and metrics", c.HealthListen)
	}
	if c.mode&0o007 != 0 {
		add("socket_mode", "%s lets every user of this machine in: the mode of the socket is its only guard", c.SocketMode)
	}
	all := c.binds()
	for i, b := range all {
		for _, earlier := range all[:i] {
			if b.within(earlier) && !b.same(earlier) {
				add(b.key, "%s and %s (%s) overlap: vaultd starts if systemd opens both", b.address, earlier.address, earlier.key)
			}
		}
	}
	if c.TLSCert != "" {
		return
	}
	for _, address := range c.Listen {
		if loopback, err := isLoopback(address); err == nil && !loopback && !strings.HasPrefix(address, "unix:") {
			carried := "values cross"
			if c.AdminAPI {
				carried = "values and admin tokens (admin_api) cross"
			}
			add("insecure_listen", "%s the network in the clear to %s", carried, address)
		}
	}
}

func (c *Config) warnOfServers(add addWarning) {
	for _, server := range []struct{ key, url string }{
		{"database_url", c.DatabaseURL}, {"primary_database_url", c.PrimaryDatabaseURL},
		{"listen_database_url", c.ListenDatabaseURL},
	} {
		if server.url == "" && server.key != "database_url" {
			continue
		}
		if host, err := db.Unverified(server.url); err == nil && host != "" { // an error is one of the check
			add(server.key, "its sslmode does not verify the certificate of %s: another machine can answer in its place", host)
		}
	}
}

func isUnspecified(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

func (c *Config) warnOfFiles(add addWarning) {
	if c.path != "" {
		if mode := modeOf(c.path); mode&0o004 != 0 && c.fileHasPassword {
			add("config", "%q has a password and can be read by every user (mode %04o)", c.path, mode)
		}
		if mode := modeOf(c.path); mode&0o022 != 0 {
			add("config", "%q can be written by others (mode %04o): it names what may be read and run", c.path, mode)
		}
	}
	if mode := modeOf(c.TLSKey); mode&0o006 != 0 {
		add("tls_key", "%q can be read by every user (mode %04o)", c.TLSKey, mode)
	}
	for _, text := range c.KMSKeys {
		if uri, err := kms.ParseURI(text); err == nil { // an error is one of the check
			warnOfKey("kms_keys", uri.LocalPath(), add)
		}
	}
	if uri, err := kms.ParseSigner(c.AuditSealKey); err == nil {
		warnOfKey("audit_seal_key", uri.LocalPath(), add)
	}
	c.warnOfState(add)
	for _, p := range []struct{ key, path string }{
		{"tls_cert", c.TLSCert}, {"tls_key", c.TLSKey}, {"tls_client_ca", c.TLSClientCA}, {"postgres_ca", c.PostgresCA},
		{"address_file", c.AddressFile}, {"cpu_profile", c.CPUProfile},
	} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			add(p.key, "%q is relative to the folder in which vaultd starts, which is / in a unit", p.path)
		}
	}
}

func warnOfKey(key, path string, add addWarning) {
	if path == "" {
		return
	}
	switch err := kms.CheckKeyFile(path); {
	case errors.Is(err, fs.ErrNotExist):
		add(key, "%q is not there: vaultd does not start without it", path)
	case err != nil:
		add(key, "vaultd does not start: %v", err)
	}
}

func (c *Config) warnOfState(add addWarning) {
	if mode := modeOf(c.AuditSpool); c.Audit == "on" && mode&0o077 != 0 {
		add("audit_spool",
			"%q is not its owner's alone (mode %04o): vaultd does not start, since it holds who read what", c.AuditSpool, mode)
	}
	if mode := modeOf(c.AuditArchive); mode&0o077 != 0 { // 0 of a bucket
		add("audit_archive",
			"%q is not its owner's alone (mode %04o): it holds who read what", c.AuditArchive, mode)
	}
	if mode := modeOf(c.StateDir); mode&0o022 != 0 {
		add("state_dir",
			"%q can be written by others (mode %04o), who can make this node forget the newest primary", c.StateDir, mode)
	}
}

// modeOf returns 0 for a file that does not exist.
func modeOf(path string) fs.FileMode {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Mode().Perm()
}

// renewalLate is how long before its end a certificate should be renewed, or a third of its lifetime if that is less.
const renewalLate = 14 * 24 * time.Hour

func (c *Config) warnOfCertificate(now time.Time, add addWarning) {
	if c.TLSCert == "" {
		return
	}
	loaded, err := loadCertificate(c.TLSCert, c.TLSKey)
	if err != nil {
		return // loading the certificate reports the error
	}
	from, until, err := validity(loaded)
	switch left := until.Sub(now); {
	case err != nil:
		add("tls_cert", "%q: %s", c.TLSCert, err)
	case left <= 0:
		add("tls_cert", "%q expired at %s", c.TLSCert, until.UTC().Format(time.RFC3339))
	case now.Before(from):
		add("tls_cert", "%q is not valid before %s", c.TLSCert, from.UTC().Format(time.RFC3339))
	case left < min(renewalLate, until.Sub(from)/3):
		add("tls_cert", "%q expires at %s", c.TLSCert, until.UTC().Format(time.RFC3339))
	}
}

// hasPassword looks at the settings of the file, before the environment replaces some.
func (c *Config) hasPassword() bool {
	return db.HasPassword(c.DatabaseURL) || db.HasPassword(c.PrimaryDatabaseURL) || db.HasPassword(c.ListenDatabaseURL)
}

// warn writes the warnings to the log.
func (c *Config) warn(log *slog.Logger) {
	for _, w := range c.warnings(time.Now()) {
		log.Warn(w.text, "setting", w.key)
	}
}
