package rotation

import (
	"context"
	"errors"
)

// Found says which value a target accepted when it was asked before a step changed anything.
type Found int

// FoundNeither is also what a target says that has no value to be asked with.
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

// Change is one attempt to bring a candidate to its target. The candidate was sealed in the job before the first
// attempt, so every attempt of a job has the same one: an attempt that finds the work of an earlier one done, or half
// done, goes on from there.
//
// Current and Candidate belong to the caller, who overwrites them; a Target keeps neither.
type Change struct {
	Secret    string // the secret that rotates
	Version   int    // what the candidate will be
	Job       int64
	Attempt   int
	Current   []byte // the value in force; nil if there is none to read
	Candidate []byte // nil for Check, as long as the job has none
	Found     Found  // what Check found; for the steps after it

	// Held fails unless this attempt still holds its claim. A Target asks as late as it can before a change counts: the
	// worker that took the job over may have finished it. nil: not asked.
	Held func(context.Context) error
}

// Target changes a credential where it is used. Spec is the text that the secret's rotator was set to. Calls may come
// from several goroutines. No error holds a value, and each returns by its context's deadline, whatever hangs on the
// other side.
//
// Between Set and the completing transaction the target may accept the candidate only, while readers still get the
// value in force. So the way that Test takes is gone with the value in force first (Check), and a change that Test does
// not confirm is taken back (Restore). Implementations: package target.
type Target interface {
	// Check uses the value in force, and where it is not accepted the candidate, as Test will. An error means that the
	// target is not to be set: Test could not pass there, or the value that works is unknown to the vault. One with
	// ErrCandidateInPlace in it says that readers' value does not work there, and is answered by Restore. It changes
	// nothing.
	Check(ctx context.Context, spec string, c Change) (Found, error)
	// Shape makes the value to be stored out of a freshly generated one: step "create". It touches nothing outside. The
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
