// Package envelope turns a secret's value into the sealed columns of a version row and back.
// It is pure: no database, no KMS, no clock, no goroutine, and no randomness but the nonce.
//
// # Construction
//
// Every version has a data key of its own (a [DataKey], made and wrapped by a [KeyWrapper]). As a
// [Key] it is bound to the name and number of that version, and seals and opens it.
// Format 1 seals a value of 1 to 65536 bytes with it as follows:
//
//	aad        = name || ":" || version          (decimal, no sign, no leading zero)
//	nonce      = 24 random bytes
//	ciphertext = XChaCha20-Poly1305(DEK, nonce, aad, value), the 16 byte tag last
//	key_commit = HKDF-SHA256(DEK, no salt, info = "hyperiondb-vault/commit/1" || aad), 32 bytes
//
// The AEAD is that of draft-irtf-cfrg-xchacha-03, HKDF that of RFC 5869. Files of vectors for
// implementations in other languages are in testdata, its README.md gives their format.
//
// # What it guarantees
//
// [Key.Open] returns the value that [Key.Seal] was given for the same name, version and data key,
// or an error; there is no third outcome, and no input makes it panic. The AAD handed to the AEAD
// is computed from the name that was asked for ([NewKey]), never taken from the row, so a row
// moved to another secret or renumbered does not open. Poly1305 alone does not bind a ciphertext to one
// key: an attacker who knows two keys can make one ciphertext that opens under both. The key
// commitment prevents that, and is compared, in constant time, before the AEAD is called.
//
// # What is wiped
//
// Once Seal or Open has returned and the caller has wiped the keys and the plaintext, this
// package has left neither in memory, nor the HChaCha20 subkey, the AEAD's own copy of it, the
// Poly1305 key, the key stream, or the states of HMAC and SHA-256 through which the key and
// the values went. The same holds when opening fails. The tests search the process's memory
// for each of them.
//
// What a Go program cannot reach is a call that is interrupted, and is not promised:
//
//   - A signal, of which the runtime's own preemption is the commonest, makes the kernel save
//     the registers to the thread's signal stack, and preemption saves them once more. If it
//     falls between the first use of a key and the end of the call, the parts of the subkey,
//     the key stream or the value that were in registers stay there until the next one.
//   - A garbage collection during the call may shrink the goroutine's stack and leave the old
//     one uncleared, if an earlier call had grown it to 128 KiB or more.
//
// Outside amd64 and arm64 the vector registers are not cleared at the end of a call either. And
// a build with the tag purego keeps less: x/crypto then leaves the Poly1305 key, which is good
// for forging under one nonce and opens nothing, on the heap. The tests refuse such a build.
//
// # What the caller must do
//
//   - Wipe the keys ([DataKey.Wipe], [Key.Wipe]) and the plaintext ([Plaintext.Wipe]) after use, and
//     the value given to Seal. A string made of any of them cannot be wiped: do not make one.
//   - Use a data key for one version only. The random nonce would allow more, the bounds on
//     damage of a leaked key would not.
//   - Take the name from the request and the version from the row, not both from the row.
//   - Keep a DataKey or a Plaintext behind a pointer or in an exported field of its struct; see
//     [DataKey] for why.
package envelope

import (
	"errors"
	"fmt"
)

// Limits, in bytes except for format1.
const (
	MinValueSize = 1
	MaxValueSize = 64 << 10
	MaxNameSize  = 255

	format1    = 1  // the only format there is
	nonceSize  = 24 // XChaCha20, draft-irtf-cfrg-xchacha-03 section 2.3
	overhead   = 16 // the Poly1305 tag, RFC 8439 section 2.5
	commitSize = 32 // one block of HKDF-SHA256

	// MaxWrappedSize is what AWS KMS takes as CiphertextBlob
	// (https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html).
	MaxWrappedSize = 6144
)

// maxVersion is the largest version a PostgreSQL integer column holds.
const maxVersion = 1<<31 - 1

// Errors that callers branch on, besides ErrIntegrity.
var (
	// ErrName rejects a name that no secret can have.
	ErrName = errors.New("invalid name")
	// ErrValueSize rejects a value that is empty or over MaxValueSize.
	ErrValueSize = errors.New("invalid value size")
)

// errFormat rejects a row's fmt that this build does not know. It matches ErrIntegrity, because fmt is not
// authenticated: an altered one looks like one of a newer release.
var errFormat = fmt.Errorf("%w: unknown format", ErrIntegrity)

// Sealed is what a version row stores beside the wrapped key. None of it is secret, and Open
// trusts none of it.
type Sealed struct {
	Format     int
	Nonce      []byte // nonceSize bytes
	Ciphertext []byte // the value's size + overhead bytes, the tag last
	KeyCommit  []byte // commitSize bytes
	AAD        string // see AAD
}

// checkShape checks what can be checked without a key. The lengths come first of all: x/crypto
// panics on a nonce of another length.
func (s Sealed) checkShape() error {
	if s.Format != format1 {
		return fmt.Errorf("%w %d", errFormat, s.Format)
	}
	if len(s.Nonce) != nonceSize {
		return fmt.Errorf("%w: the nonce is %d bytes, want %d", ErrIntegrity, len(s.Nonce), nonceSize)
	}
	if n := len(s.Ciphertext); n < MinValueSize+overhead || n > MaxValueSize+overhead {
		return fmt.Errorf("%w: the ciphertext is %d bytes, want %d to %d", ErrIntegrity,
			n, MinValueSize+overhead, MaxValueSize+overhead)
	}
	if len(s.KeyCommit) != commitSize {
		return fmt.Errorf("%w: the key commitment is %d bytes, want %d", ErrIntegrity, len(s.KeyCommit), commitSize)
	}
	return nil
}
