package auditdb_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// BenchmarkShipReads measures how many reads a primary stores if it does nothing else: batches of a thousand, one after
// the other, with a standby that replays them.
func BenchmarkShipReads(b *testing.B) {
	const batch = 1000
	store := vaulttest.OwnWith(b, map[string]string{"log_statement": "none", "log_min_duration_statement": "-1",
		"fsync": "on", "max_wal_size": "4GB"})
	log := auditdb.New(nil, mustWriter(b, store.URL(vaulttest.Daemon)))
	shipped := spool.Batch{Node: "bench", Boot: uuid.New(), First: 1}
	var link spool.Hash
	next := func() {
		shipped.First += uint64(len(shipped.Records))
		shipped.Records = shipped.Records[:0]
		for i := range batch {
			event, err := audit.Event{At: time.Now(), Actor: "client:192.0.2.1", Client: "192.0.2.1", Action: audit.Read,
				Secret: "bench/some/name", Version: 3, Outcome: audit.OK,
				RequestID: uuid.Must(uuid.NewV7()).String()}.AppendJSON(nil)
			must(b, err)
			r := spool.Record{Seq: shipped.First + uint64(i), Previous: link, Event: event}
			shipped.Records = append(shipped.Records, r)
			link = r.Hash()
		}
	}
	for b.Loop() {
		next()
		at, err := log.Ship(b.Context(), shipped)
		must(b, err)
		if at.Next != shipped.First+batch {
			b.Fatalf("the primary is at %d, want %d", at.Next, shipped.First+batch)
		}
	}
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "reads/s")
}
