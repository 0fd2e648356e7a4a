package kmsfake

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/http"
)

const (
	ed25519Spec      = "ECC_NIST_EDWARDS25519"
	ed25519Algorithm = "ED25519_SHA_512"
	longestMessage   = 4096
)

// private is the Ed25519 key whose seed is the key's material.
func (k *key) private() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(k.material[:]) }

// getPublicKey answers for asymmetric keys. Of one that is not Ed25519 there is no material, and the bytes are another
// curve's.
func (f *Fake) getPublicKey(in input) (output, error) {
	k, err := f.usable(in.KeyId)
	if err != nil {
		return output{}, err
	}
	if k.usage != signUsage {
		return output{}, failure{http.StatusBadRequest, "UnsupportedOperationException", ""}
	}
	out := output{KeyId: k.arn, KeySpec: k.spec, KeyUsage: k.usage}
	if k.spec != ed25519Spec {
		out.PublicKey = anotherPublicKey()
		return out, nil
	}
	out.PublicKey, out.SigningAlgorithms = mustMarshal(k.private().Public()),
		[]string{ed25519Algorithm, "ED25519_PH_SHA_512"}
	return out, nil
}

func (f *Fake) sign(in input) (output, error) {
	k, err := f.usable(in.KeyId)
	switch {
	case err != nil:
		return output{}, err
	case k.usage != signUsage || k.spec != ed25519Spec || in.SigningAlgorithm != ed25519Algorithm:
		return output{}, failure{http.StatusBadRequest, "InvalidKeyUsageException", k.arn + " key usage is " + k.usage + "."}
	case in.MessageType != "RAW" || len(in.Message) > longestMessage:
		return output{}, failure{http.StatusBadRequest, "ValidationException", "MessageType"}
	}
	return output{KeyId: k.arn, Signature: ed25519.Sign(k.private(), in.Message), SigningAlgorithm: in.SigningAlgorithm},
		nil
}

func anotherPublicKey() []byte {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // the random source never fails
	}
	return mustMarshal(private.Public())
}

func mustMarshal(public any) []byte {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(err) // keys of the standard library always marshal
	}
	return der
}
