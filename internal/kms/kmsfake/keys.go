package kmsfake

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// State is a key state as AWS spells it.
type State string

const (
	Enabled              State = "Enabled"
	StateDisabled        State = "Disabled"
	StatePendingDeletion State = "PendingDeletion"
	StatePendingImport   State = "PendingImport"
)

const account = "111122223333"

type key struct {
	arn      string
	state    State
	usage    string
	spec     string
	material [32]byte
}

const (
	wrapUsage = "ENCRYPT_DECRYPT"
	signUsage = "SIGN_VERIFY"
)

// AddKey makes a key and points alias/NAME at it. It returns the key ARN, which is the same for the
// same alias and region every time; the key material is not.
func (f *Fake) AddKey(alias string) (arn string) { return f.add(alias, wrapUsage, "SYMMETRIC_DEFAULT") }

// AddSigningKey does the same with an Ed25519 key.
func (f *Fake) AddSigningKey(alias string) (arn string) { return f.add(alias, signUsage, ed25519Spec) }

func (f *Fake) add(alias, usage, spec string) (arn string) {
	id := sha256.Sum256([]byte("key id of " + alias))
	k := &key{
		arn: fmt.Sprintf("arn:aws:kms:%s:%s:key/%x-%x-%x-%x-%x",
			f.region, account, id[:4], id[4:6], id[6:8], id[8:10], id[10:16]),
		state: Enabled,
		usage: usage,
		spec:  spec,
	}
	rand.Read(k.material[:])
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[k.arn] = k
	f.aliases["alias/"+alias] = k.arn
	return k.arn
}

// AddMultiRegionKey makes a key that other regions may have as well, and points alias/NAME at it.
func (f *Fake) AddMultiRegionKey(alias string) (arn string) {
	id := sha256.Sum256([]byte("multi-region key id of " + alias))
	k := &key{arn: fmt.Sprintf("arn:aws:kms:%s:%s:key/mrk-%x", f.region, account, id[:16]), state: Enabled,
		usage: wrapUsage, spec: "SYMMETRIC_DEFAULT"}
	rand.Read(k.material[:])
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[k.arn], f.aliases["alias/"+alias] = k, k.arn
	return k.arn
}

// Replicate gives another region the multi-region key that alias/NAME stands for: the same id and material under its
// own ARN, with a state of its own.
func (f *Fake) Replicate(alias string, to *Fake) (arn string) {
	f.mu.Lock()
	replica := *f.lookup("alias/" + alias)
	f.mu.Unlock()
	to.mu.Lock()
	defer to.mu.Unlock()
	replica.arn = to.ownARN(replica.arn)
	to.keys[replica.arn], to.aliases["alias/"+alias] = &replica, replica.arn
	return replica.arn
}

// ownARN is what this region calls a key: a multi-region key has the same id everywhere.
func (f *Fake) ownARN(arn string) string {
	_, id, _ := strings.Cut(arn, ":key/")
	if strings.HasPrefix(id, "mrk-") {
		return "arn:aws:kms:" + f.region + ":" + account + ":key/" + id
	}
	return arn
}

// PointAlias points alias/NAME to another key.
func (f *Fake) PointAlias(alias, arn string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys[arn] == nil {
		return fmt.Errorf("no key %q", arn)
	}
	f.aliases["alias/"+alias] = arn
	return nil
}

// SetState changes the state of the key that id names: an ARN, a key id or an alias.
func (f *Fake) SetState(id string, state State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.lookup(id)
	if k == nil {
		return fmt.Errorf("no key %q", id)
	}
	if !slices.Contains([]State{Enabled, StateDisabled, StatePendingDeletion, StatePendingImport}, state) {
		return fmt.Errorf("unknown state %q", state)
	}
	k.state = state
	return nil
}

