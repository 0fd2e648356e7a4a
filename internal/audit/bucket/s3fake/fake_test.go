package s3fake

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// ask speaks to the fake as an SDK does, without signing for real.
func ask(t *testing.T, method, url, region, body string, header map[string]string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(body))
	r.Header.Set("X-Amz-Date", "20300101T000000Z")
	r.Header.Set("X-Amz-Content-Sha256", fmt.Sprintf("%x", sum))
	r.Header.Set("X-Amz-Checksum-Sha256", base64.StdEncoding.EncodeToString(sum[:]))
	r.Header.Set("Authorization",
		fmt.Sprintf("AWS4-HMAC-SHA256 Credential=AKIA/20300101/%s/s3/aws4_request, SignedHeaders=host;x-amz-date, "+
			"Signature=%s", region, strings.Repeat("0a", 32)))
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// The promises that the vault builds on, one request each.
func TestTheProtocol(t *testing.T) {
	f := New("eu-west-1", "seals")
	url, err := f.Serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	t.Cleanup(f.Close)
	f.SetPage(2)
	once := map[string]string{"If-None-Match": "*"}
	for _, step := range []struct {
		method, path, region, body string
		header                     map[string]string
		status                     int
		words                      string
	}{
		{http.MethodGet, "/seals/a/1", "eu-west-1", "", nil, 404, "NoSuchKey"},
		{http.MethodPut, "/seals/a/1", "eu-west-1", "one", once, 200, ""},
		{http.MethodPut, "/seals/a/1", "eu-west-1", "two", once, 412, "PreconditionFailed"},
		{http.MethodGet, "/seals/a/1", "eu-west-1", "", nil, 200, "one"},
		{http.MethodPut, "/seals/a/1", "eu-west-1", "three", nil, 200, ""}, // as S3 does
		{http.MethodGet, "/seals/a/1", "eu-west-1", "", nil, 200, "three"},
		{http.MethodPut, "/seals/a/2", "eu-west-1", "x", map[string]string{"X-Amz-Checksum-Sha256": ""}, 400, "BadDigest"},
		{http.MethodPut, "/seals/a/2", "eu-west-1", "x", map[string]string{"X-Amz-Content-Sha256": strings.Repeat("0", 64)},
			400, "Mismatch"},
		{http.MethodPut, "/seals/a/2", "us-east-1", "x", once, 403, "AccessDenied"},
		{http.MethodPut, "/seals/a/2", "eu-west-1", "x", map[string]string{"Authorization": "Bearer x"}, 403, "AccessDenied"},
		{http.MethodPut, "/seals/a/2", "eu-west-1", "x", once, 200, ""},
		{http.MethodPut, "/seals/b/1", "eu-west-1", "x", once, 200, ""},
		{http.MethodPut, "/seals/a/3", "eu-west-1", "x", once, 200, ""},
		{http.MethodGet, "/seals?list-type=2&prefix=a/", "eu-west-1", "", nil, 200,
			"<IsTruncated>true</IsTruncated><Contents><Key>a/1</Key><Size>5</Size></Contents><Contents><Key>a/2</Key>"},
		{http.MethodGet, "/seals?list-type=2&prefix=a/&start-after=a/2", "eu-west-1", "", nil, 200,
			"<IsTruncated>false</IsTruncated><Contents><Key>a/3</Key><Size>1</Size></Contents></ListBucketResult>"},
		{http.MethodGet, "/seals", "eu-west-1", "", nil, 501, "NotImplemented"},
		{http.MethodDelete, "/seals/a/1", "eu-west-1", "", nil, 501, "NotImplemented"},
		{http.MethodGet, "/sealsother/a", "eu-west-1", "", nil, 501, "NotImplemented"},
	} {
		status, answer := ask(t, step.method, url+step.path, step.region, step.body, step.header)
		if status != step.status || !strings.Contains(answer, step.words) {
			t.Errorf("%s %s: got %d %q, want %d and %q", step.method, step.path, status, answer, step.status, step.words)
		}
	}
	for _, err := range []error{f.Inject(Fault{Kind: "mood"}), f.Inject(Fault{Kind: Reset, Op: "Sing"})} {
		if err == nil {
			t.Error("a mistake in a test was accepted")
		}
	}
}
