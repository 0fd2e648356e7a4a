package accessdb_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/access/accessdb"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/httpapi"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// appsOf are the apps of a reader's node, as vaultd reads them.
type appsOf struct{ reader *db.Reader }

func (a appsOf) ReadSnapshot(ctx context.Context) (access.Snapshot, error) {
	return accessdb.ReadSnapshot(ctx, a.reader)
}

func (a appsOf) ReadEpoch(ctx context.Context) (uuid.UUID, error) {
	return accessdb.ReadEpoch(ctx, a.reader)
}

// An app is disabled and enabled 500 times each, while requests read with its token. A request that begins after a
// disable was committed, and is answered before the next enable begins, is never answered with the value.
func TestNoValueIsServedAfterARevocation(t *testing.T) {
	store := vaulttest.New(t)
	ring, err := kms.OpenKeyring(t.Context(), []string{"local://" + store.KeyFile})
	must(t, err)
	defer func() { must(t, ring.Close()) }()
	reader, err := db.NewReader(t.Context(), db.Options{URL: store.URL(vaulttest.Operator), MaxConns: 4, PlanOnce: true})
	must(t, err)
	defer reader.Close()
	writer, err := db.NewWriter(t.Context(), db.Options{URL: store.URL(vaulttest.Operator), MaxConns: 2})
	must(t, err)
	defer writer.Close()
	v := vault.New(vault.Options{Reader: reader, Writer: writer, Keys: ring, CacheSize: 10, CacheTTL: time.Minute})
	defer v.Close()

	as := func() vault.Change { return vault.Change{Token: vaulttest.AdminToken(t), RequestID: uuid.New()} }
	_, err = v.Put(t.Context(), vault.PutRequest{Change: as(), Name: "prod/app/x", Value: []byte("v")})
	must(t, err)
	token := access.NewToken()
	_, err = v.CreateApp(t.Context(), as(), "billing",
		[]accessdb.Rule{{Pattern: "prod/app/*", Actions: access.DefaultActions}},
		[]accessdb.NewCredential{{ID: token.ID(), Kind: access.ByToken, Fingerprint: token.Fingerprint()}})
	must(t, err)
	api := httpapi.New(httpapi.Options{Vault: v, Apps: appsOf{reader},
		Policy: httpapi.Policy{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Apps: true}})
	get := func(from string) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/secrets/prod/app/x", nil)
		r.RemoteAddr, r.Host = from, "localhost"
		r.Header.Set("X-Vault-Token", token.Reveal())
		rec := httptest.NewRecorder()
		api.Handler().ServeHTTP(rec, r)
		return rec.Code
	}

	var phase, answered, begun atomic.Int64 // phase is odd from the commit of a disable to the beginning of an enable
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				before := phase.Load()
				code := get("192.0.2.1:1")
				if before%2 == 1 {
					begun.Add(1)
				}
				switch {
				case code == http.StatusOK:
					answered.Add(1)
					if before%2 == 1 && phase.Load() == before {
						t.Error("a value was served after the app was disabled")
					}
				case code != http.StatusForbidden && code != http.StatusTooManyRequests:
					t.Errorf("got status %d", code)
				}
			}
		})
	}
	// The functions that make changes have tests of their own; here their triggers do, a thousand times in a few seconds.
	owner, err := pgx.Connect(t.Context(), store.URL(vaulttest.Superuser))
	must(t, err)
	defer owner.Close(context.Background())
	change := func(disabledAt string) {
		_, err := owner.Exec(t.Context(), `UPDATE vault.apps SET disabled_at = `+disabledAt)
		must(t, err)
	}
	for range 500 {
		change("now()")
		phase.Add(1)
		for range 3 { // long enough for reads that begin and end in this phase
			_, err := accessdb.ReadEpoch(t.Context(), reader)
			must(t, err)
		}
		phase.Add(1)
		change("NULL")
	}
	close(stop)
	readers.Wait()
	if answered.Load() == 0 || begun.Load() == 0 {
		t.Errorf("%d reads were answered and %d began while the app was disabled", answered.Load(), begun.Load())
	}
	if code := get("192.0.2.2:1"); code != http.StatusOK {
		t.Errorf("got status %d at the end, want 200", code)
	}
}
