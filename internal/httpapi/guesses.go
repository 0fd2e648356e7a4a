package httpapi

import (
	"crypto/sha256"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/hyperiondb/vault/internal/vault"
)

// How many admin tokens that are not proven yet one client may present at once, and how long it takes until it may
// present another in place of a wrong one. The database blocks its role for a minute at 600 wrong ones.
const (
	guessesAtOnce = 30
	guessEvery    = 2 * time.Second
)

// provenTokens bounds how many tokens are known to be good. The one used longest ago is forgotten first, and then
// counts as not proven.
const provenTokens = 1024

// guesses limits the wrong admin tokens of each client before they reach the database, which sees all clients as one
// role from one address. A token that the database has accepted is not limited, so a guesser cannot keep out the
// holders of tokens beside it, or behind the same proxy or socket.
type guesses struct {
	mu      sync.Mutex
	clients *simplelru.LRU[netip.Prefix, *guesser]
	proven  *simplelru.LRU[[sha256.Size]byte, struct{}] // by fingerprint, so that no token stays in memory
}

// guesser is what a client has left. A token that is being checked counts as wrong until it is settled.
type guesser struct {
	left  float64
	since time.Time
}

func newGuesses() *guesses {
	clients, err := simplelru.NewLRU[netip.Prefix, *guesser](limitedClients, nil)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	proven, err := simplelru.NewLRU[[sha256.Size]byte, struct{}](provenTokens, nil)
	if err != nil {
		panic(err)
	}
	return &guesses{clients: clients, proven: proven}
}

// verdict is what the answer to a request says of its token.
type verdict int

const (
	unsettledToken verdict = iota // the database did not come to check it
	goodToken
	wrongToken
)

func verdictOf(err error) verdict {
	switch {
	case vault.IsTokenRefused(err):
		return wrongToken
	case err == nil:
		return goodToken
	}
	return unsettledToken
}

// admit returns how long the client has to wait, or a function to be called once with the verdict.
func (g *guesses) admit(c client, t vault.Token, now time.Time) (settle func(verdict), wait time.Duration) {
	fingerprint, key := t.Fingerprint(), bucketOf(c)
	g.mu.Lock()
	defer g.mu.Unlock()
	proven := g.proven.Contains(fingerprint)
	if !proven {
		if wait = g.guesserOf(key).take(now); wait > 0 {
			return nil, wait
		}
	}
	return func(v verdict) { g.settle(key, fingerprint, proven, v) }, 0
}

func (g *guesses) guesserOf(key netip.Prefix) *guesser {
	b, ok := g.clients.Get(key)
	if !ok {
		b = &guesser{left: guessesAtOnce}
		g.clients.Add(key, b)
	}
	return b
}

func (g *guesses) settle(key netip.Prefix, fingerprint [sha256.Size]byte, proven bool, v verdict) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch v {
	case goodToken:
		g.proven.Add(fingerprint, struct{}{})
	case wrongToken:
		g.proven.Remove(fingerprint)
	}
	b := g.guesserOf(key)
	switch {
	case proven && v == wrongToken:
		b.left--
	case !proven && v != wrongToken:
		b.left = min(b.left+1, guessesAtOnce)
	}
}

// take returns 0, or the time until there is one.
func (b *guesser) take(now time.Time) time.Duration {
	if !b.since.IsZero() {
		b.left = min(b.left+max(now.Sub(b.since), 0).Seconds()/guessEvery.Seconds(), guessesAtOnce)
	}
	b.since = now
	if b.left < 1 {
		return time.Duration((1 - b.left) * float64(guessEvery))
	}
	b.left--
	return 0
}

func tooManyTokens(retry time.Duration) error {
	return &refusal{outcome{status: http.StatusTooManyRequests, code: "rate_limited",
		message: "too many wrong admin tokens from this address", retry: retry, reason: "admin_tokens"}}
}
