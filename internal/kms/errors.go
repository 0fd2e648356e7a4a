package kms

import (
	"context"
	"errors"
	"strconv"

	"github.com/hyperiondb/vault/internal/envelope"
)

// keyError is every error of an operation on a key. Its reason is a text of this package, never of a
// server.
type keyError struct {
	key       string // as configured: alias, ARN, key id or path
	reason    string
	requestID string // "" when AWS gave none
	kinds     []error
}

func (e *keyError) Error() string {
	s := "kms key " + strconv.Quote(e.key) + ": " + e.reason
	if e.requestID != "" {
		s += " (aws request id " + e.requestID + ")"
	}
	return s
}

func (e *keyError) Unwrap() []error { return e.kinds }

func refused(key, reason string) error {
	return &keyError{key: key, reason: reason, kinds: []error{envelope.ErrKeyRefused}}
}

func broken(key, reason string) error {
	return &keyError{key: key, reason: reason, kinds: []error{envelope.ErrIntegrity}}
}

func unavailable(key, reason string) error {
	return &keyError{key: key, reason: reason, kinds: []error{envelope.ErrKeyUnavailable}}
}

// ended distinguishes the two ends of a context: a cancellation by the caller is no failure, a
// deadline that passed is a failure of the key service.
func ended(key string, ctxErr error) *keyError {
	if errors.Is(ctxErr, context.Canceled) {
		return &keyError{key: key, reason: "cancelled", kinds: []error{context.Canceled}}
	}
	return &keyError{
		key:    key,
		reason: "no answer before the deadline",
		kinds:  []error{envelope.ErrKeyUnavailable, context.DeadlineExceeded},
	}
}
