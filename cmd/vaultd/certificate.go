package main

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
)

// certificate is the TLS certificate in force.
type certificate struct {
	current atomic.Pointer[tls.Certificate]
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
	return nil
}

func loadCertificate(cert, key string) (*tls.Certificate, error) {
	loaded, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("tls_cert %q with tls_key %q: %w", cert, key, err)
	}
	return &loaded, nil
}
