package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// sustained is reads for minutes, of a daemon of its own. After a minute the records of the first reads are shipped as
// fast as others are made, so the first third is a burst and the rest is what the node can sustain.
type sustained struct {
	name      string
	window    string // audit_window
	names     int
	addresses int  // of clients
	inTurn    bool // names are read one after the other, so that no window has two reads of one
}

const (
	fewNames = 1000
	// More than a second's reads: in turn, with a window of a second, every read is of another name.
	otherNames = 60_000
)

func sustainedSubjects() []sustained {
	return []sustained{
		{"1,000 names, one client", "10s", fewNames, 1, false},
		{"1,000 names, 50 clients", "10s", fewNames, 50, false},
		{"every read another name", "1s", otherNames, 1, true},
	}
}

// capacities are the cells of the table of what a node can sustain.
func capacities() (all []sustained) {
	for _, window := range []string{"0s", "1s", "10s"} {
		for _, names := range []int{100, fewNames, 10_000} {
			all = append(all, sustained{fmt.Sprintf("audit_window = %q, %d names", window, names), window, names, 1, false})
		}
	}
	return all
}

type sustainedOptions struct {
	long        time.Duration
	pieces      int // of which a third are the burst
	connections int
	only        *regexp.Regexp
	table       bool
	jsonFile    string
}

func parseSustained(args []string, progress io.Writer) (sustainedOptions, error) {
	o := sustainedOptions{pieces: 18}
	flags := flag.NewFlagSet("bench sustained", flag.ContinueOnError)
	flags.SetOutput(progress)
	flags.DurationVar(&o.long, "for", 3*time.Minute, "how long each subject reads; with -table, 12s")
	flags.IntVar(&o.connections, "conns", 64, "connections")
	only := flags.String("only", "", "`regexp` of the subjects to run")
	flags.BoolVar(&o.table, "table", false, "what a node can sustain by window and number of names, from short runs")
	flags.StringVar(&o.jsonFile, "json", "bin/sustained.json", "`file` for the figures; \"\" = none")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	if o.table {
		given := false
		flags.Visit(func(f *flag.Flag) { given = given || f.Name == "for" })
		if o.pieces = 1; !given {
			o.long = 12 * time.Second
		}
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected %q", flags.Arg(0))
	case o.connections < 1 || o.connections > 1024:
		return o, errors.New("-conns: from 1 to 1024")
	case o.long/time.Duration(o.pieces) < 50*time.Millisecond:
		return o, fmt.Errorf("-for: at least %s", 50*time.Millisecond*time.Duration(o.pieces))
	}
	return o, nil
}

// sustainedReport is the JSON file.
type sustainedReport struct {
	Began       time.Time      `json:"began"`
	CPUs        int            `json:"cpus"`
	Go          string         `json:"go"`
	Postgres    string         `json:"postgres"`
	Seconds     float64        `json:"seconds"`
	Connections int            `json:"connections"`
	Rows        []sustainedRow `json:"rows"`
}

// phase is a part of a run. CPU is in microseconds a read.
type phase struct {
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	Generator float64 `json:"generator_cpu_us"`
	Daemon    float64 `json:"daemon_cpu_us"`
	Postgres  float64 `json:"postgres_cpu_us"`
}

func (p phase) cpu() float64 { return p.Generator + p.Daemon + p.Postgres }

type sustainedRow struct {
	Subject string `json:"subject"`
	Burst   phase  `json:"burst"`
	Rest    phase  `json:"rest"`
	// Of a read after the run, until the primary had all records.
	Shipping float64 `json:"shipping_cpu_us"`
	Backlog  int     `json:"shipped_afterwards"` // reads
	// What a node can sustain of the burst: by the rates, and by processor time, which other load on the machine changes
	// less.
	ByRate float64 `json:"rest_of_burst"`
	ByCPU  float64 `json:"rest_of_burst_by_cpu"`
	Rows   float64 `json:"rows_a_million_reads"`
	WAL    float64 `json:"wal_bytes_a_read"`
	Peak   float64 `json:"peak_mb"` // of the daemon
	Reads  int     `json:"reads"`
}

