package seal

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	sealFormat      = "hyperiondb-vault/audit-seal/1\x00"
	chainFormat     = "hyperiondb-vault/audit-chain/1\x00"
	signatureFormat = "hyperiondb-vault/audit-signature/1\x00"
	monthFormat     = "2006-01"
	keyPrefix       = "ed25519:"
	markSize        = 4
	maxSealRows     = 1 << 26 // far more than one transaction writes; bounds the number in a file
)

// Seal covers the rows of one month that one window of transaction ids wrote.
type Seal struct {
	ID        int64
	SystemID  int64
	Month     time.Time // its first day, UTC
	FromTx    uint64
	ToTx      uint64 // the first that is not in it
	Rows      int64
	FirstID   int64
	LastID    int64
	SealedAt  time.Time
	Root      Hash
	Previous  Hash
	Hash      Hash
	KeyID     string
	Signature []byte
	Marks     []byte // four bytes of each leaf
}

// Genesis is the previous hash of a vault's first seal.
func Genesis(cluster uuid.UUID) Hash {
	return sha256.Sum256(append([]byte(chainFormat), cluster[:]...))
}

// ComputeHash is the hash that the seal should have.
func (s *Seal) ComputeHash() Hash {
	b := append(make([]byte, 0, 256), sealFormat...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.ID))
	b = binary.BigEndian.AppendUint64(b, uint64(s.SystemID))
	b = append(b, s.Month.Format(monthFormat)...)
	for _, n := range []uint64{s.FromTx, s.ToTx, uint64(s.Rows), uint64(s.FirstID), uint64(s.LastID),
		uint64(s.SealedAt.UnixMicro())} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, s.Root[:]...)
	b = append(b, s.Previous[:]...)
	return sha256.Sum256(append(b, s.KeyID...))
}

// covers reports whether a row written by this transaction belongs to the seal.
func (s *Seal) covers(r *Row) bool {
	return r.SystemID == s.SystemID && r.Tx >= s.FromTx && r.Tx < s.ToTx && Month(r.At.Time).Equal(s.Month)
}

// Signer signs seals with a key that PostgreSQL never sees: one of a file, which is [Key], or one in a key service.
type Signer interface {
	// Public is the key that verifies the signatures. It may call a key service.
	Public(ctx context.Context) (PublicKey, error)
	// Sign returns the Ed25519 signature of message.
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// Sign completes the seal: its key, hash and signature.
func (s *Seal) Sign(ctx context.Context, by Signer) error {
	key, err := by.Public(ctx)
	if err != nil {
		return err
	}
	s.KeyID = key.String()
	s.Hash = s.ComputeHash()
	if s.Signature, err = by.Sign(ctx, s.message()); err != nil {
		return err
	}
	if !s.Signed() {
		return fmt.Errorf("seal %d would have a signature that is not by %s", s.ID, s.KeyID)
	}
	return nil
}

// message is the signed text.
func (s *Seal) message() []byte { return append([]byte(signatureFormat), s.Hash[:]...) }

// Key is a key whose private half this process holds.
type Key struct{ private ed25519.PrivateKey }

var _ Signer = (*Key)(nil)

// NewKey makes the key of a seed of 32 bytes.
func NewKey(seed []byte) (*Key, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("a seed holds exactly %d bytes", ed25519.SeedSize)
	}
	return &Key{ed25519.NewKeyFromSeed(seed)}, nil
}

// Format keeps the key out of every log.
func (k *Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.public()) }

func (k *Key) public() PublicKey { return PublicKey(k.private.Public().(ed25519.PublicKey)) }

// Public makes no call.
func (k *Key) Public(context.Context) (PublicKey, error) { return k.public(), nil }

// Sign makes no call.
func (k *Key) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(k.private, message), nil
}

// PublicKey is a public key; its text is the key_id of the seals that it verifies.
type PublicKey ed25519.PublicKey

func (p PublicKey) String() string { return keyPrefix + base64.RawURLEncoding.EncodeToString(p) }

// Verifies reports whether signature is by this key over message.
func (p PublicKey) Verifies(message, signature []byte) bool {
	return ed25519.Verify(ed25519.PublicKey(p), message, signature)
}

// ErrPublicKey says that a text is not a public key.
var ErrPublicKey = errors.New(`not a public key: "ed25519:" and 43 characters, as vaultctl keygen --audit prints it`)

