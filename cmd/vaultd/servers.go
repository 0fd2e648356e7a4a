package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hyperiondb/vault/internal/httpapi"
	"github.com/hyperiondb/vault/internal/listen"
)

// servers are the listeners and their HTTP servers.
type servers struct {
	all     []*server
	secrets *listen.Limiter
	health  *listen.Limiter
	systemd *listen.OneAnswer // nil = none
	log     *slog.Logger
	urls    []string // as in the address file

	inherited *listen.Inherited // until all is open
}

type server struct {
	http     *http.Server
	listener net.Listener
}

func openServers(c Config, bounds listen.Bounds, api *httpapi.API, cert *certificate,
	log *slog.Logger) (*servers, error) {
	s := &servers{log: log, health: listen.NewLimiter(healthBounds, func(netip.Addr) listen.Kind { return listen.Client })}
	s.secrets = listen.NewLimiter(bounds, func(a netip.Addr) listen.Kind { return kinds[api.Admits(a)] })
	if err := s.openAll(c, api, cert); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

var kinds = map[httpapi.Admission]listen.Kind{httpapi.AdmitNone: listen.Stranger, httpapi.AdmitClient: listen.Client,
	httpapi.AdmitProxy: listen.Proxy}

func (s *servers) openAll(c Config, api *httpapi.API, cert *certificate) (err error) {
	if s.inherited, err = listen.Inherit(); err != nil {
		return err
	}
	defer s.inherited.Close()
	var config *tls.Config
	if c.TLSCert != "" {
		config = serverTLS(cert)
	}
	for i, address := range c.Listen {
		key := "VAULTD_URL"
		if i > 0 {
			key = fmt.Sprintf("VAULTD_URL_%d", i+1)
		}
		if err := s.open(key, address, c.mode, api.Handler(), s.secrets, config); err != nil {
			return err
		}
	}
	if c.HealthListen != "" {
		if err := s.open("VAULTD_HEALTH_URL", c.HealthListen, c.mode, api.HealthHandler(), s.health, nil); err != nil {
			return err
		}
	}
	if c.CredentialSocket != "" {
		if err := s.openCredentials(c.CredentialSocket, api); err != nil {
			return err
		}
	}
	if err := s.inherited.Unused(); err != nil {
		return err
	}
	if c.AddressFile != "" {
		if err := writeWhole(c.AddressFile, strings.Join(s.urls, "\n")+"\n"); err != nil {
			return fmt.Errorf("writing address_file: %w", err)
		}
	}
	return nil
}

// open opens the listeners of one setting. The address file names the first of them.
func (s *servers) open(key, address string, mode os.FileMode, h http.Handler, l *listen.Limiter,
	config *tls.Config) error {
	listeners, err := s.inherited.Open(address, mode)
	if err != nil {
		return fmt.Errorf("listening on %q: %w", address, err)
	}
	for i, inner := range listeners {
		secure, scheme := config, "http"
		switch {
		case inner.Addr().Network() == "unix":
			secure = nil
		case config != nil:
			scheme = "https"
		}
		url := scheme + "://" + inner.Addr().String()
		if inner.Addr().Network() == "unix" {
			url = "unix:" + inner.Addr().String()
		}
		if i == 0 {
			s.urls = append(s.urls, key+"="+url)
		}
		s.log.Info("listening", "for", strings.ToLower(strings.TrimPrefix(key, "VAULTD_")), "address", url)
		s.all = append(s.all, &server{listener: l.Listener(inner, secure), http: newServer(h, l, s.log)})
	}
	return nil
}

// openCredentials makes a socket that root and the daemon's own user can connect to.
func (s *servers) openCredentials(path string, api *httpapi.API) error {
	listeners, err := s.inherited.Open("unix:"+path, 0o600)
	if err != nil {
		return fmt.Errorf("listening on credential_socket %q: %w", path, err)
	}
	s.log.Info("listening", "for", "systemd", "address", "unix:"+path)
	s.systemd = listen.NewOneAnswer(listeners[0], api.AnswerCredential)
	return nil
}

// newServer passes every request that can be parsed to the handler, "OPTIONS *" too.
func newServer(h http.Handler, l *listen.Limiter, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: l.Handler(h), ConnState: l.ConnState, ConnContext: l.ConnContext, DisableGeneralOptionsHandler: true,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: httpapi.WriteTimeout + 25*time.Second,
		IdleTimeout:  2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
}

// serverTLS takes what is in force for each handshake.
func serverTLS(cert *certificate) *tls.Config {
	config := baseTLS(cert)
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return cert.clients.Load(), nil }
	return config
}

// baseTLS allows TLS 1.3, and of 1.2 the suites with forward secrecy and an AEAD: none in CBC mode.
func baseTLS(cert *certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert.current.Load(), nil },
	}
}

// writeWhole writes a file atomically: readers see all of it or none.
func writeWhole(path, text string) error {
	partial := path + ".partial"
	if err := os.WriteFile(partial, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(partial, path)
}

func (s *servers) serve() <-chan error {
	failed := make(chan error, len(s.all))
	for _, server := range s.all {
		go func() {
			if err := server.http.Serve(server.listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving on %s: %w", server.listener.Addr(), err)
			}
		}()
	}
	if s.systemd != nil {
		go s.systemd.Serve()
	}
	return failed
}

// silentGrace is for connections that were accepted and have sent nothing.
const silentGrace = time.Second

// shutdown accepts no more connections, waits up to grace for the requests of those that it has accepted, and closes
// them. With systemd's sockets, later connections wait for the next daemon.
func (s *servers) shutdown(grace time.Duration, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for _, server := range s.all {
		_ = server.listener.Close() // an error would be the one of a listener that is closed already
	}
	s.secrets.Settle(ctx, silentGrace)
	s.health.Settle(ctx, silentGrace)
	var ending sync.WaitGroup
	for _, server := range s.all {
		ending.Go(func() {
			if err := server.http.Shutdown(ctx); err != nil {
				log.Warn("requests were cut off", "address", server.listener.Addr().String())
				_ = server.http.Close()
			}
		})
	}
	if s.systemd != nil {
		ending.Go(func() {
			if err := s.systemd.Shutdown(ctx); err != nil {
				log.Warn("requests were cut off", "address", s.systemd.Addr().String())
			}
		})
	}
	ending.Wait()
}

func (s *servers) close() {
	for _, server := range s.all {
		_ = server.listener.Close()
	}
	if s.systemd != nil {
		s.systemd.Close()
	}
}
