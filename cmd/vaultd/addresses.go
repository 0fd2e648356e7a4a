package main

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hyperiondb/vault/internal/httpapi"
)

// maxSocketPath is what the address of a unix socket holds, less its final zero byte.
const maxSocketPath = 107

// checkAddress refuses an address that cannot be listened on, on any machine. It resolves no name.
func checkAddress(address string) error {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return checkSocketPath(path)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q", port)
	}
	return checkHost(host)
}

func checkSocketPath(path string) error {
	if !filepath.IsAbs(path) || path == "/" || strings.HasSuffix(path, "/") || len(path) > maxSocketPath {
		return fmt.Errorf("the path of a unix socket is absolute, has at most %d bytes, and ends with a name", maxSocketPath)
	}
	return nil
}

// checkHost accepts an address, a name, and "" for every address of the machine.
func checkHost(host string) error {
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return nil
	}
	if _, err := httpapi.ParseHost(host); err != nil || strings.HasPrefix(host, "*") {
		return fmt.Errorf("%q is not an address or a host name", host)
	}
	return checkNumbered(host)
}

// checkNumbered refuses 300.1.1.1 and 127.1: no resolver has a name whose last part is a number.
func checkNumbered(host string) error {
	last := host[strings.LastIndexByte(host, '.')+1:]
	if _, err := netip.ParseAddr(host); err != nil && last != "" && strings.Trim(last, "0123456789") == "" {
		return fmt.Errorf("%q is not an address", host)
	}
	return nil
}

// checkHostLists is for settings whose entries may be names, with or without a port.
func (c *Config) checkHostLists() error {
	for _, list := range []struct {
		key   string
		hosts []string
	}{{"hosts", c.Hosts}, {"webhook_hosts", c.WebhookHosts}, {"postgres_hosts", c.PostgresHosts}} {
		for _, entry := range list.hosts {
			host := entry
			if h, _, err := net.SplitHostPort(entry); err == nil {
				host = h
			}
			host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
			if strings.Count(host, ".") != 3 || strings.HasPrefix(host, "/") { // a machine may be named 42
				continue
			}
			if err := checkNumbered(host); err != nil {
				return fmt.Errorf("%s: %w", list.key, err)
			}
		}
	}
	return nil
}

func isLoopback(address string) (bool, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false, err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return false, fmt.Errorf("port %q", port)
	}
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || (ip != nil && ip.IsLoopback()), nil
}

// bind is a socket that vaultd opens.
type bind struct {
	key, address string // as the setting has it
	path         string // of a unix socket
	hosts        []string
	port         uint64 // 0 = any that is free
}

func newBind(key, address string) bind {
	b := bind{key: key, address: address}
	if path, ok := strings.CutPrefix(address, "unix:"); ok || key == "credential_socket" {
		b.path = filepath.Clean(path)
		return b
	}
	host, port, _ := net.SplitHostPort(address) // checkAddress has accepted it
	b.port, _ = strconv.ParseUint(port, 10, 16)
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil:
		b.hosts = []string{ip.Unmap().String()}
	case strings.EqualFold(host, "localhost"):
		b.hosts = []string{"127.0.0.1", "::1"}
	case host == "":
		b.hosts = []string{netip.IPv6Unspecified().String()}
	default:
		b.hosts = []string{strings.ToLower(strings.TrimSuffix(host, "."))}
	}
	return b
}

// binds are the sockets of all settings.
func (c *Config) binds() []bind {
	var all []bind
	for _, address := range c.Listen {
		all = append(all, newBind("listen", address))
	}
	if c.HealthListen != "" {
		all = append(all, newBind("health_listen", c.HealthListen))
	}
	if c.CredentialSocket != "" {
		all = append(all, newBind("credential_socket", c.CredentialSocket))
	}
	return all
}

// same reports whether two settings have one address.
func (b bind) same(other bind) bool {
	if b.path != "" || other.path != "" {
		return b.path == other.path
	}
	return b.port == other.port && b.port != 0 && b.overlaps(other, func(string) bool { return false })
}

// within reports whether one of the addresses is every address of the machine, and so has the other in it. systemd can
// open both, for one version of IP each.
func (b bind) within(other bind) bool {
	return b.path == "" && other.path == "" && b.port == other.port && b.port != 0 && b.overlaps(other, isUnspecified)
}

func (b bind) overlaps(other bind, all func(host string) bool) bool {
	for _, mine := range b.hosts {
		for _, its := range other.hosts {
			if mine == its || all(mine) || all(its) {
				return true
			}
		}
	}
	return false
}

// checkDistinct refuses one address in two places, the second of which could not be opened.
func (c *Config) checkDistinct() error {
	all := c.binds()
	for i, b := range all {
		for _, earlier := range all[:i] {
			if b.same(earlier) {
				return fmt.Errorf("%s %q: %s has it, too", b.key, b.address, earlier.key)
			}
		}
	}
	return nil
}
