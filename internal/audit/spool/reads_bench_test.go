package spool_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/httpapi"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// BenchmarkReads is reads over HTTP from a real node, all of it in this process: guard, statement, opening, record,
// answer.
func BenchmarkReads(b *testing.B) {
	v := newVault(b)
	for _, mode := range []string{"off", "interval", "always"} {
		for _, connections := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("audit=%s/connections=%d", mode, connections), func(b *testing.B) {
				server := httptest.NewServer(newAPI(b, v, mode).Handler())
				defer server.Close()
				client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
				defer client.CloseIdleConnections()
				b.ResetTimer()
				var left atomic.Int64
				left.Store(int64(b.N))
				var clients sync.WaitGroup
				for range connections {
					clients.Go(func() {
						for left.Add(-1) >= 0 {
							read(b, client, server.URL)
						}
					})
				}
				clients.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
			})
		}
	}
}

// BenchmarkHandler is 64 reads at a time without HTTP around them: what vaultd and PostgreSQL add to it.
func BenchmarkHandler(b *testing.B) {
	v := newVault(b)
	for _, mode := range []string{"off", "interval"} {
		b.Run("audit="+mode, func(b *testing.B) {
			h := newAPI(b, v, mode).Handler()
			b.ReportAllocs()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var clients sync.WaitGroup
			for range 64 {
				clients.Go(func() {
					ctx, leave := context.WithCancel(b.Context())
					defer leave()
					r := (&http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/v1/secrets/bench/x"},
						RemoteAddr: "127.0.0.1:4000"}).WithContext(ctx)
					for left.Add(-1) >= 0 {
						w := &statusOnly{header: http.Header{}}
						if h.ServeHTTP(w, r); w.status != http.StatusOK {
							b.Errorf("got status %d", w.status)
						}
					}
				})
			}
			clients.Wait()
		})
	}
}

// statusOnly is a response writer that keeps the status only.
type statusOnly struct {
	header http.Header
	status int
}

func (w *statusOnly) Header() http.Header         { return w.header }
func (w *statusOnly) Write(b []byte) (int, error) { return len(b), nil }
func (w *statusOnly) WriteHeader(status int)      { w.status = status }

func read(b *testing.B, client *http.Client, url string) {
	answer, err := client.Get(url + "/v1/secrets/bench/x")
	if err != nil {
		b.Error(err)
		return
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		b.Errorf("got status %d, error %v", answer.StatusCode, err)
	}
}

func newAPI(b *testing.B, v *vault.Vault, mode string) *httpapi.API {
	b.Helper()
	o := httpapi.Options{Vault: v, Policy: httpapi.Policy{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	if mode != "off" {
		s, err := spool.Open(spool.Options{Dir: filepath.Join(b.TempDir(), "spool"), Node: func() string { return "bench" },
			Sync: map[string]spool.Sync{"always": spool.Always, "interval": spool.Interval}[mode]})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { s.Close() })
		o.Recorder = &spool.Recorder{Spool: s}
	}
	return httpapi.New(o)
}

func newVault(b *testing.B) *vault.Vault {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	program, err := vaulttest.Start(ctx)
	must(err)
	b.Cleanup(func() { program.Close() })
	store, err := program.NewDatabase(ctx)
	must(err)
	options := db.Options{URL: store.URL(vaulttest.Operator), MaxConns: 16}
	reader, err := db.NewReader(ctx, options)
	must(err)
	b.Cleanup(reader.Close)
	writer, err := db.NewWriter(ctx, options)
	must(err)
	b.Cleanup(writer.Close)
	ring, err := kms.OpenKeyring(ctx, []string{"local://" + store.KeyFile})
	must(err)
	b.Cleanup(func() { ring.Close() })
	v := vault.New(vault.Options{Reader: reader, Writer: writer, Keys: ring, CacheSize: 100, CacheTTL: time.Hour})
	b.Cleanup(v.Close)
	_, err = v.Put(ctx, vault.PutRequest{Change: vault.Change{Token: vaulttest.AdminToken(b)}, Name: "bench/x",
		Value: []byte("a value of some thirty characters")})
	must(err)
	return v
}

// BenchmarkAppend is the spool alone, on this disk.
func BenchmarkAppend(b *testing.B) {
	for _, mode := range []string{"interval", "always"} {
		for _, appenders := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("sync=%s/appenders=%d", mode, appenders), func(b *testing.B) {
				s, err := spool.Open(spool.Options{Dir: filepath.Join(b.TempDir(), "spool"), Node: func() string { return "bench" },
					Sync: map[string]spool.Sync{"always": spool.Always, "interval": spool.Interval}[mode]})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				e := vault.AuditedGet("bench/x", &vault.Secret{Version: 1})
				b.ResetTimer()
				var left atomic.Int64
				left.Store(int64(b.N))
				var all sync.WaitGroup
				for range appenders {
					all.Go(func() {
						for left.Add(-1) >= 0 {
							if err := s.Append(b.Context(), e); err != nil {
								b.Error(err)
							}
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}
