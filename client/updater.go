package client

import (
	"fmt"
	"sync"
	"time"
)

// Updater keeps something that is made from a secret, such as a connection pool, and makes it anew after a rotation. A
// new version replaces the old thing only if making the new one succeeded: make tries the value.
type Updater[T any] struct {
	client *Client
	secret *Secret
	make   func(Value) (T, error)

	making sync.Mutex // held while make runs

	mu      sync.Mutex
	thing   T
	version string    // the version it was made from
	failed  string    // the version that make last failed for
	again   time.Time // when to try that one again
}

// NewUpdater makes the thing from the current value of a name in Config.Names. It fails if make does, and panics for
// any other name.
func NewUpdater[T any](c *Client, name string, make func(Value) (T, error)) (*Updater[T], error) {
	u := &Updater[T]{client: c, secret: c.Secret(name), make: make}
	v := u.secret.Value()
	thing, err := make(v)
	if err != nil {
		return nil, err
	}
	u.thing, u.version = thing, v.id()
	return u, nil
}

// Get returns the thing made from the newest value that works. If there is a newer value, the first caller makes a new
// thing from it, while the others get the old one; the old one is not closed, as it may be in use. A failure is told to
// Config.OnError, and is tried again after Config.Poll.
func (u *Updater[T]) Get() T {
	if !u.due() || !u.making.TryLock() {
		return u.current()
	}
	defer u.making.Unlock()
	if !u.due() { // another caller made it meanwhile
		return u.current()
	}
	v := u.secret.Value()
	thing, err := u.make(v)
	if err != nil {
		u.client.tell(fmt.Errorf("secret %q version %d: the new value was not put to use: %w", u.secret.name, v.Version(),
			err))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		u.failed, u.again = v.id(), time.Now().Add(u.client.config.Poll)
	} else {
		u.thing, u.version, u.failed = thing, v.id(), ""
	}
	return u.thing
}

func (u *Updater[T]) due() bool {
	id := u.secret.Value().id()
	u.mu.Lock()
	defer u.mu.Unlock()
	return id != u.version && (id != u.failed || time.Now().After(u.again))
}

func (u *Updater[T]) current() T {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.thing
}
