package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/httpapi"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/target"
	"github.com/hyperiondb/vault/internal/vault"
)

const (
	applicationName = "vaultd"
	startTimeout    = 3 * time.Second // to learn whether the schema fits; a database that is away does not keep us from starting
	checkTimeout    = 2 * time.Second // of one part that readiness asks
)

// serve runs until ctx ends. The order of the end: no new connections, requests under way finish, rotations under way are
// settled, reads on record are shipped, keys are wiped, pools are closed.
func serve(ctx context.Context, c Config, load func() (Config, error), logTo io.Writer, reload <-chan os.Signal) error {
	level := new(slog.LevelVar)
	level.Set(c.level)
	log := newLogger(logTo, c.LogFormat, level)
	if err := vault.CheckTimeZone(); err != nil {
		log.Warn("the time zone is unknown", "error", err)
	}

	stopProfile, err := profile(c.CPUProfile)
	if err != nil {
		return err
	}
	defer stopProfile()
	fence, err := openFence(c.StateDir, log)
	if err != nil {
		return err
	}
	reader, err := db.NewReader(ctx, db.Options{URL: c.DatabaseURL, ApplicationName: applicationName, MaxConns: c.MaxConns, Fence: fence,
		ReadTimeout: httpapi.ReadTimeout, PlanOnce: true})
	if err != nil {
		return err
	}
	defer reader.Close()
	writer, err := db.NewWriter(ctx, db.Options{URL: c.writerURL(), ApplicationName: applicationName, MaxConns: c.RotationWorkers + 4, Fence: fence,
		ListenURL: c.ListenDatabaseURL})
	if err != nil {
		return err
	}
	defer writer.Close()
	if err := fitsSchema(ctx, reader, log); err != nil {
		return err
	}

	keys := &keyRing{uris: c.KMSKeys, reader: reader}
	defer keys.close()
	if err := keys.openConfigured(ctx); err != nil {
		return fmt.Errorf("%w: kms_keys: %w", errConfig, err)
	}
	v := vault.New(vault.Options{
		Reader: reader, Writer: writer, Keys: vault.DeferKeys(keys.open), CacheSize: c.DEKCacheSize, CacheTTL: time.Duration(c.DEKCacheTTL),
		ReadTimeout: httpapi.ReadTimeout,
	})
	defer v.Close()

	sealer, err := openSealer(ctx, c, v, log)
	if err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	defer sealer.close()
	reads, err := openReads(ctx, c, v, log)
	if err != nil {
		return err
	}
	stopReads := reads.run()
	defer stopReads()

	registry := prometheus.NewRegistry()
	registry.MustRegister(&stateCollector{vault: v}, reads)
	fresh := v.NewFreshness(time.Duration(c.MaxStaleness))
	api := httpapi.New(httpapi.Options{
		Recorder: reads.door(), Audit: reads.status,
		MinLSNWait: time.Duration(c.MinLSNWait), Fresh: fresh.Check,
		Vault: v, Policy: c.policy, AdminAPI: c.AdminAPI, Version: buildVersion(), Log: log, Registry: registry,
		Checks: []httpapi.Check{{Name: "database", Check: bounded(v.Ping)}, {Name: "kms", Check: bounded(keys.check)},
			{Name: "replication", Check: func(context.Context) error { return fresh.Check() }},
			{Name: "audit", Check: reads.check},
			{Name: "fence", Check: bounded(fenceOnly(v.CheckFence))}, {Name: "audit_seals", Check: sealer.Check}},
	})
	registry.MustRegister(sealer)
	cert := new(certificate)
	if err := cert.load(c); err != nil {
		return err
	}
	servers, err := listen(c, api, cert, log)
	if err != nil {
		return err
	}
	failed := servers.serve()

	working, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	work := startRotation(working, c, v, reads, rotation.NewMetrics(registry), log)
	work.Go(func() { fresh.Run(working) })
	work.Go(func() { sealer.Run(working) })
	reloading := &reloader{load: load, api: api, fresh: fresh, certificate: cert, level: level, log: log}

	for {
		select {
		case <-reload:
			reloading.reload()
			continue
		case err = <-failed:
		case <-ctx.Done():
			err = nil
		}
		break
	}
	log.Info("stopping")
	servers.shutdown(time.Duration(c.ShutdownGrace), log)
	stopWork()
	work.Wait()
	log.Info("stopped")
	return err
}

