package kmsfake

import "github.com/hyperiondb/vault/internal/awsclient/awsfake"

// Kind is a way to fail. Its text is what the control endpoint takes.
type Kind = awsfake.Kind

// Fault is a failure to come.
type Fault = awsfake.Fault

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
