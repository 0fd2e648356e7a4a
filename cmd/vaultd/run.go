package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/awsclient"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/httpapi"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/release"
	"github.com/hyperiondb/vault/internal/rotation"
	"github.com/hyperiondb/vault/internal/rotation/metrics"
	"github.com/hyperiondb/vault/internal/target"
	"github.com/hyperiondb/vault/internal/vault"
	vaultsql "github.com/hyperiondb/vault/sql"
)

const (
	applicationName = "vaultd"
	// of the schema check; the daemon starts even if the database does not answer
	startTimeout = 3 * time.Second
	checkTimeout = 2 * time.Second // of one readiness check
)

// serve runs until ctx ends. It stops in this order: not ready, every answer ends its connection for drain_delay, waits
// for a change end, no new connections, requests under way finish, rotations under way are settled, recorded reads are
// shipped, keys are wiped, pools are closed.
func serve(ctx context.Context, c Config, load func() (Config, error), logTo io.Writer, reload <-chan os.Signal) error {
	level := new(slog.LevelVar)
	level.Set(c.level)
	log := newLogger(logTo, c.LogFormat, level)

	stopProfile, err := profile(c.CPUProfile)
	if err != nil {
		return err
	}
	defer stopProfile()
	cert := new(certificate)
	if err := cert.load(c); err != nil {
		return err
	}
	fence, err := openFence(c.StateDir, log)
	if err != nil {
		return err
	}
	reader, err := db.NewReader(ctx, db.Options{URL: c.DatabaseURL, ApplicationName: applicationName, MaxConns: c.MaxConns,
		Fence: fence, ReadTimeout: httpapi.ReadTimeout, PlanOnce: true, ShareAtStart: true})
	if err != nil {
		return fmt.Errorf("database_url: %w", err)
	}
	defer reader.Close()
	writer, err := db.NewWriter(ctx, db.Options{URL: c.writerURL(), ApplicationName: applicationName,
		MaxConns: c.RotationWorkers + 4, Fence: fence, ListenURL: c.ListenDatabaseURL, ShareAtStart: true})
	if err != nil {
		return fmt.Errorf("primary_database_url or listen_database_url: %w", err)
	}
	defer writer.Close()
	if err := fitsSchema(ctx, reader, log); err != nil {
		return err
	}

	ctx = awsclient.WithCredentialsFile(ctx, c.AWSCredentialsFile)
	registry := prometheus.NewRegistry()
	calls := newKeyCalls(registry)
	keys := &lazyKeys{uris: c.KMSKeys, awsCredentials: c.AWSCredentialsFile, reader: reader, calls: calls}
	defer keys.close()
	if err := keys.openConfigured(ctx); err != nil {
		return fmt.Errorf("%w: kms_keys: %w", errConfig, err)
	}
	v := vault.New(vault.Options{
		Reader: reader, Writer: writer, Keys: vault.DeferKeys(keys.open), CacheSize: c.DEKCacheSize,
		CacheTTL:    time.Duration(c.DEKCacheTTL),
		ReadTimeout: httpapi.ReadTimeout,
		ReadConfirm: time.Duration(c.ReadConfirm), KeepBytes: int64(c.ReadCacheBytes),
		ReadSurvive: time.Duration(c.ReadSurvive), Log: log,
	})
	defer v.Close()

	auditLog := auditdb.New(reader, writer)
	sealer, err := openSealer(ctx, c, v, auditLog, calls, log)
	if err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	defer sealer.close()
	reads, err := openReads(ctx, c, auditLog, log)
	if err != nil {
		return err
	}
	stopReads := reads.run()
	defer stopReads()

	registry.MustRegister(&stateCollector{vault: v}, &memoryCollector{v}, &keyCacheCollector{v}, reads, waitQueries(v))
	registerProcess(registry)
	fresh := v.NewFreshness(time.Duration(c.MaxStaleness))
	bounds := c.connectionBounds(log)
	api := httpapi.New(httpapi.Options{
		Recorder: reads.forRequests(), Audit: reads.status,
		MinLSNWait: time.Duration(c.MinLSNWait), Fresh: fresh.Check, Apps: nodeApps{reader},
		// A connection that waits cannot be closed to make room for another: half of them stay for other requests.
		MaxWaits: max(bounds.Total/2, 1), MaxWaitsPerAddress: max(bounds.PerAddress/2, 1),
		Vault: v, Policy: c.policy, AdminAPI: c.AdminAPI, KVMount: c.KVMount,
		Release: httpapi.Release{Version: release.Version(), Commit: release.Commit(), Schema: vaultsql.Version()},
		Log:     log, Registry: registry,
		Checks: []httpapi.Check{{Name: "database", Check: bounded(answers(v))}, {Name: "kms", Check: bounded(keys.check)},
			{Name: "replication", Check: func(context.Context) error { return fresh.Check() }},
			{Name: "audit", Check: reads.check},
			{Name: "fence", Check: bounded(fenceOnly(v.CheckFence))}, {Name: "audit_seals", Check: sealer.Check},
			{Name: "tls", Check: cert.check}},
		Notices: append(reads.notices(), httpapi.Check{Name: "rounds", Check: bounded(roundsWork(v))},
			httpapi.Check{Name: "sealing", Check: sealer.Sealing}),
	})
	registry.MustRegister(sealer)
	registry.MustRegister(cert)
	c.warn(log)
	servers, err := openServers(c, bounds, api, cert, log)
	if err != nil {
		return err
	}
	registry.MustRegister(servers)
	failed := servers.serve()

	working, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	work := startRotation(working, c, v, reads, metrics.New(registry), log)
	work.Go(func() { fresh.Run(working) })
	work.Go(func() {
		v.NewPresence(nodeName(working, auditLog), release.Version(), release.Commit(), vaultsql.Version(), log).Run(working)
	})
	work.Go(func() { sealer.Run(working) })
	reloading := newReloader(c, load, api, fresh, cert, level, log)
	registry.MustRegister(reloading)
	tellSystemd(log, ready)

	for {
		select {
		case <-reload:
			tellSystemd(log, reloadingNow())
			reloading.reload()
			tellSystemd(log, ready)
			continue
		case err = <-failed:
		case <-ctx.Done():
			err = nil
		}
		break
	}
	log.Info("stopping")
	tellSystemd(log, stopping)
	if err == nil { // a failed listener ends the daemon without a delay
		api.Drain()
		drain(time.Duration(c.DrainDelay), failed)
	}
	api.EndWaits()
	servers.shutdown(time.Duration(c.ShutdownGrace), log)
	stopWork()
	work.Wait()
	log.Info("stopped")
	return err
}

