package envelope

import "fmt"

// VersionKey is the data key of one version with its key commitment, so that repeated opens derive that once. Its owner
// wipes it after use.
type VersionKey struct {
	Key    DataKey // exported for the reason that DataKey gives
	commit [CommitSize]byte
}

// NewVersionKey copies dk, which stays the caller's.
//
// Errors: ErrName if no secret can have that name, ErrIntegrity if there can be no such version, and one that matches
// no sentinel for a data key that is nil or already wiped.
func NewVersionKey(dk *DataKey, name string, version int) (*VersionKey, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if !validVersion(version) {
		return nil, fmt.Errorf("%w: version %d is not between 1 and %d", ErrIntegrity, version, maxVersion)
	}
	if err := checkKey(dk); err != nil {
		return nil, err
	}
	k := &VersionKey{Key: *dk}
	withSecrets(func() { copy(k.commit[:], keyCommit(dk, AAD(name, version))) })
	return k, nil
}

// Open is the package's Open with this key. It opens nothing under another name or version than its own.
func (k *VersionKey) Open(name string, version int, s Sealed) (Plaintext, error) {
	var value Plaintext
	err := s.opened(&k.Key, &k.commit, name, version, func(p Plaintext) { value = p })
	return value, err
}

// Matches opens a value as Open does and reports whether it is the presented one, compared as by EqualValues. It wipes
// the opened value. Its errors are those of Open.
func (k *VersionKey) Matches(name string, version int, s Sealed, presented []byte) (same bool, err error) {
	err = s.opened(&k.Key, &k.commit, name, version, func(p Plaintext) {
		same = equalDigests(p, presented)
		p.Wipe()
	})
	return same, err
}

// Wipe overwrites the key. It may be called more than once.
func (k *VersionKey) Wipe() { k.Key.Wipe() }
