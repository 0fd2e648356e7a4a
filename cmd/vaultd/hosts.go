package main

import (
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/hyperiondb/vault/internal/httpapi"
)

// ownHosts are what clients may name in a Host header: the configured ones, the listeners', the machine's and the
// certificate's. The address that a connection comes to is added for each request.
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
	for _, entry := range implied { // a name that no client can send is no reason not to start
		if host, err := httpapi.ParseHost(entry); err == nil {
			all = append(all, host)
		}
	}
	return all, nil
}

// listenHosts leaves out the addresses that stand for all: pages of any site can ask for 0.0.0.0.
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
