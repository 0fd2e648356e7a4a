package auditdb_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// BenchmarkSealing writes with the sealer off, on, on, off, ... twelve times for two seconds, in one run, by eight
// writers: puts, and transactions that do nothing but add a row to the audit log, the most that a log can grow by.
// VAULT_BENCH_SECONDS is for another time.
func BenchmarkSealing(b *testing.B) {
	period := 2 * time.Second
	if text := os.Getenv("VAULT_BENCH_SECONDS"); text != "" {
		var seconds int
		_, err := fmt.Sscan(text, &seconds)
		must(b, err)
		period = time.Duration(seconds) * time.Second
	}
	for _, c := range []struct {
		name   string
		writer func(testing.TB, *vaulttest.Store) func(context.Context, int) error
	}{{"put", putting}, {"rows", addingRows}} {
		b.Run("write="+c.name, func(b *testing.B) {
			s := newSealing(b,
				vaulttest.OwnWith(b, map[string]string{"log_statement": "none", "log_min_duration_statement": "-1", "fsync": "on"}))
			write := c.writer(b, s.store)
			for b.Loop() {
				var rates [2]float64
				for round := range 12 {
					on := (round + 1) / 2 % 2 // off, on, on, off: what drifts in the meantime falls on both
					rates[on] += writesPerSecond(b, s, write, period, on == 1) / 6
				}
				b.ReportMetric(rates[0], "off/s")
				b.ReportMetric(rates[1], "on/s")
				b.ReportMetric(100*rates[1]/rates[0], "%")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

const benchWriters = 8

// putter puts as vaultctl does, from so many connections.
func putter(b testing.TB, store *vaulttest.Store, conns int) func(ctx context.Context, name string) error {
	ring, err := kms.OpenKeyring(b.Context(), []string{"local://" + store.KeyFile})
	must(b, err)
	reader, err := db.NewReader(b.Context(), db.Options{URL: store.URL(vaulttest.Operator)})
	must(b, err)
	writer, err := db.NewWriter(b.Context(), db.Options{URL: store.URL(vaulttest.Operator), MaxConns: conns})
	must(b, err)
	v := vault.New(vault.Options{Reader: reader, Writer: writer, Keys: ring})
	b.Cleanup(func() {
		v.Close()
		reader.Close()
		writer.Close()
		must(b, ring.Close())
	})
	change := vault.Change{Token: vaulttest.AdminToken(b)}
	return func(ctx context.Context, name string) error {
		_, err := v.Put(ctx, vault.PutRequest{Change: change, Name: name, Value: []byte("a value of the benchmark")})
		return err
	}
}

func putting(b testing.TB, store *vaulttest.Store) func(context.Context, int) error {
	put := putter(b, store, benchWriters)
	return func(ctx context.Context, n int) error { return put(ctx, fmt.Sprint("app/", n)) }
}

func addingRows(b testing.TB, store *vaulttest.Store) func(context.Context, int) error {
	pool, err := pgxpool.New(b.Context(), store.URL(vaulttest.Superuser)+fmt.Sprintf("&pool_max_conns=%d", benchWriters))
	must(b, err)
	b.Cleanup(pool.Close)
	return func(ctx context.Context, n int) error {
		_, err := pool.Exec(ctx, `SELECT vault.record_refusal('put', $1, 'a reason', NULL, NULL)`, fmt.Sprint("app/", n))
		return err
	}
}

func writesPerSecond(b *testing.B, s *sealing, write func(context.Context, int) error, period time.Duration,
	sealed bool) float64 {
	ctx, cancel := context.WithTimeout(b.Context(), period)
	defer cancel()
	var all sync.WaitGroup
	var n atomic.Int64
	for w := range benchWriters {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := write(ctx, w); err == nil {
					n.Add(1)
				} else if ctx.Err() == nil {
					b.Error(err)
					return
				}
			}
		})
	}
	if sealed {
		sealer := &seal.Sealer{Store: s.daemon, Key: s.key, Log: slog.New(slog.DiscardHandler)}
		all.Go(func() { sealer.Run(ctx) })
	}
	all.Wait()
	return float64(n.Load()) / period.Seconds()
}

// BenchmarkVerifyAudit recomputes 200,000 rows in seals of a thousand, and seals them first.
func BenchmarkVerifyAudit(b *testing.B) {
	const rows = 200_000
	s := newSealing(b, vaulttest.New(b))
	s.store.MustExec(b, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
		INSERT INTO vault.audit_log (actor, action, secret, client, detail)
		SELECT 'client:10.0.0.1', 'read', 'app/x', '10.0.0.1', '{"boot": "x", "seq": 1}' FROM generate_series(1, 1000);
		COMMIT; END LOOP; END $$`, rows/1000))
	began := time.Now()
	s.seal()
	sealed := rows / time.Since(began).Seconds()
	for b.Loop() {
		began = time.Now()
		s.mustVerify(seal.Options{})
		b.ReportMetric(rows/time.Since(began).Seconds(), "verified/s")
	}
	b.ReportMetric(sealed, "sealed/s")
}
