package kms

import (
	"context"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/hyperiondb/vault/internal/envelope"
)

// maxBlob is the limit of a KMS ciphertext blob in bytes:
// https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html
const maxBlob = 6144

// Key is one key-encryption key. Its methods are safe for concurrent use. Their errors are those of the
// package doc.
type Key interface {
	envelope.KeyWrapper
	envelope.KeyUnwrapper

	// KeyID is what rows wrapped by this key hold. For an AWS alias or key id the first call
	// asks KMS (DescribeKey), later ones answer from memory.
	KeyID(ctx context.Context) (string, error)

	// Rewrap wraps the data key of w again under this same key, with a fresh blob, for example after
	// AWS rotated the key material. w must be this key's own, else ErrKeyRefused; w itself stays
	// good. With AWS KMS the plain data key does not leave the service (ReEncrypt).
	// [Keyring.Rewrap] moves a data key from one key to another.
	Rewrap(ctx context.Context, w envelope.WrappedKey, kc envelope.KeyContext) (envelope.WrappedKey, error)

	// Describe asks for the key's state now. A key that exists and cannot be used is an answer,
	// not an error. A local key file that is gone, or is not the one that was opened, is an
	// error: the process would not come back after a restart.
	Describe(ctx context.Context) (Description, error)

	// URI is the canonical form of what was opened.
	URI() string
}

// Description is a key's state when it was queried.
type Description struct {
	URI   string
	KeyID string
	// State is "enabled", "disabled", "pending deletion", "pending import", "unavailable" and so on,
	// or names the kind of key when it is not one that wraps data keys.
	State     string
	Usable    bool
	DeletesAt time.Time // zero unless deletion is pending
}

// closableKey is what open makes: a Key that Keyring can also move data keys between.
type closableKey interface {
	Key

	// name is the key as configured, for error texts.
	name() string
	// knownID is KeyID without a call, "" while it is not known.
	knownID() string
	// holds reports whether keyID is this key's, and calls KMS only where a yes is possible.
	holds(ctx context.Context, keyID string) (bool, error)
	// wrap wraps a data key that already exists.
	wrap(ctx context.Context, dk *envelope.DataKey, kc envelope.KeyContext) (envelope.WrappedKey, error)
	// Close wipes what can be wiped and drops idle connections. Operations that are under way
	// end first; later ones on a local key are ErrKeyRefused.
	Close() error
}

var (
	_ closableKey = (*localKey)(nil)
	_ closableKey = (*awsKey)(nil)
)

// open makes the key that uri names. It reads the key file, or the AWS configuration, within ctx, and
// makes no call to a key service. The error wraps ErrURI for a bad URI and
// envelope.ErrKeyRefused for a key file or configuration that cannot be used.
func open(ctx context.Context, uri string, limits timing) (closableKey, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	// Not "return openLocal(u)": a nil pointer in an interface is not a nil Key.
	if u.scheme == schemeLocal {
		k, err := openLocal(u)
		if err != nil {
			return nil, err
		}
		return k, nil
	}
	k, err := openAWS(ctx, u, limits)
	if err != nil {
		return nil, err
	}
	return k, nil
}

// checkContext refuses a context that binds nothing. Invalid UTF-8 would reach AWS as
// replacement characters, and two contexts would become one.
func checkContext(key string, kc envelope.KeyContext) error {
	if kc.AAD == "" || kc.ClusterID == "" || !utf8.ValidString(kc.AAD) || !utf8.ValidString(kc.ClusterID) {
		return refused(key, "the key context is incomplete or not UTF-8")
	}
	return nil
}

// checkWrapped rejects a w that cannot be this key's, before its blob is used.
func checkWrapped(ctx context.Context, k closableKey, w envelope.WrappedKey, kc envelope.KeyContext) error {
	if err := ctx.Err(); err != nil {
		return ended(k.name(), err)
	}
	if err := checkContext(k.name(), kc); err != nil {
		return err
	}
	mine, err := k.holds(ctx, w.KeyID)
	if err != nil {
		return err
	}
	if !mine {
		return refused(k.name(), notConfigured(w.KeyID))
	}
	if len(w.Blob) < 1 || len(w.Blob) > maxBlob {
		return broken(k.name(), "the wrapped data key has an impossible length")
	}
	return nil
}

// notConfigured names the row's key only if it looks like a key: a row is not trusted.
func notConfigured(keyID string) string {
	if isKeyARN(keyID) || isLocalID(keyID) {
		return "the data key was wrapped by " + strconv.Quote(keyID) + ", which is not configured"
	}
	return "the data key was wrapped by a key that is not configured"
}
