package client

import (
	"errors"
	"fmt"
)

// What a program branches on. Each error of this package that came from asking vaultd wraps one of them, or is about an
// argument.
var (
	ErrNotFound    = errors.New("not found")   // the secret is absent or deleted
	ErrDenied      = errors.New("denied")      // the token, the address or the rules do not allow it
	ErrUnavailable = errors.New("unavailable") // no node gives an answer now; trying later may help
)

// Error is an answer of vaultd that is not the one asked for, or the lack of one. It has no value and no token in it.
type Error struct {
	Kind      error  // ErrNotFound, ErrDenied or ErrUnavailable; nil: the request itself is wrong
	Name      string // of the secret
	Node      string // the URL of the node
	Status    int    // 0: there was no answer
	Message   string // what vaultd or the network says
	RequestID string // under which vaultd's log and audit log have it; may be empty
}

func (e *Error) Error() string {
	text := fmt.Sprintf("secret %q: ", e.Name)
	if e.Kind != nil {
		text += e.Kind.Error() + ": "
	}
	text += e.Message
	if e.RequestID != "" {
		text += " (request " + e.RequestID + ")"
	}
	return text + " at " + e.Node
}

func (e *Error) Unwrap() error { return e.Kind }
