package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/bucket"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
)

// auditSealer is the sealer of the audit log and its metrics.
type auditSealer struct {
	*seal.Sealer
	open   []io.Closer
	bucket bool // a bucket is configured
}

// openSealer opens the key, the file and the bucket of seals, each if it is configured.
func openSealer(ctx context.Context, c Config, v *vault.Vault, auditLog *auditdb.Log, calls *keyCalls,
	log *slog.Logger) (*auditSealer, error) {
	rounds := &vault.Rounds{Vault: v, Part: vault.RoundSeal, Here: true}
	s := &auditSealer{Sealer: &seal.Sealer{Store: auditLog, Log: log, Report: rounds.Settle}}
	if c.AuditSealKey != "" {
		key, err := kms.OpenSigner(ctx, c.AuditSealKey)
		if err != nil {
			return nil, fmt.Errorf("audit_seal_key: %w (vaultctl keygen --audit makes one)", err)
		}
		if closer, ok := key.(io.Closer); ok {
			s.open = append(s.open, closer)
		}
		s.Key = countedSigner{key, calls}
	}
	if c.AuditSealsFile != "" {
		file, err := seal.OpenCopies(c.AuditSealsFile)
		if err != nil {
			return nil, fmt.Errorf("audit_seals_file: %w", err)
		}
		s.Places = append(s.Places, &seal.Place{Keeper: file, Where: "here"})
		s.open = append(s.open, file)
	}
	if c.AuditSealsBucket != "" {
		b, err := bucket.Open(ctx, c.AuditSealsBucket, auditLog.Cluster)
		if err != nil {
			return nil, fmt.Errorf("audit_seals_bucket: %w", err)
		}
		s.Places = append(s.Places, &seal.Place{Keeper: b, Where: "in the bucket",
			Every: time.Duration(c.AuditSealsBucketInterval), Shared: true})
		s.open, s.bucket = append(s.open, b), true
	}
	return s, nil
}

func (s *auditSealer) close() {
	for _, o := range s.open {
		_ = o.Close() // every seal is durable already
	}
}

var (
	rowsSealed = prometheus.NewDesc("vaultd_audit_rows_sealed_total",
		"Rows of the audit log that this daemon has sealed.", nil, nil)
	sealFailing = prometheus.NewDesc("vaultd_audit_sealing_failing", "Whether the last attempt to seal failed.", nil, nil)
	sealAlarm   = prometheus.NewDesc("vaultd_audit_seals_alarm",
		"Whether the node's seals do not go on from those seen before.", nil, nil)

	bucketFailing = prometheus.NewDesc("vaultd_audit_bucket_failing",
		"Whether the last attempt to keep seals in the bucket failed.", nil, nil)
	bucketBehind = prometheus.NewDesc("vaultd_audit_bucket_behind_seconds",
		"How long ago the bucket last had all seals of this primary; 0 while it is kept.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *auditSealer) Describe(to chan<- *prometheus.Desc) {
	to <- rowsSealed
	to <- sealFailing
	to <- sealAlarm
	if s.bucket {
		to <- bucketFailing
		to <- bucketBehind
	}
}

// Collect implements prometheus.Collector.
func (s *auditSealer) Collect(to chan<- prometheus.Metric) {
	state := s.State()
	to <- prometheus.MustNewConstMetric(rowsSealed, prometheus.CounterValue, float64(state.Sealed))
	to <- prometheus.MustNewConstMetric(sealFailing, prometheus.GaugeValue, gaugeOf(state.Failing))
	to <- prometheus.MustNewConstMetric(sealAlarm, prometheus.GaugeValue, gaugeOf(state.Alarm))
	if s.bucket {
		to <- prometheus.MustNewConstMetric(bucketFailing, prometheus.GaugeValue, gaugeOf(state.Away))
		to <- prometheus.MustNewConstMetric(bucketBehind, prometheus.GaugeValue, state.Behind.Seconds())
	}
}