// ParsePublicKey reads what String wrote.
func ParsePublicKey(text string) (PublicKey, error) {
	encoded, ok := strings.CutPrefix(text, keyPrefix)
	key, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if !ok || err != nil || len(key) != ed25519.PublicKeySize {
		return nil, ErrPublicKey
	}
	return key, nil
}

// Signed reports whether the seal's signature is by the key that it names and over the hash that it has.
func (s *Seal) Signed() bool {
	key, err := ParsePublicKey(s.KeyID)
	return err == nil && key.Verifies(s.message(), s.Signature)
}

// New gathers the rows of one month and window, in the order of (tx, id), into a seal. The caller sets its id, window
// and previous hash, and signs it.
func New(rows []Row) (Seal, error) {
	var tree Tree
	s := Seal{FirstID: rows[0].ID, LastID: rows[0].ID, Marks: make([]byte, 0, markSize*len(rows))}
	for i := range rows {
		leaf, err := rows[i].Leaf()
		if err != nil {
			return s, err
		}
		tree.Add(leaf)
		s.Marks = append(s.Marks, leaf[:markSize]...)
		s.FirstID, s.LastID = min(s.FirstID, rows[i].ID), max(s.LastID, rows[i].ID)
	}
	s.Rows, s.Root = tree.Len(), tree.Root()
	return s, nil
}

// sealJSON is a seal in exports and local copies.
type sealJSON struct {
	ID        int64     `json:"id"`
	SystemID  int64     `json:"system_id,string"`
	Month     string    `json:"month"`
	FromTx    uint64    `json:"from_tx,string"`
	ToTx      uint64    `json:"to_tx,string"`
	Rows      int64     `json:"rows"`
	FirstID   int64     `json:"first_id"`
	LastID    int64     `json:"last_id"`
	SealedAt  time.Time `json:"sealed_at"`
	Root      string    `json:"root"`
	Previous  string    `json:"previous"`
	Hash      string    `json:"hash"`
	KeyID     string    `json:"key_id"`
	Signature []byte    `json:"signature"`
	Marks     []byte    `json:"marks,omitempty"`
}

// MarshalJSON writes hashes in hex, everything else in base64.
func (s Seal) MarshalJSON() ([]byte, error) {
	return json.Marshal(sealJSON{s.ID, s.SystemID, s.Month.Format(monthFormat), s.FromTx, s.ToTx, s.Rows, s.FirstID,
		s.LastID, s.SealedAt.UTC(), hex.EncodeToString(s.Root[:]), hex.EncodeToString(s.Previous[:]),
		hex.EncodeToString(s.Hash[:]), s.KeyID, s.Signature, s.Marks})
}

// UnmarshalJSON is strict: it refuses unknown fields and fields of another form.
func (s *Seal) UnmarshalJSON(text []byte) error {
	var j sealJSON
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&j); err != nil {
		return err
	}
	month, err := time.Parse(monthFormat, j.Month)
	if err != nil {
		return fmt.Errorf("month %q", j.Month)
	}
	*s = Seal{ID: j.ID, SystemID: j.SystemID, Month: month, FromTx: j.FromTx, ToTx: j.ToTx, Rows: j.Rows,
		FirstID: j.FirstID, LastID: j.LastID, SealedAt: j.SealedAt, KeyID: j.KeyID, Signature: j.Signature, Marks: j.Marks}
	for _, h := range []struct {
		to   *Hash
		from string
	}{{&s.Root, j.Root}, {&s.Previous, j.Previous}, {&s.Hash, j.Hash}} {
		decoded, err := hex.DecodeString(h.from)
		if err != nil || len(decoded) != len(h.to) {
			return errors.New("a hash is 64 hexadecimal digits")
		}
		copy(h.to[:], decoded)
	}
	switch {
	case s.ID < 1 || s.Rows < 1 || s.Rows > maxSealRows:
		return fmt.Errorf("seal %d of %d rows", s.ID, s.Rows)
	case len(s.Marks) != 0 && int64(len(s.Marks)) != markSize*s.Rows:
		return fmt.Errorf("seal %d: %d bytes of marks for %d rows", s.ID, len(s.Marks), s.Rows)
	}
	return nil
}
