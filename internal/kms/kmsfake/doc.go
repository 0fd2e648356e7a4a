// Package kmsfake is AWS KMS for tests only: besides tests, only package scripttest imports it (a test
// in package kms checks that), because its keys are in memory and its control endpoint has no access
// control.
//
// It speaks the part of the protocol that the vault uses (GenerateDataKey, Encrypt, Decrypt,
// ReEncrypt, DescribeKey, GetPublicKey and Sign in application/x-amz-json-1.1) and keeps the promises
// that the vault builds on: blobs are AES-256-GCM with the encryption context as additional data, a
// blob opens only under its own key, signatures are Ed25519, an alias can be pointed to another key, a
// key that is disabled or pending deletion, or of another kind than an operation needs, refuses. It is
// stricter than KMS in one way: an unknown field in a request is an error. It requires a SigV4
// Authorization header of the right region and service, but does not recompute the signature.
//
// [Fake.Inject] makes it fail in a chosen way; the same over HTTP for tests of whole binaries:
//
//	POST /_fault?kind=throttle&times=3[&op=Decrypt][&delay=200ms]
//	POST /_state?key=alias/vault&state=Disabled
//	POST /_clear
//	GET  /_calls
//
// It is a model of the public API reference, not of the service's implementation:
// https://docs.aws.amazon.com/kms/latest/APIReference/Welcome.html
package kmsfake
