package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
)

// auditSealer is the sealer of the audit log and its metrics.
type auditSealer struct{ *seal.Sealer }

// openSealer reads the key and the seals seen before; neither has to be there.
func openSealer(c Config, v *vault.Vault, log *slog.Logger) (*auditSealer, error) {
	s := &auditSealer{&seal.Sealer{Store: v, Log: log}}
	if c.AuditSealKey != "" {
		seed, err := kms.ReadSeed(c.AuditSealKey)
		if err != nil {
			return nil, fmt.Errorf("audit_seal_key: %w (vaultctl keygen --audit makes one)", err)
		}
		defer clear(seed)
		if s.Key, err = seal.NewKey(seed); err != nil {
			return nil, fmt.Errorf("audit_seal_key: %w", err)
		}
		log.Info("sealing the audit log", "key", s.Key.Public().String())
	}
	if c.AuditSealsFile != "" {
		var err error
		if s.Copies, err = seal.OpenCopies(c.AuditSealsFile); err != nil {
			return nil, fmt.Errorf("audit_seals_file: %w", err)
		}
	}
	return s, nil
}

func (s *auditSealer) run(ctx context.Context) {
	if s.Key != nil || s.Copies != nil {
		s.Run(ctx)
	}
}

func (s *auditSealer) close() {
	if s.Copies != nil {
		_ = s.Copies.Close() // every line is on disk already
	}
}

var (
	rowsSealed  = prometheus.NewDesc("vaultd_audit_rows_sealed_total", "Rows of the audit log that this daemon has sealed.", nil, nil)
	sealFailing = prometheus.NewDesc("vaultd_audit_sealing_failing", "Whether the last attempt to seal failed.", nil, nil)
	sealAlarm   = prometheus.NewDesc("vaultd_audit_seals_alarm", "Whether the node's seals do not go on from those seen before.", nil, nil)
)

// Describe is prometheus.Collector's.
func (s *auditSealer) Describe(to chan<- *prometheus.Desc) {
	to <- rowsSealed
	to <- sealFailing
	to <- sealAlarm
}

// Collect is prometheus.Collector's.
func (s *auditSealer) Collect(to chan<- prometheus.Metric) {
	sealed, failing, alarm := s.State()
	to <- prometheus.MustNewConstMetric(rowsSealed, prometheus.CounterValue, float64(sealed))
	to <- prometheus.MustNewConstMetric(sealFailing, prometheus.GaugeValue, oneIf(failing))
	to <- prometheus.MustNewConstMetric(sealAlarm, prometheus.GaugeValue, oneIf(alarm))
}
