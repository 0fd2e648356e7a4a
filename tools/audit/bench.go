package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/localpg"
)

const (
	fewRows = 10_000
	chunk   = 250_000
	times   = 9 // each scenario is measured, without the first time
	days    = 400
)

// bench makes a log of few rows and one of many, runs the same queries on both, and walks through the large one with
// the browser.
func bench(ctx context.Context, w *env, rows int) error {
	for _, log := range []struct {
		name string
		rows int
	}{{"few", fewRows}, {"many", rows}} {
		began := time.Now()
		if err := fill(ctx, w.cluster, log.name, log.rows); err != nil {
			return fmt.Errorf("filling %q: %w", log.name, err)
		}
		fmt.Fprintf(os.Stderr, "%d rows made in %s\n", log.rows, time.Since(began).Round(time.Second))
	}
	if err := measure(ctx, w.cluster, rows); err != nil {
		return err
	}
	return w.walk(ctx, w.cluster.Primary().URL("many", superuser))
}

// fill makes rows over the last 400 days: 5,000 secrets of which few are read most, 200 actors, one in 250 refused.
func fill(ctx context.Context, cluster *localpg.Cluster, database string, rows int) error {
	primary := cluster.Primary()
	if err := db.EnsureDatabase(ctx, primary.URL("postgres", superuser), database); err != nil {
		return err
	}
	url := primary.URL(database, superuser)
	if _, err := db.Migrate(ctx, url, "auditbench", ""); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	statements := []string{`SELECT vault._audit_partitions()`, fmt.Sprintf(`SELECT vault._audit_partition(month::date)
		FROM generate_series(date_trunc('month', now() - interval '%d days'), now(), interval '1 month') month`, days)}
	for from := 0; from < rows; from += chunk {
		statements = append(statements, fmt.Sprintf(`INSERT INTO vault.audit_log (at, recorded_at, actor, db_role, client,
				node, action, secret, version, outcome, request_id, detail)
			SELECT at, at + interval '2 s', 'client:10.0.' || (n * 7919 %% 200) || '.5', 'vaultd',
				('10.0.' || (n * 7919 %% 200) || '.5')::inet, 'node' || n %% 3,
				(ARRAY['read', 'read', 'read', 'read', 'read', 'read', 'verify', 'verify', 'put', 'rotate'])[1 + (n * 31 %% 10)],
				(ARRAY['prod', 'test', 'dev'])[1 + n %% 3] || '/s' || floor(5000 * pow(random(), 3)), 1 + n %% 9,
				CASE WHEN n %% 250 = 0 THEN 'denied' WHEN n %% 5000 = 7 THEN 'failed' ELSE 'ok' END,
				gen_random_uuid(), '{"match": "current"}'
			FROM (SELECT n, now() - interval '%d days' * (1 - n::float8 / %d) AS at
				FROM generate_series(%d::bigint, %d) n) rows`,
			days, rows, from+1, min(from+chunk, rows)))
	}
	for _, s := range append(statements, `VACUUM ANALYZE vault.audit_log`, `CHECKPOINT`) {
		if _, err := conn.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// scenario is one action in the browser, and its query.
type scenario struct {
	name  string
	query func(context.Context, *auditdb.Log) error
}

func page(f filter.Filter, from *audit.Cursor, newer bool) func(context.Context, *auditdb.Log) error {
	return func(ctx context.Context, log *auditdb.Log) error {
		_, err := log.Events(ctx, audit.Query{Filter: f, From: from, Newer: newer, Limit: 200})
		return err
	}
}

func scenarios(secret string) []scenario {
	all := filter.Filter{}
	bySecret := all.With(filter.Term{Key: filter.Secret, Text: secret})
	monthAgo := &audit.Cursor{At: time.Now().AddDate(0, 0, -30)}
	histogram := func(f filter.Filter) func(context.Context, *auditdb.Log) error {
		return func(ctx context.Context, log *auditdb.Log) error {
			_, err := log.Counts(ctx, f, time.Time{}, time.Now(), 158)
			return err
		}
	}
	prefix := all.With(filter.Term{Key: filter.Secret, Text: "prod/", Prefix: true})
	none := all.With(filter.Term{Key: filter.Action, Text: "purge"})
	refused := all.With(filter.Term{Key: filter.Outcome, Text: "denied"}).With(
		filter.Term{Key: filter.Actor, Text: "client:10.0.7.5"})
	return []scenario{
		{"first screen", page(all, nil, false)},
		{"its histogram of 158 counts", histogram(all)},
		{"filter by secret", page(bySecret, nil, false)},
		{"its histogram", histogram(bySecret)},
		{"filter by prefix", page(prefix, nil, false)},
		{"its histogram", histogram(prefix)},
		{"jump of 30 days", page(all, monthAgo, false)},
		{"End", page(all, nil, true)},
		{"End of a secret", page(bySecret, nil, true)},
		{"an actor's refusals", page(refused, nil, false)},
		{"nothing found, first look", page(none, nil, false)},
		{"completion of a secret", func(ctx context.Context, log *auditdb.Log) error {
			_, err := log.Values(ctx, filter.Secret, "prod/s1", 50)
			return err
		}},
	}
}

func measure(ctx context.Context, cluster *localpg.Cluster, rows int) error {
	logs := map[string]*auditdb.Log{}
	for _, name := range []string{"few", "many"} {
		r, err := db.NewReader(ctx, db.Options{URL: cluster.Primary().URL(name, superuser), ApplicationName: "auditbench"})
		if err != nil {
			return err
		}
		defer r.Close()
		if err := r.Ping(ctx); err != nil {
			return err
		}
		logs[name] = auditdb.New(r, nil)
	}
	fmt.Printf("%-28s %12s %12s %12s %12s %8s\n", "milliseconds", "10,000 rows", "many rows", "worst", "first time",
		"times")
	for _, q := range scenarios("prod/s3") {
		few, _, _, err := clock(ctx, q, logs["few"])
		if err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
		many, worst, first, err := clock(ctx, q, logs["many"])
		if err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
		fmt.Printf("%-28s %12.1f %12.1f %12.1f %12.1f %8.1f\n", q.name, ms(few), ms(many), ms(worst), ms(first),
			ms(many)/ms(few))
	}
	fmt.Printf("%d rows\n", rows)
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// clock returns the median, the worst and the first time.
func clock(ctx context.Context, q scenario, log *auditdb.Log) (median, worst, first time.Duration, err error) {
	var took []time.Duration
	for i := range times + 1 {
		began := time.Now()
		if err := q.query(ctx, log); err != nil {
			return 0, 0, 0, err
		}
		if i == 0 {
			first = time.Since(began)
			continue
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[times/2], took[times-1], first, nil
}

// walk drives the browser through the log, and prints its peak memory.
func (w *env) walk(ctx context.Context, url string) error {
	t, err := w.terminal(ctx, 160, 50, url)
	if err != nil {
		return err
	}
	defer t.close()
	keys := []string{"Enter"}
	for range 60 {
		keys = append(keys, "PageDown")
	}
	keys = append(keys, "End", "Home", "e", "e", "4", "0", "Tab", "Tab", "End")
	for _, key := range keys {
		if _, err := t.press(key); err != nil {
			return err
		}
	}
	mb, err := t.memory()
	fmt.Printf("memory of the browser after %d keys: %d MB at most\n", len(keys), mb)
	return err
}
