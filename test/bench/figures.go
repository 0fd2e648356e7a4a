package main

import (
	"slices"
	"time"
)

// figure is the name of a measurement of a slice. Times are in microseconds.
type figure string

const (
	perSecond   figure = "per_second"
	p50         figure = "p50_us"
	p99         figure = "p99_us"
	longest     figure = "longest_us"
	daemonCPU   figure = "daemon_cpu_us"   // of the process that answers, a request
	postgresCPU figure = "postgres_cpu_us" // of both nodes, a request
	// of all these processes, a request, while its record is shipped to the primary after the slice
	shippingCPU figure = "shipping_cpu_us"
	shippingS   figure = "shipping_seconds"
	residentMB  figure = "resident_mb"  // of the process that answers, at the end of the slice
	peakMB      figure = "peak_mb"      // the most it has had so far
	corePercent figure = "core_percent" // of a processor, by the process that answers and its sessions
	// the same from the start of the daemon until it was warm
	warmingPercent figure = "warming_core_percent"
	// of a processor, by all processes of both nodes
	postgresPercent figure = "postgres_core_percent"
)

// figures are the measurements of one slice; those that were not made are absent.
type figures map[figure]float64

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func (l load) figures() figures {
	f := figures{perSecond: float64(l.requests) / l.took.Seconds()}
	if l.latency != nil {
		f[p50] = micros(time.Duration(l.latency.ValueAtQuantile(50)))
		f[p99] = micros(time.Duration(l.latency.ValueAtQuantile(99)))
		f[longest] = micros(time.Duration(l.latency.Max()))
	}
	return f
}

// each divides a total among the requests, in microseconds.
func each(total time.Duration, requests int) float64 {
	return micros(total) / float64(max(requests, 1))
}

// cell is a subject at a number of connections: a row of the table.
type cell struct {
	Subject     string `json:"subject"`
	Connections int    `json:"connections"`
}

// spread is a figure over the rounds.
type spread struct {
	Median  float64   `json:"median"`
	Lowest  float64   `json:"lowest"`
	Highest float64   `json:"highest"`
	Rounds  []float64 `json:"rounds,omitempty"`
}

func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Lowest: sorted[0], Highest: sorted[n-1], Rounds: values}
}

// results are the figures of every cell in every round, in order.
type results map[cell][]figures

func (r results) spread(c cell, f figure) (spread, bool) {
	return r.ratio(c, cell{}, f)
}

// ratio is one cell's figure divided by another's, or the figure itself if the other is the zero cell. Each ratio is
// taken within one round; a round in which either is missing, or the other is zero, has none.
func (r results) ratio(of, to cell, f figure) (spread, bool) {
	var values []float64
	for round, these := range r[of] {
		value, known := these[f]
		if known && to != (cell{}) {
			base := 0.0
			if others := r[to]; round < len(others) {
				base = others[round][f]
			}
			known = base > 0
			value /= base
		}
		if known {
			values = append(values, value)
		}
	}
	if len(values) == 0 {
		return spread{}, false
	}
	return spreadOf(values), true
}
