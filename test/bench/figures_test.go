package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values                  []float64
		median, lowest, highest float64
	}{
		{[]float64{7}, 7, 7, 7},
		{[]float64{9, 1}, 5, 1, 9},
		{[]float64{3, 100, 1}, 3, 1, 100},
		{[]float64{4, 1, 3, 2}, 2.5, 1, 4},
	} {
		got := spreadOf(c.values)
		if want := (spread{c.median, c.lowest, c.highest, c.values}); !cmp.Equal(got, want) {
			t.Errorf("%v: got %+v, want %+v", c.values, got, want)
		}
	}
}

// Ratios are taken within a round: a slow round that slows both changes nothing, where a ratio of medians would change.
func TestRatiosAreTakenWithinARound(t *testing.T) {
	ours, base := cell{readInterval, 64}, cell{bareHTTP, 64}
	r := results{
		ours: {{perSecond: 50}, {perSecond: 10}, {perSecond: 54}, {perSecond: 70}},
		base: {{perSecond: 100}, {perSecond: 20}, {perSecond: 90}, {}},
	}
	got, known := r.ratio(ours, base, perSecond)
	if want := (spread{0.5, 0.5, 0.6, []float64{0.5, 0.5, 0.6}}); !known || !cmp.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for name, other := range map[string]cell{"a cell that did not run": {bareHTTP, 1}, "a figure that it has not": base} {
		f := perSecond
		if other == base {
			f = p99
		}
		if got, known := r.ratio(ours, other, f); known {
			t.Errorf("against %s: got %+v", name, got)
		}
	}
}

func TestVerdicts(t *testing.T) {
	r := results{
		{readInterval, 64}: {{perSecond: 54, postgresCPU: 2, peakMB: 41}},
		{bareHTTP, 64}:     {{perSecond: 100}},
		{readAsked, 64}:    {{perSecond: 41}},
		{oneQuery, 64}:     {{perSecond: 20}},
	}
	got := map[string]string{}
	for _, v := range r.verdicts() {
		got[v.What] = v.word()
	}
	want := map[string]string{
		"reads at 64 connections, of bare":                                    "falls short",
		"reads that ask each time, at 64 connections, of one query a request": "met",
		"PostgreSQL's CPU for a read at 64, microseconds":                     "met",
		"vaultd's memory at 64 connections, MB at most":                       "falls short",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPercentiles(t *testing.T) {
	l := load{requests: 100, took: 2 * time.Second, latency: newHistogram()}
	for n := range 100 {
		if err := l.latency.RecordValue(int64(time.Duration(n+1) * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
	}
	got := l.figures()
	for f, want := range map[figure]float64{perSecond: 50, p50: 50_000, p99: 99_000, longest: 100_000} {
		if math.Abs(got[f]-want) > want/500 {
			t.Errorf("%s: got %v, want %v", f, got[f], want)
		}
	}
	if _, known := (load{requests: 1, took: time.Second}).figures()[p50]; known {
		t.Error("a load without latencies has a median of them")
	}
}

func TestReportIsSavedAndPrinted(t *testing.T) {
	r := results{{oneQuery, 1}: {{perSecond: 40, p50: 12.25}}, {bareHTTP, 1}: {{perSecond: 100, p50: 10}}}
	report := &report{Began: time.Unix(1, 0).UTC(), Rounds: 1, Rows: r.rows([]cell{{bareHTTP, 1}, {oneQuery, 1}}),
		Aims: r.verdicts()}
	file := filepath.Join(t.TempDir(), "new", "bench.json")
	if err := report.save(file); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	mustReadJSON(t, file, &got)
	row := got["rows"].([]any)[1].(map[string]any)
	ratio := row["against"].(map[string]any)["bare"].(map[string]any)
	if row["subject"] != "query" || row["connections"] != 1.0 || ratio["median"] != 0.4 {
		t.Errorf("got %v", row)
	}
	if rate := row["figures"].(map[string]any)["per_second"].(map[string]any); rate["median"] != 40.0 {
		t.Errorf("got %v", rate)
	}
	var out strings.Builder
	if err := report.print(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "0.40") {
		t.Errorf("no ratio in\n%s", &out)
	}
	if err := report.save(""); err != nil {
		t.Errorf("no file asked for: %v", err)
	}
	if err := os.WriteFile(filepath.Join(t.TempDir(), "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := report.save(filepath.Join(file, "below a file")); err == nil {
		t.Error("a file below a file was written")
	}
}

// pgbench's backends warm up in its first second: it counts for neither the rate nor the latency.
func TestTransactionsAfterAWhile(t *testing.T) {
	dir := t.TempDir()
	lines := map[string]string{
		"log.1":   "0 0 500000 0 100 600000\n0 1 400000 0 101 000000\n0 2 100000 0 101 200000\n",
		"log.1.1": "1 0 2000000 0 102 100000\n",
	}
	for name, text := range lines {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readTransactions(dir, time.Second) // began at 100.1
	if err != nil {
		t.Fatal(err)
	}
	if got.requests != 2 || got.took != time.Second || got.latency.Max() < int64(1999*time.Millisecond) {
		t.Errorf("got %d in %s, the longest %dns", got.requests, got.took, got.latency.Max())
	}
	if _, err := readTransactions(dir, time.Hour); err == nil {
		t.Error("a rate of nothing")
	}
	if _, err := readTransactions(t.TempDir(), 0); err == nil {
		t.Error("a rate without a log")
	}
	if err := os.WriteFile(filepath.Join(dir, "log.2"), []byte("progress\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readTransactions(dir, 0); err == nil || !strings.Contains(err.Error(), "progress") {
		t.Errorf("a line that is none: got %v", err)
	}
}
