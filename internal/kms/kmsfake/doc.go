// Package kmsfake is AWS KMS for tests, and for tests only: no package outside of tests may
// import it (a test in package kms holds that), because its keys lie in memory and its control
// endpoint asks nobody for a name.
//
// It speaks the part of the protocol that the vault uses (GenerateDataKey, Encrypt, Decrypt,
// ReEncrypt, DescribeKey, GetPublicKey and Sign in application/x-amz-json-1.1) and keeps the promises
// that the vault builds on: blobs are AES-256-GCM with the encryption context as additional data, a
// blob opens only under its own key, signatures are Ed25519, an alias can be pointed elsewhere, a key
// that is disabled or pending deletion, or is not of the kind that an operation needs, refuses. It is stricter than KMS
// in one way: an unknown field in a request is an error. It looks for a SigV4 Authorization header of the right region
// and service, but does not recompute the signature.
//
// [Fake.Inject] makes it fail in a chosen way; the same over HTTP for tests of whole binaries:
//
//	POST /_fault?kind=throttle&times=3[&op=Decrypt][&delay=200ms]
//	POST /_state?key=alias/vault&state=Disabled
//	POST /_clear
//	GET  /_calls
//
// It is a model of the public API reference, not of the service's inside:
// https://docs.aws.amazon.com/kms/latest/APIReference/Welcome.html
package kmsfake
