package awsclient

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

func TestNetworkReason(t *testing.T) {
	for want, err := range map[string]error{
		"the host of the key service does not resolve": &net.DNSError{Err: "no such host", Name: "kms.invalid",
			IsNotFound: true},
		"no answer in time":    os.ErrDeadlineExceeded,
		"the connection broke": errors.New("malformed HTTP response \"\x00\x01\""),
	} {
		if got := NetworkReason(fmt.Errorf("sending: %w", err), "the key service"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestWithCredentialsFile(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("AWS_CONFIG_FILE", write("config", ""))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE",
		write("own", "[default]\naws_access_key_id = OWN\naws_secret_access_key = x\n"))
	given := write("given", "[default]\naws_access_key_id = GIVEN\naws_secret_access_key = x\n")
	for path, want := range map[string]string{"": "OWN", given: "GIVEN"} {
		cfg, err := Load(WithCredentialsFile(t.Context(), path), "eu-west-1")
		if err != nil {
			t.Fatal(err)
		}
		got, err := cfg.Credentials.Retrieve(t.Context())
		if err != nil || got.AccessKeyID != want {
			t.Errorf("%q: got %q, %v, want %q", path, got.AccessKeyID, err, want)
		}
	}
	const secret = "canary-4c1e"
	for _, text := range []string{secret, "[default\n" + secret, "[default]\naws_access_key_id = " + secret + "\n"} {
		cfg, err := Load(WithCredentialsFile(t.Context(), write("bad", text)), "eu-west-1")
		if err == nil {
			t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			_, err = cfg.Credentials.Retrieve(t.Context())
			if !errors.Is(err, ErrNoCredentials) {
				t.Errorf("%q: got %v, want no credentials", text, err)
			}
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error %q repeats the file", err)
		}
	}
}

// closedBody is a request's body as the SDK leaves it: WriteTo fails once the body is closed. It is closed early here,
// as it is by an answer that comes before the transport has looked for the body's end.
type closedBody struct{ io.Reader }

func (closedBody) WriteTo(io.Writer) (int64, error) { return 0, io.EOF }
func (closedBody) Close() error                     { return nil }

func TestClosedBodyKeepsTheConnection(t *testing.T) {
	var connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	client, transport := HTTPClient(aws.Config{}, time.Minute, 1<<16)
	defer transport.CloseIdleConnections()
	for range 3 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, closedBody{strings.NewReader("{}")})
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = 2
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != "{}" {
			t.Errorf("got %q, %v, want {}", body, err)
		}
		resp.Body.Close()
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("%d connections for three requests, want 1", got)
	}
}
