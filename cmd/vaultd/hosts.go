package main

import (
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/hyperiondb/vault/internal/httpapi"
)

// ownHosts are the names that clients may give in a Host header: of the configuration, the listeners, the machine and
// the certificate. Each request may also name the local address of its connection.
func (c *Config) ownHosts() ([]string, error) {
	var all []string
	for _, entry := range c.Hosts {
		host, err := httpapi.ParseHost(entry)
		if err != nil {
			return nil, fmt.Errorf("hosts: %w", err)
		}
		all = append(all, host)
	}
	implied := c.listenHosts()
	if name, err := os.Hostname(); err == nil {
		implied = append(implied, name)
	}
	if c.TLSCert != "" {
		certificate, err := loadCertificate(c.TLSCert, c.TLSKey)
		if err != nil {
			return nil, err
		}
		implied = append(implied, certificate.Leaf.DNSNames...)
		for _, ip := range certificate.Leaf.IPAddresses {
			implied = append(implied, ip.String())
		}
	}
	for _, entry := range implied { // the daemon starts even if one is no valid host name
		if host, err := httpapi.ParseHost(entry); err == nil {
			all = append(all, host)
		}
	}
	return all, nil
}

// listenHosts leaves out wildcard addresses: pages of any site can request 0.0.0.0.
func (c *Config) listenHosts() []string {
	var all []string
	for _, address := range append([]string{c.HealthListen}, c.Listen...) {
		host, _, err := net.SplitHostPort(address)
		if ip := net.ParseIP(host); err == nil && !strings.HasPrefix(address, "unix:") && (ip == nil || !ip.IsUnspecified()) {
			all = append(all, host)
		}
	}
	return all
}
