package vault_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// BenchmarkSealing writes with the sealer off, on, on, off, ... twelve times for two seconds, in one run: eight writers, each
// transaction with one audit row. VAULT_BENCH_SECONDS is for another time.
func BenchmarkSealing(b *testing.B) {
	period := 2 * time.Second
	if text := os.Getenv("VAULT_BENCH_SECONDS"); text != "" {
		var seconds int
		_, err := fmt.Sscan(text, &seconds)
		must(b, err)
		period = time.Duration(seconds) * time.Second
	}
	s := newSealing(b, vaulttest.New(b))
	for b.Loop() {
		var rates [2]float64
		for round := range 12 {
			on := (round + 1) / 2 % 2 // off, on, on, off: what drifts in the meantime falls on both
			rates[on] += writesPerSecond(b, s, period, on == 1) / 6
		}
		b.ReportMetric(rates[0], "off/s")
		b.ReportMetric(rates[1], "on/s")
		b.ReportMetric(100*rates[1]/rates[0], "%")
	}
}

func writesPerSecond(b *testing.B, s *sealing, period time.Duration, sealed bool) float64 {
	ctx, cancel := context.WithTimeout(b.Context(), period)
	defer cancel()
	var all sync.WaitGroup
	var n atomic.Int64
	for w := range 8 {
		conn, err := pgx.Connect(b.Context(), s.store.URL(vaulttest.Superuser))
		must(b, err)
		all.Go(func() {
			defer conn.Close(context.WithoutCancel(ctx))
			for ctx.Err() == nil {
				_, err := conn.Exec(ctx, `SELECT vault.record_refusal('put', $1, 'a reason', NULL, NULL)`, fmt.Sprint("app/", w))
				if err == nil {
					n.Add(1)
				}
			}
		})
	}
	if sealed {
		sealer := &seal.Sealer{Store: s.daemon, Key: s.key}
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
		INSERT INTO vault.audit_log (actor, action, secret, client, detail) SELECT 'client:10.0.0.1', 'read', 'app/x', '10.0.0.1', '{"boot": "x", "seq": 1}' FROM generate_series(1, 1000);
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
