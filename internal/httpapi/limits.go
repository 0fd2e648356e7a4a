package httpapi

import (
	"context"
	"math"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Limits of the requests on the secrets handler. The zero value limits nothing.
type Limits struct {
	App     Limit // of one app
	Address Limit // of one address; all of an IPv6 /64 is one, and clients of a unix socket have none
	Total   Limit
}

// Limit is how many requests are answered. A request beyond Rate is refused, after refusalPause. One beyond AtOnce
// waits, for turnWait at most, until another has been answered.
type Limit struct {
	Rate   float64 // a second, and as many in one burst, at least 1; 0 = no limit
	AtOnce int     // 0 = no limit
}

// turnWait is how long a request waits for others to be answered.
const turnWait = time.Second

// refusalPause is how long a request beyond a rate waits for its refusal. A client that asks again at once has as many
// requests a second refused as it has connections in that time, and not as many as the daemon can refuse: that would
// take the processor from the other clients.
const refusalPause = 250 * time.Millisecond

func pauseRefusal(ctx context.Context) {
	timer := time.NewTimer(refusalPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// limits in force.
type limits struct {
	of      Limits
	app     bounds[string]
	address bounds[netip.Prefix]
	total   bounds[struct{}]
}

// newLimits keeps the state of limits that stay the same.
func newLimits(of Limits, before *limits) *limits {
	if before != nil && before.of == of {
		return before
	}
	return &limits{of: of, app: newBounds[string](of.App), address: newBounds[netip.Prefix](of.Address),
		total: newBounds[struct{}](of.Total)}
}

// takeRate counts a request that the allowlist has admitted.
func (l *limits) takeRate(ctx context.Context, c client, now time.Time) error {
	if wait := l.total.takeRate(struct{}{}, now); wait > 0 {
		pauseRefusal(ctx)
		return tooManyRequests("total_rate", wait)
	}
	if !c.unix {
		if wait := l.address.takeRate(bucketOf(c), now); wait > 0 {
			pauseRefusal(ctx)
			return tooManyRequests("address_rate", wait)
		}
	}
	return nil
}

// takeAppRate counts a request of an app, "" if there is none.
func (l *limits) takeAppRate(ctx context.Context, app string, now time.Time) error {
	if app == "" {
		return nil
	}
	if wait := l.app.takeRate(app, now); wait > 0 {
		pauseRefusal(ctx)
		return tooManyRequests("app_rate", wait)
	}
	return nil
}

// takeTurn waits for the turn of a request that counts against the limits. A request that waits for a change leaves its
// turn and takes another.
func (q *request) takeTurn(ctx context.Context) error {
	if q.route.exempt || q.guard.limits.none() {
		return nil
	}
	leave, err := q.guard.limits.enter(ctx, q.client, q.caller.App)
	q.turn = leave
	return err
}

func (q *request) leaveTurn() {
	if q.turn != nil {
		q.turn()
		q.turn = nil
	}
}

// enter waits for the turn of a request of an app, "" if there is none. The caller calls leave once. A request waits
// for its app first, so that it holds no turn of the others meanwhile.
func (l *limits) enter(ctx context.Context, c client, app string) (leave func(), err error) {
	var entered []func()
	leave = func() {
		for _, f := range entered {
			f()
		}
	}
	for _, turn := range []struct {
		limit  string
		counts bool
		enter  func() (leave func(), ok bool)
	}{
		{"app_at_once", app != "", func() (func(), bool) { return l.app.enter(ctx, app) }},
		{"address_at_once", !c.unix, func() (func(), bool) { return l.address.enter(ctx, bucketOf(c)) }},
		{"total_at_once", true, func() (func(), bool) { return l.total.enter(ctx, struct{}{}) }},
	} {
		if !turn.counts {
			continue
		}
		f, ok := turn.enter()
		if !ok {
			leave()
			return func() {}, tooManyRequests(turn.limit, turnWait)
		}
		entered = append(entered, f)
	}
	return leave, nil
}

// none reports whether enter has nothing to do.
func (l *limits) none() bool { return l.of == Limits{} }

// tooManyRequests is the same for each limit, so that a client does not learn of the others.
func tooManyRequests(limit string, retry time.Duration) error {
	return &refusal{outcome{status: http.StatusTooManyRequests, code: "rate_limited",
		message: "too many requests", retry: retry, reason: limit}}
}

// bounds are one Limit for each key.
type bounds[K comparable] struct {
	rate  *limiter[K] // nil = no limit
	turns *turns[K]   // nil = no limit
}

func newBounds[K comparable](of Limit) bounds[K] {
	var b bounds[K]
	if of.Rate > 0 {
		b.rate = newLimiter[K](of.Rate, max(int(math.Ceil(of.Rate)), 1))
	}
	if of.AtOnce > 0 {
		b.turns = &turns[K]{most: of.AtOnce, open: map[K]*turn{}}
	}
	return b
}

func (b *bounds[K]) takeRate(key K, now time.Time) time.Duration {
	if b.rate == nil {
		return 0
	}
	return b.rate.take(key, now)
}

func (b *bounds[K]) enter(ctx context.Context, key K) (leave func(), ok bool) {
	if b.turns == nil {
		return func() {}, true
	}
	return b.turns.enter(ctx, key)
}

// turns let so many requests of a key be answered at once. A key without requests takes no memory, so that the bound of
// connections bounds them all.
type turns[K comparable] struct {
	most int

	mu   sync.Mutex
	open map[K]*turn
}

type turn struct {
	free     chan struct{} // holds one element for each request that is being answered
	requests int           // those and the ones that wait; guarded by mu
}

// enter returns false if the turn does not come within turnWait, or ctx ends.
func (t *turns[K]) enter(ctx context.Context, key K) (leave func(), ok bool) {
	t.mu.Lock()
	of := t.open[key]
	if of == nil {
		of = &turn{free: make(chan struct{}, t.most)}
		t.open[key] = of
	}
	of.requests++
	t.mu.Unlock()
	select {
	case of.free <- struct{}{}:
		return func() { <-of.free; t.forget(key, of) }, true
	default:
	}
	timer := time.NewTimer(turnWait)
	defer timer.Stop()
	select {
	case of.free <- struct{}{}:
		return func() { <-of.free; t.forget(key, of) }, true
	case <-timer.C:
	case <-ctx.Done():
	}
	t.forget(key, of)
	return nil, false
}

func (t *turns[K]) forget(key K, of *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if of.requests--; of.requests == 0 {
		delete(t.open, key)
	}
}
