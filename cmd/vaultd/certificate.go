package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// certificate is the TLS certificate in force, and what is asked of clients.
type certificate struct {
	current atomic.Pointer[tls.Certificate]
	clients atomic.Pointer[tls.Config] // for each handshake
}

func (c *certificate) load(config Config) error {
	if config.TLSCert == "" {
		return nil
	}
	loaded, err := loadCertificate(config.TLSCert, config.TLSKey)
	if err != nil {
		return err
	}
	c.current.Store(loaded)
	c.clients.Store(clientTLS(c, config))
	return nil
}

// clientTLS is the configuration of handshakes. A client that shows a certificate of another authority is refused, also
// where none is required: it would be taken for a client without one.
func clientTLS(c *certificate, config Config) *tls.Config {
	base := baseTLS(c)
	if len(config.policy.ClientCAs) == 0 {
		return base
	}
	base.ClientAuth = tls.VerifyClientCertIfGiven
	if config.TLSClientAuth == "require" {
		base.ClientAuth = tls.RequireAndVerifyClientCert
	}
	base.ClientCAs = x509.NewCertPool()
	for _, authority := range config.policy.ClientCAs {
		base.ClientCAs.AddCert(authority)
	}
	return base
}

// loadAuthorities reads the certificates of a PEM file. It refuses a certificate that may not sign others, which is
// likely a client's own.
func loadAuthorities(path string) ([]*x509.Certificate, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("tls_client_ca: %w", err)
	}
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("tls_client_ca %q: it holds a %q; it should hold certificates only", path, block.Type)
		}
		parsed, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("tls_client_ca %q: certificate %d of the file cannot be read", path, len(all)+1)
		}
		if !parsed.IsCA {
			return nil, fmt.Errorf("tls_client_ca %q: certificate %d of the file is not an authority's", path, len(all)+1)
		}
		all = append(all, parsed)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("tls_client_ca %q: it holds no certificate", path)
	}
	return all, nil
}

func loadCertificate(cert, key string) (*tls.Certificate, error) {
	loaded, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("tls_cert %q with tls_key %q: %w", cert, key, err)
	}
	return &loaded, nil
}

// validity is the time in which every certificate of the chain is valid: a client needs all of them.
func validity(c *tls.Certificate) (from, until time.Time, err error) {
	for i, der := range c.Certificate {
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			return from, until, fmt.Errorf("certificate %d of the file cannot be read", i+1)
		}
		if parsed.NotBefore.After(from) {
			from = parsed.NotBefore
		}
		if until.IsZero() || parsed.NotAfter.Before(until) {
			until = parsed.NotAfter
		}
	}
	return from, until, nil
}

// check is the readiness check "tls": clients that verify reject a certificate that is out of date.
func (c *certificate) check(context.Context) error {
	loaded := c.current.Load()
	if loaded == nil {
		return nil
	}
	from, until, err := validity(loaded)
	switch now := time.Now(); {
	case err != nil:
		return err
	case !now.Before(until):
		return fmt.Errorf("the certificate expired at %s", until.UTC().Format(time.RFC3339))
	case now.Before(from):
		return fmt.Errorf("the certificate is not valid before %s", from.UTC().Format(time.RFC3339))
	}
	return nil
}

var notAfter = prometheus.NewDesc("vaultd_tls_cert_not_after_timestamp_seconds",
	"When the first certificate of the chain in force ends; absent without TLS.", nil, nil)

func (c *certificate) Describe(to chan<- *prometheus.Desc) { to <- notAfter }

func (c *certificate) Collect(to chan<- prometheus.Metric) {
	if loaded := c.current.Load(); loaded != nil {
		if _, until, err := validity(loaded); err == nil {
			to <- prometheus.MustNewConstMetric(notAfter, prometheus.GaugeValue, float64(until.Unix()))
		}
	}
}
