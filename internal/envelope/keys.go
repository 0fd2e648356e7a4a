package envelope

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
)

// KeySize is the length of a data key in bytes: XChaCha20-Poly1305 takes 256 bits.
const KeySize = 32

// Errors that callers branch on. An error of a KeyWrapper or KeyUnwrapper wraps exactly one of
// these three, unless the context ended first.
var (
	// ErrIntegrity means that the bytes are not those sealed under this name and version
	// (tampered, swapped, truncated, or wrapped for another secret or cluster). Permanent.
	ErrIntegrity = errors.New("integrity check failed")
	// ErrKeyUnavailable means that the KMS did not answer in time, throttled or failed. Retry later.
	ErrKeyUnavailable = errors.New("key service unavailable")
	// ErrKeyRefused means that the KMS answered no (disabled, pending deletion, not found, access
	// denied), or the key is not one this process is configured with. Retrying does not help.
	ErrKeyRefused = errors.New("key refused")
)

// DataKey is the plain data key of one version. Its owner wipes it after use; it prints as
// a placeholder in every formatter, also inside other values.
//
// Two ways past the placeholder are fmt's own, and closed to this type: fmt asks no method of a
// value in an unexported field, and none when it reports a misused verb (%p or %w given a key,
// %s given a struct that holds a pointer). So a struct keeps its key as a *DataKey or in an
// exported field, and is printed with %v or not at all.
type DataKey [KeySize]byte

// Wipe overwrites the key. It may be called more than once.
func (k *DataKey) Wipe() {
	clear(k[:])
	runtime.KeepAlive(k)
}

const redactedKey = "[data key]"

func (DataKey) Format(s fmt.State, _ rune)   { fmt.Fprint(s, redactedKey) }
func (DataKey) LogValue() slog.Value         { return slog.StringValue(redactedKey) }
func (DataKey) MarshalText() ([]byte, error) { return []byte(redactedKey), nil }

// WrappedKey is a data key as it is stored: KeyID names the KMS key that wrapped it, Blob
// is what that KMS returned (1 to 6144 bytes, the limit of a KMS ciphertext blob).
type WrappedKey struct {
	KeyID string
	Blob  []byte
}

// KeyContext is bound to the wrapped key by the KMS as additional authenticated data, so a
// wrapped key moved to another secret, version or cluster does not unwrap.
// AWS KMS: EncryptionContext {"hyperiondb:aad": AAD, "hyperiondb:cluster": ClusterID}.
type KeyContext struct {
	AAD       string // name ":" version, see AAD
	ClusterID string
}

// KeyWrapper makes data keys.
type KeyWrapper interface {
	// NewDataKey returns a fresh random data key and the same key wrapped under the
	// wrapper's KMS key. The caller wipes the plain one.
	NewDataKey(ctx context.Context, kc KeyContext) (*DataKey, WrappedKey, error)
}

// KeyUnwrapper recovers data keys. It refuses (ErrKeyRefused) a WrappedKey whose KeyID is
// not one it is configured with, before anything is sent anywhere.
type KeyUnwrapper interface {
	// Unwrap returns the plain data key, which the caller wipes.
	Unwrap(ctx context.Context, w WrappedKey, kc KeyContext) (*DataKey, error)
}
