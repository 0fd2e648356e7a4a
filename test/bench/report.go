package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"text/tabwriter"
	"time"
)

// report is the JSON file, and the source of the table.
type report struct {
	Began    time.Time `json:"began"`
	CPUs     int       `json:"cpus"`
	Go       string    `json:"go"`
	Postgres string    `json:"postgres"`
	Rounds   int       `json:"rounds"`
	Slice    float64   `json:"slice_seconds"`
	Secrets  int       `json:"secrets"`
	Bytes    int       `json:"value_bytes"`
	Apps     int       `json:"apps"`
	Rows     []row     `json:"rows"`
	Aims     []verdict `json:"aims"`
}

type row struct {
	cell
	Figures map[figure]spread `json:"figures"`
	Against map[string]spread `json:"against,omitempty"` // requests a second, in terms of a baseline's in the same round
}

var everyFigure = []figure{perSecond, p50, p99, longest, daemonCPU, postgresCPU, shippingCPU, shippingS, residentMB,
	peakMB, corePercent, warmingPercent, postgresPercent}

// baselines are the cells that a subject is compared with: at the same number of connections, or pgbench's.
func baselines(c cell) map[string]cell {
	switch c.Subject {
	case put:
		return map[string]cell{"pgbench": {putPgbench, c.Connections}}
	case rotate:
		return map[string]cell{"pgbench": {rotatePgbench, c.Connections}}
	case bareHTTP, idle, putPgbench, rotatePgbench, cliVersion, cliGet, cliPut, peerPut:
		return nil
	case oneQuery:
		return map[string]cell{"bare": {bareHTTP, c.Connections}}
	}
	return map[string]cell{"bare": {bareHTTP, c.Connections}, "query": {oneQuery, c.Connections}}
}

func (r results) rows(cells []cell) []row {
	var rows []row
	for _, c := range cells {
		made := row{cell: c, Figures: map[figure]spread{}, Against: map[string]spread{}}
		for _, f := range everyFigure {
			if s, known := r.spread(c, f); known {
				made.Figures[f] = s
			}
		}
		for name, base := range baselines(c) {
			if s, known := r.ratio(c, base, perSecond); known {
				made.Against[name] = s
			}
		}
		rows = append(rows, made)
	}
	return rows
}

func (r results) verdicts() []verdict {
	var all []verdict
	for _, a := range aims() {
		if v, known := a.compare(r); known {
			all = append(all, v)
		}
	}
	return all
}

func (r *report) print(out io.Writer) error {
	fmt.Fprintf(out,
		"%d CPUs, PostgreSQL %s, %s; %d rounds of %gs, median (lowest..highest); %d secrets of %d bytes, "+
			"%d apps; times in microseconds\n\n", r.CPUs, r.Postgres, r.Go, r.Rounds, r.Slice, r.Secrets, r.Bytes, r.Apps)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t,
		"subject\tconns\ta second\t\tp50\tp99\tlongest\tdaemon CPU\tPostgres CPU\tshipping CPU\tpeak MB\t"+
			"of bare\tof query\tof pgbench\t")
	for _, row := range r.Rows {
		rate := row.Figures[perSecond]
		fmt.Fprintf(t, "%s\t%d\t%.0f\t(%.0f..%.0f)\t", row.Subject, row.Connections, rate.Median, rate.Lowest, rate.Highest)
		for _, f := range []figure{p50, p99, longest, daemonCPU, postgresCPU, shippingCPU, peakMB} {
			fmt.Fprintf(t, "%s\t", cut(row.Figures[f], "%.0f"))
		}
		for _, base := range []string{"bare", "query", "pgbench"} {
			fmt.Fprintf(t, "%s\t", cut(row.Against[base], "%.2f"))
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, row := range r.Rows {
		if both := row.Figures[postgresPercent]; both.Rounds != nil {
			fmt.Fprintf(out, "\n%s: PostgreSQL's two nodes took %.2f %% of a processor in all (%.2f..%.2f); until it was warm, "+
				"the daemon and its sessions took %.2f %%\n", row.Subject, both.Median, both.Lowest, both.Highest,
				row.Figures[warmingPercent].Median)
		}
	}
	return printVerdicts(out, r.Aims)
}

func printVerdicts(out io.Writer, all []verdict) error {
	fmt.Fprintln(out)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, v := range all {
		fmt.Fprintf(t, "%s\t%s\t%.2f (%.2f..%.2f)\t%s\n", v.What, v.bound(), v.Measured.Median, v.Measured.Lowest,
			v.Measured.Highest, v.word())
	}
	return t.Flush()
}

// cut formats a figure, and leaves out one that was not measured.
func cut(s spread, format string) string {
	if s.Rounds == nil {
		return "-"
	}
	text := fmt.Sprintf(format, s.Median)
	if value, err := strconv.ParseFloat(text, 64); err == nil && value == 0 && s.Median > 0 {
		return fmt.Sprintf("%.1g", s.Median)
	}
	return text
}

// save writes the file, complete or not at all.
func (r *report) save(path string) error {
	if path == "" {
		return nil
	}
	return saveJSON(path, r)
}

func saveJSON(path string, content any) error {
	text, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func goVersion() string { return runtime.Version() }
