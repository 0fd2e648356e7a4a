package vault

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"strings"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
)

// An admin token is "hva_" and the unpadded lower-case base32 (RFC 4648) of 16 bytes of id, 32 bytes of secret and 4
// bytes of CRC-32C over both: a truncated or mistyped token is found before anything is sent, and scanners can find a
// leaked one.
const (
	tokenPrefix     = "hva_"
	tokenSecretSize = 32
	tokenBytes      = 16 + tokenSecretSize + 4
)

// ErrToken says that a text is not a token (wrong prefix, length, alphabet or checksum), without quoting it.
var ErrToken = errors.New("not an admin token")

var (
	tokenEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)
	castagnoli    = crc32.MakeTable(crc32.Castagnoli)
)

// Token is an admin token. It prints as a placeholder; [Token.Reveal] returns its text.
type Token struct {
	id     uuid.UUID
	secret [tokenSecretSize]byte
}

// NewToken makes a token of 256 random bits.
func NewToken() Token {
	t := Token{id: uuid.New()}
	rand.Read(t.secret[:])
	return t
}

// ParseToken reads a token. White space around it is ignored.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	body, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("%w: it does not begin with %q", ErrToken, tokenPrefix)
	}
	if want := tokenEncoding.EncodedLen(tokenBytes); len(body) != want {
		return Token{}, fmt.Errorf("%w: it has %d characters, not %d: truncated or pasted wrong", ErrToken, len(text),
			want+len(tokenPrefix))
	}
	raw, err := tokenEncoding.DecodeString(strings.ToUpper(body))
	if err != nil || tokenPrefix+strings.ToLower(body) != text ||
		tokenEncoding.EncodeToString(raw) != strings.ToUpper(body) {
		return Token{}, fmt.Errorf("%w: it has a character that no token has", ErrToken)
	}
	defer clear(raw)
	payload, sum := raw[:tokenBytes-4], raw[tokenBytes-4:]
	if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(sum) {
		return Token{}, fmt.Errorf("%w: its checksum is wrong: mistyped or cut", ErrToken)
	}
	t := Token{id: uuid.UUID(payload[:16])}
	copy(t.secret[:], payload[16:])
	return t, nil
}

// Reveal returns the text of the token: for the one time it is shown, and for a token file.
func (t Token) Reveal() string {
	raw := make([]byte, 0, tokenBytes)
	raw = append(raw, t.id[:]...)
	raw = append(raw, t.secret[:]...)
	raw = binary.BigEndian.AppendUint32(raw, crc32.Checksum(raw, castagnoli))
	defer clear(raw)
	return tokenPrefix + strings.ToLower(tokenEncoding.EncodeToString(raw))
}

// IsZero reports whether there is no token.
func (t Token) IsZero() bool { return t == Token{} }

// ID is public: it names the token to the database and in logs.
func (t Token) ID() uuid.UUID { return t.id }

// Fingerprint is what the database keeps: SHA-256 of the secret part.
func (t Token) Fingerprint() [sha256.Size]byte { return sha256.Sum256(t.secret[:]) }

// Prove answers the server's challenge without revealing the token to a log: the secret XOR
// HMAC-SHA-256(fingerprint, nonce), as SCRAM's client proof (RFC 5802, section 3).
func (t Token) Prove(nonce []byte) []byte {
	fingerprint := t.Fingerprint()
	mac := hmac.New(sha256.New, fingerprint[:])
	mac.Write(nonce)
	proof := mac.Sum(nil)
	for i := range proof {
		proof[i] ^= t.secret[i]
	}
	return proof
}

// Credential proves the token to the database.
func (t Token) Credential() db.Credential { return db.Credential{TokenID: t.id, Prove: t.Prove} }

func (t Token) Format(s fmt.State, _ rune)   { fmt.Fprint(s, "[admin token]") }
func (t Token) LogValue() slog.Value         { return slog.StringValue("[admin token]") }
func (t Token) MarshalText() ([]byte, error) { return []byte("[admin token]"), nil }
