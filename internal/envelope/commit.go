package envelope

import (
	"crypto/sha256"
	"crypto/subtle"
	"hash"
)

// commitLabel separates this use of the data key from any other, and numbers the construction.
const commitLabel = "hyperiondb-vault/commit/1"

// keyCommit returns HKDF-SHA256(dk, no salt, info = commitLabel || aad), commitSize bytes: a
// value that only one data key has. It is stored in the clear and reveals nothing of the key.
func keyCommit(dk *DataKey, aad string) []byte {
	k := newHKDFState()
	defer k.wipe()
	// RFC 5869 section 2.2: no salt means HashLen zero bytes, which pad to the same HMAC key
	// as none at all.
	k.hmac(k.prk[:], nil, dk[:])
	// Section 2.3, of which commitSize = HashLen needs the first block only.
	commit := make([]byte, commitSize)
	k.hmac(commit, k.prk[:], []byte(commitLabel+aad+"\x01"))
	return commit
}

// hkdfState holds every intermediate of HKDF-SHA256 where wipe reaches it. crypto/hkdf and
// crypto/hmac leave the key, which to HKDF is a message, in hash states that they do not hand
// out; the tests hold this one against them.
type hkdfState struct {
	hash  hash.Hash // SHA-256, up to 63 bytes of the last message
	block [sha256.BlockSize]byte
	inner [sha256.Size]byte
	prk   [sha256.Size]byte
}

func newHKDFState() *hkdfState { return &hkdfState{hash: sha256.New()} }

func (k *hkdfState) wipe() {
	zeroState(k.hash)
	zeroState(k)
}

// hmac writes HMAC-SHA256(key, message) of RFC 2104 to sum, 32 bytes. The key is at most one
// block long. Neither may overlap k.block or k.inner.
func (k *hkdfState) hmac(sum, key, message []byte) {
	k.digest(k.inner[:], 0x36, key, message)
	k.digest(sum, 0x5c, key, k.inner[:])
}

// digest writes SHA-256((key padded to a block, each byte XOR pad) || message) to sum.
func (k *hkdfState) digest(sum []byte, pad byte, key, message []byte) {
	for i := range k.block {
		k.block[i] = pad
	}
	subtle.XORBytes(k.block[:], k.block[:], key)
	k.hash.Reset()
	k.hash.Write(k.block[:])
	k.hash.Write(message)
	k.hash.Sum(sum[:0])
}
