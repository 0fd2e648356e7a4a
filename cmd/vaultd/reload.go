package main

import (
	"log/slog"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/httpapi"
	"github.com/hyperiondb/vault/internal/vault"
)

// reloaded lists the settings that SIGHUP applies. All others are read at the start only.
var reloaded = map[string]bool{
	"allow": true, "trusted_proxies": true, "hosts": true, "verify_rate": true, "verify_burst": true,
	"max_staleness": true, "log_level": true, "tls_cert": true, "tls_key": true, "tls_client_ca": true,
	"tls_client_auth": true, "access": true, "app_rate": true, "app_at_once": true, "address_rate": true,
	"address_at_once": true, "total_rate": true, "total_at_once": true, "credentials": true,
}

// reloader applies the settings of reloaded.
type reloader struct {
	running     Config // what the daemon was started with
	load        func() (Config, error)
	api         *httpapi.API
	fresh       *vault.Freshness
	certificate *certificate
	level       *slog.LevelVar
	log         *slog.Logger

	failed  atomic.Bool  // the last attempt
	applied atomic.Int64 // when settings were last applied, in seconds since 1970
	waiting atomic.Int64 // settings of the file that take a restart
}

func newReloader(running Config, load func() (Config, error), api *httpapi.API, fresh *vault.Freshness,
	cert *certificate, level *slog.LevelVar, log *slog.Logger) *reloader {
	r := &reloader{running: running, load: load, api: api, fresh: fresh, certificate: cert, level: level, log: log}
	r.applied.Store(time.Now().Unix()) // those of the start
	return r
}

func (r *reloader) reload() {
	c, err := r.load()
	if err == nil {
		err = r.certificate.load(c)
	}
	if err != nil {
		r.failed.Store(true)
		r.log.Error("reloading failed; the old settings stay", "error", err)
		return
	}
	r.api.SetPolicy(c.policy)
	r.fresh.SetLimit(time.Duration(c.MaxStaleness))
	r.level.Set(c.level)
	c.warn(r.log)
	waiting := needRestart(r.running, c)
	r.applied.Store(time.Now().Unix())
	r.waiting.Store(int64(len(waiting)))
	r.failed.Store(false) // last: metrics that say that it worked have the others of this reload
	if len(waiting) > 0 {
		r.log.Warn("reloaded, but for settings that take a restart", "unchanged", strings.Join(waiting, ", "))
		return
	}
	r.log.Info("reloaded")
}

// needRestart names the settings that differ from those the daemon was started with and that a reload does not change.
func needRestart(running, now Config) []string {
	var names []string
	// A listener uses TLS or not from its start; a reload exchanges the certificate.
	switched := (running.TLSCert == "") != (now.TLSCert == "")
	a, b := reflect.ValueOf(running), reflect.ValueOf(now)
	for i := range a.NumField() {
		key := a.Type().Field(i).Tag.Get("toml")
		if key == "" || reloaded[key] && !(switched && strings.HasPrefix(key, "tls_")) {
			continue
		}
		if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			names = append(names, key)
		}
	}
	return names
}

var (
	reloadWorked = prometheus.NewDesc("vaultd_config_last_reload_successful",
		"Whether the last reload of the configuration worked; 1 before the first.", nil, nil)
	reloadedAt = prometheus.NewDesc("vaultd_config_last_reload_success_timestamp_seconds",
		"When the configuration was last applied: by the last reload that worked, or at the start.", nil, nil)
	restartNeeded = prometheus.NewDesc("vaultd_config_settings_waiting",
		"Settings that the last reload found changed and that take a restart; the log names them.", nil, nil)
)

// Describe implements prometheus.Collector.
func (r *reloader) Describe(to chan<- *prometheus.Desc) {
	to <- reloadWorked
	to <- reloadedAt
	to <- restartNeeded
}

// Collect implements prometheus.Collector.
func (r *reloader) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) { to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	gauge(reloadWorked, gaugeOf(!r.failed.Load()))
	gauge(reloadedAt, float64(r.applied.Load()))
	gauge(restartNeeded, float64(r.waiting.Load()))
}
