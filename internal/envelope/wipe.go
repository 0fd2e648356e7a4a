package envelope

import (
	"reflect"
	"runtime"
)

const (
	// stackReach is how deep below its caller sweepStack reaches, in bytes. The deepest frames
	// under it, those of the AEAD's and SHA-256's assembly together with what the runtime
	// pushes when it preempts them, take less than a quarter of it.
	stackReach = 8 << 10
	// stackBallast is how much stack withSecrets takes up for nothing, in bytes.
	stackBallast = 16 << 10
)

// withSecrets calls f, which works with keys and values, so that nothing of them is left on
// the stack or in the vector registers after it, whether f returns or panics.
//
// Stacks move, and the runtime does not clear the old one. So it is grown before f, as far as
// f will need. It would still move if a garbage collection came during f and found less than a
// quarter of it in use: with the ballast that takes a stack of 128 KiB or more, grown so large
// by something before this call.
//
//go:noinline
func withSecrets(f func()) {
	if never {
		// The frame has room for it all the same. Outside of the branch it would be cleared in each call.
		var ballast [stackBallast]byte
		runtime.KeepAlive(&ballast)
	}
	growStack()
	defer sweepStack()
	defer clearRegisters()
	f()
}

// never is false. As a variable it keeps the compiler from leaving out what depends on it.
var never bool

// growStack grows the stack below its caller, if it has to, as far as sweepStack will reach: its frame is as large.
//
//go:noinline
func growStack() {
	if never {
		var frame [stackReach]byte
		runtime.KeepAlive(&frame)
	}
}

// sweepStack overwrites the stack below its caller.
//
//go:noinline
func sweepStack() {
	var frame [stackReach]byte
	clear(frame[:])
	runtime.KeepAlive(&frame)
}

// zeroState overwrites the value that v, a pointer, points to: the state of a cipher or hash of
// another package, whose type has no method for that. It reaches what is held by value only; a
// test fails if a new release of such a type holds anything behind a pointer.
func zeroState(v any) {
	reflect.ValueOf(v).Elem().SetZero()
	runtime.KeepAlive(v)
}
