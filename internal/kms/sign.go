package kms

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/hyperiondb/vault/internal/audit/seal"
)

const signingKey = "an Ed25519 signing key (ECC_NIST_EDWARDS25519, SIGN_VERIFY)"

// ParseSigner parses the place of a signing key: a key URI, or the path of a file. It opens nothing. Its errors wrap
// ErrURI.
func ParseSigner(text string) (URI, error) {
	if strings.Contains(text, "://") || strings.HasPrefix(text, schemeAWS+":") {
		return ParseURI(text)
	}
	return URI{scheme: schemeLocal, name: text}, nil
}

// OpenSigner opens a signing key: a file of 32 bytes or a key in AWS KMS. It calls no key service.
// The signer is safe for concurrent use, returns the errors of the package doc, and may be an io.Closer.
func OpenSigner(ctx context.Context, text string) (seal.Signer, error) {
	return openSigner(ctx, text, defaultTiming())
}

func openSigner(ctx context.Context, text string, limits timing) (seal.Signer, error) {
	u, err := ParseSigner(text)
	if err != nil {
		return nil, err
	}
	if u.scheme == schemeLocal {
		return readSigner(u.name)
	}
	k, err := openAWS(ctx, u, limits)
	if err != nil {
		return nil, err
	}
	k.kind = signingKey
	return &awsSigner{key: k}, nil
}

// readSigner reads a file of the same form as a key file, whose 32 bytes are the seed of an Ed25519 key.
func readSigner(path string) (seal.Signer, error) {
	k, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	defer k.wipe()
	return seal.NewKey(k[:])
}

// awsSigner signs with an Ed25519 key that does not leave AWS KMS.
type awsSigner struct {
	key *awsKey

	mu     sync.Mutex // guards keyID and public, which belong together
	keyID  string     // ARN of the key that public is of; "" while unknown
	public seal.PublicKey
}

var _ seal.Signer = (*awsSigner)(nil)

// Public calls KMS once and remembers the key.
func (s *awsSigner) Public(ctx context.Context) (seal.PublicKey, error) {
	_, public, err := s.known(ctx)
	return public, err
}

func (s *awsSigner) known(ctx context.Context) (keyID string, public seal.PublicKey, err error) {
	s.mu.Lock()
	keyID, public = s.keyID, s.public
	s.mu.Unlock()
	if keyID != "" {
		return keyID, public, nil
	}
	if err := ctx.Err(); err != nil {
		return "", nil, ended(s.key.name(), err)
	}
	out, err := call(ctx, s.key, s.key.client.GetPublicKey, &kms.GetPublicKeyInput{KeyId: &s.key.uri.name})
	if err != nil {
		return "", nil, err
	}
	if keyID, public, err = s.accept(out); err != nil {
		return "", nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keyID, s.public = keyID, public
	return keyID, public, nil
}

// accept checks that an answer names a key that can be the configured one, and one that signs as seals are signed.
func (s *awsSigner) accept(out *kms.GetPublicKeyOutput) (string, seal.PublicKey, error) {
	keyID, name := aws.ToString(out.KeyId), s.key.name()
	switch {
	case keyID == "" || len(out.PublicKey) == 0:
		return "", nil, unavailable(name, incomplete)
	case !s.key.mayBe(keyID):
		return "", nil, unavailable(name, otherKey)
	case out.KeyUsage != types.KeyUsageTypeSignVerify || out.KeySpec != types.KeySpecEccNistEdwards25519:
		return "", nil, refused(name, "not "+signingKey)
	}
	parsed, err := x509.ParsePKIXPublicKey(out.PublicKey)
	public, ok := parsed.(ed25519.PublicKey)
	if err != nil || !ok {
		return "", nil, unavailable(name, "the answer holds a public key that is not Ed25519")
	}
	return keyID, seal.PublicKey(public), nil
}

// Sign rejects an answer that does not verify: a seal with a bad signature could not be repaired, because the next
// seal is chained to it.
func (s *awsSigner) Sign(ctx context.Context, message []byte) ([]byte, error) {
	keyID, public, err := s.known(ctx)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, ended(s.key.name(), err)
	}
	out, err := call(ctx, s.key, s.key.client.Sign, &kms.SignInput{
		KeyId:            &s.key.uri.name,
		Message:          message,
		MessageType:      types.MessageTypeRaw, // Ed25519 itself; DIGEST is another algorithm, Ed25519ph
		SigningAlgorithm: types.SigningAlgorithmSpecEd25519Sha512,
	})
	if err != nil {
		return nil, err
	}
	reason := ""
	switch {
	case aws.ToString(out.KeyId) == "" || len(out.Signature) == 0:
		reason = incomplete
	case *out.KeyId != keyID:
		reason = otherKey
	case len(out.Signature) != ed25519.SignatureSize:
		reason = "the answer holds a signature of the wrong length"
	case !public.Verifies(message, out.Signature):
		reason = "the answer holds a signature that does not verify"
	default:
		return out.Signature, nil
	}
	s.forget() // an alias may point to another key by now
	return nil, unavailable(s.key.name(), reason)
}

func (s *awsSigner) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keyID, s.public = "", nil
}

// Close drops idle connections.
func (s *awsSigner) Close() error { return s.key.Close() }
