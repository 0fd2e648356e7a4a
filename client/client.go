package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// Proxies commonly end a request after 60 s.
	leastWait, mostWait = 40 * time.Second, 55 * time.Second
	maxWaits            = 16 // names; more are polled
	// A node that answers waits at once, as one that stops does, is not asked more often than this.
	leastPause = 500 * time.Millisecond
	// The cache is written when a value changed, and at least this often for the time at which it was confirmed.
	cacheEvery = time.Minute
)

// Client keeps the secrets of a program. It is safe for concurrent use.
type Client struct {
	config  Config
	nodes   []*node
	token   tokenSource
	secrets map[string]*Secret // never changes

	stop    context.CancelFunc
	running sync.WaitGroup
	ended   <-chan struct{}

	telling sync.Mutex // held while OnError runs

	caching  sync.Mutex
	cachedAt time.Time // guarded by caching
}

// Verdict is the answer of Verify.
type Verdict struct {
	Valid     bool       `json:"valid"`
	Version   int        `json:"version"`    // which it equals; 0 if none
	Match     string     `json:"match"`      // "current", "grace" or ""
	ExpiresAt *time.Time `json:"expires_at"` // of a version in grace
}

// New returns when every name in the configuration has a value: from a node, or from the cache if no node answers.
// While neither gives one, it tries again until ctx ends. A name that is absent or denied, and a configuration that
// cannot work, is an error at once. ctx is for New only: Close ends the client.
func New(ctx context.Context, config Config) (*Client, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	urls, err := config.parseURLs()
	if err != nil {
		return nil, err
	}
	config.Names = slices.Clone(config.Names)
	c := &Client{config: config, token: tokenSource{file: config.TokenFile, token: config.Token},
		secrets: map[string]*Secret{}}
	for _, u := range urls {
		c.nodes = append(c.nodes, newNode(u, config.TLS))
	}
	for _, name := range config.Names {
		c.secrets[name] = newSecret(name)
	}
	if _, err := c.token.get(); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if config.Cache != nil {
		if err := loadCache(config.Cache, c.secrets); errors.Is(err, errExposed) {
			return nil, fmt.Errorf("client: Cache: %w", err)
		} else if err != nil {
			c.tell(fmt.Errorf("loading the cache: %w", err))
		}
	}
	if err := c.start(ctx); err != nil {
		c.closeIdle()
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop, c.ended = stop, background.Done()
	for _, name := range config.Names {
		c.running.Go(func() { c.follow(background, c.secrets[name]) })
	}
	return c, nil
}

// start looks at each name until it has a value.
func (c *Client) start(ctx context.Context) error {
	pause := leastPause
	left := slices.Clone(c.config.Names)
	for {
		var missing error
		for i := 0; i < len(left); {
			s := c.secrets[left[i]]
			_, err := c.look(ctx, s, 0)
			if errors.Is(err, ErrUnavailable) && c.usable(s) {
				err = nil // the cached value
			}
			switch {
			case err == nil:
				left = slices.Delete(left, i, i+1)
			case errors.Is(err, ErrUnavailable):
				missing, i = err, i+1
			default:
				return err
			}
		}
		if missing == nil {
			return nil
		}
		if !sleep(ctx, jitter(pause)) {
			return fmt.Errorf("client: %w: no value for %d of %d names: %w", ctx.Err(), len(left), len(c.config.Names),
				missing)
		}
		pause = min(2*pause, c.config.Poll)
	}
}

// usable reports whether a secret has a cached value that is not too old.
func (c *Client) usable(s *Secret) bool {
	now := s.get()
	now.mu.Lock()
	defer now.mu.Unlock()
	if now.value.stored() == nil {
		return false
	}
	age := time.Since(now.seen)
	return c.config.MaxCacheAge == 0 || age >= 0 && age <= c.config.MaxCacheAge
}

// follow looks at one secret until the client is closed.
func (c *Client) follow(ctx context.Context, s *Secret) {
	poll := c.config.Poll
	pause := leastPause
	for {
		wait := leastWait + rand.N(mostWait-leastWait)
		// A look after one that failed does not wait: its answer says that the value is current again.
		again := s.Err() != nil
		if again || len(c.config.Names) > maxWaits {
			wait = 0
		}
		began := time.Now()
		l, err := c.look(ctx, s, wait.Round(time.Second))
		next := time.Duration(0)
		switch {
		case errors.Is(err, ErrUnavailable):
			next, pause = pause, min(2*pause, poll)
		case err != nil: // it may come back, but nothing says when
			next = poll
		case again:
			pause = leastPause
		case !l.waited:
			next, pause = poll, leastPause
		case l.changed, time.Since(began) >= leastWait/2:
			pause = leastPause
		default: // an answer without a change before its time
			next, pause = pause, min(2*pause, poll)
		}
		if !sleep(ctx, jitter(next)) {
			return
		}
	}
}

// looked is what a look found.
type looked struct{ changed, waited bool }

// look asks for the newest version of a secret that is kept, and keeps it. An error is told.
func (c *Client) look(ctx context.Context, s *Secret, wait time.Duration) (looked, error) {
	held := s.Value().id()
	r, err := c.ask(ctx, call{name: s.name, held: held, wait: wait})
	if err != nil && ctx.Err() != nil {
		return looked{}, err
	}
	changed := s.take(r.value, err, time.Now())
	if err != nil {
		c.tell(err)
		return looked{}, err
	}
	c.save(changed)
	return looked{changed: changed, waited: r.waited}, nil
}

// ask tries the nodes in their order, those that failed of late last, until one gives an answer that is not an error. A
// 404 or 403 of one node counts only if no other node has an answer.
func (c *Client) ask(ctx context.Context, q call) (reply, error) {
	token, err := c.token.get()
	if err != nil {
		c.tell(err)
	}
	type asked struct {
		*node
		up time.Time
	}
	var order []asked
	now := time.Now()
	for _, n := range c.nodes {
		a := asked{n, n.up()}
		if !a.up.After(now) {
			a.up = time.Time{}
		}
		order = append(order, a)
	}
	slices.SortStableFunc(order, func(a, b asked) int { return a.up.Compare(b.up) })
	var said *Error
	for _, n := range order {
		if said != nil && !errors.Is(said, ErrUnavailable) {
			if !n.up.IsZero() {
				break // a node that is away is not waited for to confirm an answer
			}
			q.wait = 0 // and none holds back its answer
		}
		r, err := n.send(ctx, token, q)
		if err == nil {
			return r, nil
		}
		if ctx.Err() != nil {
			return reply{}, err
		}
		var e *Error
		if !errors.As(err, &e) {
			return reply{}, err
		}
		if said == nil || weight(e) > weight(said) {
			said = e
		}
	}
	return reply{}, said
}

// weight orders the errors of the nodes by how much they say.
func weight(e *Error) int {
	switch e.Kind {
	case nil:
		return 3
	case ErrDenied:
		return 2
	case ErrNotFound:
		return 1
	}
	return 0
}

func (c *Client) tell(err error) {
	if c.config.OnError == nil {
		return
	}
	c.telling.Lock()
	defer c.telling.Unlock()
	c.config.OnError(err)
}

func (c *Client) save(changed bool) {
	if c.config.Cache == nil {
		return
	}
	c.caching.Lock()
	defer c.caching.Unlock()
	every := cacheEvery
	if c.config.MaxCacheAge > 0 {
		every = min(every, c.config.MaxCacheAge/4)
	}
	if !changed && time.Since(c.cachedAt) < every {
		return
	}
	if err := saveCache(c.config.Cache, c.secrets); err != nil {
		c.tell(fmt.Errorf("writing the cache: %w", err))
		return
	}
	c.cachedAt = time.Now()
}

// Secret returns the handle of a name in Config.Names. It panics for any other name: that is a mistake in the program.
func (c *Client) Secret(name string) *Secret {
	s := c.secrets[name]
	if s == nil {
		panic(fmt.Sprintf("client: %q is not in Config.Names", name))
	}
	return s
}

// Watch returns a channel that gets each new version of a name in Config.Names: not the current one. A version that was
// not received is replaced by the next. The channel is closed when ctx ends or the client is closed. Watch panics for
// any other name.
func (c *Client) Watch(ctx context.Context, name string) <-chan Value {
	w, end := c.Secret(name).watch()
	c.running.Go(func() {
		defer end()
		select {
		case <-ctx.Done():
		case <-c.ended:
		}
	})
	return w
}

// Refresh looks at every name now, and returns what failed, joined. What it finds is kept, also if other names fail.
func (c *Client) Refresh(ctx context.Context) error {
	var all []error
	for _, name := range c.config.Names {
		_, err := c.look(ctx, c.secrets[name], 0)
		all = append(all, err)
	}
	return errors.Join(all...)
}

// Get reads the current version of any secret from a node, once. It does not use the cache, and keeps nothing.
func (c *Client) Get(ctx context.Context, name string) (Value, error) {
	if name == "" || len(name) > maxName {
		return Value{}, fmt.Errorf("client: a name of %d bytes: want 1 to %d", len(name), maxName)
	}
	r, err := c.ask(ctx, call{name: name})
	return r.value, err
}

// Verify asks whether a value is a live version of a secret: the current one, or an older one in its grace period. The
// value has 1 byte to 64 KiB.
func (c *Client) Verify(ctx context.Context, name string, presented []byte) (Verdict, error) {
	if name == "" || len(name) > maxName || len(presented) == 0 || len(presented) > maxValue {
		return Verdict{}, fmt.Errorf("client: a name of %d bytes and a value of %d: want 1 to %d, and 1 to %d", len(name),
			len(presented), maxName, maxValue)
	}
	r, err := c.ask(ctx, call{name: name, body: presented})
	return r.verdict, err
}

// Close ends the goroutines and connections. Handles keep the values they have.
func (c *Client) Close() {
	c.stop()
	c.running.Wait()
	c.closeIdle()
}

func (c *Client) closeIdle() {
	for _, n := range c.nodes {
		n.http.CloseIdleConnections()
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter is d, less or more by a fifth, so that programs started together do not ask together.
func jitter(d time.Duration) time.Duration { return d*4/5 + rand.N(d*2/5+1) }
