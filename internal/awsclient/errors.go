package awsclient

import (
	"crypto/tls"
	"errors"
	"io"
	"net"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"github.com/hyperiondb/vault/internal/lazyregexp"
)

// BrokenRead reports whether an answer could not be read because of the connection, and not because of its text.
func BrokenRead(err error) bool {
	var network net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network)
}

// NetworkReason says why service, for example "the key service", did not answer. It repeats only errors that quote
// nothing a server sent.
func NetworkReason(err error, service string) string {
	var dns *net.DNSError
	var op *net.OpError
	var certificate *tls.CertificateVerificationError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &certificate):
		return "the certificate of " + service + " is not trusted"
	case errors.As(err, &dns):
		return "the host of " + service + " does not resolve"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.As(err, &op) && op.Op == "dial":
		return "no connection (" + op.Err.Error() + ")"
	}
	return "the connection broke"
}

// StatusOf is the HTTP status of an answer, 0 if there was no answer.
func StatusOf(err error) int {
	var response interface{ HTTPStatusCode() int }
	if errors.As(err, &response) {
		return response.HTTPStatusCode()
	}
	return 0
}

var requestIDShape = lazyregexp.New(`^[A-Za-z0-9-]{1,64}$`)

// RequestIDOf is the request id of an AWS answer, "" if there is none.
func RequestIDOf(err error) string {
	var response *awshttp.ResponseError
	if errors.As(err, &response) && requestIDShape().MatchString(response.RequestID) {
		return response.RequestID
	}
	return ""
}
