package kmsfake

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperiondb/vault/internal/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

const region = "eu-west-1"

// client speaks to a fake as the SDK does, without signing for real.
type client struct {
	t         *testing.T
	url       string
	authority string
}

func start(t *testing.T, aliases ...string) (*Fake, client) {
	t.Helper()
	f := New(region, aliases...)
	url, err := f.Serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	t.Cleanup(f.Close)
	return f, client{t, url, signature(region, "kms")}
}

func signature(region, service string) string {
	return fmt.Sprintf("AWS4-HMAC-SHA256 Credential=AKIA/20300101/%s/%s/aws4_request, "+
		"SignedHeaders=content-length;host;x-amz-date, Signature=%s",
		region, service, strings.Repeat("0a", 32))
}

type answer struct {
	status int
	code   string // __type of an error
	output
}

func (c client) do(op string, in any) answer {
	c.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.send(op, body)
}

func (c client) send(op string, body []byte) answer {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("X-Amz-Target", service+op)
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("X-Amz-Date", "20300101T000000Z")
	r.Header.Set("Authorization", c.authority)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("X-Amzn-Requestid") == "" {
		c.t.Error("no request id")
	}
	var all struct {
		Type string `json:"__type"`
		output
	}
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		c.t.Fatalf("%s: %v", op, err)
	}
	return answer{resp.StatusCode, all.Type, all.output}
}

func (c client) control(method, path string) (status int, body string) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

type fields map[string]any

func TestRoundTripAndBinding(t *testing.T) {
	f, c := start(t, "vault", "other")
	mine, foreign := f.AddKey("vault"), f.AddKey("other")
	bound := fields{"a": "1", "b": "2"}
	made := c.do(opGenerate, fields{"KeyId": "alias/vault", "KeySpec": "AES_256", "EncryptionContext": bound})
	if made.status != 200 || made.KeyId != mine || len(made.Plaintext) != 32 {
		t.Fatalf("got %d, key %q, %d bytes", made.status, made.KeyId, len(made.Plaintext))
	}
	opened := c.do(opDecrypt, fields{"KeyId": mine, "CiphertextBlob": made.CiphertextBlob, "EncryptionContext": bound})
	if opened.status != 200 || !bytes.Equal(opened.Plaintext, made.Plaintext) || opened.KeyId != mine {
		t.Errorf("got %d, key %q, or another plaintext", opened.status, opened.KeyId)
	}
	if unnamed := c.do(opDecrypt, fields{"CiphertextBlob": made.CiphertextBlob,
		"EncryptionContext": bound}); unnamed.status != 200 {
		t.Errorf("without KeyId: got %d", unnamed.status)
	}
	flipped := bytes.Clone(made.CiphertextBlob)
	flipped[len(flipped)-1] ^= 1
	for _, refusal := range []struct {
		op   string
		in   fields
		code string
	}{
		{opDecrypt, fields{"KeyId": mine, "CiphertextBlob": made.CiphertextBlob, "EncryptionContext": fields{"a": "1"}},
			"InvalidCiphertextException"},
		{opDecrypt, fields{"KeyId": mine, "CiphertextBlob": made.CiphertextBlob,
			"EncryptionContext": fields{"a": "1b", "": "2"}}, "InvalidCiphertextException"},
		{opDecrypt, fields{"KeyId": mine, "CiphertextBlob": flipped, "EncryptionContext": bound},
			"InvalidCiphertextException"},
		{opDecrypt, fields{"KeyId": mine, "CiphertextBlob": []byte{1}, "EncryptionContext": bound},
			"InvalidCiphertextException"},
		{opDecrypt, fields{"KeyId": foreign, "CiphertextBlob": made.CiphertextBlob, "EncryptionContext": bound},
			"IncorrectKeyException"},
		{opDecrypt, fields{"KeyId": "alias/nobody", "CiphertextBlob": made.CiphertextBlob, "EncryptionContext": bound},
			"NotFoundException"},
		{opReEnc, fields{"SourceKeyId": foreign, "DestinationKeyId": mine, "CiphertextBlob": made.CiphertextBlob,
			"SourceEncryptionContext": bound}, "IncorrectKeyException"},
		{opReEnc, fields{"SourceKeyId": mine, "DestinationKeyId": "alias/nobody", "CiphertextBlob": made.CiphertextBlob,
			"SourceEncryptionContext": bound}, "NotFoundException"},
		{opGenerate, fields{"KeyId": mine, "KeySpec": "AES_128"}, "ValidationException"},
		{opGenerate, fields{"KeyId": "alias/nobody", "KeySpec": "AES_256"}, "NotFoundException"},
		{opEncrypt, fields{"KeyId": "alias/nobody"}, "NotFoundException"},
		{opDescribe, fields{"KeyId": "alias/nobody"}, "NotFoundException"},
		{opDescribe, fields{"KeyId": mine, "Surprise": true}, "SerializationException"},
		{"CreateKey", fields{}, "UnknownOperationException"},
	} {
		if got := c.do(refusal.op, refusal.in); got.status != 400 || got.code != refusal.code {
			t.Errorf("%s %v: got %d %q, want %q", refusal.op, refusal.in, got.status, got.code, refusal.code)
		}
	}
}