func runSustained(ctx context.Context, o sustainedOptions, out, progress io.Writer) (err error) {
	subjects := sustainedSubjects()
	if o.table {
		subjects = capacities()
	}
	subjects = slices.DeleteFunc(subjects, func(s sustained) bool { return !o.only.MatchString(s.name) })
	if len(subjects) == 0 {
		return fmt.Errorf("no subject matches %q", o.only)
	}
	r := &sustainedReport{Began: time.Now().UTC(), CPUs: runtime.NumCPU(), Go: goVersion(), Seconds: o.long.Seconds(),
		Connections: o.connections}
	s, err := newEnv(ctx, 1, "1GB")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if r.Postgres, err = s.queryValue(ctx, `SELECT current_setting('server_version')`); err != nil {
		return err
	}
	most := slices.MaxFunc(subjects, func(a, b sustained) int { return cmp.Compare(a.names, b.names) })
	fmt.Fprintf(progress, "bench: filling %d secrets\n", most.names)
	filled := &store{env: s, database: database, secrets: most.names}
	if err := filled.fill(ctx); err != nil {
		return fmt.Errorf("filling: %w", err)
	}
	for i, subject := range subjects {
		row, err := s.sustain(ctx, o, subject, i)
		if err != nil {
			return fmt.Errorf("%s: %w", subject.name, err)
		}
		fmt.Fprintf(progress, "bench: %s: %d reads\n", subject.name, row.Reads)
		r.Rows = append(r.Rows, row)
	}
	if err := r.print(out, o.table); err != nil || o.jsonFile == "" {
		return err
	}
	return saveJSON(o.jsonFile, r)
}

// exchangesOf are requests for the names, whose answers must have the value.
func (t sustained) exchangesOf() func() *exchange {
	all := make([]exchange, t.names)
	for i := range all {
		name := nameAt(i)
		all[i] = exchange{request: getRequest(name, ""), part: fmt.Appendf(nil, `"value":"%s"`,
			valueOf(name, versionsEach, scaleBytes))}
	}
	if !t.inTurn {
		return random(all)
	}
	next := -1
	return func() *exchange {
		next = (next + 1) % len(all)
		return &all[next]
	}
}

func (s *env) sustain(ctx context.Context, o sustainedOptions, t sustained, number int) (row sustainedRow, err error) {
	p, err := s.startVaultd(ctx, "sustained"+strconv.Itoa(number), s.url(daemon), `rotation_workers = 0`,
		`scan_interval = "1h"`, `heartbeat_interval = "0s"`, `audit_sync = "interval"`, `dek_cache_size = 100000`,
		fmt.Sprintf(`audit_window = %q`, t.window))
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	next := t.exchangesOf()
	readFor := func(long time.Duration) (load, error) {
		until, cancel := context.WithTimeout(ctx, long)
		defer cancel()
		return drive(ctx, until, p.address, o.connections, t.addresses, next)
	}
	if _, err := readFor(o.long / 20); err != nil { // fills caches
		return row, err
	}
	if err := errors.Join(shipped(ctx, p), s.exec(ctx, `CHECKPOINT`)); err != nil {
		return row, err
	}
	rows, wal, err := s.logged(ctx)
	if err != nil {
		return row, err
	}
	row.Subject = t.name
	burst := max(o.pieces/3, 1)
	if row.Burst, row.Reads, err = s.phase(burst, o.long/time.Duration(o.pieces), p, readFor); err != nil {
		return row, err
	}
	more := 0
	if rest := o.pieces - burst; rest > 0 {
		if row.Rest, more, err = s.phase(rest, o.long/time.Duration(o.pieces), p, readFor); err != nil {
			return row, err
		}
	}
	row.Reads += more
	if row.Backlog, err = waiting(ctx, p); err != nil {
		return row, err
	}
	after, err := s.cost([]int{p.pid()}, func() (int, error) { return max(row.Backlog, 1), shipped(ctx, p) })
	if err != nil {
		return row, err
	}
	row.Shipping = after[daemonCPU] + after[postgresCPU]
	rowsAfter, walAfter, err := s.logged(ctx)
	if err != nil {
		return row, err
	}
	row.Rows, row.WAL = (rowsAfter-rows)*1e6/float64(row.Reads), (walAfter-wal)/float64(row.Reads)
	if more > 0 {
		row.ByRate, row.ByCPU = row.Rest.PerSecond/row.Burst.PerSecond, row.Burst.cpu()/row.Rest.cpu()
	} else { // both processors are busy: what shipping takes, reads do not have
		row.ByCPU = row.Burst.cpu() / (row.Burst.cpu() + row.Shipping)
	}
	m, err := memoryOf(p.pid())
	row.Peak = m.Peak
	return row, err
}

