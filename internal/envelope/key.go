package envelope

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
)

// Key is the data key of one version, bound to the name and number of that version, with its key commitment: it seals
// that version and opens no other. Its owner wipes it after use, and each copy of it.
type Key struct {
	DataKey DataKey // exported for the reason that DataKey gives
	aad     string
	commit  [commitSize]byte // derived once: repeated opens compare it
}

// NewKey copies dk, which stays the caller's. The name is the one that was asked for, not one from a row.
//
// Errors: ErrName if no secret can have that name, ErrIntegrity if there can be no such version (1 to 2147483647), and
// one that matches no sentinel for a data key that is nil or already wiped.
func NewKey(dk *DataKey, name string, version int) (*Key, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if !validVersion(version) {
		return nil, fmt.Errorf("%w: version %d is not between 1 and %d", ErrIntegrity, version, maxVersion)
	}
	if err := checkKey(dk); err != nil {
		return nil, err
	}
	k := &Key{DataKey: *dk, aad: AAD(name, version)}
	withSecrets(func() { copy(k.commit[:], keyCommit(dk, k.aad)) })
	return k, nil
}

// Wipe overwrites the key. It may be called more than once.
func (k *Key) Wipe() { k.DataKey.Wipe() }

// Seal seals value under a fresh random nonce: two calls return different bytes. It keeps nothing of value, which stays
// the caller's to wipe.
//
// Errors: ErrValueSize (MinValueSize to MaxValueSize bytes), and one that matches no sentinel for a wiped key.
func (k *Key) Seal(value []byte) (Sealed, error) {
	nonce := make([]byte, nonceSize)
	rand.Read(nonce) // never returns an error: without randomness it ends the process
	return k.seal(nonce, value)
}

// seal is Seal with the nonce given, nonceSize bytes. Reusing one under the same key gives the value away, so only the
// vectors call it directly.
func (k *Key) seal(nonce, value []byte) (Sealed, error) {
	if len(value) < MinValueSize || len(value) > MaxValueSize {
		return Sealed{}, fmt.Errorf("%w: %d bytes, want %d to %d", ErrValueSize, len(value), MinValueSize, MaxValueSize)
	}
	if err := checkKey(&k.DataKey); err != nil {
		return Sealed{}, err
	}
	s := Sealed{Format: format1, Nonce: nonce, KeyCommit: append([]byte(nil), k.commit[:]...), AAD: k.aad}
	var err error
	withSecrets(func() { s.Ciphertext, err = sealAEAD(&k.DataKey, nonce, []byte(k.aad), value) })
	if err != nil {
		return Sealed{}, err
	}
	return s, nil
}

// Open returns the value. The caller wipes it; s stays the caller's and is not changed.
//
// Errors: ErrIntegrity for everything that is not what Seal returned for this name, version and data key, its text
// naming the part that did not fit and never its content; one that matches no sentinel for a wiped key.
func (k *Key) Open(s Sealed) (Plaintext, error) {
	var value Plaintext
	err := k.open(s, func(p Plaintext) { value = p })
	return value, err
}

// Matches opens a value as Open does and reports whether it is the presented one, compared as by EqualValues. It wipes
// the opened value. Its errors are those of Open.
func (k *Key) Matches(s Sealed, presented []byte) (same bool, err error) {
	err = k.open(s, func(p Plaintext) {
		same = equalDigests(p, presented)
		p.Wipe()
	})
	return same, err
}

// open passes the value to use, which owns it, on the stack that is swept afterwards.
func (k *Key) open(s Sealed, use func(Plaintext)) error {
	if err := s.checkShape(); err != nil {
		return err
	}
	if s.AAD != k.aad {
		return fmt.Errorf("%w: the aad is not that of this name and version", ErrIntegrity)
	}
	if err := checkKey(&k.DataKey); err != nil {
		return err
	}
	if err := k.CheckCommit(s.KeyCommit); err != nil {
		return err
	}
	var err error
	withSecrets(func() {
		var value Plaintext
		if value, err = openAEAD(&k.DataKey, s.Nonce, []byte(k.aad), s.Ciphertext); err == nil {
			use(value)
		}
	})
	return err
}

// CheckCommit is ErrIntegrity if commit, compared in constant time, is not the key commitment of this key: the version
// was sealed with another one.
func (k *Key) CheckCommit(commit []byte) error {
	if subtle.ConstantTimeCompare(commit, k.commit[:]) != 1 {
		return fmt.Errorf("%w: the key commitment is not that of this data key", ErrIntegrity)
	}
	return nil
}

// checkKey refuses a nil key and a wiped one, which is all zero: any reader of the row could open
// a value sealed under it.
func checkKey(dk *DataKey) error {
	if dk == nil {
		return errors.New("no data key")
	}
	var wiped DataKey
	if subtle.ConstantTimeCompare(dk[:], wiped[:]) == 1 {
		return errors.New("the data key is all zero: used after it was wiped")
	}
	return nil
}
