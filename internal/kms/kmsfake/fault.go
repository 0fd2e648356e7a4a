package kmsfake

import (
	"fmt"
	"slices"
	"time"
)

// Kind is a way to fail. Its text is what the control endpoint takes.
type Kind string

// The first group is answered before anything is done, the second does the work and spoils the answer.
const (
	Throttle          Kind = "throttle"           // 400 ThrottlingException
	Internal          Kind = "internal"           // 500 KMSInternalException
	Unavailable       Kind = "unavailable"        // 503 with a page that is not JSON, as a balancer sends
	Forbidden         Kind = "forbidden"          // 403 with a page that is not JSON, as a proxy sends
	Hang              Kind = "hang"               // no answer until Clear, Close or the client leaves
	Disabled          Kind = "disabled"           // DisabledException
	PendingDeletion   Kind = "pending-deletion"   // KMSInvalidStateException
	AccessDenied      Kind = "access-denied"      // AccessDeniedException
	NotFound          Kind = "not-found"          // NotFoundException
	InvalidCiphertext Kind = "invalid-ciphertext" // InvalidCiphertextException
	IncorrectKey      Kind = "incorrect-key"      // IncorrectKeyException
	InvalidKeyUsage   Kind = "invalid-key-usage"  // InvalidKeyUsageException
	ExpiredToken      Kind = "expired-token"      // ExpiredTokenException
	Reset             Kind = "reset"              // the connection is reset

	Slow           Kind = "slow"             // Fault.Delay, then the right answer
	LostReply      Kind = "lost-reply"       // the connection is reset after the work was done
	Garbage        Kind = "garbage"          // 200 with a body that is not JSON
	Truncated      Kind = "truncated"        // half a body
	OtherKey       Kind = "other-key"        // KeyId names another key
	NoKey          Kind = "no-key"           // KeyId is missing
	ShortPlaintext Kind = "short-plaintext"  // 16 bytes
	LongPlaintext  Kind = "long-plaintext"   // 33 bytes
	EmptyBlob      Kind = "empty-blob"       // 0 bytes
	HugeBlob       Kind = "huge-blob"        // 6145 bytes, one more than KMS makes
	Endless        Kind = "endless"          // a body of more than a MiB
	ShortSignature Kind = "short-signature"  // 63 bytes
	WrongSignature Kind = "wrong-signature"  // 64 bytes that verify under no key
	OtherPublicKey Kind = "other-public-key" // of a curve that was not asked for
)

func kinds() []Kind {
	return []Kind{Throttle, Internal, Unavailable, Forbidden, Hang, Disabled, PendingDeletion, AccessDenied,
		NotFound, InvalidCiphertext, IncorrectKey, InvalidKeyUsage, ExpiredToken, Reset,
		Slow, LostReply, Garbage, Truncated, OtherKey, NoKey, ShortPlaintext, LongPlaintext, EmptyBlob, HugeBlob, Endless,
		ShortSignature, WrongSignature, OtherPublicKey}
}

// Fault is a failure to come.
type Fault struct {
	Kind  Kind
	Op    string        // the operation it meets, "" for all
	Times int           // how often it happens, 0 for until Clear
	Delay time.Duration // for Slow
}

// Inject adds a fault. Of several that fit a request the oldest happens.
func (f *Fake) Inject(fault Fault) error {
	if !slices.Contains(kinds(), fault.Kind) {
		return fmt.Errorf("unknown fault %q", fault.Kind)
	}
	if fault.Op != "" && !slices.Contains(operations(), fault.Op) {
		return fmt.Errorf("unknown operation %q", fault.Op)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &fault)
	return nil
}

// Clear removes every fault and lets hanging requests go: they are answered rightly.
func (f *Fake) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
	close(f.released)
	f.released = make(chan struct{})
}

// take returns the fault that meets a request, and what ends its hanging.
func (f *Fake) take(op string) (Fault, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.faults, func(fault *Fault) bool { return fault.Op == "" || fault.Op == op })
	if i < 0 {
		return Fault{}, f.released
	}
	fault := *f.faults[i]
	if fault.Times > 0 {
		if f.faults[i].Times--; f.faults[i].Times == 0 {
			f.faults = slices.Delete(f.faults, i, i+1)
		}
	}
	return fault, f.released
}
