package access

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/token"
)

// Token is the token of an app, of kind [token.App]. It prints as a placeholder; [Token.Reveal] returns its text.
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

// ParseToken reads a token without white space around it. The error matches token.ErrText and quotes nothing.
func ParseToken(text string) (Token, error) {
	id, secret, err := token.App.Parse(text)
	return Token{id: id, secret: secret}, err
}

// Reveal returns the text of the token: for the one time it is shown, and for a token file.
func (t Token) Reveal() string { return token.App.Text(t.id, t.secret) }

// IsZero reports whether there is no token.
func (t Token) IsZero() bool { return t == Token{} }

// ID is public: it is the id of the credential in the database, the audit log and logs.
func (t Token) ID() uuid.UUID { return t.id }

// Fingerprint is what the database keeps: SHA-256 of the secret part. Nothing leads back from it to the token.
func (t Token) Fingerprint() [sha256.Size]byte { return sha256.Sum256(t.secret[:]) }

// IsAdminToken reports whether a text claims to be an operator's token, which proves no app.
func IsAdminToken(text string) bool { return token.Admin.Of(text) }

// IsToken reports whether a text claims to be a token of the vault, of any kind.
func IsToken(text string) bool { return token.App.Of(text) || token.Admin.Of(text) }

const redacted = "[app token]"

func (t Token) Format(s fmt.State, _ rune)   { fmt.Fprint(s, redacted) }
func (t Token) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (t Token) MarshalText() ([]byte, error) { return []byte(redacted), nil }
