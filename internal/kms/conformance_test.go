package kms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/envelope"
)

// backends are all there is: every promise of Key is tested on each.
func backends() map[string]func(t *testing.T) (mine, other Key) {
	return map[string]func(t *testing.T) (mine, other Key){
		"local": func(t *testing.T) (mine, other Key) {
			return mustOpen(t, "local://"+mustKeyFile(t), quick()), mustOpen(t, "local://"+mustKeyFile(t), quick())
		},
		"awskms": func(t *testing.T) (mine, other Key) {
			_, endpoint := startFake(t)
			return mustOpen(t, awsURI("alias/vault", endpoint), quick()), mustOpen(t, awsURI("alias/other", endpoint), quick())
		},
	}
}

func TestConformance(t *testing.T) {
	promises := map[string]func(t *testing.T, mine, other Key){
		"round trip":           testRoundTrip,
		"fresh keys differ":    testFreshKeys,
		"context is bound":     testContextBound,
		"empty context":        testEmptyContext,
		"blob is bound":        testBlobBound,
		"swapped blobs":        testSwapped,
		"foreign key id":       testForeignKeyID,
		"foreign blob, my id":  testForeignBlob,
		"rewrap":               testRewrap,
		"rewrap refuses":       testRewrapRefuses,
		"ended context":        testEndedContext,
		"describe":             testDescribe,
		"uri is canonical":     testURICanonical,
		"many at once":         testConcurrent,
		"input is not changed": testInputUnchanged,
	}
	for backend, open := range backends() {
		t.Run(backend, func(t *testing.T) {
			for promise, test := range promises {
				t.Run(promise, func(t *testing.T) {
					mine, other := open(t)
					test(t, mine, other)
				})
			}
		})
	}
}

func testRoundTrip(t *testing.T, mine, _ Key) {
	dk, w := mustWrap(t, mine, here)
	if got, want := w.KeyID, mustKeyID(t, mine); got != want {
		t.Errorf("wrapped under %q, want %q", got, want)
	}
	if n := len(w.Blob); n < envelope.KeySize || n > maxBlob {
		t.Errorf("got a blob of %d bytes", n)
	}
	if bytes.Contains(w.Blob, dk[:]) {
		t.Error("the blob holds the plain data key")
	}
	if got := mustUnwrap(t, mine, w, here); *got != *dk {
		t.Error("another data key came back")
	}
}

func testFreshKeys(t *testing.T, mine, _ Key) {
	a, wa := mustWrap(t, mine, here)
	b, wb := mustWrap(t, mine, here)
	if *a == *b || *a == (envelope.DataKey{}) {
		t.Error("data keys are not fresh")
	}
	if bytes.Equal(wa.Blob, wb.Blob) {
		t.Error("blobs are equal")
	}
}

func testContextBound(t *testing.T, mine, _ Key) {
	_, w := mustWrap(t, mine, here)
	for name, kc := range map[string]envelope.KeyContext{
		"next version":        {AAD: "app/db:8", ClusterID: here.ClusterID},
		"other name":          {AAD: "app/dc:7", ClusterID: here.ClusterID},
		"other cluster":       {AAD: here.AAD, ClusterID: "other-cluster"},
		"parts swapped":       {AAD: here.ClusterID, ClusterID: here.AAD},
		"parts run together":  {AAD: here.AAD + here.ClusterID[:1], ClusterID: here.ClusterID[1:]},
		"longer, with a zero": {AAD: here.AAD + "\x00", ClusterID: here.ClusterID},
	} {
		t.Run(name, func(t *testing.T) {
			dk, err := mine.Unwrap(t.Context(), w, kc)
			checkError(t, err, envelope.ErrIntegrity, w)
			if dk != nil {
				t.Error("a data key came with the error")
			}
		})
	}
}

func testEmptyContext(t *testing.T, mine, _ Key) {
	_, w := mustWrap(t, mine, here)
	for _, kc := range []envelope.KeyContext{
		{}, {AAD: here.AAD}, {ClusterID: here.ClusterID},
		{AAD: "\xff", ClusterID: here.ClusterID}, {AAD: here.AAD, ClusterID: "\xff"},
	} {
		_, _, err := mine.NewDataKey(t.Context(), kc)
		checkError(t, err, envelope.ErrKeyRefused, w)
		_, err = mine.Unwrap(t.Context(), w, kc)
		checkError(t, err, envelope.ErrKeyRefused, w)
		_, err = mine.Rewrap(t.Context(), w, kc)
		checkError(t, err, envelope.ErrKeyRefused, w)
	}
}

func testBlobBound(t *testing.T, mine, _ Key) {
	_, w := mustWrap(t, mine, here)
	refuse := func(what string, blob []byte) {
		t.Helper()
		bad := envelope.WrappedKey{KeyID: w.KeyID, Blob: blob}
		if _, err := mine.Unwrap(t.Context(), bad, here); !errors.Is(err, envelope.ErrIntegrity) {
			t.Errorf("%s: got %v, want %v", what, err, envelope.ErrIntegrity)
		}
	}
	for at := range w.Blob {
		flipped := slices.Clone(w.Blob)
		flipped[at] ^= 1 << (at % 8)
		refuse(fmt.Sprintf("bit flipped in byte %d", at), flipped)
	}
	for _, n := range []int{0, 1, 2, 24, 25, len(w.Blob) - 17, len(w.Blob) - 1} {
		refuse(fmt.Sprintf("cut to %d bytes", n), w.Blob[:n])
	}
	refuse("nil", nil)
	refuse("one byte more", append(slices.Clone(w.Blob), 0))
	refuse("longer than a blob can be", make([]byte, maxBlob+1))
}

