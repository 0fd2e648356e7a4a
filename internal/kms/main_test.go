package kms

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/awsclient/awsfake"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/kms/kmsfake"
	"github.com/hyperiondb/vault/internal/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

const region = "eu-west-1"

var here = envelope.KeyContext{AAD: "app/db:7", ClusterID: "7e0b6a1c-cluster"}

// quick are the timings of a test: retries at once, and deadlines that a loaded machine does not miss.
func quick() timing {
	t := defaultTiming()
	t.firstDelay, t.longestWait = time.Microsecond, time.Millisecond
	t.operation, t.attempt = time.Minute, 20*time.Second
	return t
}

// answered is the deadline of a test that runs to it: a fake answers before it on a loaded machine too.
const answered = 3 * time.Second

// startFake serves a fake with the aliases "vault" and "other".
func startFake(t *testing.T) (f *kmsfake.Fake, endpoint string) {
	t.Helper()
	awsfake.Isolate(t)
	f = kmsfake.New(region, "vault", "other")
	endpoint, err := f.Serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f, endpoint
}

func awsURI(name, endpoint string) string {
	return "awskms:///" + name + "?region=" + region + "&endpoint=" + endpoint
}

func mustOpen(t *testing.T, uri string, limits timing) closableKey {
	t.Helper()
	k, err := open(t.Context(), uri, limits)
	if err != nil {
		t.Fatalf("opening %s: %v", uri, err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func mustOpenAWS(t *testing.T, uri string, limits timing) *awsKey {
	t.Helper()
	return mustOpen(t, uri, limits).(*awsKey)
}

func mustKeyFile(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "kek")
	if _, err := GenerateKeyFile(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustWrap(t *testing.T, k envelope.KeyWrapper, kc envelope.KeyContext) (*envelope.DataKey, envelope.WrappedKey) {
	t.Helper()
	dk, w, err := k.NewDataKey(t.Context(), kc)
	if err != nil {
		t.Fatalf("making a data key: %v", err)
	}
	return dk, w
}

func mustUnwrap(t *testing.T, k envelope.KeyUnwrapper, w envelope.WrappedKey,
	kc envelope.KeyContext) *envelope.DataKey {
	t.Helper()
	dk, err := k.Unwrap(t.Context(), w, kc)
	if err != nil {
		t.Fatalf("unwrapping: %v", err)
	}
	return dk
}

func mustKeyID(t *testing.T, k Key) string {
	t.Helper()
	id, err := k.KeyID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func mustInject(t *testing.T, f *kmsfake.Fake, fault kmsfake.Fault) {
	t.Helper()
	if err := f.Inject(fault); err != nil {
		t.Fatal(err)
	}
}

// checkError holds what every error of the package promises: the one kind that is wanted and none of
// the others, one line, and nothing of the wrapped key in it.
func checkError(t *testing.T, err, want error, w envelope.WrappedKey) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
		return
	}
	for _, kind := range []error{envelope.ErrIntegrity, envelope.ErrKeyRefused, envelope.ErrKeyUnavailable,
		context.Canceled} {
		if kind != want && !errors.Is(want, kind) && errors.Is(err, kind) {
			t.Errorf("error %v is also %v", err, kind)
		}
	}
	if text := err.Error(); strings.ContainsAny(text, "\r\n") || len(text) > 300 {
		t.Errorf("error is not one short line: %q", text)
	}
	if len(w.Blob) > 0 && bytes.Contains([]byte(err.Error()), w.Blob) {
		t.Error("the error repeats the wrapped key")
	}
}

// waitFor polls a condition that another goroutine is about to make true.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(time.Minute)
	for !condition() {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
