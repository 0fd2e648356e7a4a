package rotation

import (
	"context"
	"errors"
)

// Found says which value a target accepted in Check, before a step changed anything.
type Found int

// FoundNeither is also the result where Check has no value to try.
const (
	FoundNeither Found = iota
	FoundCurrent
	FoundCandidate
)

// ErrUntouched is in an error of Set that is certain to have changed nothing.
var ErrUntouched = errors.New("nothing was changed at the target")

// ErrCandidateInPlace is in an error of Check where the target is known to have the candidate all the same, from an
// earlier attempt that crashed.
var ErrCandidateInPlace = errors.New("the target has the new value")

// ErrNever is in an error that the next attempt would have too, until an operator has changed the rotator, its target
// or the configuration of vaultd: a superuser as the role, a host that is not listed. The job fails at once.
var ErrNever = errors.New("another attempt would end in the same way")

// Change is one attempt to set a candidate at its target. The candidate was sealed in the job before the first attempt,
// so every attempt of a job has the same one, and an attempt continues where an earlier one ended.
//
// Current and Candidate belong to the caller, who overwrites them; a Target keeps neither.
type Change struct {
	Secret    string // the secret that rotates
	Version   int    // what the candidate will be
	Job       int64
	Attempt   int
	Current   []byte // the value in force; nil if there is none to read
	Candidate []byte // nil for Check, as long as the job has none
	Found     Found  // the result of Check, for the steps after it

	// Held fails unless this attempt still holds its claim. A Target calls it as late as it can before a change takes
	// effect: the worker that took the job over may have finished it. nil: not called.
	Held func(context.Context) error
}

// Target changes a credential where it is used. Spec is the text that the secret's rotator was set to. Calls may come
// from several goroutines. No error holds a value, and each call returns by its context's deadline, even if the other
// side hangs.
//
// Between Set and the completing transaction the target may accept the candidate only, while readers still get the
// value in force. So Check first does with the value in force what Test does with the candidate, and Restore takes back
// a change that Test does not confirm. Implementations: package target.
type Target interface {
	// Check tries the value in force, and if it is not accepted the candidate, as Test will. After an error Set is not
	// called: Test could not pass, or the vault does not have the value that works. After an error with
	// ErrCandidateInPlace the value in force does not work at the target, and Restore is called. Check changes nothing.
	Check(ctx context.Context, spec string, c Change) (Found, error)
	// Shape makes the value to be stored from a newly generated one: step "create". It does not contact the target. The
	// result is a buffer of its own; the caller overwrites it and generated. Current is nil if there is none to read.
	Shape(spec string, current, generated []byte) ([]byte, error)
	// Set makes the target accept the candidate. It may be called again with the same candidate after any crash, also
	// when the target accepts it already. The error has ErrUntouched in it if nothing was changed; any other may have
	// changed the target.
	Set(ctx context.Context, spec string, c Change) error
	// Test fails unless the target accepts the candidate. It changes nothing.
	Test(ctx context.Context, spec string, c Change) error
	// Restore makes the target accept the value in force again, after a Set that may have changed it and no Test that
	// passed. It may be called again, also when the target accepts that value already.
	Restore(ctx context.Context, spec string, c Change) error
}
