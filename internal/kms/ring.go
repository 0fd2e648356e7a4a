package kms

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/hyperiondb/vault/internal/envelope"
)

// Ring is the configured list of keys. The first one wraps; all of them unwrap, each only the
// rows that hold its KeyID.
type Ring struct {
	keys []closableKey // never empty, never changed
}

var (
	_ envelope.KeyWrapper   = (*Ring)(nil)
	_ envelope.KeyUnwrapper = (*Ring)(nil)
)

// OpenRing opens every URI, the default first. Like Open it asks no key service anything. An
// empty list is refused, and so is the same key twice, as far as that shows without asking: the same
// URI, or the same KeyID of key files and ARNs. An alias that turns out to be another entry's key does no
// harm.
func OpenRing(ctx context.Context, uris []string) (*Ring, error) {
	return openRing(ctx, uris, defaultTiming())
}

func openRing(ctx context.Context, uris []string, limits timing) (*Ring, error) {
	if len(uris) == 0 {
		return nil, fmt.Errorf("%w: no kms key is configured", envelope.ErrKeyRefused)
	}
	r := &Ring{}
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

func (r *Ring) twinOf(k closableKey) closableKey {
	for _, other := range r.keys {
		if other.URI() == k.URI() || k.knownID() != "" && other.knownID() == k.knownID() {
			return other
		}
	}
	return nil
}

// Default is the key that wraps.
func (r *Ring) Default() Key { return r.keys[0] }

// Keys lists the keys in the configured order.
func (r *Ring) Keys() []Key {
	keys := make([]Key, len(r.keys))
	for i, k := range r.keys {
		keys[i] = k
	}
	return keys
}

// NewDataKey makes a data key under the default key.
func (r *Ring) NewDataKey(ctx context.Context, kc envelope.KeyContext) (*envelope.DataKey, envelope.WrappedKey, error) {
	return r.keys[0].NewDataKey(ctx, kc)
}

// Unwrap asks the one key that w names. A KeyID that no key has is ErrKeyRefused. When a key
// could not be asked who it is, and no other has the KeyID, that failure is the answer.
func (r *Ring) Unwrap(ctx context.Context, w envelope.WrappedKey, kc envelope.KeyContext) (*envelope.DataKey, error) {
	k, err := r.holder(ctx, w.KeyID)
	if err != nil {
		return nil, err
	}
	return k.Unwrap(ctx, w, kc)
}

// Rewrap moves the data key of w under the default key, or wraps it again if it is there already.
// w itself stays good. Between AWS keys of one region and endpoint the plain data key does not
// leave KMS (ReEncrypt); otherwise it passes through this process, and wrapping it under an AWS
// key takes the kms:Encrypt permission. A caller about to drop the old blob unwraps the new one first.
func (r *Ring) Rewrap(ctx context.Context, w envelope.WrappedKey, kc envelope.KeyContext) (envelope.WrappedKey, error) {
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

// holder finds the key that has keyID, first among those that know who they are, so that a row is
// not kept waiting for a key service that has nothing to do with it.
func (r *Ring) holder(ctx context.Context, keyID string) (closableKey, error) {
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
func (r *Ring) Close() error {
	var errs []error
	for _, k := range r.keys {
		errs = append(errs, k.Close())
	}
	return errors.Join(errs...)
}
