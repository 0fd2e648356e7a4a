package kms

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/hyperiondb/vault/internal/envelope"
)

// Keyring is the configured list of keys. The first one wraps. Every key unwraps the rows that hold its KeyID.
type Keyring struct {
	keys []closableKey // never empty, never changed
}

var (
	_ envelope.KeyWrapper   = (*Keyring)(nil)
	_ envelope.KeyUnwrapper = (*Keyring)(nil)
)

// OpenKeyring opens every URI, the default first. It makes no call to a key service. It rejects an
// empty list and, as far as that shows without a call, the same key twice: the same URI, or the same KeyID of
// key files and ARNs. An alias that turns out to be another entry's key does no harm.
func OpenKeyring(ctx context.Context, uris []string) (*Keyring, error) {
	return openKeyring(ctx, uris, defaultTiming())
}

func openKeyring(ctx context.Context, uris []string, limits timing) (*Keyring, error) {
	if len(uris) == 0 {
		return nil, fmt.Errorf("%w: no kms key is configured", envelope.ErrKeyRefused)
	}
	r := &Keyring{}
	for _, uri := range uris {
		k, err := open(ctx, uri, limits)
		if err != nil {
			r.Close()
			return nil, err
		}
		twin := r.twinOf(k)
		r.keys = append(r.keys, k)
		if twin != nil {
			r.Close()
			return nil, refused(k.name(), "configured twice, also as "+strconv.Quote(twin.URI()))
		}
	}
	return r, nil
}

func (r *Keyring) twinOf(k closableKey) closableKey {
	for _, other := range r.keys {
		if other.URI() == k.URI() || k.knownID() != "" && other.knownID() == k.knownID() {
			return other
		}
	}
	return nil
}

// Default returns the key that wraps.
func (r *Keyring) Default() Key { return r.keys[0] }

// Keys lists the keys in the configured order.
func (r *Keyring) Keys() []Key {
	keys := make([]Key, len(r.keys))
	for i, k := range r.keys {
		keys[i] = k
	}
	return keys
}

// NewDataKey makes a data key under the default key.
func (r *Keyring) NewDataKey(ctx context.Context, kc envelope.KeyContext) (*envelope.DataKey,
	envelope.WrappedKey, error) {
	return r.keys[0].NewDataKey(ctx, kc)
}

// Unwrap uses the one key that w names. A KeyID that no key has is ErrKeyRefused. If no known KeyID matches
// and a key service did not answer with its KeyID, Unwrap returns that failure.
func (r *Keyring) Unwrap(ctx context.Context, w envelope.WrappedKey,
	kc envelope.KeyContext) (*envelope.DataKey, error) {
	k, err := r.holder(ctx, w.KeyID)
	if err != nil {
		return nil, err
	}
	return k.Unwrap(ctx, w, kc)
}

// Rewrap moves the data key of w under the default key, or wraps it again if it is there already.
// w itself stays valid. Between AWS keys of one region and endpoint the plain data key does not
// leave KMS (ReEncrypt); otherwise it passes through this process, and wrapping it under an AWS
// key needs the kms:Encrypt permission. A caller about to drop the old blob unwraps the new one first.
func (r *Keyring) Rewrap(ctx context.Context, w envelope.WrappedKey,
	kc envelope.KeyContext) (envelope.WrappedKey, error) {
	from, err := r.holder(ctx, w.KeyID)
	if err != nil {
		return envelope.WrappedKey{}, err
	}
	to := r.keys[0]
	if from == to {
		return to.Rewrap(ctx, w, kc)
	}
	if a, ok := from.(*awsKey); ok {
		if b, ok := to.(*awsKey); ok && a.place() == b.place() {
			return b.reEncryptFrom(ctx, a, w, kc)
		}
	}
	dk, err := from.Unwrap(ctx, w, kc)
	if err != nil {
		return envelope.WrappedKey{}, err
	}
	defer dk.Wipe()
	return to.wrap(ctx, dk, kc)
}

// holder finds the key that has keyID. It looks first at keys whose KeyID is known, so that a row does not
// wait for the key service of another key.
func (r *Keyring) holder(ctx context.Context, keyID string) (closableKey, error) {
	for _, k := range r.keys {
		if keyID != "" && k.knownID() == keyID {
			return k, nil
		}
	}
	var failure error
	for _, k := range r.keys {
		mine, err := k.holds(ctx, keyID)
		switch {
		case mine:
			return k, nil
		case err == nil:
		case failure == nil, !errors.Is(failure, envelope.ErrKeyUnavailable) && errors.Is(err, envelope.ErrKeyUnavailable):
			failure = err
		}
	}
	if failure != nil {
		return nil, failure
	}
	return nil, fmt.Errorf("%w: %s", envelope.ErrKeyRefused, notConfigured(keyID))
}

// Close wipes the keys of local key files and drops idle connections. It may be called more
// than once.
func (r *Keyring) Close() error {
	var errs []error
	for _, k := range r.keys {
		errs = append(errs, k.Close())
	}
	return errors.Join(errs...)
}
