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
	"github.com/hyperiondb/vault/internal/audit/archive"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/httpapi"
	"github.com/hyperiondb/vault/internal/vault"
)

// gapAlarm is how long readiness fails after reads were found missing. The metric of gaps stays.
const gapAlarm = 15 * time.Minute

// waitAlarm is how long shipping or archiving may fail before /readyz says so.
const waitAlarm = 2 * time.Minute

// reads records reads. It is nil if the audit is off.
type reads struct {
	config   Config
	spool    *spool.Spool
	shipper  *spool.Shipper
	recorder *spool.Recorder
	archive  *archive.Archive // nil: none is configured, as of archiver
	archiver *spool.Archiver
}

func openReads(ctx context.Context, c Config, auditLog *auditdb.Log, log *slog.Logger) (*reads, error) {
	if c.Audit == "off" {
		log.Warn("the audit is off: reads and verifies are not put on record")
		return nil, nil
	}
	kept, err := openArchive(ctx, c, auditLog)
	if err != nil {
		return nil, err
	}
	s, err := spool.Open(spool.Options{
		Dir: c.AuditSpool, Node: func() string { return nodeName(ctx, auditLog) }, Sync: syncs[c.AuditSync],
		SyncInterval: time.Duration(c.AuditSyncInterval),
		MaxBytes:     int64(c.AuditMaxBytes), MaxAge: time.Duration(c.AuditMaxAge), Archived: kept != nil,
	})
	if err != nil {
		return nil, fmt.Errorf("audit_spool: %w", err)
	}
	r := &reads{config: c, spool: s, shipper: &spool.Shipper{Spool: s, Primary: auditLog,
		Window: time.Duration(c.AuditWindow), Log: log}}
	r.recorder = &spool.Recorder{Spool: s, Allow: c.AuditOnFailure == "allow", Log: log}
	if kept != nil {
		r.archive, r.archiver = kept, &spool.Archiver{Spool: s, Archive: kept, Log: log}
	}
	return r, nil
}

// openArchive returns nil if none is configured.
func openArchive(ctx context.Context, c Config, auditLog *auditdb.Log) (*archive.Archive, error) {
	if c.AuditArchive == "" {
		return nil, nil
	}
	kept, err := archive.Open(ctx, c.AuditArchive, auditLog.Cluster)
	if err != nil {
		return nil, fmt.Errorf("%w: audit_archive: %w", errConfig, err)
	}
	return kept, nil
}

var syncs = map[string]spool.Sync{"always": spool.Always, "interval": spool.Interval}

// nodeName is the name under which a new spool's reads are filed: the local server's cluster_name, which status and
// changes have too. Without one, or if the server does not answer, it is the host's name. Two nodes of one name share
// it in the log; the boot in each event's detail keeps them apart, and doctor warns.
func nodeName(ctx context.Context, auditLog *auditdb.Log) string {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if name, err := auditLog.NodeName(ctx); err == nil && name != "" {
		return name
	}
	host, _ := os.Hostname() // without a name, the boot distinguishes nodes
	return host
}

// archiveStop is how long a daemon that stops waits for an archive that does not answer, such as a folder on a server
// that is away.
const archiveStop = 3 * time.Second

