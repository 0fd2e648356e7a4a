package kms

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/kms/kmsfake"
)

var message = []byte("what is signed: a format, a zero byte and a hash")

// startSigning serves a fake with alias/seals, an Ed25519 key, besides "vault" and "other".
func startSigning(t *testing.T) (f *kmsfake.Fake, endpoint, arn string) {
	t.Helper()
	f, endpoint = startFake(t)
	return f, endpoint, f.AddSigningKey("seals")
}

func mustOpenSigner(t *testing.T, text string, limits timing) seal.Signer {
	t.Helper()
	s, err := openSigner(t.Context(), text, limits)
	if err != nil {
		t.Fatalf("opening %s: %v", text, err)
	}
	if closer, ok := s.(*awsSigner); ok {
		t.Cleanup(func() { closer.Close() })
	}
	return s
}

func mustPublic(t *testing.T, s seal.Signer) seal.PublicKey {
	t.Helper()
	public, err := s.Public(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// checkSigns checks that signatures verify under the public key, and that a seal can be made with the signer.
func checkSigns(t *testing.T, s seal.Signer) {
	t.Helper()
	public := mustPublic(t, s)
	signature, err := s.Sign(t.Context(), message)
	if err != nil || !public.Verifies(message, signature) || public.Verifies(append(message, '.'), signature) {
		t.Errorf("got a signature of %d bytes that is not %s's, %v", len(signature), public, err)
	}
	var made seal.Seal
	if err := made.Sign(t.Context(), s); err != nil || !made.Signed() || made.KeyID != public.String() {
		t.Errorf("a seal: got key %q, %v", made.KeyID, err)
	}
}

func TestSignersSign(t *testing.T) {
	f, endpoint, arn := startSigning(t)
	path := mustKeyFile(t)
	for _, text := range []string{path, "local://" + path, awsURI("alias/seals", endpoint), awsURI(arn, endpoint),
		awsURI(arn[strings.LastIndex(arn, "/")+1:], endpoint)} {
		s := mustOpenSigner(t, text, quick())
		before := f.Calls()
		for range 3 {
			checkSigns(t, s)
		}
		if got := f.Calls()["GetPublicKey"] - before["GetPublicKey"]; got > 1 {
			t.Errorf("%s: asked for the public key %d times, want once", text, got)
		}
	}
	if f.Calls()["DescribeKey"] != 0 {
		t.Error("DescribeKey was called, which the documentation does not ask for")
	}
}

func TestOpenSignerAsksNobodyAndRefuses(t *testing.T) {
	f, endpoint, _ := startSigning(t)
	mustOpenSigner(t, awsURI("alias/seals", endpoint), quick())
	if len(f.Calls()) != 0 {
		t.Errorf("opening called %v", f.Calls())
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, make([]byte, 32), 0o644); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]error{
		"kms:///alias/seals": ErrURI, "awskms:alias/seals": ErrURI, "awskms:///": ErrURI, "s3://bucket/": ErrURI,
		"local://relative":                        ErrURI,
		awsURI("alias/seals", "http://192.0.2.1"): ErrURI, awsURI("alias/seals", endpoint) + "&key=x": ErrURI,
		"": envelope.ErrKeyRefused, "/nowhere/audit.key": envelope.ErrKeyRefused, open: envelope.ErrKeyRefused,
		t.TempDir(): envelope.ErrKeyRefused,
	} {
		if _, err := OpenSigner(t.Context(), text); !errors.Is(err, want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want %v in one line", text, err, want)
		}
	}
}

// A wrong answer of KMS is an error without a signature or key.
func TestSigningAnswersAreChecked(t *testing.T) {
	for _, c := range []struct {
		op    string
		kind  kmsfake.Kind
		byARN bool
		want  error
		text  string
	}{
		{op: "GetPublicKey", kind: kmsfake.OtherKey, byARN: true, want: envelope.ErrKeyUnavailable,
			text: "names another key"},
		{op: "GetPublicKey", kind: kmsfake.NoKey, want: envelope.ErrKeyUnavailable, text: "incomplete"},
		{op: "GetPublicKey", kind: kmsfake.OtherPublicKey, want: envelope.ErrKeyUnavailable, text: "not Ed25519"},
		{op: "GetPublicKey", kind: kmsfake.Garbage, want: envelope.ErrKeyUnavailable, text: "not one of KMS"},
		{op: "GetPublicKey", kind: kmsfake.Endless, want: envelope.ErrKeyUnavailable, text: "kms key"},
		{op: "Sign", kind: kmsfake.OtherKey, want: envelope.ErrKeyUnavailable, text: "names another key"},
		{op: "Sign", kind: kmsfake.NoKey, want: envelope.ErrKeyUnavailable, text: "incomplete"},
		{op: "Sign", kind: kmsfake.ShortSignature, want: envelope.ErrKeyUnavailable, text: "signature of the wrong length"},
		{op: "Sign", kind: kmsfake.WrongSignature, want: envelope.ErrKeyUnavailable, text: "does not verify"},
		{op: "Sign", kind: kmsfake.Garbage, want: envelope.ErrKeyUnavailable, text: "not one of KMS"},
		{op: "Sign", kind: kmsfake.Endless, want: envelope.ErrKeyUnavailable, text: "kms key"},
		{op: "Sign", kind: kmsfake.AccessDenied, want: envelope.ErrKeyRefused, text: "access denied to Sign"},
		{op: "GetPublicKey", kind: kmsfake.AccessDenied, want: envelope.ErrKeyRefused, text: "access denied to GetPublicKey"},
		{op: "Sign", kind: kmsfake.Disabled, want: envelope.ErrKeyRefused, text: "disabled"},
		{op: "Sign", kind: kmsfake.InvalidKeyUsage, want: envelope.ErrKeyRefused, text: "not an Ed25519 signing key"},
		{op: "Sign", kind: kmsfake.ExpiredToken, want: envelope.ErrKeyRefused, text: "expired"},
	} {
		t.Run(c.op+" "+string(c.kind), func(t *testing.T) {
			f, endpoint, arn := startSigning(t)
			name := "alias/seals"
			if c.byARN {
				name = arn
			}
			s := mustOpenSigner(t, awsURI(name, endpoint), quick())
			if c.op == "Sign" {
				mustPublic(t, s)
			}
			mustInject(t, f, kmsfake.Fault{Kind: c.kind, Op: c.op})
			signature, err := s.Sign(t.Context(), message)
			checkError(t, err, c.want, envelope.WrappedKey{})
			if signature != nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %d bytes and %q, want none and %q", len(signature), err, c.text)
			}
			if got := f.Calls()[c.op]; got != 1 {
				t.Errorf("%d calls, want 1", got)
			}
			f.Clear()
			checkSigns(t, s) // a wrong answer is not remembered
		})
	}
}

