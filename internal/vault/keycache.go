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

// unwrapTimeout bounds a KMS call that several readers wait for; none of them may cut it off for the others. It is
// shorter than a request over HTTP may take, so that nobody joins a call that its first reader has already given up.
const unwrapTimeout = 8 * time.Second

// cacheKey changes with everything that decides whether a wrapped key unwraps, so a hit is never better than a miss: a
// row whose wrapped key was swapped, or that was moved to another name or version, is not found.
type cacheKey struct {
	versionID uuid.UUID
	wrapped   [sha256.Size]byte // of the wrapped key, its key id and the AAD
}

func keyOf(name string, row *db.VersionRow) cacheKey {
	text := make([]byte, 0, 512) // more than a local key's or KMS' usual, so that it stays on the stack
	text = strconv.AppendInt(append(append(text, name...), ':'), int64(row.Version), 10)
	text = append(append(append(text, 0), row.KMSKeyID...), 0)
	text = append(text, row.WrappedDEK...)
	return cacheKey{versionID: row.VersionID, wrapped: sha256.Sum256(text)}
}

// keyCache keeps data keys for a while. Readers get copies; a key is overwritten when it leaves the cache, whether
// pushed out, too old or at the end.
type keyCache struct {
	ttl time.Duration
	now func() time.Time

	flights singleflight.Group // misses of one key make one KMS call

	mu     sync.Mutex // guards what follows
	keys   *simplelru.LRU[cacheKey, *cachedKey]
	sweep  *time.Timer // nil while nothing is cached
	closed bool
}

type cachedKey struct {
	key   envelope.VersionKey
	until time.Time
}

func newKeyCache(size int, ttl time.Duration, now func() time.Time) *keyCache {
	keys, err := simplelru.NewLRU(size, func(_ cacheKey, k *cachedKey) { k.key.Wipe() })
	if err != nil {
		panic(err) // size > 0, see New
	}
	return &keyCache{ttl: ttl, now: now, keys: keys}
}

// fetch is for a key that was not found: those who miss it together make one call. The caller wipes its copy.
func (c *keyCache) fetch(ctx context.Context, k cacheKey,
	unwrap func(context.Context) (*envelope.VersionKey, error)) (*envelope.VersionKey, error) {
	flight := c.flights.DoChan(string(k.versionID[:])+string(k.wrapped[:]), func() (any, error) {
		if key := c.lookup(k); key != nil { // an earlier flight landed between our look and this one's start
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
	case r := <-flight:
		if r.Err != nil {
			return nil, r.Err
		}
	}
	if key := c.lookup(k); key != nil {
		return key, nil
	}
	return unwrap(ctx) // pushed out between the two: a cache smaller than the number of readers
}

// lookup returns a copy, which the caller wipes; nil if there is none.
func (c *keyCache) lookup(k cacheKey) *envelope.VersionKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	cached, ok := c.keys.Get(k)
	if !ok || !c.now().Before(cached.until) {
		return nil
	}
	key := cached.key
	return &key
}

func (c *keyCache) add(k cacheKey, key *envelope.VersionKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.keys.Remove(k) // wipes an older copy
	c.keys.Add(k, &cachedKey{key: *key, until: c.now().Add(c.ttl)})
	if c.sweep == nil {
		c.sweep = time.AfterFunc(c.ttl, c.dropExpired)
	}
}

// dropExpired wipes what is too old also when nobody asks any more, and comes back while there is anything left.
func (c *keyCache) dropExpired() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.keys.Keys() {
		if cached, ok := c.keys.Peek(k); ok && !c.now().Before(cached.until) {
			c.keys.Remove(k)
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