func testSwapped(t *testing.T, mine, _ Key) {
	there := envelope.KeyContext{AAD: "app/api:1", ClusterID: here.ClusterID}
	_, a := mustWrap(t, mine, here)
	_, b := mustWrap(t, mine, there)
	_, err := mine.Unwrap(t.Context(), b, here)
	checkError(t, err, envelope.ErrIntegrity, b)
	_, err = mine.Unwrap(t.Context(), a, there)
	checkError(t, err, envelope.ErrIntegrity, a)
}

func testForeignKeyID(t *testing.T, mine, other Key) {
	_, w := mustWrap(t, other, here)
	for _, id := range []string{w.KeyID, "", "local:", "alias/vault", mustKeyID(t, mine) + "0",
		"local:" + "00112233445566778899aabbccddeeff"} {
		_, err := mine.Unwrap(t.Context(), envelope.WrappedKey{KeyID: id, Blob: w.Blob}, here)
		checkError(t, err, envelope.ErrKeyRefused, w)
	}
}

func testForeignBlob(t *testing.T, mine, other Key) {
	_, w := mustWrap(t, other, here)
	_, err := mine.Unwrap(t.Context(), envelope.WrappedKey{KeyID: mustKeyID(t, mine), Blob: w.Blob}, here)
	checkError(t, err, envelope.ErrIntegrity, w)
}

func testRewrap(t *testing.T, mine, _ Key) {
	dk, old := mustWrap(t, mine, here)
	fresh, err := mine.Rewrap(t.Context(), old, here)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(fresh.Blob, old.Blob) || fresh.KeyID != old.KeyID {
		t.Error("rewrapping made no fresh blob of the same key")
	}
	for _, w := range []envelope.WrappedKey{old, fresh} {
		if got := mustUnwrap(t, mine, w, here); *got != *dk {
			t.Error("another data key came back")
		}
	}
	_, err = mine.Unwrap(t.Context(), fresh, envelope.KeyContext{AAD: "app/db:8", ClusterID: here.ClusterID})
	checkError(t, err, envelope.ErrIntegrity, fresh)
}

func testRewrapRefuses(t *testing.T, mine, other Key) {
	_, w := mustWrap(t, mine, here)
	_, foreign := mustWrap(t, other, here)
	_, err := mine.Rewrap(t.Context(), foreign, here)
	checkError(t, err, envelope.ErrKeyRefused, foreign)
	_, err = mine.Rewrap(t.Context(), w, envelope.KeyContext{AAD: "app/db:8", ClusterID: here.ClusterID})
	checkError(t, err, envelope.ErrIntegrity, w)
	_, err = mine.Rewrap(t.Context(), envelope.WrappedKey{KeyID: w.KeyID}, here)
	checkError(t, err, envelope.ErrIntegrity, w)
}

func testEndedContext(t *testing.T, mine, _ Key) {
	_, w := mustWrap(t, mine, here)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	for _, operation := range []func(context.Context) error{
		func(ctx context.Context) error { _, _, err := mine.NewDataKey(ctx, here); return err },
		func(ctx context.Context) error { _, err := mine.Unwrap(ctx, w, here); return err },
		func(ctx context.Context) error { _, err := mine.Rewrap(ctx, w, here); return err },
		func(ctx context.Context) error { _, err := mine.Describe(ctx); return err },
		func(ctx context.Context) error {
			_, err := mine.(closableKey).wrap(ctx, new(envelope.DataKey), here)
			return err
		},
	} {
		checkError(t, operation(cancelled), context.Canceled, w)
		err := operation(late)
		checkError(t, err, envelope.ErrKeyUnavailable, w)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v too", err, context.DeadlineExceeded)
		}
	}
}

func testDescribe(t *testing.T, mine, _ Key) {
	got, err := mine.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Description{URI: mine.URI(), KeyID: mustKeyID(t, mine), State: "enabled", Usable: true}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func testURICanonical(t *testing.T, mine, _ Key) {
	u, err := ParseURI(mine.URI())
	if err != nil || u.String() != mine.URI() {
		t.Errorf("%q parses to %q, %v", mine.URI(), u, err)
	}
}

func testConcurrent(t *testing.T, mine, _ Key) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			kc := envelope.KeyContext{AAD: fmt.Sprintf("app/db:%d", i+1), ClusterID: here.ClusterID}
			for range 4 {
				dk, w, err := mine.NewDataKey(t.Context(), kc)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := mine.Unwrap(t.Context(), w, kc)
				if err != nil || *got != *dk {
					t.Errorf("unwrapping: %v, or another data key", err)
				}
			}
		})
	}
	wg.Wait()
}

func testInputUnchanged(t *testing.T, mine, _ Key) {
	dk, w := mustWrap(t, mine, here)
	kept, blob := *dk, slices.Clone(w.Blob)
	mustUnwrap(t, mine, w, here).Wipe()
	if _, err := mine.(closableKey).wrap(t.Context(), dk, here); err != nil {
		t.Fatal(err)
	}
	if *dk != kept || !bytes.Equal(w.Blob, blob) {
		t.Error("an operation changed what it was given")
	}
}
