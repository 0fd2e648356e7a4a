package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	smallVault = 1000
	scaleBytes = 32
	planRuns   = 7 // of an operation whose plans are checked: the sixth may be the generic one
)

type scaleOptions struct {
	rounds   int
	slice    time.Duration
	secrets  int
	times    int
	buffers  string
	with     string
	jsonFile string
}

func parseScale(args []string, progress io.Writer) (scaleOptions, error) {
	var o scaleOptions
	flags := flag.NewFlagSet("bench scale", flag.ContinueOnError)
	flags.SetOutput(progress)
	flags.IntVar(&o.secrets, "secrets", 1_000_000,
		"secrets of the large vault, of three versions each; the small one has 1000")
	flags.IntVar(&o.rounds, "rounds", 5, "how often reads run")
	flags.DurationVar(&o.slice, "slice", 2*time.Second, "how long each time")
	flags.IntVar(&o.times, "times", 9, "how often each operation runs")
	flags.StringVar(&o.buffers, "shared-buffers", "4GB", "PostgreSQL's; a million secrets of three versions take 2.2 GB")
	flags.StringVar(&o.with, "with", "", "`sql` for both vaults before they are filled: to try a setting")
	flags.StringVar(&o.jsonFile, "json", "bin/scale.json", "`file` for the figures; \"\" = none")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected %q", flags.Arg(0))
	case o.secrets < smallVault:
		return o, fmt.Errorf("-secrets: at least %d", smallVault)
	case o.rounds < 1 || o.times < 1 || o.times >= maxRuns || o.slice < 50*time.Millisecond:
		return o, fmt.Errorf("at least one round, 1 to %d times and 50ms a slice", maxRuns-1)
	}
	return o, nil
}

// scaleReport is the JSON file.
type scaleReport struct {
	Began      time.Time         `json:"began"`
	CPUs       int               `json:"cpus"`
	Go         string            `json:"go"`
	Postgres   string            `json:"postgres"`
	Secrets    int               `json:"secrets"`
	Buffers    string            `json:"shared_buffers"`
	With       string            `json:"with,omitempty"`
	Filled     float64           `json:"fill_seconds"`
	Reads      []row             `json:"reads"`
	Operations []operationReport `json:"operations"`
	Sizes      []sizeReport      `json:"sizes"`
	Tables     []tableReport     `json:"tables"`
	Aims       []verdict         `json:"aims"`
}

// operationReport is the cost of an operation for one of its things, in the small vault and in the large one.
type operationReport struct {
	Name        string  `json:"operation"`
	FewThings   int     `json:"things_few"`
	Things      int     `json:"things"`
	FewMicros   spread  `json:"few_us"`
	Micros      spread  `json:"many_us"`
	FewBuffers  float64 `json:"few_buffers"`
	ManyBuffers float64 `json:"many_buffers"`
	Refused     string  `json:"plan_refused,omitempty"`
}

type sizeReport struct {
	Name string  `json:"name"`
	Kind string  `json:"kind"`
	MB   float64 `json:"mb"`
}

// tableReport is the state of a table of the large vault after the operations. A hot update touches no index; dead rows
// wait for a vacuum.
type tableReport struct {
	Name    string `json:"name"`
	Updates int    `json:"updates"`
	Hot     int    `json:"hot_updates"`
	Dead    int    `json:"dead_rows"`
	Vacuums int    `json:"autovacuums"`
}

