package main

import (
	"log/slog"
	"reflect"
	"strings"
	"time"

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
	c.warn(r.log)
	if waiting := needRestart(r.running, c); len(waiting) > 0 {
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
