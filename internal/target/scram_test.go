package target

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"strings"
	"testing"
)

// The exchange of RFC 7677 section 3: the verifier must check the client's proof and make the server's signature.
func TestTheVerifierFitsTheExchangeOfRFC7677(t *testing.T) {
	const (
		authMessage = "n=user,r=rOprNGfwEbeRWgbNEkqO," +
			"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096," +
			"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
		proof     = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
		signature = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
	)
	verifier, err := scramVerifier([]byte("pencil"), 4096, mustBase64(t, "W22ZaJ0SNY7soEsUEjb6gQ=="))
	if err != nil {
		t.Fatal(err)
	}
	keys, found := strings.CutPrefix(verifier, "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
	stored, server, ok := strings.Cut(keys, ":")
	if !found || !ok {
		t.Fatalf("got %q, want SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey", verifier)
	}
	clientKey := mustBase64(t, proof)
	for i, b := range mac(mustBase64(t, stored), authMessage) {
		clientKey[i] ^= b
	}
	if sum := sha256.Sum256(clientKey); !bytes.Equal(sum[:], mustBase64(t, stored)) {
		t.Error("the stored key does not check the client's proof")
	}
	if got := base64.StdEncoding.EncodeToString(mac(mustBase64(t, server), authMessage)); got != signature {
		t.Errorf("got server signature %s, want %s", got, signature)
	}
}

func TestVerifiersNeedNoQuotingAndHaveTheirOwnSalt(t *testing.T) {
	form := regexp.MustCompile(`^SCRAM-SHA-256\$4096:[A-Za-z0-9+/]{22}==\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=$`)
	seen := map[string]bool{}
	for range 10 {
		verifier, err := newVerifier([]byte("pencil"))
		if err != nil {
			t.Fatal(err)
		}
		if !form.MatchString(verifier) || seen[verifier] {
			t.Errorf("got %q, want another one of the form %s", verifier, form)
		}
		seen[verifier] = true
	}
}

func TestPasswordsThatSASLprepCouldChangeAreRefused(t *testing.T) {
	for _, password := range []string{"", "pässword", "a\u00a0b", "tab\there", "nul\x00", "del\x7f", "\xff"} {
		if err := checkPassword([]byte(password)); err == nil {
			t.Errorf("%q was taken", password)
		}
	}
	for _, password := range []string{" ", "a b", `it's "\`, "~"} {
		if err := checkPassword([]byte(password)); err != nil {
			t.Errorf("%q: %v", password, err)
		}
	}
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

func mustBase64(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
