package kms

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/awsclient/awsfake"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/kms/kmsfake"
)

func mustOpenRing(t *testing.T, uris ...string) *Ring {
	t.Helper()
	r, err := openRing(t.Context(), uris, quick())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestRing(t *testing.T) {
	f, endpoint := startFake(t)
	local, old := "local://"+mustKeyFile(t), "local://"+mustKeyFile(t)
	vault, other := awsURI("alias/vault", endpoint), awsURI(f.AddKey("other"), endpoint)

	// Every key has wrapped a row in its day.
	rows := map[string]envelope.WrappedKey{}
	plain := map[string]envelope.DataKey{}
	for _, uri := range []string{local, old, vault, other} {
		ring := mustOpenRing(t, uri)
		dk, w := mustWrap(t, ring, here)
		rows[uri], plain[uri] = w, *dk
	}
	for _, uris := range [][]string{{vault, local, old, other}, {old, other, vault, local}} {
		ring := mustOpenRing(t, uris...)
		if got := ring.Default().URI(); got != uris[0] || len(ring.Keys()) != 4 || ring.Keys()[3].URI() != uris[3] {
			t.Errorf("the default is %q of %d keys, want %q of 4", got, len(ring.Keys()), uris[0])
		}
		if _, w := mustWrap(t, ring, here); w.KeyID != mustKeyID(t, ring.Default()) {
			t.Errorf("wrapped under %q, not under the default", w.KeyID)
		}
		for uri, w := range rows {
			if got := mustUnwrap(t, ring, w, here); *got != plain[uri] {
				t.Errorf("%s: another data key came back", uri)
			}
		}
	}
}

// startFar serves a fake of another region with the alias "vault".
func startFar(t *testing.T) (f *kmsfake.Fake, endpoint string) {
	t.Helper()
	f = kmsfake.New("us-east-1", "vault")
	endpoint, err := f.Serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f, endpoint
}

func TestRingRewrap(t *testing.T) {
	f, endpoint := startFake(t)
	far, farEndpoint := startFar(t)
	uris := map[string]string{
		"local":   "local://" + mustKeyFile(t),
		"local 2": "local://" + mustKeyFile(t),
		"aws":     awsURI("alias/vault", endpoint),
		"aws 2":   awsURI("alias/other", endpoint),
		"far aws": "awskms:///alias/vault?region=us-east-1&endpoint=" + farEndpoint,
	}
	inside := map[string]bool{"aws to aws": true, "aws 2 to aws": true, "aws to aws 2": true, "aws 2 to aws 2": true}
	for from, fromURI := range uris {
		for to, toURI := range uris {
			if from == "far aws" && to == from {
				inside[from+" to "+to] = true
			}
			t.Run(from+" to "+to, func(t *testing.T) {
				dk, w := mustWrap(t, mustOpenRing(t, fromURI), here)
				ring := mustOpenRing(t, toURI)
				if from != to {
					ring = mustOpenRing(t, toURI, fromURI)
				}
				before := f.Done()["Decrypt"] + far.Done()["Decrypt"]
				moved, err := ring.Rewrap(t.Context(), w, here)
				if err != nil {
					t.Fatal(err)
				}
				decrypts := f.Done()["Decrypt"] + far.Done()["Decrypt"] - before
				if inside[from+" to "+to] && decrypts != 0 {
					t.Error("the plain data key left KMS")
				}
				if moved.KeyID != mustKeyID(t, ring.Default()) || bytes.Equal(moved.Blob, w.Blob) {
					t.Errorf("moved to %q, want a fresh blob under the default", moved.KeyID)
				}
				for _, row := range []envelope.WrappedKey{w, moved} {
					if got := mustUnwrap(t, ring, row, here); *got != *dk {
						t.Error("another data key came back")
					}
				}
			})
		}
	}
}

func TestRingRewrapRefuses(t *testing.T) {
	_, endpoint := startFake(t)
	local, vault, other := "local://"+mustKeyFile(t), awsURI("alias/vault", endpoint), awsURI("alias/other", endpoint)
	elsewhere := envelope.KeyContext{AAD: "app/db:8", ClusterID: here.ClusterID}
	for _, uris := range [][]string{{local, vault}, {vault, local}, {vault, other}} {
		_, w := mustWrap(t, mustOpenRing(t, uris[1]), here)
		_, err := mustOpenRing(t, uris...).Rewrap(t.Context(), w, elsewhere)
		checkError(t, err, envelope.ErrIntegrity, w)
		_, err = mustOpenRing(t, uris[0]).Rewrap(t.Context(), w, here)
		checkError(t, err, envelope.ErrKeyRefused, w)
	}
}

func TestRingRefusesAForeignRow(t *testing.T) {
	f, endpoint := startFake(t)
	ring := mustOpenRing(t, awsURI("alias/vault", endpoint), "local://"+mustKeyFile(t))
	_, foreign := mustWrap(t, mustOpen(t, awsURI(f.AddKey("other"), endpoint), quick()), here)
	mustKeyID(t, ring.Default())
	before := f.Calls()
	for _, id := range []string{foreign.KeyID, "", "local:00112233445566778899aabbccddeeff", "alias/vault", "evil\nkey"} {
		_, err := ring.Unwrap(t.Context(), envelope.WrappedKey{KeyID: id, Blob: foreign.Blob}, here)
		checkError(t, err, envelope.ErrKeyRefused, foreign)
	}
	if got := f.Calls(); !maps.Equal(got, before) {
		t.Errorf("calls %v, want %v as before", got, before)
	}
}

// A multi-region key: what one region wrapped, the key of another region opens, and moves under itself. A key of the
// same name that is not its replica does not, and no other region is asked.
func TestRingInAnotherRegion(t *testing.T) {
	f, endpoint := startFake(t)
	far, farEndpoint := startFar(t)
	first := f.AddMultiRegionKey("shared")
	replica := f.Replicate("shared", far)
	dk, w := mustWrap(t, mustOpenRing(t, awsURI("alias/shared", endpoint)), here)
	if w.KeyID != first || first == replica {
		t.Fatalf("the row names %q, want %q and not the replica %q", w.KeyID, first, replica)
	}
	before := f.Calls()
	at := "?region=us-east-1&endpoint=" + farEndpoint
	for _, name := range []string{"alias/shared", replica, replica[strings.LastIndex(replica, "/")+1:]} {
		ring := mustOpenRing(t, "awskms:///"+name+at)
		if got := mustUnwrap(t, ring, w, here); *got != *dk {
			t.Errorf("%s: another data key came back", name)
		}
		moved, err := ring.Rewrap(t.Context(), w, here)
		if err != nil || moved.KeyID != replica {
			t.Fatalf("%s: rewrapped under %q (%v), want %q", name, moved.KeyID, err, replica)
		}
		if got := mustUnwrap(t, ring, moved, here); *got != *dk {
			t.Errorf("%s: another data key came back after a rewrap", name)
		}
	}
	for _, other := range []string{"alias/vault", far.AddMultiRegionKey("mine")} {
		_, err := mustOpenRing(t, "awskms:///"+other+at).Unwrap(t.Context(), w, here)
		checkError(t, err, envelope.ErrKeyRefused, w)
	}
	if got := f.Calls(); !maps.Equal(got, before) {
		t.Errorf("the first region was called: %v, want %v as before", got, before)
	}
}

// A row of one key is not kept waiting for the key service of another.
func TestRingWithOneKeyServiceAway(t *testing.T) {
	f, endpoint := startFake(t)
	limits := quick()
	limits.operation, limits.firstDelay, limits.longestWait = 500*time.Millisecond, time.Hour, time.Hour
	local := "local://" + mustKeyFile(t)
	dk, w := mustWrap(t, mustOpenRing(t, local), here)
	_, unknown := mustWrap(t, mustOpenRing(t, awsURI("alias/other", endpoint)), here)

	mustInject(t, f, kmsfake.Fault{Kind: kmsfake.Throttle})
	ring, err := openRing(t.Context(), []string{awsURI("alias/vault", endpoint), awsURI("alias/other", endpoint), local},
		limits)
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	before := f.Calls()["DescribeKey"]
	if got := mustUnwrap(t, ring, w, here); *got != *dk {
		t.Error("another data key came back")
	}
	if got := f.Calls()["DescribeKey"]; got != before {
		t.Error("KMS was asked about a local row")
	}
	// It may be a row of a key that cannot be asked now: later, not never.
	_, err = ring.Unwrap(t.Context(), unknown, here)
	checkError(t, err, envelope.ErrKeyUnavailable, unknown)
	_, err = ring.Rewrap(t.Context(), unknown, here)
	checkError(t, err, envelope.ErrKeyUnavailable, unknown)

	// One key refuses to say who it is, another cannot be asked: what can still change is told.
	f.Clear()
	mustInject(t, f, kmsfake.Fault{Kind: kmsfake.AccessDenied, Times: 1})
	mustInject(t, f, kmsfake.Fault{Kind: kmsfake.Internal})
	_, err = ring.Unwrap(t.Context(), unknown, here)
	checkError(t, err, envelope.ErrKeyUnavailable, unknown)
	f.Clear()
	mustUnwrap(t, ring, unknown, here)
}

func TestOpenRingRefuses(t *testing.T) {
	awsfake.Isolate(t)
	path := mustKeyFile(t)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	twin := filepath.Join(t.TempDir(), "twin")
	mustWrite(t, twin, content, 0o600)
	for name, uris := range map[string][]string{
		"same uri":         {"awskms:///alias/a?region=eu-west-1", "local://" + path, "awskms:///alias%2Fa?region=eu-west-1"},
		"same local key":   {"local://" + path, "local://" + twin},
		"same arn":         {"awskms:///" + testARN, "awskms:///" + testARN + "?region=eu-west-1"},
		"none":             nil,
		"missing key file": {"local://" + path, "local://" + path + "-missing"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := OpenRing(t.Context(), uris)
			checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
			if r != nil {
				t.Error("a ring came with the error")
			}
			if strings.HasPrefix(name, "same") && (err == nil || !strings.Contains(err.Error(), "configured twice")) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := OpenRing(t.Context(), []string{"local://" + path, "nonsense"}); !errors.Is(err, ErrURI) {
		t.Errorf("got %v, want %v", err, ErrURI)
	}
}

func TestRingClose(t *testing.T) {
	ring := mustOpenRing(t, "local://"+mustKeyFile(t), "local://"+mustKeyFile(t))
	_, w := mustWrap(t, ring, here)
	var held []*kek
	for _, k := range ring.keys {
		held = append(held, k.(*localKey).kek)
	}
	for range 2 {
		if err := ring.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range held {
		if *k != (kek{}) {
			t.Error("a key was not wiped")
		}
	}
	_, err := ring.Unwrap(context.Background(), w, here)
	checkError(t, err, envelope.ErrKeyRefused, w)
}
