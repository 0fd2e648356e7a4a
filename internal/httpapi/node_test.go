package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/vault"
)

// far is a node that is behind or stale as a test sets it.
type far struct {
	waited []vault.LSN
	behind error
	stale  error
}

func (f *far) node() node {
	return node{
		await: func(_ context.Context, position vault.LSN, atMost time.Duration) error {
			if atMost != time.Second {
				return errors.New("another bound than the one configured")
			}
			f.waited = append(f.waited, position)
			return f.behind
		},
		atMost: time.Second, fresh: func() error { return f.stale },
	}
}

func TestReadsOfANodeThatIsBehind(t *testing.T) {
	w, f, reads := newWorld(t), &far{}, 0
	w.api.node = f.node()
	get := w.serve(getEndpoint(func(context.Context, string, vault.GetOptions) (*vault.Secret, error) {
		reads++
		return &vault.Secret{Name: "a", Version: 1, Value: []byte("v")}, nil
	}))
	verify := w.serve(verifyEndpoint(func(context.Context, string, []byte, vault.VerifyOptions) (vault.Verdict, error) {
		reads++
		return vault.Verdict{}, nil
	}))
	both := func(status int, code string, options ...option) {
		t.Helper()
		wantStatus(t, ask(t, get, http.MethodGet, "/v1/secrets/a", "", options...), status, code)
		wantStatus(t, ask(t, verify, http.MethodPost, "/v1/secrets/a/verify", `{"value":"x"}`, options...), status, code)
	}

	both(http.StatusOK, "")
	if len(f.waited) != 0 {
		t.Errorf("without the header the node was asked %v", f.waited)
	}
	both(http.StatusOK, "", header(minLSNHeader, "0/16B3748"))
	if fmt.Sprint(f.waited) != "[0/16B3748 0/16B3748]" {
		t.Errorf("got positions %v asked for", f.waited)
	}
	reads, f.waited = 0, nil
	for _, bad := range []string{"", "16B3748", "0/16B3748, 0/1", "0/xyz", "-0/1"} {
		both(http.StatusBadRequest, "bad_request", header(minLSNHeader, bad))
	}
	both(http.StatusBadRequest, "bad_request", header(minLSNHeader, "0/1"), header(minLSNHeader, "0/1"))
	if len(f.waited) != 0 {
		t.Errorf("a bad header led to %v", f.waited)
	}
	f.behind = fmt.Errorf("%w: at 0/1", vault.ErrBehind)
	both(http.StatusPreconditionFailed, "behind", header(minLSNHeader, "0/16B3748"))
	f.stale = fmt.Errorf("%w: by an hour", vault.ErrStale)
	both(http.StatusServiceUnavailable, "stale")
	rec := ask(t, get, http.MethodGet, "/v1/secrets/a", "")
	if rec.Header().Get("Retry-After") == "" {
		t.Error("a stale node does not say when to come again")
	}
	if reads != 0 {
		t.Errorf("a node that is behind was read %d times", reads)
	}
}

// A request that does not read the node does not check its replication.
func TestWritesDoNotWaitForTheNode(t *testing.T) {
	w, f := newWorld(t), &far{behind: vault.ErrBehind, stale: vault.ErrStale}
	w.api.node = f.node()
	h := w.serve(deleteEndpoint(func(context.Context, vault.Change, string, time.Duration) (vault.Receipt, error) {
		return vault.Receipt{Name: "a", LSN: "0/16B3748"}, nil
	}))
	rec := ask(t, h, http.MethodDelete, "/v1/secrets/a", "", header(minLSNHeader, "nonsense"), bearer())
	body := wantStatus(t, rec, http.StatusOK, "")
	if body["lsn"] != "0/16B3748" || rec.Header().Get("Vault-LSN") != "0/16B3748" {
		t.Errorf("got lsn %v and header %q, want the position of the write", body["lsn"], rec.Header().Get("Vault-LSN"))
	}
}
