// Package kms wraps and unwraps data keys under a key-encryption key that lives somewhere
// else: AWS KMS, or a key file on this machine. It also opens the key that signs the audit log's
// seals, which lives in the same places.
//
// # Keys are URIs
//
//	awskms:///alias/vault?region=eu-west-1
//	awskms:///arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab
//	awskms:///1234abcd-12ab-34cd-56ef-1234567890ab
//	awskms:///alias/vault?region=eu-west-1&endpoint=http://127.0.0.1:8080
//	local:///etc/vault/kek
//
// [OpenKeyring] reads the key files, or builds the AWS clients, and makes no call to a key service: a
// daemon starts while the key service is away. Without region= the region comes from the key
// ARN, else from the AWS configuration. Without endpoint= it comes from AWS_ENDPOINT_URL_KMS and
// the rest of the AWS configuration. Plain http is accepted only to this machine, because the
// answers carry plain data keys. A URI that came out of the database must not choose where
// credentials are sent: its caller refuses it when [HasEndpoint] says so.
//
// An AWS key needs kms:GenerateDataKey and kms:Decrypt, kms:DescribeKey unless it is opened by its
// ARN, kms:ReEncryptFrom and kms:ReEncryptTo for rewrapping, and kms:Encrypt to take over the data
// keys of a local key, or of another region.
//
// [OpenSigner] takes the same URIs, or the plain path of a file. In AWS KMS the key is of the spec
// ECC_NIST_EDWARDS25519 and the usage SIGN_VERIFY, and needs kms:Sign and kms:GetPublicKey. KMS signs the message
// itself (ED25519_SHA_512 over RAW), so that what verifies is plain Ed25519; a signature that does not verify is
// [envelope.ErrKeyUnavailable] and is not handed on.
//
// # What a row holds
//
// [envelope.WrappedKey.KeyID] is the key ARN for AWS (never the alias, which can be pointed
// elsewhere) and "local:" with 32 hex digits for a key file: the start of
// SHA-256("hyperiondb-vault/kek-id/1" || key), the same wherever the file lies.
//
// Every operation binds the [envelope.KeyContext]: as the encryption context
// {"hyperiondb:aad", "hyperiondb:cluster"} in AWS KMS, as additional data in a local blob. A
// row picks among the configured keys and can never name another: a KeyID that is not
// configured is [envelope.ErrKeyRefused] before anything is sent about its blob.
//
// An alias is resolved by DescribeKey when a row first needs it, remembered, and asked for
// again when KMS does not know the key any more, or when a row names another key and the last
// answer is more than 10 seconds old. Rows under the alias's former target need that key in
// the list by its ARN.
//
// # Errors
//
// An operation returns exactly one of these, in a text of one line that holds no key, blob or other
// text of the service, and the AWS request id where there is one:
//
//   - [envelope.ErrIntegrity]: KMS or the key file says these bytes were not wrapped by this key
//     in this context, or they open to something that is not a data key.
//   - [envelope.ErrKeyRefused]: disabled, pending deletion, not found, access denied, bad or missing
//     credentials, key not configured. Never retried.
//   - [envelope.ErrKeyUnavailable]: throttled, 5xx, no connection, no answer in time, and an answer
//     that is not one of KMS (a proxy's page, half a body, a missing field).
//   - [context.Canceled] alone, when the caller gave up. A deadline that passed is
//     ErrKeyUnavailable, and [context.DeadlineExceeded] too.
//
// Throttling, 5xx, lost connections and answers cut short are tried again until the caller's
// deadline, or for 5 seconds where there is none, with at most half a second between attempts
// and 2 seconds for one attempt. During a long outage the SDK's retry budget (500 tokens per key, 5 or
// 10 a retry) runs out and a call fails at its first error: the caller's own retry is the
// pace then. A retry of GenerateDataKey makes another data key; the lost one was never used.
//
// # Memory
//
// The caller wipes the data keys it is given. This package wipes the SDK's Plaintext buffer, the
// buffer a key file was read into and, on Close, the key of a local key file, of which it keeps
// one copy for as long as it is open. Not wiped, because they are out of reach: the HTTP and
// TLS buffers of the answer, the SDK's pooled copy of its body, the base64 text in between, the
// cipher's own state (for a local key it holds a key derived for one nonce, not the key itself),
// and AWS credentials in the SDK.
package kms
