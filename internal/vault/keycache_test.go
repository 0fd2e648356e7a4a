package vault

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/envelope"
)

func TestKeysAreWipedWhenTheyLeaveTheCache(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	c := newKeyCache(2, time.Minute, func() time.Time { return now })
	defer c.close()
	key := envelope.Key{DataKey: envelope.DataKey{1, 2, 3}}
	names := []cacheKey{{versionID: uuid.New()}, {versionID: uuid.New()}, {versionID: uuid.New()}}
	held := func(k cacheKey) *cachedKey { v, _ := c.keys.Peek(k.versionID); return v }
	c.add(names[0], &key)
	c.add(names[1], &key)
	first, second := held(names[0]), held(names[1])
	c.add(names[2], &key) // evicts the first
	if first.key.DataKey != (envelope.DataKey{}) {
		t.Error("a key that was pushed out was not wiped")
	}
	if got := c.lookup(names[1]); got == nil || *got != key {
		t.Error("a key in the cache was not found")
	}
	now = now.Add(time.Minute)
	if c.lookup(names[1]) != nil {
		t.Error("a key that is too old was handed out")
	}
	c.dropExpired()
	if second.key.DataKey != (envelope.DataKey{}) || c.keys.Len() != 0 {
		t.Error("a key that is too old was not wiped")
	}
	c.add(names[0], &key)
	last := held(names[0])
	c.close()
	c.add(names[1], &key)
	if last.key.DataKey != (envelope.DataKey{}) || c.keys.Len() != 0 {
		t.Error("a closed cache holds keys")
	}
}

// After a rewrap the row has another wrapped key: the cache keeps the data key once, and the older copy is wiped.
func TestARewrappedKeyIsKeptOnce(t *testing.T) {
	c := newKeyCache(10, time.Minute, time.Now)
	defer c.close()
	key := envelope.Key{DataKey: envelope.DataKey{1, 2, 3}}
	version, other := uuid.New(), cacheKey{versionID: uuid.New()}
	before, after := cacheKey{versionID: version}, cacheKey{versionID: version, wrapped: [32]byte{1}}
	c.add(before, &key)
	c.add(other, &key)
	old, _ := c.keys.Peek(version)
	c.add(after, &key)
	if old.key.DataKey != (envelope.DataKey{}) || c.lookup(before) != nil {
		t.Error("the key under the old wrapping was not wiped")
	}
	for _, k := range []cacheKey{after, other} {
		if got := c.lookup(k); got == nil || *got != key {
			t.Error("a key that was not replaced is gone")
		}
	}
	if n := c.keys.Len(); n != 2 {
		t.Errorf("%d keys of two versions are kept", n)
	}
}

// A thousand readers that miss at once make one call, a reader that gives up does not cancel it, and all get its error.
func TestMissesAreCollapsed(t *testing.T) {
	c := newKeyCache(10, time.Minute, time.Now)
	defer c.close()
	k := cacheKey{versionID: uuid.New()}
	var calls atomic.Int64
	called, release := make(chan struct{}), make(chan struct{})
	unwrap := func(context.Context) (*envelope.Key, error) {
		if calls.Add(1) == 1 {
			close(called)
		}
		<-release
		return &envelope.Key{DataKey: envelope.DataKey{9}}, nil
	}
	leaving, giveUp := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := c.fetch(leaving, k, unwrap); gone <- err }()
	<-called
	giveUp()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the reader gave up", err)
	}
	var readers sync.WaitGroup
	for range 1000 {
		readers.Go(func() {
			if key, err := c.fetch(t.Context(), k, unwrap); err != nil || key.DataKey != (envelope.DataKey{9}) {
				t.Errorf("got error %v or another key", err)
			}
		})
	}
	close(release)
	readers.Wait()
	if n := calls.Load(); n != 1 {
		t.Errorf("the KMS was called %d times, want 1", n)
	}
	failed := errors.New("no")
	_, err := c.fetch(t.Context(), cacheKey{versionID: uuid.New()},
		func(context.Context) (*envelope.Key, error) { return nil, failed })
	if !errors.Is(err, failed) {
		t.Errorf("got %v, want the KMS's error", err)
	}
}

// A read counts once, whether it shares the call of another or not.
func TestHitsAndMissesAreOfReads(t *testing.T) {
	c := newKeyCache(10, time.Minute, time.Now)
	defer c.close()
	k := cacheKey{versionID: uuid.New()}
	read := func() {
		t.Helper()
		if c.lookup(k) != nil {
			return
		}
		_, err := c.fetch(t.Context(), k, func(context.Context) (*envelope.Key, error) { return &envelope.Key{}, nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		read()
	}
	if got, want := c.stats(), (KeyCacheStats{Hits: 2, Misses: 1, Keys: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
