package envelope

import (
	"crypto/cipher"
	"fmt"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
)

// xchacha is XChaCha20-Poly1305 for one key and nonce, put together as in section 2.3 of
// draft-irtf-cfrg-xchacha-03: the ChaCha20-Poly1305 of RFC 8439 under a subkey. The library's
// chacha20poly1305.NewX derives the subkey in each call, into memory that cannot be wiped.
type xchacha struct {
	aead  cipher.AEAD // ChaCha20-Poly1305 under the subkey, of which it holds a copy
	nonce [chacha20poly1305.NonceSize]byte
}

// newXChaCha wants a nonce of nonceSize bytes. The caller wipes the result.
func newXChaCha(dk *DataKey, nonce []byte) (*xchacha, error) {
	key, err := subkey(dk, nonce[:16])
	if err != nil {
		return nil, err
	}
	defer clear(key)
	aead, err := chacha20poly1305.New(key)
	if err != nil { // a process in FIPS 140-only mode
		return nil, fmt.Errorf("setting up XChaCha20-Poly1305: %w", err)
	}
	x := &xchacha{aead: aead}
	copy(x.nonce[4:], nonce[16:])
	return x, nil
}

func (x *xchacha) wipe() { zeroState(x.aead) }

// subkey is HChaCha20 of the key and the first 16 bytes of the nonce, section 2.2 of the draft.
// The caller clears it.
func subkey(dk *DataKey, nonce []byte) ([]byte, error) {
	key, err := chacha20.HChaCha20(dk[:], nonce)
	if err != nil {
		return nil, fmt.Errorf("deriving the XChaCha20 subkey: %w", err)
	}
	return key, nil
}

// sealAEAD returns the ciphertext of value with the tag after it.
func sealAEAD(dk *DataKey, nonce, aad, value []byte) ([]byte, error) {
	x, err := newXChaCha(dk, nonce)
	if err != nil {
		return nil, err
	}
	defer x.wipe()
	return x.aead.Seal(make([]byte, 0, len(value)+overhead), x.nonce[:], value, aad), nil
}

// openAEAD wants a nonce of nonceSize bytes and at least overhead bytes of ciphertext.
func openAEAD(dk *DataKey, nonce, aad, ciphertext []byte) (Plaintext, error) {
	x, err := newXChaCha(dk, nonce)
	if err != nil {
		return nil, err
	}
	defer x.wipe()
	// Of the full size from the start: a buffer that grows leaves a piece of the value behind.
	value := make(Plaintext, len(ciphertext)-overhead)
	if _, err := x.aead.Open(value[:0], x.nonce[:], ciphertext, aad); err != nil {
		value.Wipe() // some implementations decrypt while they authenticate
		return nil, fmt.Errorf("%w: the tag does not fit the ciphertext", ErrIntegrity)
	}
	return value, nil
}
