package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/httpapi"
	"github.com/hyperiondb/vault/internal/vault"
)

// gapAlarm is how long readiness fails after reads were found missing. The metric of gaps stays.
const gapAlarm = 15 * time.Minute

// reads records reads. It is nil if the audit is off.
type reads struct {
	config   Config
	spool    *spool.Spool
	shipper  *spool.Shipper
	recorder *spool.Recorder
}

func openReads(ctx context.Context, c Config, auditLog *auditdb.Log, log *slog.Logger) (*reads, error) {
	if c.Audit == "off" {
		log.Warn("the audit is off: reads and verifies are not put on record")
		return nil, nil
	}
	s, err := spool.Open(spool.Options{
		Dir: c.AuditSpool, Node: func() string { return nodeName(ctx, auditLog) }, Sync: syncs[c.AuditSync],
		SyncInterval: time.Duration(c.AuditSyncInterval),
		MaxBytes:     int64(c.AuditMaxBytes), MaxAge: time.Duration(c.AuditMaxAge),
	})
	if err != nil {
		return nil, fmt.Errorf("audit_spool: %w", err)
	}
	r := &reads{config: c, spool: s, shipper: &spool.Shipper{Spool: s, Primary: auditLog,
		Window: time.Duration(c.AuditWindow), Log: log}}
	r.recorder = &spool.Recorder{Spool: s, Allow: c.AuditOnFailure == "allow", Log: log}
	return r, nil
}

var syncs = map[string]spool.Sync{"always": spool.Always, "interval": spool.Interval}

// nodeName names a new spool after the local server and the host, or after the host alone if the server does not
// answer.
func nodeName(ctx context.Context, auditLog *auditdb.Log) string {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	host, _ := os.Hostname() // without a name, the boot id distinguishes nodes
	if name, err := auditLog.NodeName(ctx); err == nil && name != "" {
		return name + "@" + host
	}
	return host
}

// run starts the recorder and the shipper. The caller calls stop after the last record: the recorder writes its counts,
// the shipper sends the rest, and the spool is closed.
func (r *reads) run() (stop func()) {
	if r == nil {
		return func() {}
	}
	start := func(run func(context.Context)) func() {
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { run(ctx) })
		return func() { cancel(); running.Wait() }
	}
	stopRecorder, stopShipper := start(r.recorder.Run), start(r.shipper.Run)
	return func() {
		stopRecorder()
		stopShipper()
		if err := r.spool.Close(); err != nil {
			r.shipper.Log.Error("closing the spool", "error", err)
		}
	}
}

// forRequests is the recorder of requests: nil, as an interface too, if the audit is off.
func (r *reads) forRequests() httpapi.Recorder {
	if r == nil {
		return nil
	}
	return r.recorder
}

// byWorker records a read of a rotation.
func (r *reads) byWorker(ctx context.Context, worker string, e audit.Event) error {
	if r == nil {
		return nil
	}
	e.Actor = "worker:" + worker
	return r.recorder.Record(ctx, e)
}

// check is the readiness check "audit". It fails if reads cannot be recorded, the primary rejects them, or some are
// missing. It passes while the primary is away, because reads wait in the spool.
func (r *reads) check(context.Context) error {
	if r == nil {
		return nil
	}
	if err := r.spool.Stats().Failing; err != nil {
		return err
	}
	s := r.shipper.State()
	switch {
	case s.Failing != nil && !errors.Is(s.Failing, vault.ErrUnavailable) &&
		!errors.Is(s.Failing, vault.ErrOutcomeUnknown) && !errors.Is(s.Failing, spool.ErrBehind):
		return fmt.Errorf("shipping reads: %w", s.Failing)
	case !s.GapAt.IsZero() && time.Since(s.GapAt) < gapAlarm:
		return fmt.Errorf("reads are missing since %s: vaultctl audit list action:audit.gap",
			s.GapAt.UTC().Format(time.RFC3339))
	}
	return nil
}

