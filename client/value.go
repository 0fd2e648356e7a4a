package client

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const redacted = "[redacted]"

// Value is one version of a secret. The zero Value is none: it has no bytes and version 0. It prints as "[redacted]".
type Value struct {
	// A function, since package fmt calls no methods of fields that are not exported, and prints what a pointer points
	// to where a verb does not fit. Of a function it prints the address.
	get func() *stored
}

func newValue(s *stored) Value { return Value{func() *stored { return s }} }

// stored returns what the value is; nil: it is none.
func (v Value) stored() *stored {
	if v.get == nil {
		return nil
	}
	return v.get()
}

// stored never changes.
type stored struct {
	value          []byte
	version        int
	id             string // the version's identity: its ETag without quotes
	createdAt      time.Time
	nextRotationAt time.Time // zero: the vault does not rotate it
}

// Bytes returns a copy of the value.
func (v Value) Bytes() []byte {
	s := v.stored()
	if s == nil {
		return nil
	}
	return bytes.Clone(s.value)
}

// String returns the value. Package fmt does not call it: printing a Value shows "[redacted]".
func (v Value) String() string {
	s := v.stored()
	if s == nil {
		return ""
	}
	return string(s.value)
}

// Version is its number: 1 for the first, 0 for no value.
func (v Value) Version() int {
	s := v.stored()
	if s == nil {
		return 0
	}
	return s.version
}

// CreatedAt is when this version was stored.
func (v Value) CreatedAt() time.Time {
	s := v.stored()
	if s == nil {
		return time.Time{}
	}
	return s.createdAt
}

// NextRotationAt is when the vault will replace it, as far as was known when it was read; zero: it does not.
func (v Value) NextRotationAt() time.Time {
	s := v.stored()
	if s == nil {
		return time.Time{}
	}
	return s.nextRotationAt
}

func (v Value) id() string {
	s := v.stored()
	if s == nil {
		return ""
	}
	return s.id
}

// Format is for package fmt, for every verb.
func (Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText is for JSON and other encodings.
func (Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue is for package log/slog.
func (Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// Secret is the live handle of a secret: what its methods return changes with a rotation. To use one version for more
// than one thing, take its [Secret.Value] once. It is safe for concurrent use, and prints as "[redacted]".
type Secret struct {
	name string
	get  func() *current // a function, for the reason that Value has one
}

type current struct {
	mu       sync.Mutex
	value    Value
	seen     time.Time // when vaultd last said that this is the current version
	err      error     // of the newest look
	watchers map[chan Value]struct{}
	older    time.Time // since when only an older version is seen; zero: it is not
}

func newSecret(name string) *Secret {
	c := &current{watchers: map[chan Value]struct{}{}}
	return &Secret{name: name, get: func() *current { return c }}
}

// Name returns the name.
func (s *Secret) Name() string { return s.name }

// Value returns the current version.
func (s *Secret) Value() Value {
	c := s.get()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value
}

// Bytes returns a copy of the current value.
func (s *Secret) Bytes() []byte { return s.Value().Bytes() }

// String returns the current value. Package fmt does not call it: printing a Secret shows "[redacted]".
func (s *Secret) String() string { return s.Value().String() }

// Version returns the number of the current version.
func (s *Secret) Version() int { return s.Value().Version() }

// Err returns why the newest look at the secret failed; nil: it succeeded, and the value is current.
func (s *Secret) Err() error {
	c := s.get()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Format is for package fmt, for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText is for JSON and other encodings.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue is for package log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// olderFor is how long an older version than the one held is not taken: a standby that is behind, most of the time.
const olderFor = time.Minute

// take keeps what a look found, and reports whether the value is another one now. The zero Value is: unchanged.
func (s *Secret) take(v Value, err error, now time.Time) (changed bool) {
	c := s.get()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err = err; err != nil {
		return false
	}
	if v.stored() == nil || v.id() == c.value.id() {
		c.seen, c.older = now, time.Time{}
		return false
	}
	if v.Version() < c.value.Version() && v.CreatedAt().Before(c.value.CreatedAt()) {
		if c.older.IsZero() {
			c.older = now
		}
		if now.Sub(c.older) < olderFor {
			return false
		}
	}
	c.value, c.seen, c.older = v, now, time.Time{}
	for w := range c.watchers {
		select {
		case <-w: // one that was not received is replaced
		default:
		}
		w <- v // it has room, and only this function sends, under the lock
	}
	return true
}

// watch returns a channel that gets every new value, and a function that ends it.
func (s *Secret) watch() (<-chan Value, func()) {
	w := make(chan Value, 1)
	c := s.get()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers[w] = struct{}{}
	return w, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, open := c.watchers[w]; open {
			delete(c.watchers, w)
			close(w)
		}
	}
}

// text is for messages that hold text of another program: one line of bounded length.
func text(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	return s[:min(len(s), 300)]
}
