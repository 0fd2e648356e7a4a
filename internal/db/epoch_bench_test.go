package db_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// BenchmarkReadWithEpoch is what the access epoch costs the statement of a read: ns/with and ns/without.
func BenchmarkReadWithEpoch(b *testing.B) {
	store := vaulttest.New(b)
	conn := mustConnect(b, store.URL(vaulttest.Operator))
	const secrets = 1000
	for i := range secrets {
		for _, step := range []string{"BEGIN", "AUTHORISE", put(name(i), 1, 24, 32, uuid.NewString()), "COMMIT"} {
			must(b, runStep(b.Context(), conn, step))
		}
	}
	store.MustExec(b, `VACUUM ANALYZE vault.secret_versions`)
	must(b, runStep(b.Context(), conn, `SET plan_cache_mode = force_generic_plan`))
	with, without := db.CurrentQuery()
	if with == without {
		b.Fatal("the statement has no epoch")
	}
	for _, size := range []int{1, 16} {
		b.Run(fmt.Sprintf("names=%d", size), func(b *testing.B) {
			var took [2]time.Duration // by turns, so that both have the same machine
			for n := 0; b.Loop(); n++ {
				names := make([]string, size)
				for i := range names {
					names[i] = name((n*size + 7*i) % secrets)
				}
				for turn := range 2 {
					which := (n + turn) % 2
					begin := time.Now()
					rows, err := conn.Query(b.Context(), []string{without, with}[which], names)
					must(b, err)
					found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (int, error) { return len(row.RawValues()), nil })
					must(b, err)
					took[which] += time.Since(begin)
					if len(found) != size {
						b.Fatalf("got %d rows, want %d", len(found), size)
					}
				}
			}
			b.ReportMetric(float64(took[0].Nanoseconds())/float64(b.N), "ns/without")
			b.ReportMetric(float64(took[1].Nanoseconds())/float64(b.N), "ns/with")
		})
	}
}

func name(i int) string { return fmt.Sprintf("app1/%d", i) }
