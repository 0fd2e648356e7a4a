package s3fake

import (
	"fmt"
	"slices"
)

// Kind is a way to fail.
type Kind string

// The first group is answered before anything is done, the second does the work and spoils the answer.
const (
	SlowDown     Kind = "slow-down"     // 503 SlowDown
	Internal     Kind = "internal"      // 500 InternalError
	Unavailable  Kind = "unavailable"   // 503 with a page that is not XML, as a balancer sends
	Forbidden    Kind = "forbidden"     // 403 with a page that is not XML, as a proxy sends
	AccessDenied Kind = "access-denied" // 403 AccessDenied
	NoBucket     Kind = "no-bucket"     // 404 NoSuchBucket
	OtherRegion  Kind = "other-region"  // 301 PermanentRedirect
	Conflict     Kind = "conflict"      // 409 ConditionalRequestConflict
	Reset        Kind = "reset"         // the connection is reset
	Hang         Kind = "hang"          // no answer until Clear, Close or the client leaves

	LostReply Kind = "lost-reply" // the connection is reset after the work was done
	Truncated Kind = "truncated"  // half a body
	Garbage   Kind = "garbage"    // 200 with a page that is not what was asked for
	Endless   Kind = "endless"    // a body of 8 MiB
	Backwards Kind = "backwards"  // a listing that begins at its end
)

func kinds() []Kind {
	return []Kind{SlowDown, Internal, Unavailable, Forbidden, AccessDenied, NoBucket, OtherRegion, Conflict, Reset, Hang,
		LostReply, Truncated, Garbage, Endless, Backwards}
}

// Fault is a failure to come.
type Fault struct {
	Kind  Kind
	Op    string // the operation it meets, "" for all
	Times int    // how often it happens, 0 for until Clear
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