func TestSigningWithAKeyOfAnotherKind(t *testing.T) {
	f, endpoint, _ := startSigning(t)
	for _, make := range []func() error{
		func() error { return nil }, // alias/other is symmetric
		func() error { return f.MakeAsymmetric("alias/other") },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		_, err := mustOpenSigner(t, awsURI("alias/other", endpoint), quick()).Sign(t.Context(), message)
		checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
		if !strings.Contains(err.Error(),
			`kms key "alias/other": not an Ed25519 signing key (ECC_NIST_EDWARDS25519, SIGN_VERIFY)`) {
			t.Errorf("got %q", err)
		}
	}
	// And the other way round.
	k := mustOpenAWS(t, awsURI("alias/seals", endpoint), quick())
	_, _, err := k.NewDataKey(t.Context(), here)
	checkError(t, err, envelope.ErrKeyRefused, envelope.WrappedKey{})
}

func TestSigningIsRetriedUntilTheDeadline(t *testing.T) {
	for _, kind := range []kmsfake.Kind{kmsfake.Throttle, kmsfake.Internal, kmsfake.Unavailable, kmsfake.Reset,
		kmsfake.Truncated, kmsfake.LostReply} {
		t.Run(string(kind), func(t *testing.T) {
			f, endpoint, _ := startSigning(t)
			s := mustOpenSigner(t, awsURI("alias/seals", endpoint), quick())
			mustInject(t, f, kmsfake.Fault{Kind: kind, Op: "GetPublicKey", Times: 2})
			mustInject(t, f, kmsfake.Fault{Kind: kind, Op: "Sign", Times: 2})
			checkSigns(t, s)
			if got := f.Calls(); got["GetPublicKey"] != 3 || got["Sign"] != 4 {
				t.Errorf("got calls %v, want 3 of GetPublicKey and 2+2 of Sign", got)
			}
		})
	}
	f, endpoint, _ := startSigning(t)
	s := mustOpenSigner(t, awsURI("alias/seals", endpoint), quick())
	mustPublic(t, s)
	mustInject(t, f, kmsfake.Fault{Kind: kmsfake.Hang, Op: "Sign"})
	ctx, cancel := context.WithTimeout(t.Context(), answered)
	defer cancel()
	_, err := s.Sign(ctx, message)
	checkError(t, err, envelope.ErrKeyUnavailable, envelope.WrappedKey{})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// An alias that is pointed at another key: one error, and then the other key signs under its own name.
func TestSigningAliasPointedElsewhere(t *testing.T) {
	f, endpoint, _ := startSigning(t)
	s := mustOpenSigner(t, awsURI("alias/seals", endpoint), quick())
	before := mustPublic(t, s)
	if err := f.PointAlias("seals", f.AddSigningKey("next")); err != nil {
		t.Fatal(err)
	}
	_, err := s.Sign(t.Context(), message)
	checkError(t, err, envelope.ErrKeyUnavailable, envelope.WrappedKey{})
	checkSigns(t, s)
	if after := mustPublic(t, s); after.String() == before.String() {
		t.Error("the public key is still the former one")
	}
}
