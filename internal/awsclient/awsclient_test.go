package awsclient

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
