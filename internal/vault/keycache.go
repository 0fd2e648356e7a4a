package vault

import (
	"context"
	"crypto/sha256"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/singleflight"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/envelope"
)

// unwrapTimeout bounds a KMS call that several readers share, since no reader's context may cancel it for the others.
// It is shorter than the limit of an HTTP request, so that no reader joins a call whose first reader has given up.
const unwrapTimeout = 8 * time.Second

// cacheKey changes with everything that decides whether a wrapped key unwraps, so a hit proves as much as a KMS call: a
// row whose wrapped key was swapped, or that was moved to another name or version, is not found.
type cacheKey struct {
	versionID uuid.UUID
	wrapped   [sha256.Size]byte // of the wrapped key, its key id and the AAD
}

func keyOf(name string, row *db.VersionRow) cacheKey {
	text := make([]byte, 0, 512) // enough for a local key's or a KMS' usual size, so that it stays on the stack
	text = strconv.AppendInt(append(append(text, name...), ':'), int64(row.Version), 10)
	text = append(append(append(text, 0), row.KMSKeyID...), 0)
	text = append(text, row.WrappedDEK...)
	return cacheKey{versionID: row.VersionID, wrapped: sha256.Sum256(text)}
}

// keyCache keeps data keys for ttl, one of each version: after a rewrap the key under its new wrapping replaces the one
// under the old. Readers get copies; a key is overwritten when it is replaced or evicted, expires, or the cache is
// closed.
type keyCache struct {
	ttl time.Duration
	now func() time.Time

	calls singleflight.Group // misses of one key make one KMS call

	mu     sync.Mutex                            // guards what follows
	keys   *simplelru.LRU[uuid.UUID, *cachedKey] // by version
	sweep  *time.Timer                           // nil while nothing is cached
	closed bool
	hits   uint64
	misses uint64
}

// KeyCacheStats describes the cache of data keys.
type KeyCacheStats struct {
	Hits, Misses uint64 // of reads and verifies; one that compares several versions counts for each
	Keys         int    // cached now
}

func (c *keyCache) stats() KeyCacheStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return KeyCacheStats{c.hits, c.misses, c.keys.Len()}
}

type cachedKey struct {
	of    cacheKey
	key   envelope.Key
	until time.Time
}

func newKeyCache(size int, ttl time.Duration, now func() time.Time) *keyCache {
	c := &keyCache{ttl: ttl, now: now}
	// It is called with mu held, after an entry has left keys in any way but being replaced.
	wipe := func(_ uuid.UUID, cached *cachedKey) { cached.key.Wipe() }
	keys, err := simplelru.NewLRU(size, wipe)
	if err != nil {
		panic(err) // size > 0, see New
	}
	c.keys = keys
	return c
}

// fetch unwraps a key that was not found: readers that miss it at the same time share one call. The caller wipes its
// copy.
func (c *keyCache) fetch(ctx context.Context, k cacheKey,
	unwrap func(context.Context) (*envelope.Key, error)) (*envelope.Key, error) {
	result := c.calls.DoChan(string(k.versionID[:])+string(k.wrapped[:]), func() (any, error) {
		if key := c.copyOf(k); key != nil { // an earlier call ended between the miss and the start of this one
			key.Wipe()
			return nil, nil
		}
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), unwrapTimeout)
		defer cancel()
		key, err := unwrap(call)
		if err != nil {
			return nil, err
		}
		defer key.Wipe()
		c.add(k, key)
		return nil, nil
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
	}
	if key := c.copyOf(k); key != nil {
		return key, nil
	}
	return unwrap(ctx) // it was evicted since the call: the cache is smaller than the number of readers
}

// lookup begins a read: it counts, and returns a copy, which the caller wipes; nil if there is none.
func (c *keyCache) lookup(k cacheKey) *envelope.Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := c.find(k)
	if key != nil {
		c.hits++
	} else {
		c.misses++
	}
	return key
}

// copyOf is lookup without counting.
func (c *keyCache) copyOf(k cacheKey) *envelope.Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(k)
}

// find is called with mu held.
func (c *keyCache) find(k cacheKey) *envelope.Key {
	cached, ok := c.keys.Get(k.versionID)
	if !ok || cached.of != k || !c.now().Before(cached.until) {
		return nil
	}
	key := cached.key
	return &key
}

func (c *keyCache) add(k cacheKey, key *envelope.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.keys.Remove(k.versionID) // wipes an older copy, and the key under another wrapping
	c.keys.Add(k.versionID, &cachedKey{of: k, key: *key, until: c.now().Add(c.ttl)})
	if c.sweep == nil {
		c.sweep = time.AfterFunc(c.ttl, c.dropExpired)
	}
}

// dropExpired wipes expired keys that no reader asks for, and runs again while there are keys left.
func (c *keyCache) dropExpired() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, version := range c.keys.Keys() {
		if cached, ok := c.keys.Peek(version); ok && !c.now().Before(cached.until) {
			c.keys.Remove(version)
		}
	}
	c.sweep = nil
	if c.keys.Len() > 0 {
		c.sweep = time.AfterFunc(c.ttl, c.dropExpired)
	}
}

func (c *keyCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.sweep != nil {
		c.sweep.Stop()
	}
	c.keys.Purge()
}
