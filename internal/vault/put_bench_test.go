package vault_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

const benchNames = 200 // for each writer, so that no two meet

// putScript is a put by pgbench: the statements of one, in the same trips, with bytes that are ready. Its nonce is a constant, as
// pgbench can compute no proof; see [constantNonce].
const putScript = `\set n random(1, %[1]d)
SELECT name, current_version + 1 AS version, deleted_at FROM vault.secrets WHERE name = concat('bench/', :client_id::text, '/', :n::text) \gset
\startpipeline
BEGIN;
SELECT set_config('synchronous_commit', 'remote_apply', true), set_config('idle_in_transaction_session_timeout', '4000', true), set_config('lock_timeout', '8000', true);
SELECT CASE WHEN NOT pg_is_in_recovery() THEN ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int ELSE 0 END,
  coalesce((SELECT timeline FROM vault.heartbeat), 0), coalesce((SELECT epoch FROM vault.heartbeat), '00000000-0000-0000-0000-000000000000');
SELECT vault.challenge();
\endpipeline
\startpipeline
SELECT vault.authorize_proof('%[2]s', '\x%[3]x');
SELECT vault.put_version('put', :name, :version::int, 1, 'local:0123456789abcdef', decode(repeat('01', 60), 'hex'), decode(repeat('00', 24), 'hex'), decode(repeat('11', 40), 'hex'),
  decode(repeat('22', 32), 'hex'), concat(:name::text, ':', :version::text), gen_random_uuid(), false, NULL, NULL, NULL, NULL, NULL);
\endpipeline
\startpipeline
COMMIT;
SELECT pg_current_wal_flush_lsn();
\endpipeline
`

// BenchmarkPuts writes new versions with 1, 8 and 64 writers, and has pgbench do the same in the same run: rounds of us, pgbench,
// pgbench, us, ..., of which the median counts. VAULT_BENCH_SECONDS is how long a round takes. pgbench is told how many, not how
// long, as its clock runs while it connects: fifty each at least, because a session's first put costs as much as forty.
func BenchmarkPuts(b *testing.B) {
	seconds := 3
	if text := os.Getenv("VAULT_BENCH_SECONDS"); text != "" {
		var err error
		seconds, err = strconv.Atoi(text)
		must(b, err)
	}
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			store := vaulttest.OwnWith(b, map[string]string{"log_statement": "none", "log_min_duration_statement": "-1", "fsync": "on", "max_wal_size": "4GB"})
			token := vaulttest.AdminToken(b)
			addBenchSecrets(b, store, writers)
			script := fmt.Sprintf(putScript, benchNames, token.ID(), token.Prove(constantNonce))
			put := putter(b, store, writers)
			for b.Loop() {
				var ours, theirs []float64
				putsPerSecond(b, writers, put, time.Duration(1+writers/4)*time.Second) // connects, and has the server plan
				for round := range 10 {
					if (round+1)/2%2 == 0 {
						ours = append(ours, putsPerSecond(b, writers, put, time.Duration(seconds)*time.Second))
						continue
					}
					store.MustExec(b, fmt.Sprintf(`ALTER TABLE vault.tx_context ALTER nonce SET DEFAULT '\x%x'`, constantNonce))
					theirs = append(theirs, store.MustPgbench(b, vaulttest.Operator, script, "-c", strconv.Itoa(writers), "-j", "2",
						"-t", strconv.Itoa(max(50, int(ours[0])*seconds/writers))))
					store.MustExec(b, `ALTER TABLE vault.tx_context ALTER nonce SET DEFAULT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))`)
				}
				b.ReportMetric(median(ours), "puts/s")
				b.ReportMetric(median(theirs), "pgbench/s")
				b.ReportMetric(100*median(ours)/median(theirs), "%ofpgbench")
				b.ReportMetric(100*(slices.Max(ours)-slices.Min(ours))/median(ours), "%noise")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

// constantNonce takes the place of the server's random one for pgbench's rounds, which makes these a little cheaper.
var constantNonce = []byte(strings.Repeat("n", 32))

func addBenchSecrets(b *testing.B, store *vaulttest.Store, writers int) {
	store.MustExec(b,
		fmt.Sprintf(`INSERT INTO vault.secrets (name, current_version, rotated_at)
			SELECT concat('bench/', w, '/', n), 1, now() FROM generate_series(0, %d) w, generate_series(1, %d) n`, writers-1, benchNames),
		`INSERT INTO vault.secret_versions (secret_id, name, version, fmt, kms_key_id, wrapped_dek, nonce, ciphertext, key_commit, aad, request_id, created_by)
			SELECT id, name, 1, 1, 'k', '\x01', decode(repeat('00', 24), 'hex'), decode(repeat('11', 40), 'hex'), decode(repeat('22', 32), 'hex'), name || ':1',
				gen_random_uuid(), 'bench' FROM vault.secrets`,
		`VACUUM ANALYZE`, `CHECKPOINT`)
}

func putter(b *testing.B, store *vaulttest.Store, writers int) func(ctx context.Context, writer, n int) error {
	ring, err := kms.OpenRing(b.Context(), []string{"local://" + store.KeyFile})
	must(b, err)
	reader, err := db.NewReader(b.Context(), db.Options{URL: store.URL(vaulttest.Operator)})
	must(b, err)
	writer, err := db.NewWriter(b.Context(), db.Options{URL: store.URL(vaulttest.Operator), MaxConns: writers})
	must(b, err)
	v := vault.New(vault.Options{Reader: reader, Writer: writer, Keys: ring})
	b.Cleanup(func() {
		v.Close()
		reader.Close()
		writer.Close()
		must(b, ring.Close())
	})
	change := vault.Change{Token: vaulttest.AdminToken(b)}
	return func(ctx context.Context, w, n int) error {
		_, err := v.Put(ctx, vault.PutRequest{Change: change, Name: fmt.Sprintf("bench/%d/%d", w, 1+n%benchNames), Value: []byte("a value of the benchmark")})
		return err
	}
}

func putsPerSecond(b *testing.B, writers int, put func(ctx context.Context, writer, n int) error, period time.Duration) float64 {
	ctx, cancel := context.WithTimeout(b.Context(), period)
	defer cancel()
	var all sync.WaitGroup
	var puts atomic.Int64
	for w := range writers {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := put(ctx, w, n); err == nil {
					puts.Add(1)
				} else if ctx.Err() == nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return float64(puts.Load()) / period.Seconds()
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}