// openFence reads what was seen before. A folder that cannot be written costs the memory over restarts and no more, so the
// daemon starts; a file that cannot be understood may hold what must not be forgotten, so it does not.
func openFence(dir string, log *slog.Logger) (*db.Fence, error) {
	if dir == "" {
		return db.OpenFence("")
	}
	fence, err := db.OpenFence(filepath.Join(dir, "primaries.json"))
	if err != nil {
		return nil, err
	}
	if err := fence.Probe(); err != nil {
		log.Warn("what is learned of primaries is forgotten at the next restart", "error", err)
	}
	return fence, nil
}

// fenceOnly leaves a database that does not answer to the part of that name.
func fenceOnly(check func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := check(ctx); errors.Is(err, vault.ErrFenced) {
			return err
		}
		return nil
	}
}

func (c Config) writerURL() string {
	if c.PrimaryDatabaseURL != "" {
		return c.PrimaryDatabaseURL
	}
	return c.DatabaseURL
}

func newLogger(to io.Writer, format string, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(to, options))
	}
	return slog.New(slog.NewTextHandler(to, options))
}

// fitsSchema stops a daemon that meets another schema than its own.
func fitsSchema(ctx context.Context, reader *db.Reader, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := reader.Ping(ctx)
	if errors.Is(err, vault.ErrSchema) || errors.Is(err, vault.ErrNotInitialised) || errors.Is(err, vault.ErrRefused) {
		return err
	}
	if err != nil {
		log.Warn("the local database is away; starting all the same", "error", err)
	}
	return nil
}

func bounded(check func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		return check(ctx)
	}
}

// keyRing opens the configured keys at the start, or the vault's default key when the database first names it.
type keyRing struct {
	uris   []string
	reader *db.Reader
	mu     sync.Mutex
	ring   *kms.Ring
}

func (k *keyRing) openConfigured(ctx context.Context) error {
	if len(k.uris) == 0 {
		return nil
	}
	_, err := k.open(ctx)
	return err
}

func (k *keyRing) open(ctx context.Context) (vault.Keys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ring != nil {
		return k.ring, nil
	}
	uris := k.uris
	if len(uris) == 0 {
		config, err := k.reader.Config(ctx)
		if err != nil {
			return nil, err
		}
		// Whoever can edit that row must not learn data keys by naming an endpoint of his own.
		if config.DefaultKMSKey == "" || kms.HasEndpoint(config.DefaultKMSKey) {
			return nil, fmt.Errorf("%w: kms_keys is empty and the vault has no default key to use", vault.ErrKeyRefused)
		}
		uris = []string{config.DefaultKMSKey}
	}
	ring, err := kms.OpenRing(ctx, uris)
	if err != nil {
		return nil, err
	}
	k.ring = ring
	return ring, nil
}

// check asks every key whether it would work.
func (k *keyRing) check(ctx context.Context) error {
	if _, err := k.open(ctx); err != nil {
		return err
	}
	for _, key := range k.ring.Keys() {
		d, err := key.Describe(ctx)
		if err != nil {
			return err
		}
		if !d.Usable {
			return fmt.Errorf("key %s: %s", d.URI, d.State)
		}
	}
	return nil
}

func (k *keyRing) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ring != nil {
		_ = k.ring.Close() // wipes; there is nothing to do about an error at the end
	}
}

// startRotation runs the supervisor, the heart and, unless there are none here, the workers.
func startRotation(ctx context.Context, c Config, v *vault.Vault, reads *reads, metrics *rotation.Metrics, log *slog.Logger) *sync.WaitGroup {
	var running sync.WaitGroup
	supervisor := &rotation.Supervisor{Vault: v, Interval: time.Duration(c.ScanInterval), Log: log}
	running.Go(func() { supervisor.Run(ctx) })
	if c.HeartbeatInterval > 0 {
		heart := &rotation.Heart{Vault: v, Interval: time.Duration(c.HeartbeatInterval), Log: log}
		running.Go(func() { heart.Run(ctx) })
	}
	if c.RotationWorkers > 0 {
		host, _ := os.Hostname() // the pid tells workers of one host apart
		id := fmt.Sprintf("%s:%d", host, os.Getpid())
		targets := target.New(target.Options{Open: openValue(v, reads, id), Programs: c.ExecRotators, WebhookHosts: c.WebhookHosts, Log: log})
		worker := &rotation.Worker{
			Vault: v, Target: targets, ID: id, Concurrency: c.RotationWorkers, Poll: time.Duration(c.ScanInterval),
			ClaimTimeout: time.Duration(c.ClaimTimeout), Metrics: metrics, Log: log,
		}
		running.Go(func() { worker.Run(ctx) })
	}
	return &running
}

