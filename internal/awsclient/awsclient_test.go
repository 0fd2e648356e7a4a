package awsclient

import (
	"errors"
	"fmt"
	"net"
	"os"
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
