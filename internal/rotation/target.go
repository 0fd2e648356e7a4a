package rotation

import "context"

// Change is one attempt to bring a candidate to its target. The candidate was sealed in the job before the first attempt, so
// every attempt of a job has the same one: an attempt that finds the work of an earlier one done, or half done, goes on from there.
//
// Current and Candidate belong to the caller, who overwrites them; a Target keeps neither.
type Change struct {
	Secret    string // the secret that rotates
	Version   int    // what the candidate will be
	Job       int64
	Attempt   int
	Current   []byte // the value in force; nil if there is none to read
	Candidate []byte
}

// Target changes a credential where it is used. Spec is the text that the secret's rotator was set to. Calls may come from
// several goroutines. No error holds a value, and each returns by its context's deadline, whatever hangs on the other side.
//
// Between Set and the completing transaction the target may accept the candidate only, while readers still get the value in
// force: a job that fails there is resumed, not replaced. Implementations: package target.
type Target interface {
	// Shape makes the value to be stored out of a freshly generated one: step "create". It touches nothing outside. The result
	// is a buffer of its own; the caller overwrites it and generated. Current is nil if there is none to read.
	Shape(spec string, current, generated []byte) ([]byte, error)
	// Set makes the target accept the candidate. It may be called again with the same candidate after any crash, also when the
	// target accepts it already.
	Set(ctx context.Context, spec string, c Change) error
	// Test fails unless the target accepts the candidate. It changes nothing.
	Test(ctx context.Context, spec string, c Change) error
}
