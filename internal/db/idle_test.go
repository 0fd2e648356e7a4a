package db_test

import (
	"context"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// Where nothing is due, the rounds of a daemon run few statements, and few of them change a row. A context is a row
// that is inserted and deleted: a beat, every second, has none.
func TestIdleRoundsDoLittle(t *testing.T) {
	store := vaulttest.New(t)
	mustPut(t, store, "app1/a")
	connect, found := explained(t, store)
	conn := connect(vaulttest.Daemon)
	contexts := func() (made int) {
		t.Helper()
		_, err := conn.Exec(t.Context(), `SELECT pg_stat_force_next_flush()`)
		must(t, err)
		must(t, conn.QueryRow(t.Context(), `SELECT pg_stat_get_tuples_inserted('vault.tx_context'::regclass)`).Scan(&made))
		return made
	}
	for _, c := range []struct {
		what, statement      string
		contexts, statements int
	}{
		{"a beat", `SELECT vault.beat()`, 0, 4},
		{"a claim", `SELECT count(*) FROM vault.claim_rotations('w', 4, '3 minutes', 12)`, 0, 7},
		{"a round of the supervisor", supervise, 6, 95},
	} {
		_, err := conn.Exec(t.Context(), c.statement) // the first one makes the heartbeat, or the partitions of months
		must(t, err)
		before := contexts()
		found.statements = 0 // those of the functions and the statement itself
		_, err = conn.Exec(t.Context(), c.statement)
		must(t, err)
		statements := found.statements
		made := contexts() - before
		if made > c.contexts || statements < 1 || statements > c.statements {
			t.Errorf("%s: %d statements with %d contexts, want at most %d with %d", c.what, statements, made,
				c.statements, c.contexts)
		}
	}
}

func mustPrepared(t *testing.T, prepared func(context.Context) (map[string]int, error)) map[string]int {
	t.Helper()
	runs, err := prepared(t.Context())
	must(t, err)
	return runs
}

// What a daemon asks every second is planned once: all but the first question of a session are one prepared statement.
func TestBeatsArePrepared(t *testing.T) {
	store := vaulttest.New(t)
	reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(vaulttest.Daemon), PlanOnce: true})
	must(t, err)
	defer reader.Close()
	writer := mustWriter(t, db.Options{URL: store.URL(vaulttest.Daemon)})
	must(t, writer.Beat(t.Context()))
	const beats = 10
	for range beats {
		if primary, err := reader.IsPrimary(t.Context()); err != nil || !primary {
			t.Fatalf("got %v, %v, want the primary", primary, err)
		}
		must(t, writer.Beat(t.Context()))
	}
	for _, c := range []struct {
		what, text string
		prepared   map[string]int
	}{
		{"the node's lineage", "pg_is_in_recovery", mustPrepared(t, reader.Prepared)},
		{"the beat", "vault.beat", mustPrepared(t, writer.Prepared)},
	} {
		runs := 0
		for statement, n := range c.prepared {
			if strings.Contains(statement, c.text) {
				runs += n
			}
		}
		if runs < beats-1 {
			t.Errorf("%s: %d of %d times as a prepared statement; there are %v", c.what, runs, beats, c.prepared)
		}
	}
}
