package s3fake

import "github.com/hyperiondb/vault/internal/awsclient/awsfake"

// Kind is a way to fail.
type Kind = awsfake.Kind

// Fault is an injected failure.
type Fault = awsfake.Fault

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
