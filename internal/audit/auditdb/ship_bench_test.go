package auditdb_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// BenchmarkShipReads measures what the records of reads cost a primary that does nothing else, with a standby that
// replays them. An operation is some seconds of reads at readsPerSecond, of random names by random clients; with a
// window they are shipped as a vaultd ships them whose backlog is never empty, without one as a row each. Reported are,
// for a read: rows, bytes of WAL, microseconds of processor of the server's session, and how many reads a second were
// stored.
func BenchmarkShipReads(b *testing.B) {
	const readsPerSecond = 16667 // a million a minute
	for _, c := range []struct {
		name           string
		window         time.Duration
		seconds        int
		names, clients int
		token          bool // each client is an app with a token of its own
	}{
		{"each", 0, 10, 1000, 1, false},
		{"each/tokens", 0, 10, 1000, 50, true},
		{"10s/1client", 10 * time.Second, 60, 1000, 1, false},
		{"10s/50clients", 10 * time.Second, 60, 1000, 50, false},
		{"10s/50tokens", 10 * time.Second, 60, 1000, 50, true},
		{"1s/1client", time.Second, 10, 1000, 1, false},
		{"10s/other_names", 10 * time.Second, 10, 1e9, 1, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			store := vaulttest.OwnWith(b, map[string]string{"log_statement": "none", "log_min_duration_statement": "-1",
				"fsync": "on", "max_wal_size": "4GB"})
			log := auditdb.New(nil, mustWriter(b, store.URL(vaulttest.Daemon)))
			counter := &counting{Log: log}
			store.MustExec(b, `SELECT vault._audit_partitions()`, `CHECKPOINT`)
			lsn := store.MustQuery(b, `SELECT pg_current_wal_lsn()`)
			rows := mustCount(b, store)
			var took, cpu time.Duration
			reads := 0
			for b.Loop() {
				b.StopTimer()
				s := mustFillSpool(b, c.seconds*readsPerSecond, readsPerSecond, c.names, c.clients, c.token)
				reads += int(s.Stats().Records)
				b.StartTimer()
				began, before := time.Now(), backendTime(b, store)
				counter.ship(b, s, c.window)
				took, cpu = took+time.Since(began), cpu+backendTime(b, store)-before
				b.StopTimer()
				must(b, s.Close())
				b.StartTimer()
			}
			per := func(n float64, unit string) { b.ReportMetric(n/float64(reads), unit) }
			wal, err := strconv.ParseFloat(store.MustQuery(b, `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '`+lsn+`')`), 64)
			must(b, err)
			per(float64(mustCount(b, store)-rows)*1e6, "rows/Mreads")
			per(wal, "walB/read")
			per(float64(cpu.Nanoseconds())/1000, "cpu_us/read")
			b.ReportMetric(float64(reads)/took.Seconds(), "reads/s")
		})
	}
}

func mustCount(b *testing.B, store *vaulttest.Store) int {
	n, err := strconv.Atoi(store.MustQuery(b, `SELECT count(*) FROM vault.audit_log`))
	must(b, err)
	return n
}

// counting ships a whole spool without the pauses of a shipper.
type counting struct{ *auditdb.Log }

func (c *counting) ship(b *testing.B, s *spool.Spool, window time.Duration) {
	for {
		var at spool.Position
		if window > 0 {
			w, err := s.ReadWindows(window, 8192)
			must(b, err)
			if w.Next == w.First {
				return
			}
			at, err = c.ShipWindows(b.Context(), w)
			must(b, err)
		} else {
			batch, err := s.Read(1000)
			must(b, err)
			if len(batch.Records) == 0 {
				return
			}
			at, err = c.Ship(b.Context(), batch)
			must(b, err)
		}
		must(b, s.Acknowledge(at.Next))
	}
}

// backendTime is the processor time of the store's sessions of the daemon.
func backendTime(b *testing.B, store *vaulttest.Store) (sum time.Duration) {
	pids := store.MustQuery(b, `SELECT string_agg(pid::text, ' ') FROM pg_stat_activity
		WHERE usename = 'vaultd' AND datname = current_database()`)
	for _, pid := range strings.Fields(pids) {
		stat, err := os.ReadFile("/proc/" + pid + "/schedstat")
		must(b, err)
		ns, err := strconv.ParseInt(strings.Fields(string(stat))[0], 10, 64)
		must(b, err)
		sum += time.Duration(ns)
	}
	return sum
}

// mustFillSpool makes a spool with reads of the last moments, so many a second.
func mustFillSpool(b *testing.B, reads, perSecond, names, clients int, token bool) *spool.Spool {
	dir, err := os.MkdirTemp("", "spool")
	must(b, err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	o := spool.Options{Dir: dir + "/spool", Node: func() string { return "bench" }, Sync: spool.Interval,
		SyncInterval: 10 * time.Millisecond, SegmentBytes: 64 << 20}
	s, err := spool.Open(o)
	must(b, err)
	began := time.Now().Add(-time.Duration(reads) * time.Second / time.Duration(perSecond))
	random := uint64(reads)
	next := func(n int) int {
		random = random*6364136223846793005 + 1442695040888963407
		return int(random >> 33 % uint64(n))
	}
	for i := range reads {
		client := 1 + next(clients)
		at := began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		e := audit.Event{At: at, Client: fmt.Sprintf("192.0.2.%d", client), Action: audit.Read,
			Secret: fmt.Sprintf("prod/bench/name-%d", next(names)), Version: 3, Outcome: audit.OK,
			RequestID: requestAt(at)}
		e.Actor = "client:" + e.Client
		if token {
			e.Actor = fmt.Sprintf("app:name-%d", client)
			e.Detail = map[string]any{"credential": fmt.Sprintf("00000000-0000-4000-8000-%012d", client), "via": "token",
				"api": "vault"}
		}
		must(b, s.Append(context.Background(), e))
	}
	must(b, s.Close())
	s, err = spool.Open(o) // all of it is on disk
	must(b, err)
	return s
}

// requestAt is a UUID of version 7.
func requestAt(at time.Time) string {
	id := uuid.Must(uuid.NewV7())
	for i, milli := 5, at.UnixMilli(); i >= 0; i, milli = i-1, milli>>8 {
		id[i] = byte(milli)
	}
	return id.String()
}
