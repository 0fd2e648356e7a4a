package target

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

const (
	// scramIterations is PostgreSQL's default and RFC 7677's least. More of them protect a password that a person chose;
	// generated ones are random, and each login would take longer.
	scramIterations = 4096
	scramSalt       = 16 // bytes, as PostgreSQL's own
)

// checkPassword refuses what SASLprep (RFC 4013) could change or forbid: a client that prepares and one that does not
// would then prove different passwords. It leaves printable ASCII unchanged.
func checkPassword(password []byte) error {
	if len(password) == 0 {
		return errors.New("the password is empty")
	}
	for _, b := range password {
		if b < 0x20 || b > 0x7e {
			return errors.New("the password is not printable ASCII; choose another generator for this secret")
		}
	}
	return nil
}

// scramVerifier is what PostgreSQL stores of a password: it checks a login, but cannot make one. Sending it instead of
// the password keeps the password out of the statement and so out of every log.
//
//	SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>
//
// The keys are those of RFC 5802 section 3 with SHA-256 (RFC 7677), all in standard base64; the format is described
// with pg_authid in PostgreSQL's manual.
func scramVerifier(password []byte, iterations int, salt []byte) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, string(password), salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("deriving the verifier: %w", err)
	}
	defer clear(salted)
	clientKey := keyedHash(salted, "Client Key")
	defer clear(clientKey)
	storedKey := sha256.Sum256(clientKey)
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, encode(salt), encode(storedKey[:]),
		encode(keyedHash(salted, "Server Key"))), nil
}

func newVerifier(password []byte) (string, error) {
	salt := make([]byte, scramSalt)
	_, _ = rand.Read(salt) // never fails
	return scramVerifier(password, scramIterations, salt)
}

func keyedHash(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