// openFence reads the primaries seen before. If the folder cannot be entered or written, the daemon starts and forgets
// them at a restart. It does not start if the file cannot be parsed: the file may name a newer primary.
func openFence(dir string, log *slog.Logger) (*db.Fence, error) {
	if dir == "" {
		return db.OpenFence("")
	}
	fence, err := db.OpenFence(filepath.Join(dir, "primaries.json"))
	if err != nil {
		return nil, err
	}
	if err := fence.Probe(); err != nil {
		log.Warn("the primaries seen are forgotten at the next restart", "error", err)
	}
	return fence, nil
}

// answers fails if the local node does not answer, and says so if reads go on all the same.
func answers(v *vault.Vault) func(context.Context) error {
	return func(ctx context.Context) error {
		err := v.Ping(ctx)
		if kept, on := v.KeptRows(); err != nil && on && kept.Surviving {
			err = fmt.Errorf("%w; reads of %d kept secrets go on, last confirmed %s ago", err, kept.Rows,
				kept.Confirmed.Round(time.Millisecond))
		}
		return err
	}
}

// fenceOnly fails for ErrFenced alone: the check "database" reports a database that does not answer.
func fenceOnly(check func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := check(ctx); errors.Is(err, vault.ErrFenced) {
			return err
		}
		return nil
	}
}