// auditStatus is the part "audit" of /v1/status.
type auditStatus struct {
	Mode       string     `json:"mode"` // on or off
	Sync       string     `json:"sync,omitempty"`
	OnFailure  string     `json:"on_failure,omitempty"`
	Node       string     `json:"node,omitempty"`
	Boot       *uuid.UUID `json:"boot,omitempty"`
	Waiting    uint64     `json:"waiting"` // records that the primary has not acknowledged
	Bytes      int64      `json:"bytes"`
	OldestAt   *time.Time `json:"oldest_at,omitempty"`
	Shipped    uint64     `json:"shipped"`
	Gaps       uint64     `json:"gaps"`
	Damaged    uint64     `json:"damaged_segments"`
	Failures   uint64     `json:"failures"`
	Unrecorded uint64     `json:"unrecorded"` // reads answered without a record
	Failing    string     `json:"failing,omitempty"`
	Shipping   string     `json:"shipping_fails,omitempty"`
}

func (r *reads) status() any {
	if r == nil {
		return map[string]string{"mode": "off"}
	}
	s, p := r.spool.Stats(), r.shipper.State()
	status := auditStatus{
		Mode: "on", Sync: r.config.AuditSync, OnFailure: r.config.AuditOnFailure, Node: s.Node, Boot: &s.Boot,
		Waiting: s.Records, Bytes: s.Bytes,
		Shipped: p.Shipped, Gaps: p.Gaps, Damaged: s.Damaged, Failures: s.Failures, Unrecorded: r.recorder.Unrecorded(),
		Failing: errorText(s.Failing), Shipping: errorText(p.Failing),
	}
	if !s.Oldest.IsZero() {
		oldest := s.Oldest.UTC()
		status.OldestAt = &oldest
	}
	return status
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

var (
	spoolBytes = prometheus.NewDesc("vaultd_audit_spool_bytes", "Bytes of reads that wait in the spool for the primary.",
		nil, nil)
	spoolRecords = prometheus.NewDesc("vaultd_audit_spool_records", "Reads that wait in the spool for the primary.", nil,
		nil)
	spoolOldest = prometheus.NewDesc("vaultd_audit_spool_oldest_seconds",
		"Age of the oldest read that waits for the primary; 0 = none waits.", nil, nil)
	shipped = prometheus.NewDesc("vaultd_audit_shipped_total", "Reads that the primary has acknowledged.", nil, nil)
	gaps    = prometheus.NewDesc("vaultd_audit_gaps_total",
		"How often reads of this node were found to be missing, in the life of its spool.", nil, nil)
	damaged = prometheus.NewDesc("vaultd_audit_damaged_segments_total",
		"Segments of the spool that could not be read completely and were set aside.", nil, nil)
	failures   = prometheus.NewDesc("vaultd_audit_failures_total", "Records that the spool could not take.", nil, nil)
	unrecorded = prometheus.NewDesc("vaultd_audit_unrecorded_total",
		"Reads that were answered without a record (audit_on_failure = allow).", nil, nil)
)

func (r *reads) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{spoolBytes, spoolRecords, spoolOldest, shipped, gaps, damaged, failures,
		unrecorded} {
		to <- d
	}
}

// Collect reports nothing when the audit is off.
func (r *reads) Collect(to chan<- prometheus.Metric) {
	if r == nil {
		return
	}
	s, p := r.spool.Stats(), r.shipper.State()
	oldest := 0.0
	if !s.Oldest.IsZero() {
		oldest = time.Since(s.Oldest).Seconds()
	}
	gauge := func(d *prometheus.Desc, v float64) { to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	count := func(d *prometheus.Desc, n uint64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
	gauge(spoolBytes, float64(s.Bytes))
	gauge(spoolRecords, float64(s.Records))
	gauge(spoolOldest, oldest)
	count(shipped, p.Shipped)
	count(gaps, p.Gaps)
	count(damaged, s.Damaged)
	count(failures, s.Failures)
	count(unrecorded, r.recorder.Unrecorded())
}