func TestReEncryptAndEncrypt(t *testing.T) {
	f, c := start(t, "vault", "other")
	mine, foreign := f.AddKey("vault"), f.AddKey("other")
	sealed := c.do(opEncrypt, fields{"KeyId": mine, "Plaintext": []byte("thirty-two"),
		"EncryptionContext": fields{"a": "1"}})
	moved := c.do(opReEnc, fields{
		"SourceKeyId": mine, "SourceEncryptionContext": fields{"a": "1"}, "CiphertextBlob": sealed.CiphertextBlob,
		"DestinationKeyId": foreign, "DestinationEncryptionContext": fields{"a": "2"},
	})
	if moved.KeyId != foreign || moved.SourceKeyId != mine {
		t.Errorf("got %q from %q", moved.KeyId, moved.SourceKeyId)
	}
	opened := c.do(opDecrypt, fields{"KeyId": foreign, "CiphertextBlob": moved.CiphertextBlob,
		"EncryptionContext": fields{"a": "2"}})
	if string(opened.Plaintext) != "thirty-two" {
		t.Errorf("got %d, another plaintext", opened.status)
	}
}

func TestSignatureIsWanted(t *testing.T) {
	f, c := start(t, "vault")
	for _, authority := range []string{"", "Bearer x", signature("us-east-1", "kms"), signature(region, "s3")} {
		c.authority = authority
		if got := c.do(opDescribe, fields{"KeyId": "alias/vault"}); got.status != 400 ||
			got.code != "MissingAuthenticationTokenException" {
			t.Errorf("%q: got %d %q", authority, got.status, got.code)
		}
	}
	if f.Done()[opDescribe] != 0 || f.Calls()[opDescribe] != 4 || f.Requests()[0].Authorized {
		t.Errorf("done %v of %v", f.Done(), f.Calls())
	}
}

func TestKeysAreLookedUpByEveryName(t *testing.T) {
	f, c := start(t, "vault")
	arn := f.AddKey("vault")
	for _, name := range []string{"alias/vault", arn, arn[strings.LastIndex(arn, "/")+1:],
		arn[:strings.Index(arn, "key/")] + "alias/vault"} {
		if got := c.do(opDescribe, fields{"KeyId": name}); got.KeyMetadata == nil || got.KeyMetadata.Arn != arn ||
			!got.KeyMetadata.Enabled {
			t.Errorf("%s: got %d %+v", name, got.status, got.KeyMetadata)
		}
	}
	for _, err := range []error{
		f.PointAlias("vault", "nobody"), f.SetState("nobody", Enabled), f.SetState(arn, "Tired"), f.MakeAsymmetric("nobody"),
		f.Inject(Fault{Kind: "mood"}), f.Inject(Fault{Kind: Throttle, Op: "Sing"}),
	} {
		if err == nil {
			t.Error("a mistake in a test was accepted")
		}
	}
}

