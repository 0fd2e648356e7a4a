package db

import (
	"errors"
	"fmt"
	"strings"
)

// The errors that callers branch on. Every error of this package wraps at most one of them.
var (
	ErrNotFound       = errors.New("not found")
	ErrConflict       = errors.New("conflict") // another version came first, or the name is taken
	ErrDeleted        = errors.New("deleted")  // restorable; a conflict for writers
	ErrRefused        = errors.New("refused")  // token or database role
	ErrInvalid        = errors.New("invalid")  // the database's own checks
	ErrUnavailable    = errors.New("database unavailable")
	ErrBusy           = errors.New("busy")            // another session holds the row; trying again helps
	ErrFenced         = errors.New("an old primary")  // a newer one was seen; this one gets no writes
	ErrState          = errors.New("state file")      // unreadable or damaged
	ErrOutcomeUnknown = errors.New("outcome unknown") // COMMIT was sent and not answered
	ErrClaimLost      = errors.New("claim lost")
	ErrNotInitialised = errors.New("vault is not initialised in this database")
	ErrSchema         = errors.New("schema version does not fit this binary")
	ErrFeedUnusable   = errors.New("no change feed") // the error says why; reads still work
	ErrIntegrity      = errors.New("row does not have the shape of a sealed version")
)

// Error is an error with a text of the vault's own, which contains no value: most are raised in sql/functions.
type Error struct {
	Kind error  // one of the errors above
	Text string // one line
	Code string // SQLSTATE
}

func (e *Error) Error() string { return e.Text }
func (e *Error) Unwrap() error { return e.Kind }

func newError(kind error, format string, args ...any) *Error {
	return &Error{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// IsTokenRefused tells a refused admin token (vault._refuse_token) from a role that may not connect, which has the same
// SQLSTATE.
func IsTokenRefused(err error) bool {
	var known *Error
	return errors.As(err, &known) && known.Code == "28000" && strings.HasPrefix(known.Text, "admin token refused: ")
}
