package db_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// onCPU is the processor time of a server's process, which is on this machine.
func onCPU(b *testing.B, pid string) time.Duration {
	b.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/schedstat")
	must(b, err)
	ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
	must(b, err)
	return time.Duration(ns)
}

// quietServer logs no statements, and no page as a whole.
func quietServer(b *testing.B) *vaulttest.Store {
	b.Helper()
	return vaulttest.OwnWith(b, map[string]string{"log_statement": "none", "log_min_duration_statement": "-1",
		"full_page_writes": "off"})
}

// BenchmarkPoll is an empty window of a feed with 600,000 rows.
func BenchmarkPoll(b *testing.B) {
	store := quietServer(b)
	store.MustExec(b, `INSERT INTO vault.change_feed SELECT (n / 10)::text::xid8, 'app1/' || n
		FROM generate_series(1, 600000) AS n`, `VACUUM ANALYZE vault.change_feed`)
	reader, err := db.NewReader(b.Context(), db.Options{URL: store.URL(vaulttest.Operator), PlanOnce: true})
	must(b, err)
	b.Cleanup(reader.Close)
	feed, err := reader.OpenFeed(b.Context())
	must(b, err)
	b.Cleanup(feed.Close)
	pid := store.MustQuery(b, `SELECT pid FROM pg_stat_activity WHERE query LIKE '%changed_names%'
		AND usename = 'operator' AND pid <> pg_backend_pid()`)
	_, err = feed.Poll(b.Context(), 1<<62)
	must(b, err)
	before := onCPU(b, pid)
	for b.Loop() {
		p, err := feed.Poll(b.Context(), 1<<62)
		must(b, err)
		if p.All || len(p.Names) > 0 {
			b.Fatalf("got %+v", p)
		}
	}
	b.ReportMetric(float64(onCPU(b, pid)-before)/float64(b.N), "server-ns/op")
}

// BenchmarkPutFed is what the feed costs a put of one more version: processor time and log of the server, with its
// triggers and without.
func BenchmarkPutFed(b *testing.B) {
	store := quietServer(b)
	writer, err := db.NewWriter(b.Context(), db.Options{URL: store.URL(vaulttest.Operator), MaxConns: 1, PlanOnce: true})
	must(b, err)
	b.Cleanup(writer.Close)
	token := vaulttest.AdminToken(b)
	version := map[string]int{}
	put := func(n int) {
		name := fmt.Sprintf("app1/%d", n%100)
		version[name]++
		v := sealedPlaceholder(name)
		v.Version, v.AAD = version[name], fmt.Sprintf("%s:%d", name, version[name])
		_, err := writer.PutVersion(b.Context(), db.Credential{TokenID: token.ID(), Prove: token.Prove}, uuid.New(), "put",
			name, v, false, db.Settings{})
		must(b, err)
	}
	for n := range 300 {
		put(n)
	}
	pid := store.MustQuery(b, `SELECT pid FROM pg_stat_activity WHERE usename = 'operator'
		AND datname = current_database()`)
	log := func() float64 {
		at, err := strconv.ParseFloat(store.MustQuery(b, `SELECT pg_current_wal_insert_lsn() - '0/0'`), 64)
		must(b, err)
		return at
	}
	const block = 100
	var cpu, wal [2]float64
	for n := 0; b.Loop(); n++ {
		for turn := range 2 {
			which := (n + turn) % 2
			store.MustExec(b, `ALTER TABLE vault.secret_versions `+
				[]string{"DISABLE TRIGGER", "ENABLE ALWAYS TRIGGER"}[which]+` change_is_fed`)
			put(0) // whose plans are made anew
			cpuBefore, logBefore := onCPU(b, pid), log()
			for i := range block {
				put(i)
			}
			cpu[which] += float64(onCPU(b, pid) - cpuBefore)
			wal[which] += log() - logBefore
		}
	}
	for i, unit := range []string{"without", "with"} {
		b.ReportMetric(cpu[i]/block/float64(b.N), "ns/"+unit)
		b.ReportMetric(wal[i]/block/float64(b.N), "log-bytes/"+unit)
	}
}