// runScale measures the same operations in a vault of a thousand secrets and in a large one, in one cluster, and fails
// if a plan grows with the vault.
func runScale(ctx context.Context, o scaleOptions, out, progress io.Writer) (err error) {
	r := &scaleReport{Began: time.Now().UTC(), CPUs: runtime.NumCPU(), Go: goVersion(), Secrets: o.secrets,
		Buffers: o.buffers, With: o.with}
	s, err := newEnv(ctx, 0, o.buffers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if r.Postgres, err = s.queryValue(ctx, `SELECT current_setting('server_version')`); err != nil {
		return err
	}
	small := &store{env: s, database: "few", secrets: smallVault}
	large := &store{env: s, database: "many", secrets: o.secrets}
	fmt.Fprintf(progress, "bench: filling %d secrets of %d versions\n", o.secrets, versionsEach)
	began := time.Now()
	if err := s.fillStores(ctx, o.with, small, large); err != nil {
		return fmt.Errorf("filling: %w", err)
	}
	r.Filled = time.Since(began).Seconds()
	fmt.Fprintf(progress, "bench: filled after %.0f s\n", r.Filled)
	if r.Sizes, err = large.sizes(ctx); err != nil {
		return err
	}
	got, steps, err := s.scaleReads(ctx, o, small, large, progress)
	if err != nil {
		return err
	}
	r.Reads = got.rows(cellsOf(steps))
	for _, a := range scaleAims() {
		if v, known := a.compare(got); known {
			r.Aims = append(r.Aims, v)
		}
	}
	failed := r.operations(ctx, o, small, large, progress)
	if r.Tables, err = large.tables(ctx); err != nil {
		return errors.Join(failed, err)
	}
	return errors.Join(r.print(out), r.save(o.jsonFile), failed)
}

func (s *env) fillStores(ctx context.Context, with string, stores ...*store) (err error) {
	for i, st := range stores {
		if st.token, err = s.install(ctx, st.database, operator, daemon, planner); err != nil {
			return err
		}
		if i == 0 { // all databases share the roles
			if err := s.exec(ctx, plannerSettings...); err != nil {
				return err
			}
		}
		if err := st.env.fillStore(ctx, st, with); err != nil {
			return err
		}
	}
	return nil
}

func (s *env) fillStore(ctx context.Context, st *store, with string) error {
	if with != "" {
		if err := st.exec(ctx, with); err != nil {
			return err
		}
	}
	return st.fill(ctx)
}

// The reads of both vaults. A data key cache of the default size holds all keys of the small vault, and
// a hundredth of a million; the further subjects show the effect of that.
const (
	readFew      = "few"
	readFewMiss  = "few, no cache"
	readMany     = "many"
	readManyHot  = "many, a thousand of them"
	readManyKept = "many, 100,000 rows kept"
	readManyMost = "many, a cache for all"
)

func scaleAims() []aim {
	var all []aim
	for _, n := range []int{16, 64} {
		all = append(all, aim{what: fmt.Sprintf("reads of many at %d connections, of few", n), of: cell{readMany, n},
			to: cell{readFew, n}, figure: perSecond, least: 0.85})
	}
	return append(all,
		aim{what: "with a cache of 100,000 rows, at 64", of: cell{readManyKept, 64}, to: cell{readFew, 64},
			figure: perSecond, least: 0.85},
		aim{what: "without a miss of the key cache, at 64", of: cell{readManyMost, 64}, to: cell{readFew, 64},
			figure: perSecond, least: 0.85},
		aim{what: "a thousand of many, at 64", of: cell{readManyHot, 64}, to: cell{readFew, 64}, figure: perSecond,
			least: 0.85})
}

func (s *env) scaleReads(ctx context.Context, o scaleOptions, small, large *store,
	progress io.Writer) (results, []step, error) {
	var subjects []subject
	for _, reading := range []struct {
		name  string
		store *store
		names int
		lines []string
	}{
		{readFew, small, smallVault, nil},
		{readFewMiss, small, smallVault, []string{`dek_cache_ttl = "0s"`}},
		{readMany, large, o.secrets, nil},
		{readManyHot, large, smallVault, nil},
		// A row of three versions takes less than two kilobytes.
		{readManyKept, large, o.secrets, []string{`read_cache_bytes = "192MiB"`, `dek_cache_size = 100000`}},
		{readManyMost, large, o.secrets, []string{fmt.Sprintf("dek_cache_size = %d", o.secrets), `dek_cache_ttl = "1h"`}},
	} {
		// A record costs the same in both.
		p, err := s.startVaultd(ctx, reading.name, reading.store.url(daemon),
			append(append([]string{`audit = "off"`}, noBackgroundWork...), reading.lines...)...)
		if err != nil {
			return nil, nil, err
		}
		if reading.names > smallVault {
			if err := readAll(ctx, p, reading.names); err != nil {
				return nil, nil, err
			}
		}
		subjects = append(subjects, subject{reading.name, []int{16, 64},
			func(ctx context.Context, n int, slice time.Duration) (figures, error) {
				return s.drive(ctx, slice, p, false, n, readingAny(reading.names))
			}})
	}
	steps := plan(subjects)
	got, err := s.rounds(ctx, options{rounds: o.rounds, slice: o.slice}, steps, progress)
	return got, steps, err
}

// readingAny reads secrets at random; the answer must contain the current value.
func readingAny(names int) func() *exchange {
	dice := rand.New(rand.NewPCG(rand.Uint64(), 5))
	return func() *exchange { return reading(nameAt(dice.IntN(names))) }
}

func reading(name string) *exchange {
	return &exchange{request: getRequest(name, ""), part: fmt.Appendf(nil, `"value":"%s"`,
		valueOf(name, versionsEach, scaleBytes))}
}

// readAll reads every secret once: afterwards a daemon's cache of data keys is full, and its PostgreSQL backend has
// mapped the pages of shared memory, each of which is a fault the first time.
func readAll(ctx context.Context, p *process, names int) error {
	until, done := context.WithCancel(ctx)
	defer done()
	asked := 0
	_, err := drive(ctx, until, p.address, 64, 0, func() *exchange {
		name := nameAt(asked % names)
		if asked++; asked == names {
			done()
		}
		return reading(name)
	})
	return err
}

// operations measures every operation as the daemon, and then checks its plans with another login. After a plan that
// grows it checks the others as well.
func (r *scaleReport) operations(ctx context.Context, o scaleOptions, small, large *store, progress io.Writer) error {
	var refused []error
	inFew, inMany := operations(small), operations(large)
	for i, op := range inMany {
		report := operationReport{Name: op.name, FewThings: inFew[i].things, Things: op.things}
		var err error
		if report.FewMicros, report.FewBuffers, _, err = small.measure(ctx, inFew[i], o.times); err != nil {
			return errors.Join(append(refused, err)...)
		}
		var plans []planned
		if report.Micros, report.ManyBuffers, plans, err = large.measure(ctx, op, o.times); err != nil {
			return errors.Join(append(refused, err)...)
		}
		if err := checkPlans(plans, op); err != nil {
			report.Refused = err.Error()
			refused = append(refused, fmt.Errorf("%s: %w", op.name, err))
		}
		r.Operations = append(r.Operations, report)
		fmt.Fprintf(progress, "bench: %s\n", op.name)
	}
	return errors.Join(refused...)
}

// measure returns microseconds and pages for each of an operation's things, and all plans.
func (s *store) measure(ctx context.Context, o operation,
	times int) (micros spread, buffers float64, plans []planned, err error) {
	took, err := s.repeat(ctx, daemon, o, times, func(work func() error) error { return work() })
	if err != nil {
		return spread{}, 0, nil, err
	}
	_, err = s.repeat(ctx, planner, o, planRuns, func(work func() error) error {
		these, err := s.plansOf(ctx, work)
		plans = append(plans, these...)
		buffers = 0 // of the last run, whose catalogs are in the backend's caches
		for _, p := range these {
			buffers += p.buffers()
		}
		return err
	})
	return spreadOf(took), buffers / float64(o.things), plans, err
}

// repeat runs an operation a number of times on connections of a role, and once before, to prepare and to compile.
func (s *store) repeat(ctx context.Context, role string, o operation, times int,
	do func(work func() error) error) ([]float64, error) {
	c, err := s.client(ctx, role)
	if err != nil {
		return nil, err
	}
	defer c.close(ctx)
	if o.once != nil {
		if err := o.once(ctx, s); err != nil {
			return nil, fmt.Errorf("%s: before: %w", o.name, err)
		}
	}
	var took []float64
	for i := range times + 1 {
		if o.before != nil {
			if err := o.before(ctx, s); err != nil {
				return nil, fmt.Errorf("%s: before: %w", o.name, err)
			}
		}
		began := time.Now()
		if err := do(func() error { return o.do(ctx, c) }); err != nil {
			return nil, fmt.Errorf("%s: %w", o.name, err)
		}
		if i > 0 {
			took = append(took, micros(time.Since(began))/float64(o.things))
		}
	}
	return took, nil
}

func (s *store) sizes(ctx context.Context) ([]sizeReport, error) {
	return rowsOf[sizeReport](ctx, s.url(superuser), `
		SELECT relname AS name, kind, round(pg_relation_size(oid) / 1048576.0, 1)::float8 AS mb FROM (
		SELECT c.oid, c.relname, CASE c.relkind WHEN 'i' THEN 'index' WHEN 't' THEN 'toast' ELSE 'table' END AS kind,
			coalesce(t.relname, o.relname, c.relname) AS top
		FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_class t ON t.oid = i.indrelid
		LEFT JOIN pg_class o ON o.reltoastrelid = coalesce(i.indrelid, c.oid)
		WHERE c.relkind IN ('r', 'i', 't')
			AND coalesce(o.relnamespace, t.relnamespace, c.relnamespace) = 'vault'::regnamespace
			AND pg_relation_size(c.oid) > 1048576) big ORDER BY top, kind DESC, relname`)
}

func (s *store) tables(ctx context.Context) ([]tableReport, error) {
	return rowsOf[tableReport](ctx, s.url(superuser), `
		SELECT relname AS name, n_tup_upd AS updates, n_tup_hot_upd AS hot, n_dead_tup AS dead, autovacuum_count AS vacuums
		FROM pg_stat_user_tables WHERE schemaname = 'vault' AND n_tup_upd + n_dead_tup > 0 ORDER BY relname`)
}

func rowsOf[T any](ctx context.Context, url, sql string) ([]T, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[T])
}