// phase measures a number of pieces one after the other, and returns their reads too.
func (s *env) phase(pieces int, long time.Duration, p *process,
	readFor func(time.Duration) (load, error)) (result phase, reads int, err error) {
	all := load{latency: newHistogram()}
	own, err := cpuOfAll(self())
	if err != nil {
		return phase{}, 0, err
	}
	f, err := s.cost([]int{p.pid()}, func() (int, error) {
		for range pieces {
			l, err := readFor(long)
			if err != nil {
				return 0, err
			}
			all.requests, all.took = all.requests+l.requests, all.took+l.took
			all.latency.Merge(l.latency)
		}
		return all.requests, nil
	})
	if err != nil {
		return phase{}, 0, err
	}
	ownAfter, err := cpuOfAll(self())
	read := all.figures()
	return phase{PerSecond: read[perSecond], P50: read[p50], P99: read[p99], Generator: each(ownAfter-own, all.requests),
		Daemon: f[daemonCPU], Postgres: f[postgresCPU]}, all.requests, err
}

// logged is how many rows the audit log has, and how many bytes of WAL there were so far.
func (s *env) logged(ctx context.Context) (rows, wal float64, err error) {
	text, err := s.queryValue(ctx, `SELECT count(*) || ' ' || pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')
		FROM vault.audit_log`)
	if err == nil {
		_, err = fmt.Sscan(text, &rows, &wal)
	}
	return rows, wal, err
}

func (r *sustainedReport) print(out io.Writer, table bool) error {
	fmt.Fprintf(out, "%d CPUs, PostgreSQL %s, %s; %gs at %d connections; CPU in microseconds a read\n\n", r.CPUs,
		r.Postgres, r.Go, r.Seconds, r.Connections)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	if table {
		fmt.Fprintln(t, "subject\ta second\tgenerator CPU\tdaemon CPU\tPostgres CPU\tshipping CPU\tof it sustained\t"+
			"a second\trows/M reads\tWAL B\tpeak MB\t")
		for _, row := range r.Rows {
			b := row.Burst
			fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\t\n", row.Subject, b.PerSecond,
				b.Generator, b.Daemon, b.Postgres, row.Shipping, row.ByCPU, row.ByCPU*b.PerSecond, row.Rows, row.WAL, row.Peak)
		}
		return t.Flush()
	}
	fmt.Fprintln(t, "subject\tpart\ta second\tp50\tp99\tgenerator CPU\tdaemon CPU\tPostgres CPU\tof burst\tby CPU\t"+
		"rows/M reads\tWAL B\tpeak MB\t")
	for _, row := range r.Rows {
		for i, p := range []phase{row.Burst, row.Rest} {
			fmt.Fprintf(t, "%s\t%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.1f\t", row.Subject, [...]string{"burst", "rest"}[i],
				p.PerSecond, p.P50, p.P99, p.Generator, p.Daemon, p.Postgres)
			if i == 0 {
				fmt.Fprintln(t, "\t\t\t\t\t")
				continue
			}
			fmt.Fprintf(t, "%.2f\t%.2f\t%.0f\t%.0f\t%.0f\t\n", row.ByRate, row.ByCPU, row.Rows, row.WAL, row.Peak)
		}
	}
	return t.Flush()
}
