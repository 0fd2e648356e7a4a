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

func mustOpenKeyring(t *testing.T, uris ...string) *Keyring {
	t.Helper()
	r, err := openKeyring(t.Context(), uris, quick())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestKeyring(t *testing.T) {
	f, endpoint := startFake(t)
	local, old := "local://"+mustKeyFile(t), "local://"+mustKeyFile(t)
	vault, other := awsURI("alias/vault", endpoint), awsURI(f.AddKey("other"), endpoint)

	// Every key has wrapped a row.
	rows := map[string]envelope.WrappedKey{}
	plain := map[string]envelope.DataKey{}
	for _, uri := range []string{local, old, vault, other} {
		keyring := mustOpenKeyring(t, uri)
		dk, w := mustWrap(t, keyring, here)
		rows[uri], plain[uri] = w, *dk
	}
	for _, uris := range [][]string{{vault, local, old, other}, {old, other, vault, local}} {
		keyring := mustOpenKeyring(t, uris...)
		if got := keyring.Default().URI(); got != uris[0] || len(keyring.Keys()) != 4 || keyring.Keys()[3].URI() != uris[3] {
			t.Errorf("the default is %q of %d keys, want %q of 4", got, len(keyring.Keys()), uris[0])
		}
		if _, w := mustWrap(t, keyring, here); w.KeyID != mustKeyID(t, keyring.Default()) {
			t.Errorf("wrapped under %q, not under the default", w.KeyID)
		}
		for uri, w := range rows {
			if got := mustUnwrap(t, keyring, w, here); *got != plain[uri] {
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

func TestKeyringRewrap(t *testing.T) {
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
				dk, w := mustWrap(t, mustOpenKeyring(t, fromURI), here)
				keyring := mustOpenKeyring(t, toURI)
				if from != to {
					keyring = mustOpenKeyring(t, toURI, fromURI)
				}
				before := f.Done()["Decrypt"] + far.Done()["Decrypt"]
				moved, err := keyring.Rewrap(t.Context(), w, here)
				if err != nil {
					t.Fatal(err)
				}
				decrypts := f.Done()["Decrypt"] + far.Done()["Decrypt"] - before
				if inside[from+" to "+to] && decrypts != 0 {
					t.Error("the plain data key left KMS")
				}
				if moved.KeyID != mustKeyID(t, keyring.Default()) || bytes.Equal(moved.Blob, w.Blob) {
					t.Errorf("moved to %q, want a fresh blob under the default", moved.KeyID)
				}
				for _, row := range []envelope.WrappedKey{w, moved} {
					if got := mustUnwrap(t, keyring, row, here); *got != *dk {
						t.Error("another data key came back")
					}
				}
			})
		}
	}
}

func TestKeyringRewrapRefuses(t *testing.T) {
	_, endpoint := startFake(t)
	local, vault, other := "local://"+mustKeyFile(t), awsURI("alias/vault", endpoint), awsURI("alias/other", endpoint)
	elsewhere := envelope.KeyContext{AAD: "app/db:8", ClusterID: here.ClusterID}
	for _, uris := range [][]string{{local, vault}, {vault, local}, {vault, other}} {
		_, w := mustWrap(t, mustOpenKeyring(t, uris[1]), here)
		_, err := mustOpenKeyring(t, uris...).Rewrap(t.Context(), w, elsewhere)
		checkError(t, err, envelope.ErrIntegrity, w)
		_, err = mustOpenKeyring(t, uris[0]).Rewrap(t.Context(), w, here)
		checkError(t, err, envelope.ErrKeyRefused, w)
	}
}

func TestKeyringRefusesAForeignRow(t *testing.T) {
	f, endpoint := startFake(t)
	keyring := mustOpenKeyring(t, awsURI("alias/vault", endpoint), "local://"+mustKeyFile(t))
	_, foreign := mustWrap(t, mustOpen(t, awsURI(f.AddKey("other"), endpoint), quick()), here)
	mustKeyID(t, keyring.Default())
	before := f.Calls()
	for _, id := range []string{foreign.KeyID, "", "local:00112233445566778899aabbccddeeff", "alias/vault", "evil\nkey"} {
		_, err := keyring.Unwrap(t.Context(), envelope.WrappedKey{KeyID: id, Blob: foreign.Blob}, here)
		checkError(t, err, envelope.ErrKeyRefused, foreign)
	}
	if got := f.Calls(); !maps.Equal(got, before) {
		t.Errorf("calls %v, want %v as before", got, before)
	}
}

// A multi-region key: what one region wrapped, the key of another region opens, and moves under itself. A key of the
// same name that is not its replica does not, and no other region is asked.
func TestKeyringInAnotherRegion(t *testing.T) {
	f, endpoint := startFake(t)
	far, farEndpoint := startFar(t)
	first := f.AddMultiRegionKey("shared")
	replica := f.Replicate("shared", far)
	dk, w := mustWrap(t, mustOpenKeyring(t, awsURI("alias/shared", endpoint)), here)
	if w.KeyID != first || first == replica {
		t.Fatalf("the row names %q, want %q and not the replica %q", w.KeyID, first, replica)
	}
	before := f.Calls()
	at := "?region=us-east-1&endpoint=" + farEndpoint
	for _, name := range []string{"alias/shared", replica, replica[strings.LastIndex(replica, "/")+1:]} {
		keyring := mustOpenKeyring(t, "awskms:///"+name+at)
		if got := mustUnwrap(t, keyring, w, here); *got != *dk {
			t.Errorf("%s: another data key came back", name)
		}
		moved, err := keyring.Rewrap(t.Context(), w, here)
		if err != nil || moved.KeyID != replica {
			t.Fatalf("%s: rewrapped under %q (%v), want %q", name, moved.KeyID, err, replica)
		}
		if got := mustUnwrap(t, keyring, moved, here); *got != *dk {
			t.Errorf("%s: another data key came back after a rewrap", name)
		}
	}
	for _, other := range []string{"alias/vault", far.AddMultiRegionKey("mine")} {
		_, err := mustOpenKeyring(t, "awskms:///"+other+at).Unwrap(t.Context(), w, here)
		checkError(t, err, envelope.ErrKeyRefused, w)
	}
	if got := f.Calls(); !maps.Equal(got, before) {
		t.Errorf("the first region was called: %v, want %v as before", got, before)
	}
}

// A row of one key is not kept waiting for the key service of another.
func TestKeyringWithOneKeyServiceAway(t *testing.T) {
	f, endpoint := startFake(t)
	limits := quick()
	limits.operation, limits.firstDelay, limits.longestWait = 500*time.Millisecond, time.Hour, time.Hour
	local := "local://" + mustKeyFile(t)
	dk, w := mustWrap(t, mustOpenKeyring(t, local), here)
	_, unknown := mustWrap(t, mustOpenKeyring(t, awsURI("alias/other", endpoint)), here)

	mustInject(t, f, kmsfake.Fault{Kind: kmsfake.Throttle})
	uris := []string{awsURI("alias/vault", endpoint), awsURI("alias/other", endpoint), local}
	keyring, err := openKeyring(t.Context(), uris,
		limits)
	if err != nil {
		t.Fatal(err)
	}
	defer keyring.Close()
	before := f.Calls()["DescribeKey"]
	if got := mustUnwrap(t, keyring, w, here); *got != *dk {
		t.Error("another data key came back")
	}
	if got := f.Calls()["DescribeKey"]; got != before {
		t.Error("KMS was asked about a local row")
	}
	// It may be a row of a key whose service does not answer now, so the error is one to retry.
	_, err = keyring.Unwrap(t.Context(), unknown, here)
	checkError(t, err, envelope.ErrKeyUnavailable, unknown)
	_, err = keyring.Rewrap(t.Context(), unknown, here)
	checkError(t, err, envelope.ErrKeyUnavailable, unknown)

	// One key refuses DescribeKey, another does not answer: the error that can still change is returned.
	f.Clear()
	mustInject(t, f, kmsfake.Fault{Kind: kmsfake.AccessDenied, Times: 1})
	mustInject(t, f, kmsfake.Fault{Kind: kmsfake.Internal})
	_, err = keyring.Unwrap(t.Context(), unknown, here)
	checkError(t, err, envelope.ErrKeyUnavailable, unknown)
	f.Clear()
	waitFor(t, "an answer within the short deadline", func() bool {
		_, err = keyring.Unwrap(t.Context(), unknown, here)
		return err == nil
	})
}

func TestOpenKeyringRefuses(t *testing.T) {
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
			r, err := OpenKeyring(t.Context(), uris)
			checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
			if r != nil {
				t.Error("a keyring came with the error")
			}
			if strings.HasPrefix(name, "same") && (err == nil || !strings.Contains(err.Error(), "configured twice")) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := OpenKeyring(t.Context(), []string{"local://" + path, "nonsense"}); !errors.Is(err, ErrURI) {
		t.Errorf("got %v, want %v", err, ErrURI)
	}
}

func TestKeyringClose(t *testing.T) {
	keyring := mustOpenKeyring(t, "local://"+mustKeyFile(t), "local://"+mustKeyFile(t))
	_, w := mustWrap(t, keyring, here)
	var held []*kek
	for _, k := range keyring.keys {
		held = append(held, k.(*localKey).kek)
	}
	for range 2 {
		if err := keyring.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range held {
		if *k != (kek{}) {
			t.Error("a key was not wiped")
		}
	}
	_, err := keyring.Unwrap(context.Background(), w, here)
	checkError(t, err, envelope.ErrKeyRefused, w)
}