func TestControl(t *testing.T) {
	f, c := start(t, "vault")
	describe := func() string { c.t.Helper(); return c.do(opDescribe, fields{"KeyId": "alias/vault"}).code }
	post := func(path string, want int) {
		t.Helper()
		if got, body := c.control(http.MethodPost, path); got != want {
			t.Errorf("POST %s: got %d %s, want %d", path, got, body, want)
		}
	}
	post("/_fault?kind=throttle&times=2&op=DescribeKey", 204)
	for _, want := range []string{"ThrottlingException", "ThrottlingException", ""} {
		if got := describe(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	post("/_fault?kind=access-denied", 204)
	for range 3 {
		if got := describe(); got != "AccessDeniedException" {
			t.Errorf("got %q", got)
		}
	}
	post("/_clear", 204)
	post("/_state?key=alias/vault&state=Disabled", 204)
	if got := c.do(opGenerate, fields{"KeyId": "alias/vault", "KeySpec": "AES_256"}).code; got != "DisabledException" {
		t.Errorf("got %q", got)
	}
	post("/_fault?kind=slow&delay=1ms", 204)
	if got := describe(); got != "" {
		t.Errorf("got %q", got)
	}
	for _, bad := range []string{"/_fault", "/_fault?kind=mood", "/_fault?kind=throttle&times=x",
		"/_fault?kind=throttle&times=-1", "/_fault?kind=slow&delay=soon", "/_fault?kind=throttle&op=Sing",
		"/_state?key=alias/nobody&state=Enabled"} {
		post(bad, 400)
	}
	status, body := c.control(http.MethodGet, "/_calls")
	var counts map[string]map[string]int
	if err := json.Unmarshal([]byte(body), &counts); err != nil || status != 200 {
		t.Fatalf("got %d %q", status, body)
	}
	want := map[string]map[string]int{"calls": {opDescribe: 7, opGenerate: 1}, "done": {opDescribe: 2}}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if got, _ := c.control(http.MethodGet, "/_clear"); got != http.StatusMethodNotAllowed {
		t.Errorf("GET /_clear: got %d", got)
	}
	if diff := cmp.Diff(counts["calls"], f.Calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestHangUntilClear(t *testing.T) {
	f, c := start(t, "vault")
	if err := f.Inject(Fault{Kind: Hang, Times: 1}); err != nil {
		t.Fatal(err)
	}
	answered := make(chan string, 1)
	go func() {
		defer close(answered)
		answered <- c.do(opDescribe, fields{"KeyId": "alias/vault"}).KeyMetadata.KeyState
	}()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for f.Pending() > 0 {
		<-ticker.C
	}
	select {
	case got := <-answered:
		t.Errorf("got %q before Clear", got)
	default:
	}
	f.Clear()
	if got := <-answered; got != "Enabled" {
		t.Errorf("got %q after Clear", got)
	}
}

func TestCloseWithoutServe(t *testing.T) {
	New(region).Close()
}

func TestSignAndGetPublicKey(t *testing.T) {
	f, c := start(t, "vault")
	arn := f.AddSigningKey("seals")
	got := c.do(opPublic, fields{"KeyId": "alias/seals"})
	parsed, err := x509.ParsePKIXPublicKey(got.PublicKey)
	public, ok := parsed.(ed25519.PublicKey)
	if err != nil || !ok || got.KeyId != arn || got.KeySpec != "ECC_NIST_EDWARDS25519" || got.KeyUsage != "SIGN_VERIFY" {
		t.Fatalf("got %d %q, %T, %v", got.status, got.code, parsed, err)
	}
	message := []byte("as it is")
	signing := func(change string, to any) fields {
		in := fields{"KeyId": arn, "Message": message, "MessageType": "RAW", "SigningAlgorithm": "ED25519_SHA_512"}
		in[change] = to
		return in
	}
	signed := c.do(opSign, signing("KeyId", "alias/seals"))
	if !ed25519.Verify(public, message, signed.Signature) || signed.KeyId != arn ||
		signed.SigningAlgorithm != "ED25519_SHA_512" {
		t.Errorf("got %d %q, a signature of %d bytes by %q", signed.status, signed.code, len(signed.Signature), signed.KeyId)
	}
	for _, refusal := range []struct {
		op   string
		in   fields
		code string
	}{
		{opPublic, fields{"KeyId": "alias/vault"}, "UnsupportedOperationException"},
		{opPublic, fields{"KeyId": "alias/nobody"}, "NotFoundException"},
		{opSign, signing("KeyId", "alias/vault"), "InvalidKeyUsageException"},
		{opSign, signing("KeyId", "alias/nobody"), "NotFoundException"},
		{opSign, signing("SigningAlgorithm", "ECDSA_SHA_256"), "InvalidKeyUsageException"},
		{opSign, signing("MessageType", "DIGEST"), "ValidationException"},
		{opSign, signing("Message", make([]byte, 4097)), "ValidationException"},
		{opGenerate, fields{"KeyId": arn, "KeySpec": "AES_256"}, "InvalidKeyUsageException"},
		{opEncrypt, fields{"KeyId": arn}, "InvalidKeyUsageException"},
	} {
		if got := c.do(refusal.op, refusal.in); got.status != 400 || got.code != refusal.code || got.Signature != nil {
			t.Errorf("%s %v: got %d %q, want %q", refusal.op, refusal.in, got.status, got.code, refusal.code)
		}
	}
	if err := f.SetState(arn, StateDisabled); err != nil {
		t.Fatal(err)
	}
	if got := c.do(opSign, signing("KeyId", arn)); got.code != "DisabledException" {
		t.Errorf("a disabled key: got %d %q", got.status, got.code)
	}
}