// openValue reads the secrets that rotators need to reach their targets. Those reads are on record as any other.
func openValue(v *vault.Vault, reads *reads, worker string) func(context.Context, string) ([]byte, error) {
	return func(ctx context.Context, name string) ([]byte, error) {
		secret, err := v.Get(ctx, name, vault.GetOptions{})
		if err != nil {
			return nil, err
		}
		if err := reads.byWorker(ctx, worker, vault.AuditedGet(name, secret)); err != nil {
			secret.Wipe()
			return nil, err
		}
		return secret.Value, nil
	}
}

// reloader applies what may change while running.
type reloader struct {
	load        func() (Config, error)
	api         *httpapi.API
	fresh       *vault.Freshness
	certificate *certificate
	level       *slog.LevelVar
	log         *slog.Logger
}

func (r *reloader) reload() {
	c, err := r.load()
	if err == nil {
		err = r.certificate.load(c)
	}
	if err != nil {
		r.log.Error("reloading failed; the old settings stay", "error", err)
		return
	}
	r.api.SetPolicy(c.policy)
	r.fresh.SetLimit(time.Duration(c.MaxStaleness))
	r.level.Set(c.level)
	r.log.Info("reloaded")
}

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

// servers are the listeners and what serves them.
type servers struct {
	all []*server
}

type server struct {
	http     *http.Server
	listener net.Listener
}

func listen(c Config, api *httpapi.API, cert *certificate, log *slog.Logger) (*servers, error) {
	s := &servers{}
	var urls []string
	open := func(key, address string, handler http.Handler, secure bool) error {
		listener, err := listenOn(address, c.mode)
		if err != nil {
			return fmt.Errorf("listening on %q: %w", address, err)
		}
		scheme := "http"
		if secure && listener.Addr().Network() != "unix" {
			scheme = "https"
			listener = tls.NewListener(listener, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
				GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert.current.Load(), nil }})
		}
		url := scheme + "://" + listener.Addr().String()
		if listener.Addr().Network() == "unix" {
			url = "unix:" + listener.Addr().String()
		}
		urls = append(urls, key+"="+url)
		log.Info("listening", "for", strings.ToLower(strings.TrimPrefix(key, "VAULTD_")), "address", url)
		s.all = append(s.all, &server{listener: listener, http: &http.Server{
			Handler: handler, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
			ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: httpapi.WriteTimeout + 25*time.Second,
			IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		}})
		return nil
	}
	for i, address := range c.Listen {
		key := "VAULTD_URL"
		if i > 0 {
			key = fmt.Sprintf("VAULTD_URL_%d", i+1)
		}
		if err := open(key, address, api.Handler(), c.TLSCert != ""); err != nil {
			s.close()
			return nil, err
		}
	}
	if c.HealthListen != "" {
		if err := open("VAULTD_HEALTH_URL", c.HealthListen, api.HealthHandler(), false); err != nil {
			s.close()
			return nil, err
		}
	}
	if c.AddressFile != "" {
		if err := writeWhole(c.AddressFile, strings.Join(urls, "\n")+"\n"); err != nil {
			s.close()
			return nil, fmt.Errorf("writing address_file: %w", err)
		}
	}
	return s, nil
}

// listenOn replaces the socket that a killed daemon left behind, but not one that somebody listens on.
func listenOn(address string, mode os.FileMode) (net.Listener, error) {
	path, unix := strings.CutPrefix(address, "unix:")
	if !unix {
		return net.Listen("tcp", address)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, errors.New("somebody listens there already")
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

// writeWhole makes a file appear with all that is in it.
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
	return failed
}

// shutdown lets requests under way finish for the grace, then cuts them off.
func (s *servers) shutdown(grace time.Duration, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var ending sync.WaitGroup
	for _, server := range s.all {
		ending.Go(func() {
			if err := server.http.Shutdown(ctx); err != nil {
				log.Warn("requests were cut off", "address", server.listener.Addr().String())
				_ = server.http.Close()
			}
		})
	}
	ending.Wait()
}

func (s *servers) close() {
	for _, server := range s.all {
		_ = server.listener.Close()
	}
}
