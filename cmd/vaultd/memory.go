package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/vault"
)

// memoryCollector shows the sealed rows that are kept in memory. With read_confirm = 0 there is nothing to show.
type memoryCollector struct{ vault *vault.Vault }

var (
	memoryHits = prometheus.NewDesc("vaultd_read_memory_hits_total", "Reads and verifies answered from memory.", nil,
		nil)
	memoryLoads = prometheus.NewDesc("vaultd_read_memory_loads_total",
		"Queries of a secret's sealed row, to be kept in memory.", nil, nil)
	memoryPolls = prometheus.NewDesc("vaultd_read_memory_polls_total",
		"Queries for the names that changed: every half of read_confirm while there are reads, none otherwise.", nil, nil)
	memoryDrops = prometheus.NewDesc("vaultd_read_memory_drops_total",
		"Kept rows that were dropped alone, by reason: named (by a poll), changed_here, outdated, evicted.",
		[]string{"reason"}, nil)
	memoryDropsOfAll = prometheus.NewDesc("vaultd_read_memory_drops_of_all_total",
		"How often all kept rows were dropped, by reason: session, overflow, floor, scope, any_name, lost.",
		[]string{"reason"}, nil)
	memoryRows  = prometheus.NewDesc("vaultd_read_memory_rows", "Secrets whose sealed rows are kept.", nil, nil)
	memoryBytes = prometheus.NewDesc("vaultd_read_memory_bytes",
		"Bytes of the sealed rows that are kept; read_cache_bytes bounds them.", nil, nil)
	memoryUsable = prometheus.NewDesc("vaultd_read_memory_usable",
		"Whether rows are kept: 0 before the first read, while the database is away, and where it has no change feed for "+
			"this daemon (its log says why).", nil, nil)
	memoryAge = prometheus.NewDesc("vaultd_read_memory_confirmed_seconds",
		"Time since the kept rows were confirmed; it grows while there are no reads. Absent while none are kept.", nil, nil)
	memoryWaited = prometheus.NewDesc("vaultd_read_waits_for_database_total",
		"Reads and verifies that the local node did not answer at once, and that waited for it.", nil, nil)
	memorySurvived = prometheus.NewDesc("vaultd_read_survived_total",
		"Reads and verifies answered from memory while the local node was away (read_survive).", nil, nil)
)

func (c *memoryCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{memoryHits, memoryLoads, memoryPolls, memoryDrops, memoryDropsOfAll, memoryRows,
		memoryBytes, memoryUsable, memoryAge, memoryWaited, memorySurvived} {
		to <- d
	}
}

func (c *memoryCollector) Collect(to chan<- prometheus.Metric) {
	s, on := c.vault.KeptRows()
	if !on {
		return
	}
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64) { to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	count(memoryHits, s.Hits)
	count(memoryLoads, s.Loads)
	count(memoryPolls, s.Polls)
	for reason, n := range s.Dropped {
		count(memoryDrops, n, reason)
	}
	for reason, n := range s.DroppedAll {
		count(memoryDropsOfAll, n, reason)
	}
	gauge(memoryRows, float64(s.Rows))
	gauge(memoryBytes, float64(s.Bytes))
	gauge(memoryUsable, gaugeOf(s.Following))
	if s.Following {
		gauge(memoryAge, s.Confirmed.Seconds())
	}
	count(memoryWaited, s.Waited)
	count(memorySurvived, s.Survived)
}
