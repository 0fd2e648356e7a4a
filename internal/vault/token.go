package vault

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"

	"github.com/hyperiondb/vault/internal/token"
)

// ErrToken says that a text is not an admin token (wrong prefix, length, alphabet or checksum), without quoting it.
var ErrToken = errors.New("not an admin token")

// Token is an admin token, of kind [token.Admin]. It prints as a placeholder; [Token.Reveal] returns its text.
type Token struct {
	id     uuid.UUID
	secret [token.SecretSize]byte
}

// NewToken makes a token of 256 random bits.
func NewToken() Token {
	t := Token{id: uuid.New()}
	rand.Read(t.secret[:])
	return t
}

// ParseToken reads a token. White space around it is ignored.
func ParseToken(text string) (Token, error) {
	id, secret, err := token.Admin.Parse(strings.TrimSpace(text))
	if err != nil {
		why, _ := strings.CutPrefix(err.Error(), token.ErrText.Error())
		return Token{}, fmt.Errorf("%w%s", ErrToken, why)
	}
	return Token{id: id, secret: secret}, nil
}

// Reveal returns the text of the token: for the one time it is shown, and for a token file.
func (t Token) Reveal() string { return token.Admin.Text(t.id, t.secret) }

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