// MakeAsymmetric turns a key into one that cannot wrap data keys.
func (f *Fake) MakeAsymmetric(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.lookup(id)
	if k == nil {
		return fmt.Errorf("no key %q", id)
	}
	k.usage, k.spec = signUsage, "RSA_2048"
	return nil
}

// lookup takes every form of key identifier. Called with f.mu held.
func (f *Fake) lookup(id string) *key {
	if rest, ok := strings.CutPrefix(id, "arn:aws:kms:"+f.region+":"+account+":"); ok {
		id = strings.TrimPrefix(rest, "key/")
	}
	if arn, ok := f.aliases[id]; ok {
		return f.keys[arn]
	}
	return f.keys["arn:aws:kms:"+f.region+":"+account+":key/"+id]
}

// usable finds a key that can do cryptography now.
func (f *Fake) usable(id string) (*key, error) {
	k := f.lookup(id)
	switch {
	case k == nil:
		return nil, failure{http.StatusBadRequest, "NotFoundException", "Key '" + id + "' does not exist"}
	case k.state == StateDisabled:
		return nil, failure{http.StatusBadRequest, "DisabledException", k.arn + " is disabled."}
	case k.state == StatePendingDeletion:
		return nil, failure{http.StatusBadRequest, "KMSInvalidStateException", k.arn + " is pending deletion."}
	case k.state != Enabled:
		return nil, failure{http.StatusBadRequest, "KMSInvalidStateException", k.arn + " is pending import."}
	}
	return k, nil
}

// wrapping finds a key that can wrap data keys now.
func (f *Fake) wrapping(id string) (*key, error) {
	k, err := f.usable(id)
	if err == nil && k.usage != wrapUsage {
		return nil, failure{http.StatusBadRequest, "InvalidKeyUsageException", k.arn + " key usage is " + k.usage + "."}
	}
	return k, err
}

// A blob is: version 1, the length of the ARN (one byte), the ARN, a nonce, the sealed bytes.
func (k *key) seal(plaintext []byte, context map[string]string) []byte {
	header := append([]byte{1, byte(len(k.arn))}, k.arn...)
	return k.gcm().Seal(header, nil, plaintext, aad(header, context))
}

// split returns the ARN in a blob, its header and its sealed part.
func split(blob []byte) (arn string, header, sealed []byte, ok bool) {
	if len(blob) < 2 || blob[0] != 1 || len(blob) < 2+int(blob[1]) {
		return "", nil, nil, false
	}
	n := 2 + int(blob[1])
	return string(blob[2:n]), blob[:n], blob[n:], true
}

func (k *key) gcm() cipher.AEAD {
	block, err := aes.NewCipher(k.material[:])
	if err != nil {
		panic(err) // 32 bytes are always a key
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return gcm
}

// open is Decrypt: the key that the request names must be the one in the blob.
func (f *Fake) open(id string, blob []byte, context map[string]string) (*key, []byte, error) {
	invalid := failure{http.StatusBadRequest, "InvalidCiphertextException", ""}
	arn, header, sealed, ok := split(blob)
	arn = f.ownARN(arn)
	if !ok || f.keys[arn] == nil {
		return nil, nil, invalid
	}
	if id == "" {
		id = arn // KMS allows it; that the vault never asks so is for its tests to see
	}
	k, err := f.wrapping(id)
	if err != nil {
		return nil, nil, err
	}
	if k.arn != arn {
		return nil, nil, failure{http.StatusBadRequest, "IncorrectKeyException",
			"The key ID in the request does not identify a CMK that can perform this operation."}
	}
	plaintext, err := k.gcm().Open(nil, nil, sealed, aad(header, context))
	if err != nil {
		return nil, nil, invalid
	}
	return k, plaintext, nil
}

func aad(header []byte, context map[string]string) []byte {
	out := slices.Clone(header)
	for _, name := range slices.Sorted(maps.Keys(context)) {
		for _, part := range []string{name, context[name]} {
			out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
			out = append(out, part...)
		}
	}
	return out
}
