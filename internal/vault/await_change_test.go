package vault_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// Two thousand callers wait for two hundred secrets on a standby. They cost as many statements as one caller would, by
// the server's own log, through one connection, and each of them notices its change and no other.
func TestThousandsOfWaitsCostOneQueryARound(t *testing.T) {
	const callers, secrets = 2000, 200
	store := vaulttest.Own(t)
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	defer func() { must(t, ring.Close()) }()
	writer, err := db.NewWriter(t.Context(), db.Options{URL: store.URL(vaulttest.Operator)})
	must(t, err)
	defer writer.Close()
	reader, err := db.NewReader(t.Context(), db.Options{URL: store.StandbyURL(vaulttest.Operator), MaxConns: 1,
		PlanOnce: true})
	must(t, err)
	defer reader.Close()
	v := vault.New(vault.Options{Reader: reader, Writer: writer, Keys: ring})
	defer v.Close()

	name := func(i int) string { return fmt.Sprintf("wait/s%d", i%secrets) }
	put := func(i int) uuid.UUID {
		r, err := v.Put(t.Context(), vault.PutRequest{Change: vault.Change{Token: vaulttest.AdminToken(t)}, Name: name(i),
			Value: []byte("canary-value")})
		must(t, err)
		return uuid.MustParse(r.VersionID)
	}
	held := make([]uuid.UUID, secrets)
	for i := range held {
		held[i] = put(i)
	}
	store.MustReplay(t)

	const changed = 7
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var woken, waiting sync.WaitGroup
	ended := make([]error, callers)
	for i := range callers {
		group := &waiting
		if i%secrets == changed {
			group = &woken
		}
		group.Go(func() { ended[i] = v.AwaitChange(ctx, name(i), held[i%secrets], uuid.Nil) })
	}
	inFlight := func() int64 { n, _ := v.Waiting(); return n }
	queries := func() uint64 { _, n := v.Waiting(); return n }
	until(t, "all callers wait", func() bool { return inFlight() == callers })
	before, from := queries(), statements(t, store)
	until(t, "eight rounds are over", func() bool { return queries() >= before+8 })
	logged := statements(t, store) - from
	rounds := queries() - before // read later, as rounds go on
	if logged == 0 || uint64(logged) > rounds+2 {
		t.Errorf("the server has %d statements of %d rounds for %d callers, want one a round", logged, rounds, callers)
	}
	if got := inFlight(); got != callers {
		t.Fatalf("got %d callers that wait before any change, want %d", got, callers)
	}

	put(changed)
	woken.Wait()
	if got, want := inFlight(), int64(callers-callers/secrets); got != want {
		t.Errorf("got %d callers after one change, want %d", got, want)
	}
	leave()
	waiting.Wait()
	for i, err := range ended {
		if (err == nil) != (i%secrets == changed) {
			t.Fatalf("the wait for %s ended with %v", name(i), err)
		}
	}
	if got := inFlight(); got != 0 {
		t.Errorf("got %d callers after all have left, want 0", got)
	}
}

// executed is the line of log_statement; log_min_duration_statement writes another.
var executed = regexp.MustCompile(`LOG:  (00000: )?execute [^:]+: SELECT name, version_id FROM vault\.sealed_versions`)

// statements counts the queries for changes in the log of the standby's server.
func statements(t *testing.T, store *vaulttest.Store) int {
	t.Helper()
	log, err := os.ReadFile(store.Cluster.Standbys()[0].LogFile())
	must(t, err)
	return len(executed.FindAll(log, -1))
}