func (r *scaleReport) print(out io.Writer) error {
	fmt.Fprintf(out, "%d CPUs, PostgreSQL %s, %s; %d secrets of %d versions against %d, filled in %.0f s\n\n", r.CPUs,
		r.Postgres, r.Go, r.Secrets, versionsEach, smallVault, r.Filled)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "reads of\tconns\ta second\t\tp50\tp99\tdaemon CPU\tPostgres CPU\tpeak MB\t")
	for _, row := range r.Reads {
		rate := row.Figures[perSecond]
		fmt.Fprintf(t, "%s\t%d\t%.0f\t(%.0f..%.0f)\t", row.Subject, row.Connections, rate.Median, rate.Lowest, rate.Highest)
		for _, f := range []figure{p50, p99, daemonCPU, postgresCPU, peakMB} {
			fmt.Fprintf(t, "%s\t", cut(row.Figures[f], "%.0f"))
		}
		fmt.Fprintln(t)
	}
	fmt.Fprintln(t, "\t\t\t\t\t\t\t\t\t")
	fmt.Fprintln(t, "microseconds and pages for each of\tfew\tmany\tin few\t\tin many\t\ttimes\tpages\tpages, many\t")
	for _, o := range r.Operations {
		fmt.Fprintf(t, "%s\t%d\t%d\t%.1f\t(%.1f..%.1f)\t%.1f\t(%.1f..%.1f)\t%.1f\t%.1f\t%.1f\t%s\n", o.Name, o.FewThings,
			o.Things, o.FewMicros.Median, o.FewMicros.Lowest, o.FewMicros.Highest, o.Micros.Median, o.Micros.Lowest,
			o.Micros.Highest, o.Micros.Median/o.FewMicros.Median, o.FewBuffers, o.ManyBuffers, refusedMark(o.Refused))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	t = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\non disk\t\tMB")
	for _, s := range r.Sizes {
		fmt.Fprintf(t, "%s\t%s\t%.0f\n", s.Name, s.Kind, s.MB)
	}
	fmt.Fprintln(t, "\nin the operations\tupdates\thot\tdead rows\tautovacuums")
	for _, s := range r.Tables {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\n", s.Name, s.Updates, s.Hot, s.Dead, s.Vacuums)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printVerdicts(out, r.Aims)
}

func refusedMark(why string) string {
	if why == "" {
		return ""
	}
	return "PLAN"
}

func (r *scaleReport) save(path string) error {
	if path == "" {
		return nil
	}
	return saveJSON(path, r)
}

func cellsOf(steps []step) []cell {
	var cells []cell
	for _, s := range steps {
		cells = append(cells, s.cell)
	}
	return cells
}