// roundsWork counts the failures of the rounds. It names none: the health listener answers any client.
func roundsWork(v *vault.Vault) func(context.Context) error {
	return func(ctx context.Context) error {
		health, err := v.Health(ctx)
		if err == nil && health.RoundFailures > 0 {
			err = fmt.Errorf("%d parts, secrets or months cannot be handled; vaultctl doctor names them",
				health.RoundFailures)
		}
		return err
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

// fitsSchema fails if the database has another schema version than the daemon.
func fitsSchema(ctx context.Context, reader *db.Reader, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := reader.Ping(ctx)
	if errors.Is(err, vault.ErrSchema) || errors.Is(err, vault.ErrNotInitialised) || errors.Is(err, vault.ErrRefused) {
		return err
	}
	if err != nil {
		log.Warn("the local database does not answer; starting without it", "error", err)
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

// lazyKeys opens the configured keys at the start, or the vault's default key when the database first names it.
type lazyKeys struct {
	uris           []string
	awsCredentials string // of Config.AWSCredentialsFile
	reader         *db.Reader
	calls          *keyCalls
	mu             sync.Mutex
	keyring        *kms.Keyring
}

func (k *lazyKeys) openConfigured(ctx context.Context) error {
	if len(k.uris) == 0 {
		return nil
	}
	_, err := k.open(ctx)
	return err
}

func (k *lazyKeys) open(ctx context.Context) (vault.Keys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keyring != nil {
		return countedKeys{k.keyring, k.calls}, nil
	}
	uris := k.uris
	if len(uris) == 0 {
		config, err := k.reader.Config(ctx)
		if err != nil {
			return nil, err
		}
		// A role that can edit the row must not redirect data keys to its own endpoint.
		if config.DefaultKMSKey == "" || kms.HasEndpoint(config.DefaultKMSKey) {
			return nil, fmt.Errorf("%w: kms_keys is empty and the vault has no default key to use", vault.ErrKeyRefused)
		}
		uris = []string{config.DefaultKMSKey}
	}
	keyring, err := kms.OpenKeyring(awsclient.WithCredentialsFile(ctx, k.awsCredentials), uris)
	if err != nil {
		return nil, err
	}
	k.keyring = keyring
	return countedKeys{keyring, k.calls}, nil
}

// check reports the first key that is not usable.
func (k *lazyKeys) check(ctx context.Context) error {
	if _, err := k.open(ctx); err != nil {
		return err
	}
	for _, key := range k.keyring.Keys() {
		done := k.calls.begin(describeKey)
		d, err := key.Describe(ctx)
		done(err)
		if err != nil {
			return err
		}
		if !d.Usable {
			return fmt.Errorf("key %s: %s", d.URI, d.State)
		}
	}
	return nil
}

func (k *lazyKeys) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keyring != nil {
		_ = k.keyring.Close() // wipes the keys; an error changes nothing at the end
	}
}

// startRotation runs the supervisor, the heartbeat and, with rotation_workers above 0, the workers.
func startRotation(ctx context.Context, c Config, v *vault.Vault, reads *reads, counted rotation.Metrics,
	log *slog.Logger) *sync.WaitGroup {
	var running sync.WaitGroup
	supervisor := &rotation.Supervisor{Vault: v, Interval: time.Duration(c.ScanInterval), Log: log}
	running.Go(func() { supervisor.Run(ctx) })
	if c.HeartbeatInterval > 0 {
		heartbeat := &vault.Heartbeat{Vault: v, Interval: time.Duration(c.HeartbeatInterval), Log: log}
		running.Go(func() { heartbeat.Run(ctx) })
	}
	if c.RotationWorkers > 0 {
		host, _ := os.Hostname() // without a name, the pid still distinguishes workers
		id := fmt.Sprintf("%s:%d", host, os.Getpid())
		reach := c.targets()
		reach.Open, reach.Log = openValue(v, reads, id), log
		worker := &rotation.Worker{
			Vault: v, Target: target.New(reach), ID: id, Concurrency: c.RotationWorkers,
			Poll:         time.Duration(c.ScanInterval),
			ClaimTimeout: time.Duration(c.ClaimTimeout), Metrics: counted, Log: log,
		}
		running.Go(func() { worker.Run(ctx) })
	}
	return &running
}

// openValue reads the secrets that rotators need to reach their targets. Those reads are recorded as any other.
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
