package kms

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"sync"

	"github.com/hyperiondb/vault/internal/envelope"
	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
)

// A local blob is 73 bytes: version 1, a random nonce of 24 bytes, and the sealed data key with its
// tag (XChaCha20-Poly1305, draft-irtf-cfrg-xchacha-03).
const (
	localVersion  = 1
	localNonce    = chacha20poly1305.NonceSizeX
	localHeader   = 1 + localNonce
	localBlobSize = localHeader + envelope.KeySize + chacha20poly1305.Overhead

	// Labels keep the uses of one key apart.
	kekIDLabel     = "hyperiondb-vault/kek-id/1"
	localWrapLabel = "hyperiondb-vault/local-wrap/1"
	localIDPrefix  = "local:"
)

// localKey is a key out of a key file.
type localKey struct {
	uri URI
	id  string

	mu  sync.RWMutex // Close waits for the operations under way
	kek *kek         // nil once closed
}

func openLocal(u URI) (*localKey, error) {
	k, err := readKeyFile(u.name)
	if err != nil {
		return nil, err
	}
	return &localKey{uri: u, id: k.id(), kek: k}, nil
}

// id names the key without revealing it.
func (k *kek) id() string {
	h := sha256.New()
	h.Write([]byte(kekIDLabel))
	h.Write(k[:])
	return localIDPrefix + hex.EncodeToString(h.Sum(nil)[:16])
}

func isLocalID(s string) bool {
	digits, found := strings.CutPrefix(s, localIDPrefix)
	raw, err := hex.DecodeString(digits)
	return found && err == nil && len(raw) == 16
}

func (k *localKey) name() string    { return k.uri.name }
func (k *localKey) URI() string     { return k.uri.String() }
func (k *localKey) knownID() string { return k.id }

func (k *localKey) KeyID(context.Context) (string, error) { return k.id, nil }

func (k *localKey) holds(_ context.Context, keyID string) (bool, error) { return keyID == k.id, nil }

func (k *localKey) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kek != nil {
		k.kek.wipe()
		k.kek = nil
	}
	return nil
}

func (k *localKey) NewDataKey(ctx context.Context,
	kc envelope.KeyContext) (*envelope.DataKey, envelope.WrappedKey, error) {
	dk := new(envelope.DataKey)
	rand.Read(dk[:]) // never fails: the program ends instead
	w, err := k.wrap(ctx, dk, kc)
	if err != nil {
		dk.Wipe()
		return nil, envelope.WrappedKey{}, err
	}
	return dk, w, nil
}

func (k *localKey) wrap(ctx context.Context, dk *envelope.DataKey,
	kc envelope.KeyContext) (envelope.WrappedKey, error) {
	if err := ctx.Err(); err != nil {
		return envelope.WrappedKey{}, ended(k.name(), err)
	}
	if err := checkContext(k.name(), kc); err != nil {
		return envelope.WrappedKey{}, err
	}
	blob := make([]byte, localHeader, localBlobSize)
	blob[0] = localVersion
	nonce := blob[1:localHeader]
	rand.Read(nonce)
	err := k.withCipher(nonce, func(aead cipher.AEAD, nonce []byte) error {
		blob = aead.Seal(blob, nonce, dk[:], localAAD(kc))
		return nil
	})
	if err != nil {
		return envelope.WrappedKey{}, err
	}
	return envelope.WrappedKey{KeyID: k.id, Blob: blob}, nil
}

func (k *localKey) Unwrap(ctx context.Context, w envelope.WrappedKey,
	kc envelope.KeyContext) (*envelope.DataKey, error) {
	if err := checkWrapped(ctx, k, w, kc); err != nil {
		return nil, err
	}
	if len(w.Blob) != localBlobSize || w.Blob[0] != localVersion {
		return nil, broken(k.name(), "the wrapped data key is not one of a local key")
	}
	dk := new(envelope.DataKey)
	err := k.withCipher(w.Blob[1:localHeader], func(aead cipher.AEAD, nonce []byte) error {
		if _, err := aead.Open(dk[:0], nonce, w.Blob[localHeader:], localAAD(kc)); err != nil {
			return broken(k.name(), "the data key does not open in this context")
		}
		return nil
	})
	if err != nil {
		dk.Wipe()
		return nil, err
	}
	return dk, nil
}

func (k *localKey) Rewrap(ctx context.Context, w envelope.WrappedKey,
	kc envelope.KeyContext) (envelope.WrappedKey, error) {
	dk, err := k.Unwrap(ctx, w, kc)
	if err != nil {
		return envelope.WrappedKey{}, err
	}
	defer dk.Wipe()
	return k.wrap(ctx, dk, kc)
}

func (k *localKey) Describe(ctx context.Context) (Description, error) {
	if err := ctx.Err(); err != nil {
		return Description{}, ended(k.name(), err)
	}
	now, err := readKeyFile(k.uri.name)
	if err != nil {
		return Description{}, err
	}
	defer now.wipe()
	if now.id() != k.id {
		return Description{}, refused(k.name(), "the key file is not the one that was opened")
	}
	return Description{URI: k.URI(), KeyID: k.id, State: "enabled", Usable: true}, nil
}

// withCipher runs do with the cipher for one 24-byte nonce. It does the first half of
// XChaCha20-Poly1305 itself, instead of chacha20poly1305.NewX: a cipher keeps a copy of its
// key that cannot be wiped, and this way that copy is a key for one nonce, never the KEK.
func (k *localKey) withCipher(nonce []byte, do func(aead cipher.AEAD, nonce []byte) error) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.kek == nil {
		return refused(k.name(), "closed")
	}
	subkey, err := chacha20.HChaCha20(k.kek[:], nonce[:16])
	if err != nil {
		return refused(k.name(), "deriving the wrapping key failed")
	}
	defer clear(subkey)
	aead, err := chacha20poly1305.New(subkey)
	if err != nil {
		return refused(k.name(), "deriving the wrapping key failed")
	}
	return do(aead, slices.Concat(make([]byte, 4), nonce[16:localNonce]))
}

// localAAD encodes a context unambiguously: each part follows its length.
func localAAD(kc envelope.KeyContext) []byte {
	aad := []byte(localWrapLabel)
	for _, part := range []string{kc.AAD, kc.ClusterID} {
		aad = binary.BigEndian.AppendUint32(aad, uint32(len(part)))
		aad = append(aad, part...)
	}
	return aad
}