// run starts the recorder, the shipper and the archiver. The caller calls stop after the last record: the recorder
// writes its counts, the shipper sends the rest, and the spool is closed. The next start archives what is left.
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
	stopRecorder, stopShipper, stopArchiver := start(r.recorder.Run), start(r.shipper.Run), func() {}
	if r.archiver != nil {
		stopArchiver = start(r.archiver.Run)
	}
	return func() {
		stopRecorder()
		stopShipper()
		stopped := make(chan struct{})
		go func() {
			stopArchiver()
			close(stopped)
		}()
		select {
		case <-stopped:
		case <-time.After(archiveStop):
			r.shipper.Log.Warn("the archive does not answer", "audit_archive", r.config.AuditArchive)
		}
		if err := r.spool.Close(); err != nil {
			r.shipper.Log.Error("closing the spool", "error", err)
		}
		if r.archive != nil {
			_ = r.archive.Close() // drops idle connections
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

// notices are the readiness notices "audit_shipping" and "audit_archive". Reads go on until the spool is full, so they
// do not make the daemon unready.
func (r *reads) notices() []httpapi.Check {
	if r == nil {
		return nil
	}
	notices := []httpapi.Check{{Name: "audit_shipping", Check: func(context.Context) error {
		if s := r.shipper.State(); s.Failing != nil {
			return late("no reads are shipped", s.FailingAt, s.Failing)
		}
		return nil
	}}}
	if r.archiver == nil {
		return notices
	}
	return append(notices, httpapi.Check{Name: "audit_archive", Check: func(context.Context) error {
		if s := r.archiver.State(); s.Failing != nil {
			return late("no reads are archived", s.FailingAt, s.Failing)
		}
		return late("shipped reads wait for the archive", r.spool.Stats().Ripe, errors.New("no attempt failed"))
	}})
}

// late is an error once something has lasted for waitAlarm; since is zero if it does not.
func late(what string, since time.Time, why error) error {
	if since.IsZero() || time.Since(since) < waitAlarm {
		return nil
	}
	return fmt.Errorf("%s since %s (%s): reads are refused when the spool has audit_max_bytes", what,
		since.UTC().Format(time.RFC3339), why)
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
	ShippingAt *time.Time `json:"shipping_fails_since,omitempty"`
	Archive    *archiving `json:"archive,omitempty"`
}

// archiving is the state of audit_archive.
type archiving struct {
	Where    string     `json:"where"`
	Segments uint64     `json:"segments"` // archived since the start, as records
	Records  uint64     `json:"records"`
	Bytes    int64      `json:"bytes_waiting"` // that the primary has and the archive lacks
	Oldest   *time.Time `json:"waiting_since,omitempty"`
	Failing  string     `json:"failing,omitempty"`
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
	status.OldestAt = momentOf(s.Oldest)
	if p.Failing != nil {
		status.ShippingAt = momentOf(p.FailingAt)
	}
	if r.archiver != nil {
		a := r.archiver.State()
		status.Archive = &archiving{Where: r.config.AuditArchive, Segments: a.Segments, Records: a.Records, Bytes: s.Archive,
			Oldest: momentOf(s.Ripe), Failing: errorText(a.Failing)}
	}
	return status
}

// momentOf is nil for no time.
func momentOf(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	at = at.UTC()
	return &at
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
	spoolMost = prometheus.NewDesc("vaultd_audit_spool_max_bytes",
		"Bytes of reads that the spool may hold (audit_max_bytes); beyond it reads are refused.", nil, nil)
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
	shippingFails = prometheus.NewDesc("vaultd_audit_shipping_failing_seconds",
		"How long every attempt to ship reads to the primary has failed; 0 = the last one worked.", nil, nil)

	archived     = prometheus.NewDesc("vaultd_audit_archived_total", "Reads that were written to audit_archive.", nil, nil)
	archiveBytes = prometheus.NewDesc("vaultd_audit_archive_waiting_bytes",
		"Bytes of reads that the primary has and audit_archive lacks; they stay in the spool.", nil, nil)
	archiveFails = prometheus.NewDesc("vaultd_audit_archive_failing",
		"Whether the last attempt to archive reads failed.", nil, nil)
)

func (r *reads) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{spoolBytes, spoolMost, spoolRecords, spoolOldest, shipped, gaps, damaged,
		failures, unrecorded, shippingFails} {
		to <- d
	}
	if r != nil && r.archiver != nil {
		to <- archived
		to <- archiveBytes
		to <- archiveFails
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
	gauge(spoolMost, float64(r.config.AuditMaxBytes))
	gauge(spoolRecords, float64(s.Records))
	gauge(spoolOldest, oldest)
	count(shipped, p.Shipped)
	count(gaps, p.Gaps)
	count(damaged, s.Damaged)
	count(failures, s.Failures)
	count(unrecorded, r.recorder.Unrecorded())
	failing := 0.0
	if p.Failing != nil {
		failing = time.Since(p.FailingAt).Seconds()
	}
	gauge(shippingFails, failing)
	if r.archiver != nil {
		a := r.archiver.State()
		count(archived, a.Records)
		gauge(archiveBytes, float64(s.Archive))
		gauge(archiveFails, gaugeOf(a.Failing != nil))
	}
}
