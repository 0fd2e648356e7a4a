package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/kms"
)

// serveBaseline runs a server to compare with, in a process of its own. Its first line of output is its address.
func serveBaseline(ctx context.Context, args []string, out, progress io.Writer) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.SetOutput(progress)
	size := flags.Int("size", 300, "bare: bytes of the body")
	url := flags.String("database", "", "query: where the rows are")
	key := flags.String("key", "", "query: what unwraps them")
	if len(args) == 0 {
		return errors.New("serve bare, or serve query")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "bare":
		return serve(ctx, bare(*size), out)
	case "query":
		q, err := openQuery(ctx, *url, *key)
		if err != nil {
			return err
		}
		defer q.close()
		return serve(ctx, q, out)
	}
	return fmt.Errorf("no baseline %q", args[0])
}

func serve(ctx context.Context, handler http.Handler, out io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	if _, err := fmt.Fprintln(out, listener.Addr()); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

// bare answers every request with size bytes of JSON.
func bare(size int) http.Handler {
	body := []byte(`{"value":"` + strings.Repeat("x", max(0, size-len(`{"value":""}`))) + `"}`)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(body)
	})
}

// query is a vault reduced to reading: no record of reads, no commitment, no wiping, one query a request.
type query struct {
	allow   []netip.Prefix
	rows    *pgxpool.Pool
	keys    *kms.Keyring
	cluster uuid.UUID

	mu   sync.RWMutex
	deks map[uuid.UUID]*envelope.DataKey
}

func openQuery(ctx context.Context, url, key string) (*query, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 16 // vaultd's default
	q := &query{allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, deks: map[uuid.UUID]*envelope.DataKey{}}
	if q.rows, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, err
	}
	if err := q.rows.QueryRow(ctx, `SELECT cluster_id FROM vault.config`).Scan(&q.cluster); err != nil {
		return nil, err
	}
	q.keys, err = kms.OpenKeyring(ctx, []string{key})
	return q, err
}

func (q *query) close() {
	q.rows.Close()
	_ = q.keys.Close() // the process ends
}

type queryAnswer struct {
	Name           string     `json:"name"`
	Version        int        `json:"version"`
	VersionID      uuid.UUID  `json:"version_id"`
	Value          string     `json:"value"`
	Encoding       string     `json:"encoding"`
	CreatedAt      time.Time  `json:"created_at"`
	RotatedAt      *time.Time `json:"rotated_at"`
	NextRotationAt *time.Time `json:"next_rotation_at"`
	ExpiresAt      *time.Time `json:"expires_at"`
}

type queryRow struct {
	keyID, aad                 string
	wrapped, nonce, ciphertext []byte
}

func (q *query) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !q.allow[0].Contains(from.Addr().Unmap()) {
		http.Error(w, "not allowed", http.StatusForbidden)
		return
	}
	answer, err := q.read(r.Context(), strings.TrimPrefix(r.URL.Path, "/v1/secrets/"))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		http.Error(w, "not found", http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	body, err := json.Marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(body)
}

func (q *query) read(ctx context.Context, name string) (queryAnswer, error) {
	a := queryAnswer{Name: name, Encoding: "utf8"}
	var row queryRow
	err := q.rows.QueryRow(ctx, `SELECT v.version, v.version_id, v.kms_key_id, v.wrapped_dek, v.nonce, v.ciphertext, v.aad,
		v.created_at, v.expires_at, s.rotated_at, s.next_rotation_at
		FROM vault.secrets s JOIN vault.secret_versions v ON v.secret_id = s.id AND v.version = s.current_version
		WHERE s.name = $1 AND s.deleted_at IS NULL`, name).
		Scan(&a.Version, &a.VersionID, &row.keyID, &row.wrapped, &row.nonce, &row.ciphertext, &row.aad, &a.CreatedAt,
			&a.ExpiresAt, &a.RotatedAt, &a.NextRotationAt)
	if err != nil {
		return a, err
	}
	dek, err := q.dataKey(ctx, a.VersionID, row)
	if err != nil {
		return a, err
	}
	aead, err := chacha20poly1305.NewX(dek[:])
	if err != nil {
		return a, err
	}
	value, err := aead.Open(nil, row.nonce, row.ciphertext, []byte(row.aad))
	a.Value = string(value)
	return a, err
}

func (q *query) dataKey(ctx context.Context, id uuid.UUID, row queryRow) (*envelope.DataKey, error) {
	q.mu.RLock()
	dek, found := q.deks[id]
	q.mu.RUnlock()
	if found {
		return dek, nil
	}
	dek, err := q.keys.Unwrap(ctx, envelope.WrappedKey{KeyID: row.keyID, Blob: row.wrapped},
		envelope.KeyContext{AAD: row.aad, ClusterID: q.cluster.String()})
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deks[id] = dek
	return dek, nil
}
